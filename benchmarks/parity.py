"""Scores of one detector in other circumstances: `python benchmarks/parity.py --json benchmarks/results/parity.json`.

Every published checkpoint and every default detector is fitted to a few samples and scores 512. The scores are then
computed again in batches of 1, 2, 7, 64 and 512, in another order of the samples, with the support in another order,
after saving and loading, with two threads, by both engines of the inner loop, and by exported graphs. A difference is
the largest one over all samples, divided by the scale of the scores: the largest absolute score. At most 1e-6 is
expected, and 1e-5 of exported graphs, which `export_detector` demands of itself.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits, load_wine

import metaad_zoo as mz
from metaad_zoo.data.read.images import as_images
from metaad_zoo.detector import Detector
from metaad_zoo.episodes import EpisodeBatch, Samples, count
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.export import ExportError, export_detector, load_exported
from metaad_zoo.export.files import Format
from metaad_zoo.inner_loop import ENGINES
from metaad_zoo.learners import GradientLearner
from metaad_zoo.modality import get_modality
from metaad_zoo.modality.samples import as_samples
from metaad_zoo.zoo.defaults import defaults

EXPECTED, EXPORTED = 1e-6, 1e-5
BATCHES = (1, 2, 7, 64, 512)
SHOTS, QUERY, LARGE = 10, 512, 2**15
Scores = Callable[[Samples], np.ndarray]


def detectors() -> list[str]:
    """Names of the published checkpoints, then those of the default detectors that are none of them."""
    return [*mz.list_checkpoints(), *(name for name in defaults() if name != "image")]


def samples(shapes: Mapping[str, Sequence[int]], n: int, seed: int) -> dict[str, torch.Tensor]:
    """Samples by modality in a model's shapes: digits, rows of wines, and autocorrelated series.

    Args:
        shapes: shape of one sample by modality; axes of any length get 3 channels or 13 columns.
        n: number of samples, of all classes.
        seed: random seed of their choice.
    """
    rng = np.random.default_rng(seed)
    raw: dict[str, Any] = {}
    for name, shape in shapes.items():
        if get_modality(name).value_range is not None:
            digits = load_digits().images[rng.permutation(1797)[:n]] / 16
            noise = rng.normal(0, 0.03, digits.shape)
            raw[name] = as_images(np.clip(digits + noise, 0, 1), shape)
        elif len(shape) == 1:
            wines = load_wine().data
            raw[name] = wines[rng.integers(len(wines), size=n)] * rng.normal(1, 0.01, (n, wines.shape[1]))
        else:
            channels = 3 if shape[1] == -1 else shape[1]
            steps = rng.normal(size=(n, 2 * shape[0], channels)).cumsum(1)
            raw[name] = (steps - steps.mean(1, keepdims=True))[:, -shape[0] :].astype(np.float32)
    return as_samples(raw, shapes)


def part(samples: Samples, rows: Any) -> dict[str, torch.Tensor]:
    return {name: x[rows] for name, x in samples.items()}


def in_batches(score: Scores, query: Samples, size: int) -> np.ndarray:
    return np.concatenate([score(part(query, slice(i, i + size))) for i in range(0, count(query), size)])


def at_once(detector: Detector) -> Scores:
    """Scores without the parts into which a detector cuts many samples."""
    return lambda query: detector._fitted().score(query).double().numpy()


def by_engine(learner: GradientLearner, engine: str, support: Samples, query: Samples) -> np.ndarray:
    """Scores after an inner loop of the training, which runs on two tasks at once in the vectorised engine."""
    config = learner.inner_loop.config
    learner.inner_loop.config = replace(config, engine=engine)  # type: ignore[arg-type]
    query_loss = learner.query_loss
    learner.query_loss = lambda logits, labels: logits  # type: ignore[method-assign]
    try:
        twice = [{name: torch.stack([x, x]) for name, x in x.items()} for x in (support, query)]
        labels = [torch.zeros(2, count(x), dtype=torch.long) for x in (support, query)]
        batch = EpisodeBatch(twice[0], labels[0], twice[1], labels[1], ["first", "second"])
        return learner.task_losses(batch).detach().double().numpy()[: count(query)]
    finally:
        learner.inner_loop.config, learner.query_loss = config, query_loss  # type: ignore[method-assign]


def conditions(detector: Detector, support: Samples, query: Samples, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name of each circumstance and the scores of the query in it."""
    order = np.random.default_rng(2).permutation(count(query))
    for size in BATCHES:
        yield f"batches of {size}", in_batches(detector.score, query, size)
    yield "512 at once", at_once(detector)(query)
    scores = np.empty(count(query))
    scores[order] = detector.score(part(query, order))
    yield "order of samples", scores
    detector.save(folder / "saved")
    yield "save and load", mz.load_detector(folder / "saved").score(query)
    yield (
        "order of the support",
        mz.load_detector(folder / "saved").fit(part(support, torch.arange(SHOTS).flip(0))).score(query),
    )
    torch.set_num_threads(2)
    try:
        yield "2 threads", mz.load_detector(folder / "saved").score(query)
    finally:
        torch.set_num_threads(1)
    learner = detector._checkpoint.learner
    if isinstance(learner, GradientLearner):
        for engine in ENGINES:
            yield f"engine {engine}", by_engine(learner, engine, support, query)


def exported(
    detector: Detector, query: Samples, folder: Path, formats: Sequence[Format]
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Name of each format and the scores of the exported graph, or why there is none."""
    arrays = {name: x.float().numpy() for name, x in query.items()}
    for file_format in formats:
        try:
            about = export_detector(detector, folder / f"model.{file_format}", alpha=None)
            run, _ = load_exported(folder / f"model.{file_format}")
        except ExportError as error:
            yield file_format, str(error)
        else:
            yield file_format, run({name: arrays[name] for name in about.inputs})["score"].astype(np.float64)


def query_of(shapes: Mapping[str, Sequence[int]], n: int) -> dict[str, torch.Tensor]:
    """The samples to score: repeated ones where images are large, of which fewer have to be read."""
    few = sum(int(np.prod(np.abs(shape))) for shape in shapes.values()) > LARGE
    query = samples(shapes, n // 16 if few else n, 1)
    return part(query, torch.arange(n) % count(query))


def measure(name: str, n: int = QUERY, formats: Sequence[Format] = get_args(Format)) -> dict[str, Any]:
    """Differences of one detector's scores by circumstance, relative to their scale, and why a format is missing.

    Args:
        name: name of the detector.
        n: number of samples to score.
        formats: formats to export.
    """
    detector = mz.load_detector(name)
    shapes = detector.usual_shapes
    support = samples(shapes, SHOTS, 0)
    detector.fit(support)
    query = query_of(shapes, n)
    expected = detector.score(query)
    scale = float(np.abs(expected).max())
    differences: dict[str, float] = {}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for condition, scores in conditions(detector, support, query, Path(folder)):
            differences[condition] = float(np.abs(scores - expected).max()) / scale
        reference = detector.score({m: x.float() for m, x in query.items()})
        for file_format, result in exported(detector, query, Path(folder), formats):
            if isinstance(result, str):
                refused[file_format] = result
            else:
                differences[f"export {file_format}"] = float(np.abs(result - reference).max()) / scale
    return {
        "detector": name,
        "samples": n,
        "scale": scale,
        "standard_deviation": float(expected.std()),
        "differences": differences,
        "not_exported": refused,
    }


def missed(row: Mapping[str, Any]) -> dict[str, float]:
    """The circumstances whose difference is larger than expected."""
    return {
        condition: difference
        for condition, difference in row["differences"].items()
        if not difference <= (EXPORTED if condition.startswith("export") else EXPECTED)
    }


def result_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(condition for row in rows for condition in row["differences"]))
    table = Table("circumstance", *(row["detector"] for row in rows), title="largest difference over the largest score")
    for condition in columns:
        cells = (row["differences"].get(condition) for row in rows)
        table.add_row(condition, *("-" if cell is None else f"{cell:.1e}" for cell in cells))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", help="names of detectors; none: all")
    parser.add_argument("--query", type=int, default=QUERY, help="samples that are scored")
    parser.add_argument("--json", type=Path, help="rows of detectors that are not measured now stay in the file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text(encoding="utf-8"))["detectors"]
    for name in options.detectors or detectors():
        row = measure(name, options.query)
        rows = [earlier for earlier in rows if earlier["detector"] != name] + [row]
        print(
            f"{name}: largest {max(row['differences'].values()):.1e}, above what is expected {missed(row)}", flush=True
        )
        if options.json:
            write(rows, options.json)
    Console(width=220).print(result_table(rows))


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    content = {
        "expected": EXPECTED,
        "expected_of_exported": EXPORTED,
        "scale": "largest absolute score of the query",
        "shots": SHOTS,
        "detectors": rows,
        "missed": {row["detector"]: missed(row) for row in rows if missed(row)},
        "environment": environment("cpu"),
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    torch.set_num_threads(1)
    main()

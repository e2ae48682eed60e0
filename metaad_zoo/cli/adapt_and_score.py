"""`metaad adapt`, `score` and `explain`: a detector for a user's own samples, and what it says of more of them."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from metaad_zoo.cli.terminal import bars, json_argument, note, tell
from metaad_zoo.data.image_samples import normal_images
from metaad_zoo.data.point_stream import stream_point_scores
from metaad_zoo.data.samples import refuse_anomalies_in
from metaad_zoo.data.sources.columns import read_columns
from metaad_zoo.data.streams import SampleStream, gathered
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.evaluation.decisions import USUAL_ALPHA, WAYS, Calibrate
from metaad_zoo.evaluation.explanation import Explanation
from metaad_zoo.explain import write_explanations

NOTES = 5
"""Of what is left out, so many are told one by one."""
Rows = Iterator[tuple[list[str], np.ndarray, float]]
"""Names and scores of some samples, and the share of all that is scored with them."""

Scores = Callable[[Any], np.ndarray]
"""Of samples."""


def support_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--support", type=Path, required=True, help="normal samples: images, a table, series, a manifest"
    )
    command.add_argument(
        "--label", help="a table's or manifest's column of labels: 0 normal, 1 anomalous; without, all are normal"
    )


def adapt_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="a published checkpoint (metaad list), a run, a folder or an address")
    support_arguments(command)
    command.add_argument("--out", type=Path, required=True, help="folder for the detector")
    json_argument(command)


def adapt(options: argparse.Namespace) -> None:
    detector = load_detector(options.name)
    shapes, path, label = detector.input_shapes, options.support, options.label
    path = normal_images(path) if set(shapes) == {"image"} else path
    if label is None:
        refuse_anomalies_in(path)
    elif "tabular" not in shapes and len(shapes) == 1:
        raise ValueError(
            f"--label {label} names a column of a table or a manifest, but this model reads {list(shapes)}: leave it "
            "out, and give normal samples alone"
        )
    stream = SampleStream(path, shapes, label)
    names, samples = gathered(stream)
    _note_left_out(stream)
    labels = None if label is None else read_columns(path, label).labels
    columns = None if stream.columns is None else list(stream.columns)
    detector.fit(samples, labels, columns=columns).save(options.out)
    _note_calibration(detector)
    known = 0 if labels is None else int(labels.sum())
    figures = {"samples": len(names), "anomalous": known, "columns": columns, "out": options.out}
    also = f", {known} of them known anomalies" if known else ""
    sentence = (
        f"Adapted to {len(names)} samples{also}. Next, try:  metaad score {options.out} --data PATH --out scores.csv"
    )
    tell(options.json, figures, sentence)


def _note_calibration(detector: Detector) -> None:
    """Say so where p-values will come from supports of another size."""
    n, sizes = detector.shots, detector.calibrated_for
    smaller = [size for size in sizes if size <= n]
    if len(sizes) > 1 and smaller and n not in sizes:
        note(
            f"calibrated for supports of {', '.join(map(str, sizes))}: with {n} samples p-values are those of "
            f"{smaller[-1]}, which flag less than they may; take {smaller[-1]} samples, or score --calibrate within"
        )


def _note_left_out(stream: SampleStream, told: int = 0) -> None:
    """Tell what a stream leaves out, but for the first ``told`` sentences."""
    new = stream.left_out[told:]
    for sentence in new[:NOTES]:
        note(sentence)
    if len(new) > NOTES:
        note(f"{len(new) - NOTES} more of this kind")


def _data_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="what `metaad adapt` wrote")
    command.add_argument(
        "--data", type=Path, required=True, help="a folder of images, tables or series, one of these, or a manifest"
    )
    command.add_argument("--label", help="a column of labels, to be left out")


def score_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command)
    command.add_argument("--out", type=Path, required=True, help="CSV file: sample, score, p_value, anomaly")
    command.add_argument("--alpha", type=float, help="false-alarm rate of the column anomaly; 0.1")
    command.add_argument(
        "--calibrate",
        choices=WAYS,
        help="by scores of the validation tasks (across, the usual), of the support set, each left out once (within), "
        "or of the support set without the share --contamination",
    )
    command.add_argument("--contamination", type=float, help="share of anomalies expected in the support set")
    command.add_argument(
        "--points",
        action="store_true",
        help="score every time point of a series, by the mean over the windows that cover it, instead of windows one "
        "behind the other; a point's p-value sets that mean beside the scores of whole windows",
    )
    command.add_argument("--stride", type=int, help="with --points: steps from one window to the next; 1")
    json_argument(command)


def score(options: argparse.Namespace) -> None:
    out: Path = options.out
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file, such as {out / 'scores.csv'}")
    if options.stride is not None and not options.points:
        raise ValueError("--stride is only with --points")
    detector = _adapted(options.folder)
    calibrate: Calibrate = options.calibrate or ("across" if options.contamination is None else "contamination")
    way: tuple[float | None, Calibrate, float | None] = (options.alpha, calibrate, options.contamination)
    detector.decide(np.zeros(0), *way)  # what can't be decided is told before any work
    stream = SampleStream(options.data, detector.input_shapes, options.label, detector.columns, below=True)
    _note_left_out(stream)
    score_them = partial(detector.score_known, left_out=calibrate == "contamination")
    rows = (
        _points(detector, score_them, stream, 1 if options.stride is None else options.stride)
        if options.points
        else _scored(score_them, stream)
    )
    told = len(stream.left_out)
    n, anomalous, unknown = _write(out, detector, rows, way)
    _note_left_out(stream, told)
    rate = None if options.alpha is None and calibrate == "contamination" else options.alpha or USUAL_ALPHA
    figures = {"samples": n, "anomalous": anomalous, "without_value": unknown, "alpha": rate}
    figures |= {"calibrate": calibrate, "out": out}
    what, by = "points" if options.points else "samples", "" if rate is None else f" at alpha={rate}"
    if unknown:
        note(f"{unknown} of {n} {what} have no value at all: their score, p-value and decision are left empty")
    tell(options.json, figures, f"{anomalous} of {n} {what} called anomalous{by} ({calibrate}): {out}")


def _adapted(folder: str) -> Detector:
    detector = load_detector(folder)
    if not detector.is_fitted:
        raise ValueError(
            f"{folder} is adapted to no domain yet: metaad adapt {folder} --support PATH --out my_detector"
        )
    return detector


def _scored(score_them: Scores, stream: SampleStream) -> Rows:
    for chunk in stream:
        yield chunk.names, score_them(chunk.samples), chunk.done


def _points(detector: Detector, score_them: Scores, stream: SampleStream, stride: int) -> Rows:
    if set(detector.input_shapes) != {"sequence"}:
        raise ValueError(f"--points is for models of series; this one reads {sorted(detector.input_shapes)}")
    window, shares = detector.window, [0.0]

    def blocks(file: Path) -> Iterator[np.ndarray]:
        for values, shares[0] in stream.series(file):
            yield values

    for file in stream.files:
        step = 0
        for scores in stream_point_scores(score_them, blocks(file), window, stride):
            yield [f"{file}:{step + i}" for i in range(len(scores))], scores, shares[0]
            step += len(scores)


def _write(out: Path, detector: Detector, rows: Rows, way: tuple[Any, ...]) -> tuple[int, int, int]:
    """Write scores as they come, beside the file, which is put in its place when all are there.

    Returns:
        How many there are, how many of them are called anomalous, and how many have no score.
    """
    beside = out.with_name(f"{out.name}.part")
    n = anomalous = unknown = 0
    try:
        with beside.open("w", newline="", encoding="utf-8") as file, bars() as progress:
            bar = progress.add_task("scoring", total=1.0)
            writer = csv.writer(file)
            writer.writerow(["sample", "score", "p_value", "anomaly"])
            for names, scores, done in rows:
                known = ~np.isnan(scores)
                p, decisions = detector.decide(scores[known], *way)
                judged = zip(scores[known], p, decisions, strict=True)
                writer.writerows(
                    (name, *(next(judged) if k else ("", "", ""))) for name, k in zip(names, known, strict=True)
                )
                n, anomalous = n + len(names), anomalous + int(decisions.sum())
                unknown += int((~known).sum())
                progress.update(bar, completed=done, description=f"{n} scored")
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)
    return n, anomalous, unknown


def explain_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command)
    command.add_argument("--out", type=Path, required=True, help="folder: a picture a sample, and explanations.npz")
    command.add_argument("--method", choices=get_args(Explanation), default="auto", help="of explaining")
    json_argument(command)


def explain(options: argparse.Namespace) -> None:
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: name a folder")
    detector = _adapted(options.folder)
    stream = SampleStream(options.data, detector.input_shapes, options.label, detector.columns)
    names, samples = gathered(stream)
    _note_left_out(stream)
    columns = {next(iter(samples)): list(stream.columns)} if stream.columns else {}
    write_explanations(detector, names, samples, options.out, options.method, columns)
    figures = {"samples": len(names), "out": options.out}
    tell(options.json, figures, f"{len(names)} pictures and explanations.npz: {options.out}")


VERBS: dict[str, Any] = {
    "adapt": (adapt, "make a detector for your own domain from a few samples", adapt_arguments),
    "score": (score, "score samples by a detector, in memory that does not grow with their number", score_arguments),
    "explain": (explain, "show what in the samples made their scores", explain_arguments),
}

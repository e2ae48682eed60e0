"""How often models of characters warn of a support: `python benchmarks/strange_supports.py DATA`.

DATA is the folder that holds omniglot28.npz, piped128.npz and bank/. Supports of unseen alphabets should not be called
novel (the rate aimed at is 1 %), supports of photographs, scans and other images should. Nothing is scored: only
the statistics that the checkpoints hold are compared. benchmarks/results/strange_supports.json is its result (--json).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metaad_zoo.data.known.images import DATA_VARIABLE
from metaad_zoo.data.read.images import as_images
from metaad_zoo.episodes import EpisodeSampler
from metaad_zoo.evaluation.novelty import NOVEL_UP_TO, TrainingTasks
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.zoo import find_published, list_checkpoints, load_checkpoint, training_tasks_of

UNSEEN = "unseen alphabets"
SHOTS = (1, 2, 5, 10)


def pictures(data: Path, shape: Sequence[int]) -> Iterator[tuple[str, list[Tensor]]]:
    """Name of each archive of images, and the images ``(n, C, H, W)`` of each of its normal classes."""
    for path in [data / "piped128.npz", *sorted((data / "bank").glob("*.npz"))]:
        z = np.load(path)
        if "x" not in z:  # series and tables
            continue
        images, y = as_images(z["x"], shape), z["y"]
        if "t" in z:
            masks = [(z["t"] == t) & (y == 0) for t in np.unique(z["t"])]
        else:
            masks = [y == 0] if str(z["kind"]) == "defect" else [y == kind for kind in np.unique(y)]
        yield path.stem, [images[np.flatnonzero(mask)] for mask in masks]


def rate(tasks: TrainingTasks, supports: Iterator[Tensor]) -> dict[str, float]:
    """Share of supports that are called novel, and their median distance."""
    judged = [novelty for x in supports if (novelty := tasks.novelty({"image": x}, torch.zeros(len(x)))) is not None]
    median = float(np.median([novelty.distance for novelty in judged]))
    return {"supports": len(judged), "warned": float(np.mean([n.is_novel for n in judged])), "median_distance": median}


def drawn(classes: Sequence[Tensor], shots: int, n: int) -> Iterator[Tensor]:
    """Random supports of one class each."""
    rng = np.random.default_rng(shots)
    for _ in range(n):
        images = classes[rng.integers(len(classes))]
        yield images[rng.permutation(len(images))[:shots]]


def measure(name: str, data: Path, supports: int) -> list[dict[str, Any]]:
    """Rows of one checkpoint: images, size of the support, and how often it warns."""
    folder = find_published(name)
    checkpoint = load_checkpoint(folder)
    tasks = training_tasks_of(checkpoint.tensors)
    if tasks is None:
        raise SystemExit(f"{name} holds no training tasks: metaad publish --refresh --training-tasks {name}")
    episodes = data_of_config(folder / "config.yaml", {name: checkpoint})
    archives = list(pictures(data, checkpoint.learner.arguments()["input_shapes"]["image"]))
    rows = []
    for shots in SHOTS:
        test = EpisodeSampler(episodes.pools["test"], episodes.test_episode.with_shots(shots), "test", episodes.seed)
        unseen = (test.episode(0, i) for i in range(10 * supports))
        normal = (e.support["image"][e.support_labels != 1] for e in unseen)
        about = {"checkpoint": name, "shots": shots}
        rows.append(about | {"pictures": UNSEEN} | rate(tasks, normal))
        rows += [
            about | {"pictures": archive} | rate(tasks, drawn(classes, shots, supports))
            for archive, classes in archives
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--supports", type=int, default=50, help="supports of each archive; ten times as many unseen")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ[DATA_VARIABLE] = str(options.data)
    names = list_checkpoints("*-omniglot", modality="image")
    rows = [row for name in names for row in measure(name, options.data, options.supports)]
    table = Table("pictures", *(name.removeprefix("image-") for name in names), title="supports called novel, in %")
    for kind in dict.fromkeys(row["pictures"] for row in rows):
        cells = []
        for name in names:
            shares = [100 * r["warned"] for r in rows if (r["pictures"], r["checkpoint"]) == (kind, name)]
            cells.append(" / ".join(f"{share:.1f}" for share in shares))
        table.add_row(kind, *cells)
    Console(width=150).print(table)
    if options.json:
        content = {"aimed": NOVEL_UP_TO, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

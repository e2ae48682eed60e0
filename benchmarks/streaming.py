"""Memory and time of `metaad score` against the length of what it scores.

    python benchmarks/streaming.py [--gigabytes 0.1 0.5 2 10] [--images 1000 10000]

Tables and images are made on the fly in a temporary folder. Each row is a process of its own, whose peak memory
(resident, as the system counts it) and seconds are taken; memory that does not depend on the length stays the same from
row to row. The longest table needs 10 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.zoo import Checkpoint, save_checkpoint

COLUMNS, BLOCK = 20, 10_000
SCORE = "from metaad_zoo.cli import main; raise SystemExit(main())"
MEASURE = """
import resource, sys
from metaad_zoo.cli import main
status = main()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
raise SystemExit(status)
"""


def write_table(path: Path, size: float) -> int:
    """A CSV of about so many bytes; returns its rows. Blocks of rows repeat, for drawing takes longer than writing."""
    rows = np.random.default_rng(0).normal(size=(BLOCK, COLUMNS))
    lines = "\n".join(",".join(f"{v:.5f}" for v in row) for row in rows) + "\n"
    blocks = max(1, round(size / len(lines)))
    with path.open("w") as file:
        file.write(",".join(f"c{i}" for i in range(COLUMNS)) + "\n")
        for _ in range(blocks):
            file.write(lines)
    return blocks * BLOCK


def write_images(folder: Path, n: int) -> int:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (100, 64, 64), np.uint8)
    for i in range(n):
        Image.fromarray(pixels[i % 100]).save(folder / f"{i:06}.png", compress_level=1)
    return n


def detector(folder: Path, kind: str) -> Path:
    """An adapted detector of untrained weights: time and memory do not depend on what they are."""
    torch.manual_seed(0)
    backbone, options, shapes = {
        "images": ("conv4", {"width": 32}, {"image": (1, 28, 28)}),
        "table": ("mlp", {"widths": (64, 64)}, {"tabular": (COLUMNS,)}),
        "windows": ("gru", {"width": 32}, {"sequence": (64, COLUMNS)}),
        "points": ("gru", {"width": 32}, {"sequence": (64, COLUMNS)}),
    }[kind]
    learner = GradientLearner(backbone, options, shapes, InnerLoopConfig(engine="vectorized", steps=1, lr=0.1))
    save_checkpoint(folder / "model", Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)}))
    support = folder / ("support" if kind == "images" else "support.csv")
    _ = write_images(support, 10) if kind == "images" else write_table(support, 0)
    if kind == "table":
        support.write_text("".join(support.read_text().splitlines(keepends=True)[:21]))
    command = ["adapt", str(folder / "model"), "--support", str(support), "--out", str(folder / "mine")]
    subprocess.run([sys.executable, "-c", SCORE, *command], check=True, stdout=subprocess.DEVNULL)
    return folder / "mine"


def measure(kind: str, length: float, folder: Path) -> dict[str, float]:
    """Score a file of so many gigabytes, or so many images."""
    mine, data = detector(folder, kind), folder / ("data" if kind == "images" else "data.csv")
    n = write_images(data, int(length)) if kind == "images" else write_table(data, length * 1e9)
    out, more = folder / "scores.csv", ["--points", "--stride", "64"] if kind == "points" else []
    started = time.perf_counter()
    command = ["score", str(mine), "--data", str(data), "--out", str(out), *more]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    seconds = time.perf_counter() - started
    with out.open() as file:
        scores = sum(1 for _ in file) - 1
    size = sum(f.stat().st_size for f in data.iterdir()) if data.is_dir() else data.stat().st_size
    cpu, peak = done.stdout.split()[-2:]
    figures = {"gigabytes": size / 1e9, "read": n, "scores": scores, "seconds": seconds}
    figures |= {"cpu_seconds": float(cpu), "peak_mib": int(peak) / 1024}
    print(kind, {k: round(v, 2) for k, v in figures.items()}, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.1, 0.5, 2.0, 10.0])
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--kinds", nargs="*", default=["images", "table", "windows", "points"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/streaming.json"))
    options = parser.parse_args()
    results = {}
    for kind in options.kinds:
        results[kind] = []
        for length in options.images if kind == "images" else options.gigabytes:
            with tempfile.TemporaryDirectory() as folder:
                results[kind].append(measure(kind, length, Path(folder)))
    protocol = {
        "command": "metaad score DIR --data PATH --out scores.csv, one process each, OMP_NUM_THREADS=1",
        "table": f"CSV of {COLUMNS} columns of numbers, made on the fly; images 64 x 64 grey PNG, read at 28 x 28",
        "seconds": "of the clock, on a machine that did other work beside; cpu_seconds are the process's own",
    }
    text = {"protocol": protocol, "measured": results, "environment": environment("cpu")}
    options.out.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()

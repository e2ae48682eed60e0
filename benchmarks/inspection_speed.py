"""Speed of inspection on one core: `python benchmarks/inspection_speed.py --json FILE`.

A new process imports the package, loads the published patch memory, adapts it to five images of 224 x 224 pixels in
PNG files, and scores sixty others, with one thread. Each step is timed by the clock and by the processor; on a busy
machine only the latter tells the speed of one core. Median of some processes. It also lists what of Lightning was
imported. benchmarks/results/inspection_speed.json is its result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHOTS, SCORED, SIZE = 5, 60, 224
MODEL = "patch_memory"
STEPS = """
import json, sys, time
marks = [(time.perf_counter(), time.process_time())]
def step():
    marks.append((time.perf_counter(), time.process_time()))
import torch
torch.set_num_threads(1)
import metaad_zoo as mz
load = mz.load_detector
step()
detector = load(sys.argv[1])
step()
detector.fit(sys.argv[2])
step()
detector.score(sys.argv[3])
step()
modules = sorted({name.split(".")[0] for name in sys.modules} & {"lightning", "pytorch_lightning", "torchmetrics"})
print(json.dumps({"marks": marks, "lightning": modules}))
"""
NAMES = ("import", "load", "adapt", "score")


def write_pictures(folder: Path, n: int, seed: int) -> Path:
    """Crops of scikit-learn's two photographs, as PNG files."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        photo = photos[i % 2]
        y, x = (int(rng.integers(0, length - SIZE)) for length in photo.shape[:2])
        Image.fromarray(photo[y : y + SIZE, x : x + SIZE]).save(folder / f"{i:03}.png")
    return folder


def measure(model: str, support: Path, data: Path) -> dict[str, Any]:
    """Seconds of each step by clock and processor, of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    line = [sys.executable, "-c", STEPS, model, str(support), str(data)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    steps = list(zip(result["marks"][:-1], result["marks"][1:], strict=True))
    seconds = {name: [end[k] - start[k] for k in (0, 1)] for name, (start, end) in zip(NAMES, steps, strict=True)}
    return {"seconds": seconds, "lightning": result["lightning"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="published name, folder, or a learner that trains nothing")
    parser.add_argument("--repeats", type=int, default=5, help="number of processes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        support = write_pictures(Path(place) / "support", SHOTS, 0)
        data = write_pictures(Path(place) / "data", SCORED, 1)
        runs = [measure(options.model, support, data) for _ in range(options.repeats)]
    steps = {
        name: {
            kind: round(statistics.median(run["seconds"][name][k] for run in runs), 3)
            for k, kind in enumerate(("clock", "processor"))
        }
        for name in NAMES
    }
    per_second = {kind: round(SCORED / seconds, 1) for kind, seconds in steps["score"].items()}
    for name, seconds in steps.items():
        print(f"{name}: {seconds['clock']:.2f} s by the clock, {seconds['processor']:.2f} s of one core")
    print(f"images a second: {per_second['clock']} by the clock, {per_second['processor']} on one core")
    imported = sorted({name for run in runs for name in run["lightning"]})
    print(f"imported of Lightning: {', '.join(imported) or 'nothing'}")
    if options.json:
        from metaad_zoo.evaluation.protocol import environment

        content = {
            "model": options.model,
            "shots": SHOTS,
            "scored": SCORED,
            "size": SIZE,
            "repeats": options.repeats,
            "seconds": steps,
            "pictures_per_second": per_second,
            "lightning": imported,
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

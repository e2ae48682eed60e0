"""Rows a second of a live series (`detector.stream`) on one core, and its memory: `python benchmarks/live_series.py`.

Each method is adapted to fifty normal windows of 38 channels. Rows are then pushed one by one, ten or a hundred at
once, and each gets a score, a p-value and a decision, by the fixed threshold and by the adaptive one. Seconds are CPU
seconds of the process, with one thread. Scores are compared with those of the whole series (`score_series(...,
causal=True)`). Memory is what Python and NumPy hold more after ten times the rows (`tracemalloc`).
benchmarks/results/live_series.json is the result.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.evaluation.live_series import LiveSeries
from metaad_zoo.evaluation.protocol import environment

CHANNELS, SUPPORT, ALPHA = 38, 50, 0.05
METHODS = {
    "series_experts": {},
    "mahalanobis": {"modality": "sequence"},
    "knn": {"modality": "sequence"},
    "linear_ar": {"modality": "sequence"},
    "pca_subwindows": {"modality": "sequence"},
    "sequence-window_statistics-in_context-servers": {},
}
ROWS_AT_ONCE = (1, 10, 100)


def series(n: int, seed: int) -> np.ndarray:
    """Waves of 38 periods with noise, ``(n, 38)``."""
    rng = np.random.default_rng(seed)
    periods = np.linspace(5, 50, CHANNELS)
    return np.sin(np.arange(n)[:, None] / periods) + rng.normal(0, 0.2, (n, CHANNELS))


def push(live: LiveSeries, rows: np.ndarray, at_once: int) -> tuple[np.ndarray, float]:
    """Scores, and CPU seconds."""
    started = time.process_time()
    blocks = [rows[i : i + at_once] if at_once > 1 else rows[i] for i in range(0, len(rows), at_once)]
    scores = [live.push(block).scores for block in blocks]
    return np.concatenate(scores), time.process_time() - started


def growth(detector: Detector, rows: int) -> int:
    """Bytes that a stream holds more after ten times the rows."""
    live, held = detector.stream(alpha=ALPHA), []
    block = series(100, 1)
    tracemalloc.start()
    for n in (rows, 9 * rows):
        for _ in range(n // 100):
            live.push(block)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held[1] - held[0]


def measure(name: str, rows: int) -> dict[str, object]:
    """Figures of one method."""
    detector = load_detector(name, **METHODS[name])
    window = detector.usual_shapes["sequence"][0]
    detector.fit(series(SUPPORT * window, 0).reshape(SUPPORT, window, CHANNELS))
    data, speeds = series(rows, 1), {}
    expected, difference = detector.score_series(data, causal=True), 0.0
    for adaptive in (False, True):
        for at_once in ROWS_AT_ONCE:
            live = detector.stream(alpha=ALPHA, calibrate="within", adaptive=adaptive)
            push(live, data[: 2 * window], at_once)  # past the rows without a window
            live.finish()
            scores, seconds = push(live, data, at_once)
            difference = max(difference, float(np.nanmax(np.abs(scores - expected) / (1 + np.abs(expected)))))
            speeds[f"{'adaptive' if adaptive else 'fixed'}, {at_once} at once"] = rows / seconds
    return {
        "window": window,
        "rows_per_cpu_second": speeds,
        "largest_relative_difference_to_the_whole": difference,
        "bytes_more_after_ten_times_the_rows": growth(detector, rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500, help="number of rows of a measurement")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = {}
    for name in options.methods:
        measured[name] = measure(name, options.rows)
        print(name, json.dumps(measured[name]), flush=True)
    if options.json:
        protocol = {
            "command": "python benchmarks/live_series.py --json benchmarks/results/live_series.json",
            "series": f"{CHANNELS} channels, {options.rows} rows, a window every row; support of {SUPPORT} windows",
            "decided": f"alpha={ALPHA}, calibrate='within', fixed and adaptive threshold",
            "seconds": "CPU seconds of one process with one thread, on a machine that did other work beside",
        }
        text = {"protocol": protocol, "measured": measured, "environment": environment("cpu")}
        options.json.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()

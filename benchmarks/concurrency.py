"""One detector that many score with while other detectors are fitted: `python benchmarks/concurrency.py --json
benchmarks/results/concurrency.json`.

For each detector of `detectors.py` and each published checkpoint, eight threads score the same samples by one detector
while two threads fit other detectors of the same kind to other supports. Then four processes do, each beside a thread
of its own that fits: forked ones, which share the detector's memory, and spawned ones, which get it pickled. All scores
are compared with those of the detector alone. A difference is the largest one, divided by the largest absolute score;
at most 1e-6 is expected.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from detectors import SHAPES, detector, names, samples
from parity import samples as samples_of_shapes
from rich.progress import track

import metaad_zoo as mz
from metaad_zoo.detector import Detector
from metaad_zoo.evaluation.protocol import environment

EXPECTED = 1e-6
THREADS, FITTERS, PROCESSES = 8, 2, 4
SHOTS, QUERY, REPEATS = 6, 20, 2
PUBLISHED = "published"
Samples = Mapping[str, Any]


def forms() -> dict[str, list[str]]:
    """Names of detectors by form of samples, then those of the published checkpoints."""
    return {form: names(form) for form in SHAPES} | {PUBLISHED: mz.list_checkpoints()}


def opened(name: str, form: str) -> tuple[Detector, list[Samples], Samples]:
    """A detector, two supports for it and a query."""
    if form != PUBLISHED:
        return detector(name, form), [samples(form, SHOTS, seed) for seed in (0, 1)], samples(form, QUERY, 2, 1.0)
    published = mz.load_detector(name)
    supports = [samples_of_shapes(published.usual_shapes, SHOTS, seed) for seed in (0, 1)]
    return published, supports, samples_of_shapes(published.usual_shapes, QUERY, 2)


def fit_until(stop: Event, fitted: Detector, supports: list[Samples]) -> int:
    """Fit a detector to supports in turn until it is told to stop; returns how often."""
    times = 0
    while not stop.is_set():
        fitted.fit(supports[times % len(supports)])
        times += 1
    return times


def beside_fits(
    fitted: Detector, supports: list[Samples], query: Samples, threads: int, fitters: int
) -> tuple[np.ndarray, int]:
    """Scores ``(threads * REPEATS, n)`` of a detector while others of its kind are fitted, and the number of fits."""
    stop = Event()
    others = [copy.deepcopy(fitted) for _ in range(fitters)]
    with ThreadPoolExecutor(threads + fitters) as pool:
        fits = [pool.submit(fit_until, stop, one, supports[::-1]) for one in others]
        try:
            scores = list(pool.map(lambda _: fitted.score(query), range(threads * REPEATS)))
        finally:
            stop.set()
        return np.stack(scores), sum(fit.result() for fit in fits)


def in_process(fitted: Detector, supports: list[Samples], query: Samples) -> tuple[np.ndarray, int]:
    """Scores in a process of its own, beside a thread that fits another detector."""
    torch.set_num_threads(1)
    return beside_fits(fitted, supports, query, 1, 1)


_INHERITED: list[Any] = []


def in_forked(_: int) -> tuple[np.ndarray, int]:
    """:func:`in_process` of what the parent process holds."""
    return in_process(*_INHERITED)


def by_forks(fitted: Detector, supports: list[Samples], query: Samples) -> list[tuple[np.ndarray, int]]:
    """Results of :func:`in_process` in forked processes, which share the detector of this one."""
    _INHERITED[:] = [fitted, supports, query]
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("fork")) as pool:
        return list(pool.map(in_forked, range(PROCESSES)))


def measure(name: str, form: str, spawned: Executor | None) -> dict[str, Any]:
    """Differences of one detector's scores from those alone, relative to their scale.

    Args:
        name: name of the detector.
        form: form of its samples, or ``"published"``.
        spawned: spawned processes; None: leave processes out.
    """
    model, supports, query = opened(name, form)
    alone = model.fit(supports[0]).score(query)
    scale = float(np.abs(alone).max()) or 1.0
    results = {"8 threads": [beside_fits(model, supports, query, THREADS, FITTERS)]}
    if spawned is not None:
        results["4 forked processes"] = by_forks(model, supports, query)
        tasks = [spawned.submit(in_process, model, supports, query) for _ in range(PROCESSES)]
        results["4 spawned processes"] = [task.result() for task in tasks]
    return {
        "detector": name,
        "form": form,
        "scores": {way: sum(scores.size for scores, _ in parts) for way, parts in results.items()},
        "fits": {way: sum(fits for _, fits in parts) for way, parts in results.items()},
        "differences": {
            way: max(float(np.abs(scores - alone).max()) / scale for scores, _ in parts)
            for way, parts in results.items()
        },
    }


def rows_of(chosen: Mapping[str, list[str]], spawned: Executor | None) -> Iterator[dict[str, Any]]:
    """Results of :func:`measure` for detectors by form of samples."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for form, detectors in chosen.items():
            for name in detectors:
                yield measure(name, form, spawned)
    finally:
        sys.setswitchinterval(interval)


def missed(row: Mapping[str, Any]) -> bool:
    """Whether a score differs from that alone by more than expected."""
    return not max(row["differences"].values()) <= EXPECTED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="*", default=[*SHAPES, PUBLISHED])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = {form: detectors for form, detectors in forms().items() if form in options.forms}
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as spawned:
        rows = list(track(rows_of(chosen, spawned), "detectors", total=sum(map(len, chosen.values()))))
    ways = list(rows[0]["differences"])
    largest = {way: max(row["differences"][way] for row in rows) for way in ways}
    equal = {way: sum(row["differences"][way] == 0 for row in rows) for way in ways}
    counts = {kind: {way: sum(row[kind][way] for row in rows) for way in ways} for kind in ("scores", "fits")}
    for way in ways:
        print(
            f"{way}: {len(rows)} detectors, {counts['scores'][way]:,} scores beside {counts['fits'][way]:,} fits, "
            f"exactly equal for {equal[way]}, largest difference {largest[way]:.1e}"
        )
    print(f"above {EXPECTED}: {[row for row in rows if missed(row)]}")
    if options.json:
        content = {
            "expected": EXPECTED,
            "largest": largest,
            "exactly_equal": equal,
            **counts,
            "missed": [row for row in rows if missed(row)],
            "detectors": rows,
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

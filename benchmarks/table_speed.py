"""Speed of tables on one core: `python benchmarks/table_speed.py --json benchmarks/results/table_speed.json`.

Rows of ten columns of noise. *Scoring*: a support of ten rows, with and without 500 unlabelled ones, then rows a second
of `Detector.score`, beside scikit-learn's `NearestNeighbors` and `IsolationForest` on the same rows. *Fitting*:
seconds of `FewShotOutlierDetector().fit` on unlabelled rows, which scores each by the others, beside scikit-learn's
`LocalOutlierFactor` and `IsolationForest`. All take turns in one process with one thread, and the best of some repeats
counts, by the clock and by the processor: on a busy machine only the latter tells the speed of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

import metaad_zoo as mz
from metaad_zoo.evaluation.protocol import environment

COLUMNS, SHOTS, UNLABELLED = 10, 10, 500
PUBLISHED = "tabular-raw_columns-weighted_experts-unlabelled"
Work = Callable[[np.ndarray], Any]


def scorers(support: np.ndarray, unlabelled: np.ndarray) -> dict[str, Work]:
    """Fitted methods by name."""
    published, knn = mz.load_detector(PUBLISHED).fit(support), mz.load_detector("knn").fit(support)
    beside = mz.load_detector(PUBLISHED).fit(support, unlabelled=unlabelled)
    neighbours = NearestNeighbors(n_neighbors=1, n_jobs=1).fit(support)
    forest = IsolationForest(random_state=0, n_jobs=1).fit(support)
    return {
        PUBLISHED: published.score,
        f"{PUBLISHED}, {UNLABELLED} unlabelled rows": beside.score,
        "knn": knn.score,
        "scikit-learn NearestNeighbors": neighbours.kneighbors,
        "scikit-learn IsolationForest": forest.score_samples,
    }


def fits() -> dict[str, Work]:
    """Methods that are fitted to unlabelled rows, by name."""
    return {
        PUBLISHED: lambda x: mz.sklearn.FewShotOutlierDetector(PUBLISHED).fit(x),
        "knn": lambda x: mz.sklearn.FewShotOutlierDetector("knn").fit(x),
        "scikit-learn LocalOutlierFactor": lambda x: LocalOutlierFactor(n_jobs=1).fit(x),
        "scikit-learn IsolationForest": lambda x: IsolationForest(random_state=0, n_jobs=1).fit(x).score_samples(x),
    }


def best(methods: dict[str, Work], x: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Shortest seconds of each method by clock and processor; the methods take turns."""
    seconds: dict[str, dict[str, float]] = {name: {"clock": np.inf, "processor": np.inf} for name in methods}
    for _ in range(repeats):
        for name, work in methods.items():
            start = time.perf_counter(), time.process_time()
            work(x)
            taken = {"clock": time.perf_counter() - start[0], "processor": time.process_time() - start[1]}
            seconds[name] = {of: min(seconds[name][of], taken[of]) for of in taken}
    return seconds


def measure(rows: int, fitted: list[int], repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    support, unlabelled, x = (rng.normal(size=(n, COLUMNS)).astype(np.float32) for n in (SHOTS, UNLABELLED, rows))
    scoring = best(scorers(support, unlabelled), x, repeats)
    for seconds in scoring.values():
        seconds |= {f"rows_per_second_of_{of}": rows / seconds[of] for of in ("clock", "processor")}
    return {
        "scoring": scoring,
        "fitting": {str(n): best(fits(), rng.normal(size=(n, COLUMNS)), repeats if n <= 1000 else 1) for n in fitted},
    }


def result_table(result: dict[str, Any]) -> Table:
    table = Table("work", "method", "clock, s", "processor, s", "rows/s of processor", "times as fast")
    blocks = {"score": (result["scoring"], None), **{f"fit {n}": (v, int(n)) for n, v in result["fitting"].items()}}
    for title, (block, n) in blocks.items():
        slowest = block[PUBLISHED]["processor"]
        for name, seconds in block.items():
            rate = seconds.get("rows_per_second_of_processor") or n / seconds["processor"]
            cells = f"{seconds['clock']:.2f}", f"{seconds['processor']:.2f}", f"{rate:,.0f}"
            table.add_row(title, name, *cells, f"{slowest / seconds['processor']:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows that are scored")
    parser.add_argument("--fit", nargs="*", type=int, default=[1000, 10_000], help="rows that are fitted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(args.rows, args.fit, args.repeats)
    Console(width=None if sys.stdout.isatty() else 120).print(result_table(result))
    if args.json:
        protocol = {"columns": COLUMNS, "shots": SHOTS, "rows": args.rows, "repeats": args.repeats, "threads": 1}
        content = {"protocol": protocol, **result, "environment": environment("cpu")}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

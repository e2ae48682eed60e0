"""The table of the benchmark TSB-AD for methods of this package: `python benchmarks/tsb_ad.py FOLDER --out OUT`.

FOLDER holds files in the benchmark's format (`001_NAB_id_1_Facility_tr_1007_1st_2014.csv`), such as an unpacked
TSB-AD-U or TSB-AD-M. Each method is adapted to windows of a file's training part, labels unseen, and scores every point
of the whole file, as the benchmark's semi-supervised methods do. OUT/METHOD.csv is what the leaderboard takes: a row a
file, its time and nine metrics (metaad_zoo/evaluation/tsb_ad.py, those of the package TSB-AD 1.5). A run that is
interrupted goes on where it stopped. `--json` writes the means.

Without the benchmark's files, `--write DATASET ...` first writes the labelled parts of data sets that this package
reads by name (`--data`, default METAAD_DATA) to FOLDER in that format, with training parts by the benchmark's rule:

    python benchmarks/tsb_ad.py FOLDER --write nab smd smap --out OUT --json benchmarks/results/tsb_ad.json
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from metaad_zoo.atomic_write import replacing
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.read.tsb_ad import read_tsb_ad, write_tsb_ad
from metaad_zoo.data.series import Series, SeriesSet
from metaad_zoo.data.windows import SeriesWindows, score_series, window_starts
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.evaluation.tsb_ad import METRICS, period, tsb_ad_metrics
from metaad_zoo.experiment.methods import build_methods
from metaad_zoo.zoo import Checkpoint

METHODS = ("mahalanobis", "knn", "linear_ar", "pca_subwindows", "sequence-window_statistics-in_context-servers")
DOMAINS = {"nab": "WebService", "smd": "Facility", "asd": "Facility", "smap": "Sensor"}
WINDOW, SHOTS = 32, 200
"""Steps of a window where the method does not say, and most windows of a training part that are used."""
COLUMNS = ("file", "Time", *METRICS)


def write_sets(names: list[str], folder: Path, data: Path | None) -> None:
    """Write the labelled parts of data sets, those with an anomaly, in the benchmark's format."""
    index = 0
    for name in names:
        series_set: SeriesSet = read_dataset(name, "sequence", data)
        number = 0
        for series in series_set.series:
            start = series.support_until or 0
            labels = np.zeros(0) if series.labels is None else series.labels[start:]
            if not 0 < labels.sum() < len(labels):
                continue
            index, number = index + 1, number + 1
            values = series.values[start:].astype(np.float64)
            write_tsb_ad(folder, index, name.upper(), number, DOMAINS.get(name, "Other"), values, labels.astype(int))


def window_of(checkpoint: Checkpoint | None) -> int:
    """Steps of a method's windows."""
    shapes = {} if checkpoint is None else checkpoint.learner.arguments()["input_shapes"]
    length = shapes.get("sequence", (WINDOW,))[0]
    return WINDOW if length < 1 else length


def scores_of(method: Method, series: Series, window: int, stride: int) -> np.ndarray:
    """Scores ``(T,)`` of all points by the method adapted to windows of the training part."""
    until = min(series.support_until or 0, len(series.values))
    starts = window_starts(until, window, max(1, (until - window) // SHOTS))[:SHOTS]
    support = SeriesWindows(series.values, starts, window).read(np.arange(len(starts)))
    adapted = method.adapt(support, torch.zeros(len(starts), dtype=torch.long))
    return score_series(lambda windows: adapted.score(windows).double().cpu(), series.values, window, stride)


def rows_of(out: Path) -> list[dict[str, str]]:
    """Rows that are written already."""
    if not out.exists():
        return []
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluate(name: str, method: Method, window: int, files: list[Path], out: Path) -> list[dict[str, Any]]:
    """Rows of a method, file by file; written after each."""
    rows: list[dict[str, Any]] = list(rows_of(out))
    done = {row["file"] for row in rows}
    for path in files:
        if path.name in done:
            continue
        series = read_tsb_ad(path)
        assert series.labels is not None
        started = time.process_time()
        scores = scores_of(method, series, window, max(1, window // 4))
        seconds = time.process_time() - started
        metrics = tsb_ad_metrics(scores, series.labels, period(series.values))
        rows.append({"file": path.name, "Time": seconds, **metrics})
        print(f"{name}: {path.name} VUS-PR {metrics['VUS-PR']:.3f} in {seconds:.1f} s", flush=True)
        with replacing(out) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return [row for row in rows if row["file"] in {path.name for path in files}]


def set_of(file: str) -> str:
    """Data set of a file.

    Example:
        >>> set_of("001_NAB_id_1_Facility_tr_1007_1st_2014.csv")
        'NAB'
    """
    return file.split("_")[1]


def summary(rows: list[dict[str, Any]], trained_on: Iterable[str]) -> dict[str, Any]:
    """Means over files, of all and by data set, with an interval of VUS-PR.

    Args:
        rows: a row a file.
        trained_on: domains of the method's training, such as ``smd/machine-1-1``.
    """
    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(set_of(row["file"]), []).append(row)
    figures = {name: float(np.mean([float(row[name]) for row in rows])) for name in METRICS}
    volumes = np.array([float(row["VUS-PR"]) for row in rows])
    return {
        "files": len(rows),
        "mean": figures,
        "ci95_vus_pr": interval(volumes),
        "vus_pr_by_set": {name: float(np.mean([float(r["VUS-PR"]) for r in part])) for name, part in by_set.items()},
        "trained_on_sets": sorted({name.split("/")[0].upper() for name in trained_on} & by_set.keys()),
        "cpu_seconds_per_file": float(np.mean([float(row["Time"]) for row in rows])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with files in the benchmark's format")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names of baselines and checkpoints, or folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write a CSV file a method to")
    parser.add_argument("--list", type=Path, help="CSV file with the column file_name, such as TSB-AD-U-Eva.csv")
    parser.add_argument("--write", nargs="+", metavar="DATASET", default=[], help="write these data sets first")
    parser.add_argument("--data", type=Path, help="where they are (default: METAAD_DATA)")
    parser.add_argument("--json", type=Path, help="file to write the means to")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_sets(options.write, options.folder, options.data)
    files = sorted(options.folder.glob("*.csv"))
    if options.list:
        with options.list.open(newline="", encoding="utf-8") as file:
            wanted = {row["file_name"] for row in csv.DictReader(file)}
        files = [path for path in files if path.name in wanted]
    if not files:
        parser.error(f"{options.folder} holds no files of the benchmark: unpack TSB-AD-U.zip there, or add --write nab")
    torch.set_num_threads(1)
    methods, checkpoints = build_methods(options.methods)
    results = {}
    for name, method in methods.items():
        out = options.out / f"{name.replace('/', '_')}.csv"
        with torch.no_grad():
            rows = evaluate(name, method, window_of(checkpoints.get(name)), files, out)
        results[name] = summary(rows, checkpoints[name].trained_on if name in checkpoints else ())
    table = Table("method", "files", *METRICS, "seconds a file")
    for name, figures in results.items():
        means = [f"{100 * figures['mean'][metric]:.1f}" for metric in METRICS]
        table.add_row(name, str(figures["files"]), *means, f"{figures['cpu_seconds_per_file']:.2f}")
    Console(width=160).print(table)
    if options.json:
        protocol = {
            "command": "python benchmarks/tsb_ad.py FOLDER --write nab smd smap --out OUT --json "
            "benchmarks/results/tsb_ad.json",
            "files": len(files),
            "data_sets": sorted({set_of(path.name) for path in files}),
            "support": f"at most {SHOTS} windows of a file's training part, evenly spaced, taken as normal",
            "window": f"the model's; {WINDOW} steps for baselines; a window every quarter of it is scored",
            "scored": "every point of the whole file, the training part among them",
            "vus": "window by the autocorrelation of the first channel, 250 thresholds",
            "seconds": "CPU seconds of adaptation and scoring with one thread",
            "trained_or_chosen_on": {name: c.trained_on for name, c in checkpoints.items()},
        }
        text = {"protocol": protocol, "measured": results, "environment": environment("cpu")}
        options.json.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()

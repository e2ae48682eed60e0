"""The `metaad` command: see what there is, adapt a model to a user's own samples, score with it, report."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from metaad_zoo.backbones import list_backbones
from metaad_zoo.data import list_datasets
from metaad_zoo.data.samples import named_samples, refuse_anomalies_in
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, read_columns
from metaad_zoo.detector import load_detector
from metaad_zoo.evaluation.explanation import Explanation
from metaad_zoo.evaluation.html_report import write_report
from metaad_zoo.explain import write_explanations
from metaad_zoo.learners import list_learners


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status: 0, or 1 after an error, which is printed."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.command == "list":
            _list(options.kind, options.pattern, options.json)
        elif options.command == "adapt":
            _adapt(options.name, options.support, options.label, options.out)
        elif options.command == "report":
            _report(options.folder)
        elif options.command == "explain":
            _explain(options.folder, options.data, options.label, options.out, options.method)
        else:
            _score(options.folder, options.data, options.label, options.out, options.alpha)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metaad", description="Few-shot anomaly detection; train with train.py.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="what there is")
    listing.add_argument("pattern", nargs="?", default="*", help="such as '*net*', or 'timm/resnet*'")
    kinds = listing.add_mutually_exclusive_group(required=True)
    for kind in ("backbones", "learners", "datasets"):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind)
    listing.add_argument("--json", action="store_true", help="for machines")
    adapt = commands.add_parser("adapt", help="make a detector for your own domain from a few samples")
    adapt.add_argument("name", help="a finished run, such as runs/quickstart/<time>, or a model folder")
    adapt.add_argument(
        "--support", type=Path, required=True, help="normal samples: a folder of images, a table, series"
    )
    adapt.add_argument("--label", help="a table's column of labels: 0 normal, 1 anomalous; without, all are normal")
    adapt.add_argument("--out", type=Path, required=True, help="folder for the detector")
    score = commands.add_parser("score", help="score samples by a detector")
    score.add_argument("folder", help="what `metaad adapt` wrote")
    score.add_argument("--data", type=Path, required=True, help="a folder of images, a table, series; or one of them")
    score.add_argument("--label", help="a table's column of labels, to be left out")
    score.add_argument("--out", type=Path, required=True, help="CSV file: sample, score, p_value, anomaly")
    score.add_argument("--alpha", type=float, default=0.1, help="false-alarm rate of the column anomaly")
    report = commands.add_parser("report", help="results as one HTML page with tables and plots")
    report.add_argument("folder", type=Path, help="what `metaad evaluate` wrote, or a finished run")
    explain = commands.add_parser("explain", help="show what in the samples made their scores")
    explain.add_argument("folder", help="what `metaad adapt` wrote")
    explain.add_argument("--data", type=Path, required=True, help="as for score")
    explain.add_argument("--label", help="a table's column of labels, to be left out")
    explain.add_argument("--out", type=Path, required=True, help="folder: a picture a sample, and explanations.npz")
    explain.add_argument("--method", choices=get_args(Explanation), default="auto", help="of explaining")
    return parser


def _list(kind: str, pattern: str, as_json: bool) -> None:
    found = {"backbones": list_backbones, "learners": list_learners, "datasets": list_datasets}[kind](pattern)
    print(json.dumps(found) if as_json else "\n".join(found))


def _adapt(name: str, support: Path, label: str | None, out: Path) -> None:
    detector = load_detector(name)
    if label is None:
        refuse_anomalies_in(support)
    elif set(detector.input_shapes) != {"tabular"}:
        seen = list(detector.input_shapes)
        raise ValueError(f"--label {label} names a column of a table, but this model reads {seen}")
    names, samples = named_samples(support, detector.input_shapes, label)
    labels = None if label is None else read_columns(support, label).labels
    detector.fit(samples, labels).save(out)
    print(f"Adapted to {len(names)} samples. Next, try:  metaad score {out} --data PATH --out scores.csv")


def _score(folder: str, data: Path, label: str | None, out: Path, alpha: float) -> None:
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    detector = load_detector(folder)
    names, samples = named_samples(data, detector.input_shapes, label)
    scores, p, decisions = detector.judge(samples, alpha)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", "score", "p_value", "anomaly"])
        writer.writerows(zip(names, scores, p, decisions, strict=True))
    print(f"{int(decisions.sum())} of {len(names)} samples called anomalous at alpha={alpha}: {out}")


def _report(folder: Path) -> None:
    report = write_report(folder)
    for sentence in report.missing:
        print(f"Not on the page: {sentence}")
    print(f"{report.page}, and {len(report.figures)} pictures in {folder / 'figures'}")


def _explain(folder: str, data: Path, label: str | None, out: Path, method: Explanation) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")
    detector = load_detector(folder)
    names, samples = named_samples(data, detector.input_shapes, label)
    named = set(samples) == {"tabular"} and data.suffix.lower() in COLUMN_SUFFIXES
    columns = {"tabular": read_columns(data, label).names} if named else {}
    write_explanations(detector, names, samples, out, method, columns)
    print(f"{len(names)} pictures and explanations.npz: {out}")

"""The `metaad` command: see what there is, adapt a model to a user's own samples, score, explain, judge, choose."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from metaad_zoo.backbones import list_backbones
from metaad_zoo.cli.evaluate import Settings, run_evaluation
from metaad_zoo.cli.recommend import run_recommendation
from metaad_zoo.data import list_datasets
from metaad_zoo.data.row_samples import column_names, in_order
from metaad_zoo.data.samples import named_samples, refuse_anomalies_in
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, read_columns
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.evaluation.baselines import list_baselines
from metaad_zoo.evaluation.decisions import USUAL_ALPHA, WAYS, Calibrate
from metaad_zoo.evaluation.explanation import Explanation
from metaad_zoo.evaluation.html_report import write_report
from metaad_zoo.explain import write_explanations
from metaad_zoo.learners import list_learners

LISTS: dict[str, Callable[..., list[str]]] = {
    "backbones": list_backbones,
    "learners": list_learners,
    "datasets": list_datasets,
    "baselines": list_baselines,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status: 0, or 1 after an error, which is printed."""
    options = _parser().parse_args(argv)
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metaad", description="Few-shot anomaly detection; train with train.py.")
    commands = parser.add_subparsers(dest="command", required=True)
    for verb, (run, text, arguments) in _VERBS.items():
        command = commands.add_parser(verb, help=text, description=text)
        arguments(command)
        command.set_defaults(run=run)
    return parser


def _list_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("pattern", nargs="?", default="*", help="such as '*net*', or 'timm/resnet*'")
    kinds = command.add_mutually_exclusive_group(required=True)
    for kind in LISTS:
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind)
    command.add_argument("--modality", help="only what reads this: image, sequence, tabular, multimodal")
    command.add_argument("--json", action="store_true", help="for machines")


def _list(options: argparse.Namespace) -> None:
    if options.modality and options.kind == "learners":
        raise ValueError("--modality is not for learners: each takes any backbone")
    chosen: dict[str, Any] = {"modality": options.modality} if options.modality else {}
    found = LISTS[options.kind](options.pattern, **chosen)
    print(json.dumps(found) if options.json else "\n".join(found))


def _support_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--support", type=Path, required=True, help="normal samples: images, a table, series, a manifest"
    )
    command.add_argument("--label", help="a table's column of labels: 0 normal, 1 anomalous; without, all are normal")


def _adapt_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="a finished run, such as runs/quickstart/<time>, or a model folder")
    _support_arguments(command)
    command.add_argument("--out", type=Path, required=True, help="folder for the detector")


def _adapt(options: argparse.Namespace) -> None:
    detector = load_detector(options.name)
    if options.label is None:
        refuse_anomalies_in(options.support)
    elif set(detector.input_shapes) != {"tabular"}:
        seen = list(detector.input_shapes)
        raise ValueError(f"--label {options.label} names a column of a table, but this model reads {seen}")
    names, samples = named_samples(options.support, detector.input_shapes, options.label)
    labels = None if options.label is None else read_columns(options.support, options.label).labels
    tabular = set(detector.input_shapes) == {"tabular"}
    columns = column_names(options.support, options.label) if tabular else None
    detector.fit(samples, labels, columns=columns).save(options.out)
    print(f"Adapted to {len(names)} samples. Next, try:  metaad score {options.out} --data PATH --out scores.csv")


def _data_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="what `metaad adapt` wrote")
    command.add_argument("--data", type=Path, required=True, help="a folder of images, a table, series; or one of them")
    command.add_argument("--label", help="a table's column of labels, to be left out")


def _score_arguments(command: argparse.ArgumentParser) -> None:
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


def _score(options: argparse.Namespace) -> None:
    out: Path = options.out
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    detector = load_detector(options.folder)
    names, samples = _as_adapted(detector, options)
    calibrate: Calibrate = options.calibrate or ("across" if options.contamination is None else "contamination")
    scores, p, decisions = detector.judge(samples, options.alpha, calibrate, options.contamination)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", "score", "p_value", "anomaly"])
        writer.writerows(zip(names, scores, p, decisions, strict=True))
    by = "" if options.alpha is None and calibrate == "contamination" else f" at alpha={options.alpha or USUAL_ALPHA}"
    print(f"{int(decisions.sum())} of {len(names)} samples called anomalous{by} ({calibrate}): {out}")


def _as_adapted(detector: Detector, options: argparse.Namespace) -> tuple[list[str], dict[str, Tensor]]:
    """Samples to score, a table's columns in the order of the support set's."""
    names, samples = named_samples(options.data, detector.input_shapes, options.label)
    if detector.columns is not None:
        own = column_names(options.data, options.label)
        samples = {"tabular": in_order(samples["tabular"], own, detector.columns)}
    return names, samples


def _explain_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command)
    command.add_argument("--out", type=Path, required=True, help="folder: a picture a sample, and explanations.npz")
    command.add_argument("--method", choices=get_args(Explanation), default="auto", help="of explaining")


def _explain(options: argparse.Namespace) -> None:
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: name a folder")
    detector = load_detector(options.folder)
    names, samples = _as_adapted(detector, options)
    named = set(samples) == {"tabular"} and options.data.suffix.lower() in COLUMN_SUFFIXES
    own = detector.columns or (read_columns(options.data, options.label).names if named else None)
    columns = {"tabular": own} if own else {}
    write_explanations(detector, names, samples, options.out, options.method, columns)
    print(f"{len(names)} pictures and explanations.npz: {options.out}")


def _evaluate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("methods", nargs="+", help="runs or model folders, and baselines (metaad list --baselines)")
    command.add_argument("--data", type=Path, required=True, help="a config with a data section, or your own files")
    command.add_argument("--out", type=Path, required=True, help="folder for results.json and scores.parquet")
    command.add_argument("--episodes", type=int, help="on the test tasks; 600, or one of each task if more")
    command.add_argument("--shots", type=int, nargs="+", help="normal support samples; several draw a curve")
    command.add_argument("--alpha", type=float, default=0.1, help="false-alarm rate to aim at")
    command.add_argument("--calibrate", choices=("across", "within"), help="validation tasks, or each support set")
    command.add_argument("--seed", type=int, default=0, help="of the episodes of your own files")


def _evaluate(options: argparse.Namespace) -> None:
    given = {k: v for k, v in vars(options).items() if k not in ("command", "run")}
    run_evaluation(Settings(**given))


def _report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="what `metaad evaluate` wrote, or a finished run")


def _report(options: argparse.Namespace) -> None:
    report = write_report(options.folder)
    for sentence in report.missing:
        print(f"Not on the page: {sentence}")
    print(f"{report.page}, and {len(report.figures)} pictures in {options.folder / 'figures'}")


def _recommend_arguments(command: argparse.ArgumentParser) -> None:
    _support_arguments(command)
    command.add_argument("--models", nargs="*", default=[], help="runs or model folders to try beside the baselines")
    command.add_argument(
        "--modality",
        choices=("tabular", "sequence", "image", "multimodal"),
        help="of the samples; without, a folder holds images or series, and a file of columns is a table or a manifest",
    )
    command.add_argument("--json", action="store_true", help="for machines")


def _recommend(options: argparse.Namespace) -> None:
    run_recommendation(options.support, options.label, options.models, options.modality, options.json)


_VERBS: dict[str, tuple[Callable[[argparse.Namespace], None], str, Callable[[argparse.ArgumentParser], None]]] = {
    "list": (_list, "what there is", _list_arguments),
    "adapt": (_adapt, "make a detector for your own domain from a few samples", _adapt_arguments),
    "score": (_score, "score samples by a detector", _score_arguments),
    "explain": (_explain, "show what in the samples made their scores", _explain_arguments),
    "evaluate": (_evaluate, "judge any number of methods on the same episodes", _evaluate_arguments),
    "report": (_report, "results as one HTML page with tables and plots", _report_arguments),
    "recommend": (_recommend, "which method to take for your samples, and why", _recommend_arguments),
}

"""The `metaad` command: see what there is, adapt a model to a user's own samples, score, explain, judge, choose."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import shtab

from metaad_zoo.backbones import list_backbones
from metaad_zoo.cli.adapt_and_score import VERBS as DETECTOR_VERBS
from metaad_zoo.cli.adapt_and_score import support_arguments
from metaad_zoo.cli.checkpoints import VERBS as CHECKPOINT_VERBS
from metaad_zoo.cli.checkpoints import show_checkpoints
from metaad_zoo.cli.deploy import VERBS as DEPLOY_VERBS
from metaad_zoo.cli.evaluate import Settings, run_evaluation
from metaad_zoo.cli.evaluate_points import PointSettings, run_point_evaluation
from metaad_zoo.cli.parsing import VerbParser
from metaad_zoo.cli.recommend import run_recommendation
from metaad_zoo.cli.terminal import ERROR, EXIT_CODES, INTERRUPTED, OK, complete_paths, json_argument, printable, tell
from metaad_zoo.data import list_datasets
from metaad_zoo.evaluation.baselines import list_baselines
from metaad_zoo.evaluation.html_report import write_report
from metaad_zoo.learners import list_learners

LISTS: dict[str, Callable[..., list[str]]] = {
    "backbones": list_backbones,
    "learners": list_learners,
    "datasets": list_datasets,
    "baselines": list_baselines,
}
COMMON_OPTIONS = ("methods", "data", "out", "shots", "alpha", "calibrate", "seed", "allow_transductive")
EPISODE_OPTIONS = ("episodes", "inner_steps", "modality")
POINT_OPTIONS = ("draws", "stride", "longest", "buffer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code, see :mod:`metaad_zoo.cli.terminal`.

    Raises:
        SystemExit: the command line can't be read (code 2), or asked for help or a completion script (0).
    """
    options = command_parser().parse_args(argv)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python's own flush at the end must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("error: interrupted; files that were not finished are not kept", file=sys.stderr)
        return INTERRUPTED
    return OK


def command_parser() -> argparse.ArgumentParser:
    """What reads `metaad`'s command line."""
    parser = VerbParser(
        prog="metaad", description="Few-shot anomaly detection; train with train.py.", epilog=EXIT_CODES
    )
    shtab.add_argument_to(parser, "--print-completion", help="a script of completions for this shell")
    commands = parser.add_subparsers(dest="command", required=True)
    for verb, (run, text, arguments) in _VERBS.items():
        command = commands.add_parser(verb, help=text, description=text)
        arguments(command)
        complete_paths(command)
        command.set_defaults(run=run)
    return parser


def _list_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("pattern", nargs="?", default="*", help="such as '*net*', or 'timm/resnet*'")
    kinds = command.add_mutually_exclusive_group()
    kinds.add_argument("--checkpoints", dest="kind", action="store_const", const=None, help="by default")
    for kind in LISTS:
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind)
    command.add_argument("--modality", help="only what reads this: image, sequence, tabular, multimodal")
    command.add_argument("--json", action="store_true", help="for machines")


def _list(options: argparse.Namespace) -> None:
    if options.kind is None:
        show_checkpoints(options.pattern, options.modality, options.json)
        return
    if options.modality and options.kind == "learners":
        raise ValueError("--modality is not for learners: each takes any backbone")
    chosen: dict[str, Any] = {"modality": options.modality} if options.modality else {}
    found = LISTS[options.kind](options.pattern, **chosen)
    print(json.dumps(found) if options.json else "\n".join(found))


def _evaluate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "methods", nargs="+", help="checkpoints by name or folder, baselines, and BASELINE@CHECKPOINT on its embedding"
    )
    command.add_argument("--data", type=Path, required=True, help="a config with a data section, or your own files")
    command.add_argument("--out", type=Path, required=True, help="folder for results.json and scores.parquet")
    command.add_argument("--shots", type=int, nargs="+", help="normal support samples; several draw a curve")
    command.add_argument("--alpha", type=float, help="false-alarm rate to aim at; 0.1")
    command.add_argument(
        "--calibrate",
        type=_calibration,
        choices=("across", "within"),
        help="thresholds by validation tasks, or by each support set; with --points within alone, and none without it",
    )
    command.add_argument("--seed", type=int, help="of the episodes of your own files, or of the draws of --points; 0")
    command.add_argument(
        "--allow-transductive", action="store_true", help="also models that normalise over the queries"
    )
    episodes = command.add_argument_group("on episodes")
    episodes.add_argument("--episodes", type=int, help="on the test tasks; 600, or one of each task if more")
    episodes.add_argument(
        "--modality", choices=("tabular", "sequence", "image"), help="of your own files, for baselines without a model"
    )
    episodes.add_argument("--inner-steps", type=int, nargs="+", help="of gradient learners: draws a curve")
    points = command.add_argument_group("point by point")
    points.add_argument("--points", action="store_true", help="score the whole later part of each labelled series")
    points.add_argument("--draws", type=int, help="of the support windows of each series; 3")
    points.add_argument("--stride", type=int, help="steps between scored windows; a quarter of a window")
    points.add_argument("--longest", type=int, help="points scored of a series; 50000")
    points.add_argument("--buffer", type=int, help="longest buffer of VUS in points; the window")
    json_argument(command)


def _calibration(text: str) -> str:
    """One of the ways to a threshold.

    Raises:
        argparse.ArgumentTypeError: for any other, in words of its own: there are none that look at test labels.
    """
    if text not in ("across", "within"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected across (normal samples of the validation tasks) or within (each support set's own); "
            "a threshold is never chosen on test labels, which nobody has who uses a detector"
        )
    return text


def _evaluate(options: argparse.Namespace) -> None:
    here, there = (POINT_OPTIONS, EPISODE_OPTIONS) if options.points else (EPISODE_OPTIONS, POINT_OPTIONS)
    idle = [f"--{name.replace('_', '-')}" for name in there if getattr(options, name) is not None]
    if idle:
        raise ValueError(f"{', '.join(idle)}: only {'without' if options.points else 'with'} --points")
    given = {k: v for k in (*COMMON_OPTIONS, *here) if (v := getattr(options, k)) is not None}
    if not options.points:
        run_evaluation(Settings(**given), options.json)
        return
    if len(options.shots or [0]) > 1:
        raise ValueError(f"--shots {options.shots}: give one number with --points")
    one = {"shots": options.shots[0]} if options.shots else {}
    run_point_evaluation(PointSettings(**given | one), options.json)


def _report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="what `metaad evaluate` wrote, or a finished run")
    json_argument(command)


def _report(options: argparse.Namespace) -> None:
    report = write_report(options.folder)
    lines = [f"Not on the page: {sentence}" for sentence in report.missing]
    lines.append(f"{report.page}, and {len(report.figures)} pictures in {options.folder / 'figures'}")
    tell(options.json, asdict(report), "\n".join(lines))


def _recommend_arguments(command: argparse.ArgumentParser) -> None:
    support_arguments(command)
    command.add_argument(
        "--models", nargs="*", help="checkpoints by name or folder, to try beside the baselines; without, all that fit"
    )
    command.add_argument(
        "--modality",
        choices=("tabular", "sequence", "image", "multimodal"),
        help="of the samples; without, a folder holds images or series, and a file of columns is a table or a manifest",
    )
    command.add_argument("--json", action="store_true", help="for machines")


def _recommend(options: argparse.Namespace) -> None:
    run_recommendation(options.support, options.label, options.models, options.modality, options.json)


_VERBS: dict[str, tuple[Callable[[argparse.Namespace], None], str, Callable[[argparse.ArgumentParser], None]]] = {
    "list": (_list, "what there is: published checkpoints, backbones, learners, ...", _list_arguments),
    **CHECKPOINT_VERBS,
    **DEPLOY_VERBS,
    **DETECTOR_VERBS,
    "evaluate": (_evaluate, "judge any number of methods on the same episodes", _evaluate_arguments),
    "report": (_report, "results as one HTML page with tables and plots", _report_arguments),
    "recommend": (_recommend, "which method to take for your samples, and why", _recommend_arguments),
}

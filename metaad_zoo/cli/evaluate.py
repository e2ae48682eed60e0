"""`metaad evaluate`: methods on the same episodes, or point by point on whole series."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaad_zoo.cli.arguments import json_argument, modality_name, require_folder
from metaad_zoo.cli.terminal import note_account, progress_bars, show
from metaad_zoo.modality import list_modalities

if TYPE_CHECKING:
    from rich.console import RenderableType

HELP = "compare methods on the same episodes, or point by point on whole series"
COMMON_OPTIONS = ("methods", "data", "out", "shots", "alpha", "calibrate", "seed", "allow_transductive")
EPISODE_OPTIONS = ("episodes", "inner_steps", "modality", "unlabelled", "contamination")
POINT_OPTIONS = ("draws", "stride", "longest", "buffer")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "methods",
        nargs="+",
        help="checkpoints by name or folder, baselines (pyod/CLASS for detectors of PyOD), or a baseline on an "
        "embedding: BASELINE@CHECKPOINT",
    )
    command.add_argument("--data", type=Path, required=True, help="training config, or your own labelled files")
    command.add_argument("--out", type=Path, required=True, help="folder to write results.json and scores.parquet to")
    command.add_argument("--shots", type=int, nargs="+", help="numbers of normal support samples; several give a curve")
    command.add_argument("--alpha", type=float, help="target false-alarm rate (default: 0.1)")
    command.add_argument(
        "--calibrate",
        type=_calibration,
        choices=("across", "within"),
        help="source of the thresholds: the validation tasks (across) or each support (within); with --points, "
        "thresholds are set only by within",
    )
    command.add_argument(
        "--seed",
        type=int,
        help="random seed of the episodes, for your own files or --points (default: 0)",
    )
    command.add_argument(
        "--allow-transductive", action="store_true", help="allow models that normalise over the queries"
    )
    episodes = command.add_argument_group("evaluation on episodes")
    episodes.add_argument(
        "--episodes",
        type=int,
        help="number of test episodes (default: 600, or the number of tasks if it is larger)",
    )
    episodes.add_argument(
        "--modality",
        type=modality_name,
        help=f"modality of your own files, if only baselines are compared: {', '.join(list_modalities())} (default: "
        "inferred from the files)",
    )
    episodes.add_argument(
        "--inner-steps", type=int, nargs="+", help="numbers of inner steps of gradient-based learners; gives a curve"
    )
    episodes.add_argument(
        "--unlabelled",
        type=int,
        metavar="N",
        help="number of unlabelled samples in each support set, beside the normal ones (default: as the data's config "
        "has it, or none)",
    )
    episodes.add_argument(
        "--contamination",
        type=float,
        nargs="+",
        action=ShareOrRange,
        metavar="SHARE",
        help="share of anomalies among the unlabelled samples, which no method is told; two numbers are a range from "
        "which each episode draws (default: as the data's config has it, or 0)",
    )
    points = command.add_argument_group("evaluation point by point")
    points.add_argument("--points", action="store_true", help="score each point in the later part of a labelled series")
    points.add_argument("--draws", type=int, help="number of supports that are drawn from each series (default: 3)")
    points.add_argument(
        "--stride", type=int, help="number of steps between scored windows (default: a quarter of the window)"
    )
    points.add_argument("--longest", type=int, help="maximum number of scored points per series (default: 50000)")
    points.add_argument("--buffer", type=int, help="maximum buffer length of VUS in points (default: the window)")
    json_argument(command)


class ShareOrRange(argparse.Action):
    """One number as it is, two as a range."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if len(values) > 2:
            raise argparse.ArgumentError(self, f"expected a share, or the ends of a range, saw {len(values)} numbers")
        setattr(namespace, self.dest, values[0] if len(values) == 1 else tuple(values))


def _calibration(text: str) -> str:
    """One of the ways to a threshold.

    Raises:
        argparse.ArgumentTypeError: for any other, in words of its own: there are none that look at test labels.
    """
    if text not in ("across", "within"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected across (normal samples of the validation tasks) or within (each support set's own); "
            "a threshold is never chosen on test labels, because users of a detector have none"
        )
    return text


def run(options: argparse.Namespace) -> None:
    used, unused = (POINT_OPTIONS, EPISODE_OPTIONS) if options.points else (EPISODE_OPTIONS, POINT_OPTIONS)
    idle = [f"--{name.replace('_', '-')}" for name in unused if getattr(options, name) is not None]
    if idle:
        raise ValueError(f"{', '.join(idle)}: only {'without' if options.points else 'with'} --points")
    arguments = {k: v for k in (*COMMON_OPTIONS, *used) if (v := getattr(options, k)) is not None}
    if len(options.shots or [0]) > 1 and options.points:
        raise ValueError(f"--shots {options.shots}: give one number with --points")

    require_folder(options.out)
    from metaad_zoo.evaluation.report import points_table, results_table
    from metaad_zoo.experiment.evaluate import evaluate
    from metaad_zoo.experiment.points import evaluate_points

    with progress_bars() as progress:
        if options.points:
            shots = {"shots": options.shots[0]} if options.shots else {}
            results = evaluate_points(**arguments | shots, progress=progress)
        else:
            results = evaluate(**arguments, progress=progress)
    note_account(results["protocol"]["account"])
    table: RenderableType = points_table(results) if options.points else results_table(results)
    scores = "the score of every point" if options.points else "every score"
    show(options.json, results, table, f"Figures and {scores}: {options.out}")

"""Arguments that several verbs of `metaad` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import shtab

if TYPE_CHECKING:
    from metaad_zoo.detector import Detector


def support_arguments(command: argparse.ArgumentParser) -> None:
    """Add ``--support`` and ``--label``."""
    command.add_argument(
        "--support", type=Path, required=True, help="normal samples: images, a table, series or a manifest"
    )
    command.add_argument(
        "--label",
        help="column of labels of a table or a manifest: 0 normal, 1 anomalous (default: all samples are normal)",
    )


def data_arguments(command: argparse.ArgumentParser) -> None:
    """Add the detector's folder, ``--data`` and ``--label``."""
    command.add_argument("folder", help="folder of a detector that `metaad adapt` wrote")
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        help="samples: one file, a folder of images, tables or series, or a manifest",
    )
    command.add_argument("--label", help="column of labels, which is left out")


def json_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def calibrate_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--calibrate`` of a detector that is exported or served."""
    command.add_argument(
        "--calibrate",
        choices=("across", "within"),
        default="across",
        help="take the threshold from scores of the validation tasks (across, the default), or of the support set, "
        "each sample left out once (within)",
    )


def import_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--import``."""
    command.add_argument(
        "--import",
        dest="plugins",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module of yours that registers backbones, learners, data sets, modalities or baselines "
        "(repeatable)",
    )


def complete_paths(command: argparse.ArgumentParser) -> None:
    """Let a shell complete files after every option that takes a path."""
    for action in command._actions:
        if action.type is Path or action.dest in ("folder", "name", "methods", "models"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def adapted_detector(folder: str) -> Detector:
    """Load a detector.

    Raises:
        ValueError: it is adapted to no domain yet.
    """
    from metaad_zoo.detector import load_detector

    detector = load_detector(folder)
    if not detector.is_fitted:
        raise ValueError(
            f"{folder} is adapted to no domain yet: metaad adapt {folder} --support PATH --out my_detector"
        )
    return detector

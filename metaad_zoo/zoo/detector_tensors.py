"""What a detector keeps in a checkpoint beside the learner, and whether that can be so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metaad_zoo.data.samples import as_labels, as_samples
from metaad_zoo.zoo.checkpoint import Checkpoint, CheckpointError

CALIBRATION = "calibration"


def calibration_tensors(by_shots: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Ascending scores of normal samples by the size of the support set, under the names that a checkpoint has them.

    Example:
        >>> list(calibration_tensors({5: torch.zeros(3), 10: torch.zeros(3)}))
        ['calibration/5', 'calibration/10']
    """
    return {f"{CALIBRATION}/{n}": scores for n, scores in by_shots.items()}


def calibration_by_shots(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """What a checkpoint is calibrated for: ascending scores of normal samples, by the size of the support set.

    Scores under the plain name ``calibration`` are for supports of any size.

    Raises:
        ValueError: a name ends in no size.
    """
    found = {1: tensors[CALIBRATION]} if CALIBRATION in tensors else {}
    for name, scores in tensors.items():
        if name.startswith(f"{CALIBRATION}/"):
            size = name.removeprefix(f"{CALIBRATION}/")
            if not re.fullmatch("[1-9][0-9]{0,8}", size):
                raise ValueError(f"{name!r} names no size of a support set")
            found[int(size)] = scores
    return dict(sorted(found.items()))


def check_detector_tensors(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse calibration scores and support sets that no detector has written.

    Args:
        folder: named in errors.
        checkpoint: as it was read.

    Raises:
        CheckpointError: as said.
    """
    tensors = checkpoint.tensors
    try:
        by_shots = calibration_by_shots(tensors)
    except ValueError as error:
        raise CheckpointError(f"{folder} holds calibration scores of no known kind: {error}; damaged") from error
    for scores in by_shots.values():
        if scores.ndim != 1 or torch.isnan(scores).any() or bool((scores.diff() < 0).any()):
            raise CheckpointError(
                f"{folder} holds calibration scores that are not an ascending row of numbers: damaged"
            )
    if "support_labels" in tensors:
        try:
            shapes = checkpoint.learner.arguments()["input_shapes"]
            found = as_samples({name: tensors[f"support/{name}"] for name in shapes}, shapes)
            as_labels(tensors["support_labels"], len(next(iter(found.values()))))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder} holds a support set that does not fit its model: {error}") from error

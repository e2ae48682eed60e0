"""What a detector keeps in a checkpoint beside the learner, and whether that can be so."""

from __future__ import annotations

from pathlib import Path

import torch

from metaad_zoo.data.samples import as_labels, as_samples
from metaad_zoo.zoo.checkpoint import Checkpoint, CheckpointError


def check_detector_tensors(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse calibration scores and support sets that no detector has written.

    Args:
        folder: named in errors.
        checkpoint: as it was read.

    Raises:
        CheckpointError: as said.
    """
    tensors = checkpoint.tensors
    calibration = tensors.get("calibration", torch.zeros(0))
    if calibration.ndim != 1 or torch.isnan(calibration).any() or bool((calibration.diff() < 0).any()):
        raise CheckpointError(f"{folder} holds calibration scores that are not an ascending row of numbers: damaged")
    if "support_labels" in tensors:
        try:
            shapes = checkpoint.learner.arguments()["input_shapes"]
            found = as_samples({name: tensors[f"support/{name}"] for name in shapes}, shapes)
            as_labels(tensors["support_labels"], len(next(iter(found.values()))))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder} holds a support set that does not fit its model: {error}") from error

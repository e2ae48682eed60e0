"""Checkpoints: how a model is kept in a folder and read back, verified."""

from metaad_zoo.zoo.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_files,
    files_in_a_folder,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from metaad_zoo.zoo.detector_tensors import check_detector_tensors

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "check_detector_tensors",
    "checkpoint_files",
    "files_in_a_folder",
    "is_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

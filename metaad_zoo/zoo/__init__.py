"""Checkpoints: how a model is kept in a folder and read back, verified."""

from metaad_zoo.zoo.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from metaad_zoo.zoo.reading import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "is_checkpoint", "load_checkpoint", "save_checkpoint"]

"""Checkpoints: how a model is kept in a folder and read back, verified."""

from metaad_zoo.zoo.checkpoint import (
    Checkpoint,
    CheckpointError,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

__all__ = ["Checkpoint", "CheckpointError", "is_checkpoint", "load_checkpoint", "save_checkpoint"]

"""The zoo: how a model is kept in a folder and read back, verified; and the published ones."""

from metaad_zoo.zoo.checkpoint import (
    Checkpoint,
    checkpoint_files,
    files_in_a_folder,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from metaad_zoo.zoo.detector_tensors import calibration_by_shots, calibration_tensors, check_detector_tensors
from metaad_zoo.zoo.fine_tuned import FineTuned, parent_shapes, parent_splits
from metaad_zoo.zoo.hub import push_to_hub
from metaad_zoo.zoo.index import find_published, list_checkpoints, read_index
from metaad_zoo.zoo.locate import is_known, locate, model_folder
from metaad_zoo.zoo.publishing import publish, refresh
from metaad_zoo.zoo.reading import CheckpointError
from metaad_zoo.zoo.remote import fetch_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FineTuned",
    "calibration_by_shots",
    "calibration_tensors",
    "check_detector_tensors",
    "checkpoint_files",
    "fetch_checkpoint",
    "files_in_a_folder",
    "find_published",
    "is_checkpoint",
    "is_known",
    "list_checkpoints",
    "load_checkpoint",
    "locate",
    "model_folder",
    "parent_shapes",
    "parent_splits",
    "publish",
    "push_to_hub",
    "read_index",
    "refresh",
    "save_checkpoint",
]

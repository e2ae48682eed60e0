"""The zoo: how a model is kept in a folder and read back, verified; and the published ones."""

from typing import TYPE_CHECKING

from metaad_zoo.lazy import lazy_names

if TYPE_CHECKING:
    from metaad_zoo.zoo.checkpoint import (
        Checkpoint,
        checkpoint_files,
        files_in_a_folder,
        load_checkpoint,
        save_checkpoint,
    )
    from metaad_zoo.zoo.detector_tensors import (
        RATIO,
        calibration_by_shots,
        calibration_tensors,
        check_detector_tensors,
        schema_tensors,
        schemas_of,
    )
    from metaad_zoo.zoo.fine_tuned import FineTuned, parent_aspect, parent_shapes, parent_splits
    from metaad_zoo.zoo.hub import push_to_hub
    from metaad_zoo.zoo.index import find_published, list_checkpoints, read_index
    from metaad_zoo.zoo.lookup import is_known, locate, model_folder
    from metaad_zoo.zoo.manifest import is_checkpoint
    from metaad_zoo.zoo.publishing import publish, refresh
    from metaad_zoo.zoo.reading import CheckpointError
    from metaad_zoo.zoo.remote import fetch_checkpoint

__all__ = [
    "RATIO",
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
    "parent_aspect",
    "parent_shapes",
    "parent_splits",
    "publish",
    "push_to_hub",
    "read_index",
    "refresh",
    "save_checkpoint",
    "schema_tensors",
    "schemas_of",
]

_MODULES = {
    "Checkpoint": "metaad_zoo.zoo.checkpoint",
    "CheckpointError": "metaad_zoo.zoo.reading",
    "FineTuned": "metaad_zoo.zoo.fine_tuned",
    "RATIO": "metaad_zoo.zoo.detector_tensors",
    "calibration_by_shots": "metaad_zoo.zoo.detector_tensors",
    "calibration_tensors": "metaad_zoo.zoo.detector_tensors",
    "check_detector_tensors": "metaad_zoo.zoo.detector_tensors",
    "checkpoint_files": "metaad_zoo.zoo.checkpoint",
    "fetch_checkpoint": "metaad_zoo.zoo.remote",
    "files_in_a_folder": "metaad_zoo.zoo.checkpoint",
    "find_published": "metaad_zoo.zoo.index",
    "is_checkpoint": "metaad_zoo.zoo.manifest",
    "is_known": "metaad_zoo.zoo.lookup",
    "list_checkpoints": "metaad_zoo.zoo.index",
    "load_checkpoint": "metaad_zoo.zoo.checkpoint",
    "locate": "metaad_zoo.zoo.lookup",
    "model_folder": "metaad_zoo.zoo.lookup",
    "parent_aspect": "metaad_zoo.zoo.fine_tuned",
    "parent_shapes": "metaad_zoo.zoo.fine_tuned",
    "parent_splits": "metaad_zoo.zoo.fine_tuned",
    "publish": "metaad_zoo.zoo.publishing",
    "push_to_hub": "metaad_zoo.zoo.hub",
    "read_index": "metaad_zoo.zoo.index",
    "refresh": "metaad_zoo.zoo.publishing",
    "save_checkpoint": "metaad_zoo.zoo.checkpoint",
    "schema_tensors": "metaad_zoo.zoo.detector_tensors",
    "schemas_of": "metaad_zoo.zoo.detector_tensors",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

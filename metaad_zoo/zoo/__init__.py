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
        shown_calibration,
        shown_calibration_tensors,
        training_tasks_of,
        training_tasks_tensors,
    )
    from metaad_zoo.zoo.fine_tuned import FineTuned, parent_aspect, parent_shapes, parent_splits
    from metaad_zoo.zoo.hub import push_to_hub
    from metaad_zoo.zoo.index import find_published, list_checkpoints, read_index
    from metaad_zoo.zoo.lookup import is_known, locate, model_folder, published_of, refuse_replaced
    from metaad_zoo.zoo.manifest import is_checkpoint
    from metaad_zoo.zoo.opening import open_checkpoint
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
    "open_checkpoint",
    "parent_aspect",
    "parent_shapes",
    "parent_splits",
    "publish",
    "published_of",
    "push_to_hub",
    "read_index",
    "refresh",
    "refuse_replaced",
    "save_checkpoint",
    "schema_tensors",
    "schemas_of",
    "shown_calibration",
    "shown_calibration_tensors",
    "training_tasks_of",
    "training_tasks_tensors",
]

_NAMES_BY_MODULE = {
    "checkpoint": ("Checkpoint", "checkpoint_files", "files_in_a_folder", "load_checkpoint", "save_checkpoint"),
    "detector_tensors": (
        "RATIO",
        "calibration_by_shots",
        "calibration_tensors",
        "check_detector_tensors",
        "schema_tensors",
        "schemas_of",
        "shown_calibration",
        "shown_calibration_tensors",
        "training_tasks_of",
        "training_tasks_tensors",
    ),
    "fine_tuned": ("FineTuned", "parent_aspect", "parent_shapes", "parent_splits"),
    "hub": ("push_to_hub",),
    "index": ("find_published", "list_checkpoints", "read_index"),
    "lookup": ("is_known", "locate", "model_folder", "published_of", "refuse_replaced"),
    "manifest": ("is_checkpoint",),
    "opening": ("open_checkpoint",),
    "publishing": ("publish", "refresh"),
    "reading": ("CheckpointError",),
    "remote": ("fetch_checkpoint",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _NAMES_BY_MODULE.items() for name in names}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

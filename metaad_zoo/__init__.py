"""metaad_zoo: meta-learned few-shot anomaly detection.

>>> import metaad_zoo as mz
>>> mz.create_backbone("conv4", in_channels=1).embedding_dim
64
"""

from typing import TYPE_CHECKING

from metaad_zoo.lazy import lazy_names

if TYPE_CHECKING:
    from metaad_zoo import pyod, sklearn
    from metaad_zoo.backbones import create_backbone, list_backbones
    from metaad_zoo.data import list_datasets
    from metaad_zoo.detector import Detector, load_detector
    from metaad_zoo.episodes import EpisodeSpec
    from metaad_zoo.experiment.evaluate import evaluate
    from metaad_zoo.experiment.points import evaluate_points
    from metaad_zoo.experiment.recommend import recommend
    from metaad_zoo.export import export_detector
    from metaad_zoo.learners import list_learners
    from metaad_zoo.version import __version__
    from metaad_zoo.zoo import CheckpointError, list_checkpoints, push_to_hub

__all__ = [
    "CheckpointError",
    "Detector",
    "EpisodeSpec",
    "__version__",
    "create_backbone",
    "evaluate",
    "evaluate_points",
    "export_detector",
    "list_backbones",
    "list_checkpoints",
    "list_datasets",
    "list_learners",
    "load_detector",
    "push_to_hub",
    "pyod",
    "recommend",
    "sklearn",
]

_MODULES = {
    "CheckpointError": "metaad_zoo.zoo",
    "Detector": "metaad_zoo.detector",
    "EpisodeSpec": "metaad_zoo.episodes",
    "__version__": "metaad_zoo.version",
    "create_backbone": "metaad_zoo.backbones",
    "evaluate": "metaad_zoo.experiment.evaluate",
    "evaluate_points": "metaad_zoo.experiment.points",
    "export_detector": "metaad_zoo.export",
    "list_backbones": "metaad_zoo.backbones",
    "list_checkpoints": "metaad_zoo.zoo",
    "list_datasets": "metaad_zoo.data",
    "list_learners": "metaad_zoo.learners",
    "load_detector": "metaad_zoo.detector",
    "push_to_hub": "metaad_zoo.zoo",
    "pyod": "metaad_zoo.pyod",
    "recommend": "metaad_zoo.experiment.recommend",
    "sklearn": "metaad_zoo.sklearn",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)

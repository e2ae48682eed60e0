"""metaad_zoo: meta-learned few-shot anomaly detection.

>>> import metaad_zoo as mz
>>> mz.create_backbone("conv4", in_channels=1).embedding_dim
64
"""

from metaad_zoo import pyod, sklearn
from metaad_zoo.backbones import create_backbone, list_backbones
from metaad_zoo.data import list_datasets
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.export import export_detector
from metaad_zoo.learners import list_learners
from metaad_zoo.zoo import CheckpointError, list_checkpoints, push_to_hub

__all__ = [
    "CheckpointError",
    "Detector",
    "EpisodeSpec",
    "create_backbone",
    "export_detector",
    "list_backbones",
    "list_checkpoints",
    "list_datasets",
    "list_learners",
    "load_detector",
    "push_to_hub",
    "pyod",
    "sklearn",
]

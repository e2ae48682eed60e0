"""Backbones: pure modules from a sample to an embedding. They know nothing of episodes or learners."""

from metaad_zoo.backbones import cnn as cnn  # registers its backbones
from metaad_zoo.backbones.layers import (
    BatchNormPolicy,
    EpisodicBatchNorm,
    episodic_batch_norm,
    statistics_from_first,
)
from metaad_zoo.backbones.registry import Backbone, create_backbone, list_backbones, register_backbone

__all__ = [
    "Backbone",
    "BatchNormPolicy",
    "EpisodicBatchNorm",
    "create_backbone",
    "episodic_batch_norm",
    "list_backbones",
    "register_backbone",
    "statistics_from_first",
]

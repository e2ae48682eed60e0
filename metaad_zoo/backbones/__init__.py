"""Backbones: networks that map samples to embeddings, independent of episodes and learners."""

from metaad_zoo.backbones import cnn as cnn  # each of these registers its backbones
from metaad_zoo.backbones import columns as columns
from metaad_zoo.backbones import ft_transformer as ft_transformer
from metaad_zoo.backbones import fusion as fusion
from metaad_zoo.backbones import pretrained as pretrained
from metaad_zoo.backbones import raw_columns as raw_columns
from metaad_zoo.backbones import rnn as rnn
from metaad_zoo.backbones import tabular as tabular
from metaad_zoo.backbones import task_recurrent as task_recurrent  # adds its layers to TASK_LAYERS
from metaad_zoo.backbones import tcn as tcn
from metaad_zoo.backbones import transformer as transformer
from metaad_zoo.backbones import vit as vit
from metaad_zoo.backbones import window_statistics as window_statistics
from metaad_zoo.backbones.cnn import ImageBackbone
from metaad_zoo.backbones.layers import (
    BatchNormPolicy,
    EpisodicBatchNorm,
    at_inner_step,
    episodic_batch_norm,
    statistics_from_first,
)
from metaad_zoo.backbones.missing import ANY, centre_missing, declare_absent, declare_missing, split_missing
from metaad_zoo.backbones.registry import (
    MULTIMODAL,
    Backbone,
    backbone_class,
    create_backbone,
    list_backbones,
    modality_of,
    options_from_shapes,
    register_backbone,
)
from metaad_zoo.backbones.task_axis import (
    TaskAxis,
    carry_task_axis,
    current_task_axis,
    prefers_sample_major,
    require_task_axis,
    task_axis,
)
from metaad_zoo.backbones.task_recurrent import differentiable_recurrence
from metaad_zoo.backbones.weights import WeightsError, WeightsSource, replace_pretrained

__all__ = [
    "ANY",
    "MULTIMODAL",
    "Backbone",
    "BatchNormPolicy",
    "EpisodicBatchNorm",
    "ImageBackbone",
    "TaskAxis",
    "WeightsError",
    "WeightsSource",
    "at_inner_step",
    "backbone_class",
    "carry_task_axis",
    "centre_missing",
    "create_backbone",
    "current_task_axis",
    "declare_absent",
    "declare_missing",
    "differentiable_recurrence",
    "episodic_batch_norm",
    "list_backbones",
    "modality_of",
    "options_from_shapes",
    "prefers_sample_major",
    "register_backbone",
    "replace_pretrained",
    "require_task_axis",
    "split_missing",
    "statistics_from_first",
    "task_axis",
]

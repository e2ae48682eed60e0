"""Classical methods behind the same two calls, ``adapt`` and ``score``, by name."""

from metaad_zoo.evaluation.baselines import floors as floors  # each of these registers its baselines
from metaad_zoo.evaluation.baselines import pyod_detectors as pyod_detectors
from metaad_zoo.evaluation.baselines import series as series
from metaad_zoo.evaluation.baselines import series_experts as series_experts
from metaad_zoo.evaluation.baselines import subspaces as subspaces
from metaad_zoo.evaluation.baselines import unlabelled as unlabelled
from metaad_zoo.evaluation.baselines import vectors as vectors
from metaad_zoo.evaluation.baselines.embedding import EmbedsEpisodes, OnEmbedding, OnNetwork, embedding_of
from metaad_zoo.evaluation.baselines.features import FeatureMethod, SupportFeatures, flatten, usual
from metaad_zoo.evaluation.baselines.floors import FlagEverything, RandomScores
from metaad_zoo.evaluation.baselines.registry import (
    BASELINES,
    about_baseline,
    create_baseline,
    is_baseline,
    list_baselines,
    modalities_of,
    reads_unlabelled,
    register_baseline,
)
from metaad_zoo.evaluation.baselines.vectors import NearestNeighbour

__all__ = [
    "BASELINES",
    "EmbedsEpisodes",
    "FeatureMethod",
    "FlagEverything",
    "NearestNeighbour",
    "OnEmbedding",
    "OnNetwork",
    "RandomScores",
    "SupportFeatures",
    "about_baseline",
    "create_baseline",
    "embedding_of",
    "flatten",
    "is_baseline",
    "list_baselines",
    "modalities_of",
    "reads_unlabelled",
    "register_baseline",
    "usual",
]

"""Episodes: few-shot anomaly-detection tasks and where they come from. Knows no modality and no Lightning."""

from metaad_zoo.episodes.draw import Source
from metaad_zoo.episodes.episode import ANOMALOUS, NORMAL, UNLABELLED, Episode, EpisodeBatch, Samples, count
from metaad_zoo.episodes.method import Adapted, Method
from metaad_zoo.episodes.neighbourhoods import NeighbourhoodTaskPool
from metaad_zoo.episodes.pool import ClassTaskPool, DomainTaskPool, TaskPool, require_disjoint
from metaad_zoo.episodes.sampler import SPLITS, EpisodeLoader, EpisodeSampler, Split
from metaad_zoo.episodes.spec import EpisodeSpec

__all__ = [
    "ANOMALOUS",
    "NORMAL",
    "SPLITS",
    "UNLABELLED",
    "Adapted",
    "ClassTaskPool",
    "DomainTaskPool",
    "Episode",
    "EpisodeBatch",
    "EpisodeLoader",
    "EpisodeSampler",
    "EpisodeSpec",
    "Method",
    "NeighbourhoodTaskPool",
    "Samples",
    "Source",
    "Split",
    "TaskPool",
    "count",
    "require_disjoint",
]

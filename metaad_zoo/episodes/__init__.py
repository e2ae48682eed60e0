"""Episodes: few-shot anomaly-detection tasks and where they come from. Knows no modality and no Lightning."""

from metaad_zoo.episodes.draw import Corruption, Domain, Reader, Source
from metaad_zoo.episodes.episode import (
    ANOMALOUS,
    NORMAL,
    UNLABELLED,
    Episode,
    EpisodeBatch,
    Samples,
    count,
    stand_for_normal,
)
from metaad_zoo.episodes.method import Adapted, Method
from metaad_zoo.episodes.neighbourhoods import NeighbourhoodTaskPool
from metaad_zoo.episodes.pool import ChangedPool, ClassTaskPool, DomainTaskPool, TaskPool, require_disjoint
from metaad_zoo.episodes.presence import only, present
from metaad_zoo.episodes.sampler import SPLITS, EpisodeLoader, EpisodeSampler, Split
from metaad_zoo.episodes.scaling import Scaling, SupportScaling
from metaad_zoo.episodes.spec import EpisodeSpec
from metaad_zoo.episodes.split_record import (
    SplitRecord,
    fingerprint,
    fingerprints_by_class,
    joint_fingerprint,
    positions_by_class,
)

__all__ = [
    "ANOMALOUS",
    "NORMAL",
    "SPLITS",
    "UNLABELLED",
    "Adapted",
    "ChangedPool",
    "ClassTaskPool",
    "Corruption",
    "Domain",
    "DomainTaskPool",
    "Episode",
    "EpisodeBatch",
    "EpisodeLoader",
    "EpisodeSampler",
    "EpisodeSpec",
    "Method",
    "NeighbourhoodTaskPool",
    "Reader",
    "Samples",
    "Scaling",
    "Source",
    "Split",
    "SplitRecord",
    "SupportScaling",
    "TaskPool",
    "count",
    "fingerprint",
    "fingerprints_by_class",
    "joint_fingerprint",
    "only",
    "positions_by_class",
    "present",
    "require_disjoint",
    "stand_for_normal",
]

"""How an episode is drawn out of a source of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes.episode import ANOMALOUS, NORMAL, UNLABELLED, Episode
from metaad_zoo.episodes.spec import EpisodeSpec


class Source(Protocol):
    """Samples with a class each, read by position."""

    @property
    def name(self) -> str:
        """Readable, stable name of the data set: the first part of a task's name."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Class of each sample, ``(n,)`` integers into :attr:`class_names`."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Readable, stable names of the classes."""
        ...

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The samples at ``ids`` ``(n,)`` by modality, each ``(n, ...)``; all randomness comes from ``rng``."""
        ...


def require_enough(where: str, spec: EpisodeSpec, normal: np.ndarray, anomalous: np.ndarray) -> None:
    """Refuse a task that is too small for an episode.

    Raises:
        ValueError: tells what is missing and what to lower.
    """
    if len(normal) < spec.normal_needed:
        raise ValueError(
            f"{where} has {len(normal)} normal samples but an episode draws {spec.normal_needed} (support and query "
            "together): lower support_normal, support_unlabelled or query_normal, or leave it out"
        )
    if len(anomalous) < spec.anomalous_needed:
        raise ValueError(
            f"{where} has {len(anomalous)} anomalous samples but an episode draws {spec.anomalous_needed}: lower "
            "support_anomalous, contamination or query_anomalous, or leave it out"
        )


def draw_episode(
    source: Source,
    task: str,
    spec: EpisodeSpec,
    normal: np.ndarray,
    anomalous: np.ndarray,
    rng: np.random.Generator,
) -> Episode:
    """An episode from all positions that may serve as normal and as anomalous, drawn without replacement."""
    require_enough(f"task {task}", spec, normal, anomalous)
    normals = rng.choice(normal, spec.normal_needed, replace=False)
    anomalies = rng.choice(anomalous, spec.anomalous_needed, replace=False)
    return assemble(source, task, spec, normals, anomalies, rng)


def assemble(
    source: Source,
    task: str,
    spec: EpisodeSpec,
    normals: np.ndarray,
    anomalies: np.ndarray,
    rng: np.random.Generator,
) -> Episode:
    """An episode from the positions of its normal and anomalous samples.

    Args:
        source: reads the samples.
        task: the task's name.
        spec: how many go where.
        normals: ``(spec.normal_needed,)`` distinct positions.
        anomalies: ``(spec.anomalous_needed,)`` distinct positions, disjoint from ``normals``.
        rng: shuffles and augments.
    """
    hidden = spec.unlabelled_anomalous
    normal_parts = np.split(normals, np.cumsum([spec.support_normal, spec.support_unlabelled - hidden]))
    anomalous_parts = np.split(anomalies, np.cumsum([spec.support_anomalous, hidden]))
    # Unlabelled samples are shuffled, so that their order does not tell which of them are anomalous.
    unlabelled = rng.permutation(np.concatenate([normal_parts[1], anomalous_parts[1]]))
    support_ids = np.concatenate([normal_parts[0], anomalous_parts[0], unlabelled])
    support_labels = np.repeat(
        [NORMAL, ANOMALOUS, UNLABELLED],
        [spec.support_normal, spec.support_anomalous, spec.support_unlabelled],
    )
    order = rng.permutation(spec.n_query)
    query_ids = np.concatenate([normal_parts[2], anomalous_parts[2]])[order]
    query_labels = np.repeat([NORMAL, ANOMALOUS], [spec.query_normal, spec.query_anomalous])[order]

    samples = source.read(np.concatenate([support_ids, query_ids]), rng)
    n = spec.n_support
    return Episode(
        support={name: x[:n] for name, x in samples.items()},
        support_labels=torch.as_tensor(support_labels, dtype=torch.int64),
        query={name: x[n:] for name, x in samples.items()},
        query_labels=torch.as_tensor(query_labels, dtype=torch.int64),
        task=task,
        support_ids=torch.as_tensor(support_ids, dtype=torch.int64),
        query_ids=torch.as_tensor(query_ids, dtype=torch.int64),
    )

"""Draw an episode from a source of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes.episode import ANOMALOUS, NORMAL, UNLABELLED, Episode
from metaad_zoo.episodes.spec import EpisodeSpec


class Reader(Protocol):
    """Access to samples by position."""

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The samples at ``ids`` ``(n,)`` by modality, each ``(n, ...)``; all randomness comes from ``rng``."""
        ...


class Source(Reader, Protocol):
    """A data set in which each sample has a class."""

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


Corruption = Callable[[dict[str, Tensor], dict[str, Tensor], np.random.Generator], dict[str, Tensor]]
"""Function that turns normal samples into anomalies. Arguments: the samples to corrupt, the rest of the task's samples,
both by modality with a leading sample axis, and the generator for all randomness. It returns the corrupted samples."""


@dataclass(frozen=True)
class Domain:
    """A task whose data contain labelled anomalies: a machine, an inspection line, a table.

    Args:
        name: readable and stable name of the task, such as ``smd/machine-1-6``.
        reader: source of the samples.
        normal: positions of normal samples for the query and, if ``support`` is None, for the support.
        anomalous: positions of anomalous samples; may be empty.
        support: positions of the normal samples for the support, such as the earlier part of a recording; disjoint from
            ``normal``. None: the support is drawn from ``normal``.
    """

    name: str
    reader: Reader
    normal: np.ndarray
    anomalous: np.ndarray
    support: np.ndarray | None = None

    def check(self, spec: EpisodeSpec, synthetic: bool = False) -> None:
        """Check that the domain is large enough for any episode of a spec.

        Args:
            spec: composition of the episode.
            synthetic: whether anomalies are made from normal samples.

        Raises:
            ValueError: the domain has too few samples.
        """
        for extreme in spec.extremes:
            self._check(extreme, synthetic)

    def _check(self, spec: EpisodeSpec, synthetic: bool) -> None:
        """:meth:`check` for the spec of one episode."""
        support = spec.normal_needed - spec.query_normal
        if self.support is not None and len(self.support) < support:
            raise ValueError(
                f"{self.name} has {len(self.support)} normal samples that may be support but an episode draws "
                f"{support}: lower support_normal or support_unlabelled, {_FEWER if spec.support_unlabelled else ''}or "
                "leave it out"
            )
        needed = spec.normal_needed if self.support is None else spec.query_normal
        needed += spec.anomalous_needed if synthetic else 0
        _require(self.name, "normal", len(self.normal), needed, spec)
        if not synthetic:
            _require(self.name, "anomalous", len(self.anomalous), spec.anomalous_needed, spec)

    def draw(self, spec: EpisodeSpec, rng: np.random.Generator, corrupt: Corruption | None = None) -> Episode:
        """Draw an episode without replacement; with ``corrupt``, its anomalies are made from normal samples."""
        spec = spec.drawn(rng, lambda one: self._check(one, corrupt is not None))
        n_synthetic = spec.anomalous_needed if corrupt else 0
        if self.support is None:
            normals = rng.choice(self.normal, spec.normal_needed + n_synthetic, replace=False)
        else:
            support = rng.choice(self.support, spec.normal_needed - spec.query_normal, replace=False)
            query = rng.choice(self.normal, spec.query_normal + n_synthetic, replace=False)
            normals = np.concatenate([support, query])
        normals, anomalies = normals[: spec.normal_needed], normals[spec.normal_needed :]
        if corrupt is None:
            anomalies = rng.choice(self.anomalous, spec.anomalous_needed, replace=False)
        return assemble(self.reader, self.name, spec, normals, anomalies, rng, corrupt)


_FEWER = "set fewer_unlabelled=true, "


def _require(where: str, kind: str, available: int, needed: int, spec: EpisodeSpec) -> None:
    if available < needed:
        lower = "support_normal, support_unlabelled or query_normal"
        if kind == "anomalous":
            lower = "support_anomalous, contamination or query_anomalous"
        raise ValueError(
            f"{where} has {available} {kind} samples but an episode draws {needed} (support and query together): lower "
            f"{lower}, {_FEWER if spec.support_unlabelled else ''}or leave it out"
        )


def require_enough(where: str, spec: EpisodeSpec, normal: np.ndarray, anomalous: np.ndarray) -> None:
    """Check that a task is large enough for any episode of a spec.

    Raises:
        ValueError: the task has too few samples.
    """
    for extreme in spec.extremes:
        _require(where, "normal", len(normal), extreme.normal_needed, extreme)
        _require(where, "anomalous", len(anomalous), extreme.anomalous_needed, extreme)


def assemble(
    reader: Reader,
    task: str,
    spec: EpisodeSpec,
    normals: np.ndarray,
    anomalies: np.ndarray,
    rng: np.random.Generator,
    corrupt: Corruption | None = None,
) -> Episode:
    """Build an episode from the positions of its normal and anomalous samples.

    Args:
        reader: source of the samples.
        task: name of the task.
        spec: composition of this episode, see :meth:`EpisodeSpec.drawn`.
        normals: ``(spec.normal_needed,)`` distinct positions.
        anomalies: ``(spec.anomalous_needed,)`` distinct positions, disjoint from ``normals``.
        rng: generator for shuffling and augmentation.
        corrupt: function that makes the samples at ``anomalies`` anomalous, if they are normal.
    """
    hidden = spec.unlabelled_anomalous
    normal_parts = np.split(normals, np.cumsum([spec.support_normal, spec.support_unlabelled - hidden]))
    anomalous_parts = np.split(anomalies, np.cumsum([spec.support_anomalous, hidden]))
    # Unlabelled samples are shuffled, so that their order does not reveal which of them are anomalous.
    unlabelled = rng.permutation(np.concatenate([normal_parts[1], anomalous_parts[1]]))
    support_ids = np.concatenate([normal_parts[0], anomalous_parts[0], unlabelled])
    support_labels = np.repeat(
        [NORMAL, ANOMALOUS, UNLABELLED],
        [spec.support_normal, spec.support_anomalous, spec.support_unlabelled],
    )
    order = rng.permutation(spec.n_query)
    query_ids = np.concatenate([normal_parts[2], anomalous_parts[2]])[order]
    query_labels = np.repeat([NORMAL, ANOMALOUS], [spec.query_normal, spec.query_anomalous])[order]

    ids = np.concatenate([support_ids, query_ids])
    samples = reader.read(ids, rng)
    if corrupt is not None:
        mask = torch.as_tensor(np.isin(ids, anomalies))
        corrupted = corrupt({m: x[mask] for m, x in samples.items()}, {m: x[~mask] for m, x in samples.items()}, rng)
        samples = {m: x.index_put((mask.nonzero().flatten(),), corrupted[m]) for m, x in samples.items()}
    n = spec.n_support
    return Episode(
        support={name: x[:n] for name, x in samples.items()},
        support_labels=torch.as_tensor(support_labels, dtype=torch.int64),
        query={name: x[n:] for name, x in samples.items()},
        query_labels=torch.as_tensor(query_labels, dtype=torch.int64),
        task=task,
        support_ids=torch.as_tensor(support_ids, dtype=torch.int64),
        query_ids=torch.as_tensor(query_ids, dtype=torch.int64),
        contamination=hidden / spec.support_unlabelled if spec.support_unlabelled else math.nan,
    )

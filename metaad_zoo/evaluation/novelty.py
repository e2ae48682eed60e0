"""Novelty of a support set: its distance to the tasks that a checkpoint was trained on.

A model scores data of any kind, even where its scores mean nothing: a model of handwritten characters also scores
photographs of steel. Simple statistics of the support (:meth:`metaad_zoo.modality.Modality.statistics`) are compared
with those of the training tasks; the validation tasks, which were not trained on, say which distances are usual.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaad_zoo.episodes import Episode, Samples, stand_for_normal
from metaad_zoo.evaluation.calibration import p_values, threshold
from metaad_zoo.evaluation.decisions import shots_of
from metaad_zoo.modality import get_modality

NOVEL_UP_TO = 0.01
"""p-value up to which a support counts as novel: the false-alarm rate on tasks like those of validation."""
LEAST_SPREAD = 1e-3
"""Smallest standard deviation by which a statistic is divided, so that one that never varies in training counts."""


@dataclass(frozen=True)
class Novelty:
    """Distance of a support set from the training tasks.

    Attributes:
        distance: distance of its statistics to those of the nearest training task, in standard deviations over the
            training tasks.
        usual: distance that the share :data:`NOVEL_UP_TO` of validation tasks exceeds; None with too few tasks.
        p_value: conformal p-value of the distance among those of the validation tasks.
    """

    distance: float
    usual: float | None
    p_value: float

    @property
    def is_novel(self) -> bool:
        """Whether the support is unlike all training tasks."""
        return self.p_value <= NOVEL_UP_TO


@dataclass(frozen=True)
class TrainingTasks:
    """Statistics of the training tasks, and distances of validation tasks to them.

    Attributes:
        statistics: ``(tasks, d)`` statistics of supports of training tasks.
        distances: ascending distances ``(m,)`` of validation tasks' supports, by the size of the support.
    """

    statistics: Tensor
    distances: Mapping[int, Tensor]

    @classmethod
    def of(cls, training: Iterable[Episode], validation: Mapping[int, Iterable[Episode]]) -> TrainingTasks | None:
        """From episodes; None where no modality of the samples has statistics.

        Args:
            training: episodes of training tasks.
            validation: episodes of validation tasks, by the size of the support.
        """
        statistics = _of_supports(training)
        if statistics is None:
            return None
        tasks = cls(statistics.float(), {})
        by_shots = {n: _of_supports(episodes) for n, episodes in validation.items()}
        return cls(tasks.statistics, {n: tasks.distance(x).sort().values for n, x in by_shots.items() if x is not None})

    def distance(self, statistics: Tensor) -> Tensor:
        """Distances ``(n,)``, float64, of statistics ``(n, d)`` to the nearest training task."""
        spread = self.statistics.double().std(0, correction=0).clamp_min(LEAST_SPREAD)
        return torch.cdist(statistics.double() / spread, self.statistics.double() / spread).min(1).values

    def novelty(self, support: Samples, support_labels: Tensor) -> Novelty | None:
        """Compare a support set with the training tasks.

        Distances vary less for larger supports, so the largest validated size up to that of the support is used.

        Args:
            support: raw samples by modality ``(n, ...)``.
            support_labels: ``(n,)``; the normal samples count or, if there are none, the unlabelled ones.

        Returns:
            None where the support has no statistics, or is smaller than all validated sizes.
        """
        statistics = support_statistics(support, support_labels)
        sizes = [n for n in self.distances if n <= shots_of(support_labels)]
        if statistics is None or not sizes:
            return None
        usual, distance = self.distances[max(sizes)], self.distance(statistics.unsqueeze(0))
        limit = threshold(usual, NOVEL_UP_TO)
        p_value = float(p_values(distance, usual))
        return Novelty(float(distance), limit if math.isfinite(limit) else None, p_value)


def support_statistics(support: Samples, support_labels: Tensor) -> Tensor | None:
    """Mean statistics ``(d,)`` of the normal samples or, if there are none, of the unlabelled ones, all modalities side
    by side.

    Returns:
        None where no modality has statistics, or no sample has values of one that does.
    """
    usable, parts = stand_for_normal(support_labels).cpu(), []
    for name in sorted(support):
        statistics = get_modality(name).statistics(support[name].cpu()[usable])
        if statistics is not None:
            present = statistics[~statistics.isnan().any(1)].double()
            if not len(present):
                return None
            parts.append(present.mean(0))
    return torch.cat(parts) if parts else None


def _of_supports(episodes: Iterable[Episode]) -> Tensor | None:
    """Statistics ``(episodes, d)``; None where samples have none, judged by the first episode."""
    rows: list[Tensor] = []
    for episode in episodes:
        statistics = support_statistics(episode.support, episode.support_labels)
        if statistics is not None:
            rows.append(statistics)
        elif not rows:
            return None
    return torch.stack(rows) if rows else None

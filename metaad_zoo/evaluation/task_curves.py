"""Curves of each task, and their mean with a band over tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from metaad_zoo.evaluation.calibration import ROUNDING
from metaad_zoo.evaluation.saved import ScoreTable

GRID = np.linspace(0.0, 1.0, 201)
ALPHAS = np.concatenate([[0.01, 0.02], np.linspace(0.05, 0.5, 10)])
BAND_RESAMPLES = 2000


class Band(NamedTuple):
    """A mean curve over tasks; ``low`` and ``high`` are its 95 % interval, point by point, None for a single task."""

    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def roc_at(episode: ScoreTable) -> np.ndarray:
    """True-positive rate of one episode at each false-alarm rate of :data:`GRID`."""
    fpr, tpr, _ = roc_curve(episode.labels, _ranks(episode.scores), drop_intermediate=False)
    return np.interp(GRID, fpr, tpr)


def precision_at(episode: ScoreTable) -> np.ndarray:
    """Precision of one episode at each recall of :data:`GRID`, stepwise, so that its mean is the average precision."""
    precision, recall, _ = precision_recall_curve(episode.labels, _ranks(episode.scores))
    precision, recall = precision[-2::-1], recall[-2::-1]  # by falling threshold, without the made-up end (0, 1)
    # What counts at recall 0 is the first anomaly found, not the normal samples above it.
    return precision[np.searchsorted(recall, np.maximum(GRID, 1e-9) - 1e-12, side="left")]


def false_alarms_at(episode: ScoreTable) -> np.ndarray:
    """Share of an episode's normal samples whose p-value is at most each of :data:`ALPHAS`."""
    p = episode.p_values[episode.labels == 0]
    return (p[:, None] <= ALPHAS + ROUNDING).mean(0)


def over_tasks(scores: ScoreTable, curve: Callable[[ScoreTable], np.ndarray]) -> Band:
    """Mean over tasks of a curve, each the mean over the task's episodes, with a bootstrap band over tasks.

    Args:
        scores: scores of one method.
        curve: function from the scores of one episode to its curve.
    """
    tasks = np.stack([np.mean([curve(e) for e in episodes], axis=0) for episodes in scores.episodes_by_task()])
    n = len(tasks)
    if n < 2:
        return Band(tasks.mean(0), None, None)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=BAND_RESAMPLES) / n
    low, high = np.quantile(weights @ tasks, [0.025, 0.975], axis=0)
    return Band(tasks.mean(0), low, high)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks of scores, because scikit-learn refuses infinite scores."""
    return np.unique(scores, return_inverse=True)[1]

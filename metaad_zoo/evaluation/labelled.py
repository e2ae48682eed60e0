"""Figures of scores and decisions on labelled samples, with bootstrap intervals over the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metaad_zoo.evaluation.titles import TITLES

RESAMPLES = 300
"""Number of bootstrap resamples."""


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval over samples.

    Attributes:
        value: figure on all samples, from 0 to 1.
        ci95: percentiles 2.5 and 97.5 of the bootstrap.
    """

    value: float
    ci95: tuple[float, float]


def labelled_figures(
    scores: np.ndarray, labels: np.ndarray, flagged: np.ndarray | None = None, seed: int = 0
) -> dict[str, Figure]:
    """AUROC and average precision; with decisions also precision, recall, F1 and false-alarm rate.

    Intervals are percentiles of a bootstrap that resamples normal and anomalous samples each by themselves, so that
    every resample has both. They are too narrow where neighbouring samples resemble each other, as windows of one
    series do.

    Args:
        scores: ``(n,)``, higher is more anomalous.
        labels: ``(n,)`` of 0 and 1; others, such as -1, are left out.
        flagged: ``(n,)`` decisions of 0 and 1.
        seed: random seed of the bootstrap.

    Returns:
        Figures by name, see :data:`metaad_zoo.evaluation.titles.TITLES`; empty if there are not both kinds of samples.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Example:
        >>> figures = labelled_figures(np.array([0.1, 0.2, 0.9]), np.array([0, 0, 1]), np.array([0, 1, 1]))
        >>> {name: figure.value for name, figure in figures.items()}
        {'auroc': 1.0, 'ap': 1.0, 'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666, 'fpr': 0.5}
    """
    labelled = (labels == 0) | (labels == 1)
    order = np.argsort(-scores[labelled], kind="stable")
    scores, anomalous = scores[labelled][order], labels[labelled][order] == 1
    decided = None if flagged is None else flagged[labelled][order] == 1
    if anomalous.all() or not anomalous.any():
        return {}
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # the last sample of each score
    rng = np.random.default_rng(seed)
    drawn = [_figures(ends, anomalous, decided, _resampled(anomalous, rng)) for _ in range(RESAMPLES)]
    values = _figures(ends, anomalous, decided, np.ones(len(scores)))
    intervals = {name: np.percentile([figures[name] for figures in drawn], [2.5, 97.5]) for name in values}
    return {
        name: Figure(value, (float(intervals[name][0]), float(intervals[name][1]))) for name, value in values.items()
    }


def _resampled(anomalous: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each sample is in a resample."""
    weights = np.empty(len(anomalous))
    for kind in (anomalous, ~anomalous):
        n = int(kind.sum())
        weights[kind] = np.bincount(rng.integers(n, size=n), minlength=n)
    return weights


def _figures(
    ends: np.ndarray, anomalous: np.ndarray, decided: np.ndarray | None, weights: np.ndarray
) -> dict[str, float]:
    """Figures of weighted samples in descending order of their scores."""
    hits, alarms = (np.cumsum(weights * kind)[ends] for kind in (anomalous, ~anomalous))
    recall, false_alarms = hits / hits[-1], np.append(0, alarms / alarms[-1])
    both = hits + alarms
    precision = np.divide(hits, both, out=np.ones_like(both), where=both > 0)
    figures = {
        "auroc": float(np.sum(np.diff(false_alarms) * (recall + np.append(0, recall[:-1])) / 2)),
        "ap": float(np.sum(np.diff(recall, prepend=0) * precision)),
    }
    if decided is None:
        return figures
    flagged_hits, flagged_alarms = ((weights * decided * kind).sum() for kind in (anomalous, ~anomalous))
    true_alarms, missed = float(flagged_hits), float(hits[-1] - flagged_hits)
    wrong_alarms = float(flagged_alarms)
    return figures | {
        "precision": true_alarms / (true_alarms + wrong_alarms) if true_alarms else 0.0,
        "recall": true_alarms / float(hits[-1]),
        "f1": 2 * true_alarms / (2 * true_alarms + missed + wrong_alarms),
        "fpr": wrong_alarms / float(alarms[-1]),
    }


def in_words(figures: Mapping[str, Figure]) -> str:
    """Figures in per cent on one line.

    Example:
        >>> in_words({"auroc": Figure(0.9, (0.8, 1.0))})
        'AUROC 90.0 [80.0, 100.0]'
    """
    return ", ".join(
        f"{TITLES[name]} {100 * x.value:.1f} [{100 * x.ci95[0]:.1f}, {100 * x.ci95[1]:.1f}]"
        for name, x in figures.items()
    )

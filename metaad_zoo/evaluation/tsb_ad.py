"""Metrics of the benchmark TSB-AD, as its package (version 1.5) computes them for its leaderboard.

Source: Liu and Paparrizos, "The Elephant in the Room: Towards A Reliable Time-Series Anomaly Detection Benchmark",
NeurIPS 2024. Where its package departs from the papers behind a metric, so does this module; comments say where.
Rank by ``VUS-PR``, as the leaderboard does. ``PA-F1`` lifts random scores to the level of good ones
(:mod:`metaad_zoo.evaluation.series_metrics` says why) and is here because the table has it. All F1 are the best over
thresholds, chosen by the labels.

All functions take numpy arrays ``(n,)``, one entry a time point, in the order of time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.signal import argrelextrema
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from metaad_zoo.evaluation.metrics import check
from metaad_zoo.evaluation.series_metrics import coverage, ranges, vus_pr, vus_roc

METRICS = (
    "AUC-PR",
    "AUC-ROC",
    "VUS-PR",
    "VUS-ROC",
    "Standard-F1",
    "PA-F1",
    "Event-based-F1",
    "R-based-F1",
    "Affiliation-F",
)
"""Names of the metrics, in the order of the leaderboard's files."""
VUS_THRESHOLDS, F1_THRESHOLDS = 250, 100
NO_PERIOD = 125
"""Window where a series has no period."""


def tsb_ad_metrics(scores: np.ndarray, labels: np.ndarray, window: int) -> dict[str, float]:
    """All metrics of :data:`METRICS`.

    Args:
        scores: ``(n,)`` anomaly scores, finite.
        labels: 0 and 1, both of them.
        window: longest buffer of the volumes, usually :func:`period` of the series.

    Raises:
        ValueError: as :func:`metaad_zoo.evaluation.metrics.check`; scores are not finite.
    """
    scores, labels = np.array(scores, np.float64), np.array(labels).astype(np.int64)
    check(torch.from_numpy(scores), torch.from_numpy(labels))
    if not np.isfinite(scores).all():
        raise ValueError("scores are infinite, but TSB-AD spaces thresholds evenly between the extremes: clip them")
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {
        "AUC-PR": float(average_precision_score(labels, scores)),
        "AUC-ROC": float(roc_auc_score(labels, scores)),
        "VUS-PR": vus_pr(scores, labels, window, VUS_THRESHOLDS, "flagged"),
        "VUS-ROC": vus_roc(scores, labels, window, VUS_THRESHOLDS, "flagged"),
        "Standard-F1": float(np.max(2 * precision * recall / (precision + recall + 1e-5))),  # as in the package
        "PA-F1": best_f1(scores, lambda flagged: point_adjusted(flagged, labels)),
        "Event-based-F1": best_f1(scores, lambda flagged: event_based(flagged, labels)),
        "R-based-F1": best_f1(scores, lambda flagged: range_based(flagged, labels == 1)),
        "Affiliation-F": best_f1(scores, Affiliation(labels)),
    }


def best_f1(scores: np.ndarray, rates: Callable[[np.ndarray], tuple[float, float]]) -> float:
    """Highest harmonic mean of precision and recall over 100 thresholds, evenly spaced from the lowest score on.

    Args:
        scores: ``(n,)``.
        rates: precision and recall of a decision ``(n,)`` of booleans.
    """
    thresholds = np.linspace(scores.min(), scores.max(), F1_THRESHOLDS)
    both = np.array([rates(scores > threshold) for threshold in thresholds])
    sums = both.sum(1)
    return float(np.max(2 * both.prod(1) / np.where(sums > 0, sums, 1)))


def point_adjusted(flagged: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Precision and recall by points after point adjustment: a range of which one point is flagged counts whole.

    Source: Xu et al., "Unsupervised Anomaly Detection via Variational Auto-Encoder", WWW 2018.
    """
    adjusted = flagged.copy()
    for first, last in zip(*ranges(labels == 1), strict=True):
        if flagged[first : last + 1].any():
            adjusted[max(first, 1) : last + 1] = True  # the package never adjusts the first point of a series
    return _precision(adjusted, labels), float((adjusted & (labels == 1)).sum() / labels.sum())


def event_based(flagged: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Precision by points, and the share of labelled ranges in which a point is flagged.

    Source: Garg et al., "An Evaluation of Anomaly Detection and Diagnosis in Multivariate Time Series", TNNLS 2021.
    """
    first, last = ranges(labels == 1)
    last = np.where(last == len(labels) - 1, last - 1, last)  # the package leaves out the last point of a series
    hit = [flagged[a : b + 1].any() for a, b in zip(first, last, strict=True)]
    return _precision(flagged, labels), float(np.mean(hit))


def range_based(flagged: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    """Range-based precision and recall with flat bias; a fifth of recall is for detecting a range at all.

    Source: Tatbul et al., "Precision and Recall for Time Series", NeurIPS 2018.
    """
    return coverage(flagged, anomalous, 0.0, split=True), coverage(anomalous, flagged, 0.2, split=True)


def _precision(flagged: np.ndarray, labels: np.ndarray) -> float:
    return float((flagged & (labels == 1)).sum() / max(1, flagged.sum()))


class Affiliation:
    """Affiliation precision and recall of decisions on one series.

    Time is cut into zones, one around each labelled range, in the middle between neighbours. Within a zone, precision
    is the mean over the flagged time of the probability that a random point of the zone is farther from the labelled
    range; recall is the mean over the labelled range of the probability that a random point of the zone is farther from
    it than the nearest flagged point. Zones without a flagged point have recall 0 and do not count in precision.

    Integrals are exact: a point is an interval of length 1, all borders lie at multiples of a quarter, and the
    probabilities are linear between them, so that the value in the middle of each quarter is its mean.

    Source: Huet et al., "Local Evaluation of Time Series Anomaly Detection Algorithms", KDD 2022.

    Args:
        labels: ``(n,)`` of 0 and 1, with at least one 1.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
        >>> Affiliation(labels)(labels == 1)
        (1.0, 1.0)
    """

    def __init__(self, labels: np.ndarray) -> None:
        n = len(labels)
        first, last = ranges(labels == 1)
        start, stop = first.astype(float), last + 1.0
        middles = (stop[:-1] + start[1:]) / 2
        self._zones = len(start)
        left, right = np.append(0.0, middles), np.append(middles, float(n))
        quarters = (np.arange(4 * n) + 0.5) / 4
        self._zone = np.searchsorted(middles, quarters[::2])  # of each half point; borders lie at halves
        zone = np.repeat(self._zone, 2)
        distance = np.maximum(np.maximum(start[zone] - quarters, quarters - stop[zone]), 0)
        nearer_side = np.minimum(start - left, right - stop)[zone]
        nearer = (stop - start)[zone] + distance + np.minimum(distance, nearer_side)
        survival = np.where(distance > 0, 1 - nearer / (right - left)[zone], 1.0)
        self._precision = survival.reshape(-1, 2).mean(1) / 2  # over each half point
        self._labelled = np.flatnonzero(np.repeat(labels == 1, 4))  # quarters within labelled ranges
        self._time, self._of = quarters[self._labelled], zone[self._labelled]
        self._left, self._right = left[self._of], right[self._of]
        self._length = stop - start

    def __call__(self, flagged: np.ndarray) -> tuple[float, float]:
        """Precision, 0 where nothing is flagged, and recall.

        Args:
            flagged: ``(n,)`` booleans.
        """
        halves = np.repeat(flagged, 2)
        if not halves.any():
            return 0.0, 0.0
        time = np.bincount(self._zone[halves], minlength=self._zones) / 2
        weights = np.bincount(self._zone[halves], self._precision[halves], self._zones)
        precision = float(np.mean(weights[time > 0] / time[time > 0]))
        return precision, self._recall(halves)

    def _recall(self, halves: np.ndarray) -> float:
        borders = np.arange(len(halves) + 1) / 2
        before = np.maximum.accumulate(np.where(halves, borders[1:], -np.inf))  # end of the latest flagged half
        after = np.minimum.accumulate(np.where(halves, borders[:-1], np.inf)[::-1])[::-1]
        half = self._labelled // 2
        back = np.where(before[half] > self._left, self._time - before[half], np.inf)
        ahead = np.where(after[half] < self._right, after[half] - self._time, np.inf)
        distance = np.where(halves[half], 0.0, np.minimum(back, ahead))
        nearer = np.minimum(distance, self._time - self._left) + np.minimum(distance, self._right - self._time)
        survival = np.where(np.isinf(distance), 0.0, 1 - nearer / (self._right - self._left))
        return float(np.mean(np.bincount(self._of, survival / 4, self._zones) / self._length))


def period(values: np.ndarray) -> int:
    """Period of a series by its autocorrelation, the window of TSB-AD's volumes.

    Args:
        values: ``(n,)`` or ``(n, C)``, of which the first channel counts; the first 20,000 steps are used.

    Returns:
        The lag of 6 to 303 steps with the highest local maximum; 125 if the highest of lags up to 400 lies elsewhere,
        or there is none.
    """
    x = np.asarray(values, np.float64).reshape(len(values), -1)[:20_000, 0]
    shortest = 3
    x = x - x.mean()
    spectrum = np.fft.rfft(x, 2 * len(x))
    covariance = np.fft.irfft(spectrum * spectrum.conj())[: min(401, len(x))]
    if covariance[0] <= 0:
        return NO_PERIOD
    correlation = (covariance / covariance[0])[shortest:]
    maxima = argrelextrema(correlation, np.greater)[0]
    if not len(maxima):
        return NO_PERIOD
    best = int(maxima[np.argmax(correlation[maxima])])
    return best + shortest if 3 <= best <= 300 else NO_PERIOD

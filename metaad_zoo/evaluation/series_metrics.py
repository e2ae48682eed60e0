"""Metrics of a whole series scored point by point, whose anomalies are ranges of points.

No metric uses point adjustment, which counts a whole range as detected once one of its points is, and so raises random
scores to the level of published methods: Kim et al., "Towards a Rigorous Evaluation of Time-Series Anomaly Detection",
AAAI 2022. Near misses and partly detected ranges count by explicit weights instead.

All metrics take numpy arrays ``(n,)``, one entry a time point, in the order of time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from metaad_zoo.evaluation.metrics import check

Positives = Literal["all", "flagged"]


def ranges(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last indices of the runs of True, in order.

    Example:
        >>> ranges(np.array([1, 1, 0, 0, 1]) == 1)
        (array([0, 4]), array([1, 4]))
    """
    steps = np.diff(marked.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1


def buffered(labels: np.ndarray, window: int) -> np.ndarray:
    """Labels with a slope of ``window // 2`` points on both sides of each range: ``sqrt(1 - distance / window)``.

    Slopes that meet are added, up to 1. The distance is counted from the range's outermost point on both sides, as the
    authors' package does; in their formula, read by the letter, the right slope starts one point later.

    Source: Paparrizos et al., "Volume Under the Surface", VLDB 2022.
    """
    weights = labels.astype(np.float64)
    distance = np.arange(1, window // 2 + 1)
    if len(distance) == 0:
        return weights
    first, last = ranges(labels == 1)
    places = np.concatenate([first[:, None] - distance, last[:, None] + distance])
    slopes = np.broadcast_to(np.sqrt(1 - distance / window), places.shape)
    inside = (places >= 0) & (places < len(labels))
    return np.minimum(weights + np.bincount(places[inside], slopes[inside], minlength=len(labels)), 1.0)


class _Curves:
    """Recall, false-alarm rate and precision of a series at all thresholds, for any window.

    Points are sorted by score once; the weight above a threshold is then a cumulative sum, so that a window costs O(n).
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray, thresholds: int | None, positives: Positives) -> None:
        scores, labels = np.array(scores, dtype=np.float64), np.array(labels)
        check(torch.from_numpy(scores), torch.from_numpy(labels))
        if positives not in ("all", "flagged"):
            raise ValueError(f"positives is {positives!r}; expected 'all' (the paper) or 'flagged' (its package)")
        if thresholds is not None and thresholds < 1:
            raise ValueError(f"thresholds is {thresholds}; expected 1 or more, or None for every score")
        self.scores, self.labels, self.positives = scores, labels, positives
        self.order = np.argsort(-scores, kind="stable")
        descending = scores[self.order]
        if thresholds is None:
            self.thresholds = np.unique(scores)[::-1]
        else:
            self.thresholds = descending[np.linspace(0, len(scores) - 1, thresholds).astype(int)]
        # A point is flagged where its score is at least the threshold: so many are, and these come first in the order.
        self.flagged = np.searchsorted(-descending, -self.thresholds, side="right")

    def at(self, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recall, false-alarm rate, precision, one for each threshold from the highest down."""
        weights = buffered(self.labels, window)
        caught = np.cumsum(weights[self.order])[self.flagged - 1]
        labelled = self.labels.sum()
        if self.positives == "all":
            positives = np.full(len(caught), (labelled + weights.sum()) / 2)
        else:
            in_range = np.cumsum(self.labels[self.order])[self.flagged - 1]
            positives = labelled + (caught - in_range) / 2
        recall = np.minimum(caught / positives, 1.0) * self._share_found(window)
        false_alarms = (self.flagged - caught) / (len(weights) - positives)
        return recall, false_alarms, caught / self.flagged

    def _share_found(self, window: int) -> np.ndarray:
        """Share of ranges, each with its slopes, that have a flagged point; ranges whose slopes overlap count once."""
        first, last = ranges(self.labels == 1)
        first, last = np.maximum(first - window // 2, 0), np.minimum(last + window // 2, len(self.labels) - 1)
        apart = first[1:] > last[:-1]
        first, last = first[np.append(True, apart)], last[np.append(apart, True)]
        edges = np.stack([first, last + 1], axis=1).ravel()
        padded = np.append(self.scores, -np.inf)  # reduceat wants every edge to be a place
        highest = np.sort(np.maximum.reduceat(padded, edges)[::2])
        return (len(highest) - np.searchsorted(highest, self.thresholds)) / len(highest)

    def pr_area(self, window: int) -> float:
        recall, _, precision = self.at(window)
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))

    def roc_area(self, window: int) -> float:
        recall, false_alarms, _ = self.at(window)
        x, y = np.concatenate([[0.0], false_alarms, [1.0]]), np.concatenate([[0.0], recall, [1.0]])
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def range_auc_pr(
    scores: np.ndarray, labels: np.ndarray, window: int, thresholds: int | None = None, positives: Positives = "all"
) -> float:
    """Area under the range-based precision-recall curve (R-AUC-PR); with ``window=0`` and one range average precision.

    Precision weighs flagged points by :func:`buffered` labels. Recall is what of that weight is flagged, over the mean
    of the weight with and without slopes (at most 1), times the share of ranges in which anything is flagged, slopes
    included; ranges whose slopes overlap are one, as in the package's volumes (its range AUC joins touching ones too).
    The area is summed in steps, as average precision is and as the package sums its volumes. The paper joins the
    points by straight lines, which pays for ties: from (0, 1) on, as the package's range AUC has it, constant scores
    would get more than half.

    Source: Paparrizos et al., "Volume Under the Surface", VLDB 2022.

    Args:
        scores: ``(n,)`` on any scale, higher is more anomalous; infinities are allowed, NaN is not.
        labels: 0 and 1, both of them.
        window: buffer length in points, usually the period of the series or the usual length of an anomaly.
        thresholds: take that many, evenly spaced among the sorted scores, as the package does (250); few of them lie
            among the anomalies where these are rare, so that by default every score is one.
        positives: ``"flagged"`` counts slopes in recall's denominator only where they are flagged, as version 0.0.6 of
            the authors' package does, so that flagging exactly the ranges has recall 1; it differs from the paper
            (``"all"``). For figures comparable with those of the package take it with ``thresholds=250``.

    Raises:
        ValueError: as :func:`metaad_zoo.evaluation.metrics.check`, or an argument out of its range.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 0, 0, 0])
        >>> near_miss = np.array([0.1, 0.2, 0.9, 0.3, 0.8, 0.15, 0.05, 0.0])
        >>> round(range_auc_pr(near_miss, labels, 0), 3), round(range_auc_pr(near_miss, labels, 2), 3)
        (0.583, 0.833)
    """
    _check_window(window)
    return _Curves(scores, labels, thresholds, positives).pr_area(window)


def vus_pr(
    scores: np.ndarray, labels: np.ndarray, window: int, thresholds: int | None = None, positives: Positives = "all"
) -> float:
    """Volume under the precision-recall surface: the mean of :func:`range_auc_pr` over windows 0, 1, ..., ``window``.

    Arguments, errors and source are those of :func:`range_auc_pr`. The mean over windows is the package's; the paper
    sums trapezoids over them and does not divide by their number.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 0, 0, 0])
        >>> round(vus_pr(np.array([0.1, 0.2, 0.9, 0.3, 0.8, 0.15, 0.05, 0.0]), labels, 2), 3)
        0.667
    """
    return _mean_over_windows(_Curves(scores, labels, thresholds, positives).pr_area, window)


def vus_roc(
    scores: np.ndarray, labels: np.ndarray, window: int, thresholds: int | None = None, positives: Positives = "all"
) -> float:
    """Volume under the ROC surface over windows 0, 1, ..., ``window``; arguments as for :func:`range_auc_pr`.

    Areas are taken by straight lines, from (0, 0) and to (1, 1). For ``window=0`` and one range it is AUROC. With
    longer ones the curve of the thresholds ends before a false-alarm rate of 1, so that constant scores get more than
    0.5 and exact ranges less than 1: compare methods, not with chance.
    """
    return _mean_over_windows(_Curves(scores, labels, thresholds, positives).roc_area, window)


def _mean_over_windows(area: Callable[[int], float], window: int) -> float:
    _check_window(window)
    return float(np.mean([area(w) for w in range(window + 1)]))


def _check_window(window: int) -> None:
    if window < 0:
        raise ValueError(f"window is {window}; expected 0 or more points, usually the period of the series")


def range_recall(flagged: np.ndarray, labels: np.ndarray, existence: float = 0.0, split: bool = True) -> float:
    """Range-based recall with flat bias: the mean over labelled ranges of how well each is covered.

    Source: Tatbul et al., "Precision and Recall for Time Series", NeurIPS 2018.

    Args:
        flagged: booleans, or 0 and 1.
        labels: 0 and 1, both of them.
        existence: weight (the paper's alpha) of detecting a range at all, against that of the share covered.
        split: divide the share covered by the number of flagged ranges it is pieced together from (the paper's
            cardinality factor 1/x); without it the factor is 1.

    Raises:
        ValueError: as :func:`metaad_zoo.evaluation.metrics.check`, or ``existence`` is outside [0, 1].

    Example:
        >>> labels, flagged = np.array([0, 1, 1, 1, 1, 0, 1]), np.array([1, 1, 0, 1, 0, 0, 0])
        >>> range_recall(flagged, labels), range_recall(flagged, labels, existence=0.5)  # (1/2 / 2 + 0) / 2, ...
        (0.125, 0.3125)
    """
    if not 0 <= existence <= 1:
        raise ValueError(f"existence is {existence}; expected a weight from 0 to 1")
    flagged, labels = _decision(flagged, labels)
    return coverage(labels, flagged, existence, split)


def range_precision(flagged: np.ndarray, labels: np.ndarray, split: bool = True) -> float:
    """Range-based precision with flat bias: the mean over flagged ranges of the share that is anomalous.

    There is no reward for existence, as in the paper. 0 where nothing is flagged. Arguments, errors and source are
    those of :func:`range_recall`; ``split`` divides by the number of labelled ranges that a flagged one touches.

    Example:
        >>> range_precision(np.array([1, 1, 0, 1, 0, 0, 0]), np.array([0, 1, 1, 1, 1, 0, 1]))
        0.75
    """
    flagged, labels = _decision(flagged, labels)
    return coverage(flagged, labels, 0.0, split)


def _decision(flagged: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flagged, labels = np.array(flagged, dtype=np.float64), np.array(labels)
    check(torch.from_numpy(flagged), torch.from_numpy(labels))
    if not np.isin(flagged, (0, 1)).all():
        raise ValueError("expected True or False for each point, saw other numbers; give scores > threshold")
    return flagged == 1, labels == 1


def coverage(of: np.ndarray, by: np.ndarray, existence: float, split: bool) -> float:
    """Mean reward over the ranges of ``of`` for their coverage by ``by``, both ``(n,)`` booleans.

    With flat bias; see :func:`range_recall`, which checks its arguments. 0 where ``of`` has no range.
    """
    first, last = ranges(of)
    if len(first) == 0:
        return 0.0
    marked = np.concatenate([[0], np.cumsum(by)])
    share = (marked[last + 1] - marked[first]) / (last - first + 1)
    by_first, by_last = ranges(by)
    pieces = np.searchsorted(by_first, last, side="right") - np.searchsorted(by_last, first, side="left")
    reward = share / np.maximum(pieces, 1) if split else share
    return float(np.mean(existence * (pieces > 0) + (1 - existence) * reward))

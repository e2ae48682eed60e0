"""Metrics of scores on any scale and of decisions, computed by torchmetrics.

torchmetrics squashes scores outside [0, 1] through a sigmoid, which ties large ones and so gives a wrong AUROC. All
curves here are therefore taken over the scores' ranks, on which AUROC and average precision depend alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional import classification as tm

DECISION_METRICS = ("precision", "recall", "f1", "fpr")
RANK_METRICS = ("auroc", "ap", "pauroc")
METRICS = RANK_METRICS + DECISION_METRICS
MAX_FALSE_ALARMS = 0.1


def ranks(scores: Tensor) -> Tensor:
    """Dense ranks scaled to [0, 1], float64; equal scores share one.

    Example:
        >>> ranks(torch.tensor([-5.0, 900.0, 900.0, 3.0]))
        tensor([0.0000, 1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    values, position = torch.unique(scores, return_inverse=True)
    return position.double() / max(len(values) - 1, 1)


def check(scores: Tensor, labels: Tensor) -> None:
    """Refuse scores and labels from which no metric can be computed.

    Raises:
        ValueError: shapes differ, a score is NaN, a label is neither 0 nor 1, or one kind of label is missing.
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"expected scores and labels of one shape (n,), saw {tuple(scores.shape)}, {tuple(labels.shape)}"
        )
    if torch.isnan(scores).any():
        raise ValueError(f"{int(torch.isnan(scores).sum())} of {len(scores)} scores are NaN; expected numbers")
    kinds = set(labels.unique().tolist())
    if kinds != {0, 1}:
        raise ValueError(f"expected labels 0 (normal) and 1 (anomalous), both of them, saw {sorted(kinds)}")


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the chance that an anomaly scores above a normal sample, ties counted half.

    Args:
        scores: ``(n,)`` on any scale, higher is more anomalous; infinities are allowed, NaN is not.
        labels: ``(n,)`` of 0 and 1.

    Example:
        >>> auroc(torch.tensor([900.0, 1000.0, 950.0]), torch.tensor([0, 1, 0]))
        1.0
    """
    check(scores, labels)
    return float(tm.binary_auroc(ranks(scores), labels.long()))


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Average precision; arguments as for :func:`auroc`."""
    check(scores, labels)
    return float(tm.binary_average_precision(ranks(scores), labels.long()))


def partial_auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve up to a false-alarm rate of 0.1, standardised: 1 at best, 0.5 by chance.

    Points of the curve are joined by straight lines, also within ties, as in scikit-learn's
    ``roc_auc_score(max_fpr=0.1)``. With fewer than ten normal samples the area ends before the first false
    alarm, and the figure is not informative. For scores worse than chance it lies between about 0.47 and 0.5.

    Source: McClish, "Analyzing a Portion of the ROC Curve", Medical Decision Making 1989.

    Args:
        scores: ``(n,)`` on any scale, higher is more anomalous; infinities are allowed, NaN is not.
        labels: ``(n,)`` of 0 and 1.

    Example:
        >>> partial_auroc(torch.tensor([900.0, 1000.0, 950.0]), torch.tensor([0, 1, 0]))
        1.0
    """
    check(scores, labels)
    return float(tm.binary_auroc(ranks(scores), labels.long(), max_fpr=MAX_FALSE_ALARMS))


def decision_metrics(flagged: Tensor, labels: Tensor) -> dict[str, float]:
    """Precision, recall, F1 and false-alarm rate of a decision.

    Args:
        flagged: ``(n,)`` booleans, True where a sample is called anomalous.
        labels: ``(n,)`` of 0 and 1.

    Returns:
        ``precision`` (0 where nothing is flagged), ``recall``, ``f1`` and ``fpr``, the share of normal samples flagged.

    Example:
        >>> decision_metrics(torch.tensor([True, True, False, False]), torch.tensor([1, 0, 1, 0]))
        {'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'fpr': 0.5}
    """
    check(flagged.double(), labels)
    decision, truth = flagged.long(), labels.long()
    return {
        "precision": float(tm.binary_precision(decision, truth)),
        "recall": float(tm.binary_recall(decision, truth)),
        "f1": float(tm.binary_f1_score(decision, truth)),
        "fpr": 1.0 - float(tm.binary_specificity(decision, truth)),
    }


def rank_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Every figure of :data:`RANK_METRICS`; arguments as for :func:`auroc`."""
    return {
        "auroc": auroc(scores, labels),
        "ap": average_precision(scores, labels),
        "pauroc": partial_auroc(scores, labels),
    }


def all_metrics(scores: Tensor, labels: Tensor, flagged: Tensor) -> dict[str, float]:
    """Every figure of :data:`METRICS` for one episode; arguments as above."""
    return {**rank_metrics(scores, labels), **decision_metrics(flagged, labels)}

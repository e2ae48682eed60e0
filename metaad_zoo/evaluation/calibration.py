"""Conformal calibration: p-values and thresholds from scores of normal samples in other tasks.

Split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005; for outliers Bates et al.,
"Testing for outliers with conformal p-values", Annals of Statistics 2023). The calibration scores are those of normal
queries in the episodes of the meta-validation tasks, whose classes are neither trained on nor tested. A false-alarm
rate of alpha then holds on average over tasks that are exchangeable with these; for one task it can be off.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from metaad_zoo.episodes import NORMAL, Episode, Method, only, present


def normal_scores(method: Method, episodes: Iterable[Episode], shown: Collection[str] | None = None) -> Tensor:
    """Scores of all normal queries of some episodes, ``(n,)``, float64, ascending.

    Args:
        method: adapts to each episode's support.
        episodes: episodes of tasks that are not tested.
        shown: modalities by which queries are scored, as if they lacked all others; queries that lack one of these
            are left out. None: all queries as they are.
    """
    parts = []
    for episode in episodes:
        query, normal = episode.query, episode.query_labels == NORMAL
        if shown is not None:
            usable = torch.stack([normal, *(present(query[name]) for name in shown)]).all(0)
            query, normal = only({name: x[usable] for name, x in query.items()}, shown), normal[usable]
        if bool(normal.any()):
            scores = method.adapt(episode.support, episode.support_labels).score(query)
            parts.append(scores[normal].double().cpu())
    return torch.cat(parts).sort().values


def p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """Conformal p-values: small where a score is unusual for a normal sample.

    Args:
        scores: ``(n,)``.
        calibration: ``(m,)`` scores of normal samples, ascending.

    Returns:
        ``(n,)`` float64, ``(1 + #{calibration >= score}) / (m + 1)``; never below ``1 / (m + 1)``.

    Example:
        >>> p_values(torch.tensor([0.5, 9.0]), torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    calibration = calibration.double()
    below = torch.searchsorted(calibration, scores.detach().double().cpu().contiguous(), right=False)
    return (1 + len(calibration) - below).double() / (len(calibration) + 1)


ROUNDING = 1e-9
"""Difference up to which a p-value equals alpha: 0.1 * 100 counts as 10 where floating point gives 9.999..."""


def can_hold(alpha: float, scores: int) -> bool:
    """Whether this number of calibration scores can guarantee a false-alarm rate: ``alpha >= 1 / (scores + 1)``.

    Example:
        >>> can_hold(0.1, 9), can_hold(0.1, 8)
        (True, False)
    """
    return alpha < 1 and alpha * (scores + 1) >= 1 - ROUNDING


def threshold(calibration: Tensor, alpha: float) -> float:
    """The score above which a sample's p-value is at most ``alpha``.

    Args:
        calibration: ``(m,)`` scores of normal samples, ascending.
        alpha: false-alarm rate to hold, in (0, 1).

    Returns:
        A calibration score; samples strictly above it are flagged. Infinity where ``alpha < 1 / (m + 1)``, which ``m``
        calibration scores can't guarantee.

    Raises:
        ValueError: alpha is out of range.

    Example:
        >>> threshold(torch.arange(99.0), alpha=0.1)
        89.0
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a false-alarm rate between 0 and 1, such as 0.1")
    m = len(calibration)
    allowed = math.floor(alpha * (m + 1) + ROUNDING) - 1  # calibration scores that may lie at or above a flagged one
    return float(calibration[m - 1 - allowed]) if allowed >= 0 else math.inf

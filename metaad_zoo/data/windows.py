"""Windows of long series: how they are cut, labelled and brought back to scores of time points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.series import Series
from metaad_zoo.episodes import Domain
from metaad_zoo.registry import unknown_name

Pooling = Literal["mean", "max", "last"]
"""From windows to points: the mean or the maximum of the windows that cover a point, which reach up to a window ahead;
or the score of the last window that ends at or before the point, which is causal: known as soon as the point is."""
SCORED_AT_ONCE = 256
"""Windows handed to a scorer in one call: bounds its memory."""


@dataclass(frozen=True)
class WindowRule:
    """Rule for cutting windows from a series, and for calling them anomalous.

    A window is anomalous if at least a share ``min_anomalous`` of its points is, and at least one; it is normal if none
    is; between the two it is neither, and left out. So is a window of whose steps more than half have no value at all.

    Args:
        window: steps of a window.
        stride: steps from one window's start to the next one's.
        min_anomalous: see above; 0 means that any anomalous point will do.
        support_share: the first share of a series without a training part of its own, which gives the support.

    Raises:
        ValueError: a number is out of range.
    """

    window: int = 64
    stride: int = 16
    min_anomalous: float = 0.0
    support_share: float = 0.3

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; expected steps, at least 1")
        if not 0 <= self.min_anomalous <= 1:
            raise ValueError(f"data.min_anomalous is {self.min_anomalous}; expected a share of a window's points, 0..1")
        if not 0 < self.support_share < 1:
            raise ValueError(f"data.support_share is {self.support_share}; expected a share between 0 and 1")


def window_starts(length: int, window: int, stride: int, first: int = 0, breaks: Sequence[int] = ()) -> np.ndarray:
    """Starts of all windows that lie in ``first .. length`` and reach across none of the ``breaks``.

    Example:
        >>> window_starts(10, window=4, stride=3), window_starts(10, window=4, stride=3, breaks=[5])
        (array([0, 3, 6]), array([0, 6]))
    """
    starts = np.arange(first, length - window + 1, stride)
    across = np.searchsorted(breaks, starts, "right") != np.searchsorted(breaks, starts + window - 1, "right")
    return starts[~across]


class SeriesWindows:
    """Windows of one series, cut when they are read: the memory is that of the series.

    Args:
        values: ``(T, C)`` float32.
        starts: ``(n,)`` first steps.
        window: steps of each.
    """

    def __init__(self, values: np.ndarray, starts: np.ndarray, window: int) -> None:
        self.starts, self.window = starts, window
        self._values = torch.as_tensor(values)

    def read(self, ids: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """The windows at positions ``ids`` as ``{"sequence": (n, window, C)}``."""
        steps = self.starts[ids][:, None] + np.arange(self.window)
        return {"sequence": self._values[torch.as_tensor(steps, dtype=torch.int64)]}


def support_end(series: Series, rule: WindowRule) -> int:
    """Where the part of a series that gives the support ends, and the part that is tested begins."""
    return round(rule.support_share * len(series.values)) if series.support_until is None else series.support_until


def cut(series: Series, rule: WindowRule) -> tuple[Domain, dict[str, int]]:
    """A series as a domain: support windows of its first part, query windows of the rest, which share no time point.

    Returns:
        The domain, and how many windows were left out, by reason.

    Raises:
        ValueError: the series is shorter than a window.
    """
    length = len(series.values)
    if length < rule.window:
        raise ValueError(
            f"{series.name} has {length} steps, fewer than a window of {rule.window}: set data.window to {length} or "
            "less, or leave it out"
        )
    until = support_end(series, rule)
    starts = np.concatenate(
        [
            window_starts(until, rule.window, rule.stride, 0, series.breaks),
            window_starts(length, rule.window, rule.stride, until, series.breaks),
        ]
    )
    labels = np.zeros(length, np.uint8) if series.labels is None else series.labels
    hits = _sums(labels, starts, rule.window)
    anomalous = (hits > 0) & (hits >= rule.min_anomalous * rule.window)
    empty = 2 * _sums(np.isnan(series.values).all(1), starts, rule.window) > rule.window
    early = starts < until
    domain = Domain(
        series.name,
        SeriesWindows(series.values, starts, rule.window),
        normal=np.flatnonzero(~early & (hits == 0) & ~empty),
        anomalous=np.flatnonzero(~early & anomalous & ~empty),
        support=np.flatnonzero(early & (hits == 0) & ~empty),
    )
    left_out = {
        "mostly without values": empty,
        f"with some anomalous points, but less than a share of {rule.min_anomalous}": (
            ~empty & ~early & ~anomalous & (hits > 0)
        ),
        "with anomalies in the part that gives the support": ~empty & early & (hits > 0),
    }
    return domain, {why: int(m.sum()) for why, m in left_out.items() if m.any()}


def _sums(flags: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
    sums: np.ndarray = total[starts + window] - total[starts]
    return sums


def point_scores(
    window_scores: np.ndarray, starts: np.ndarray, window: int, length: int, how: Pooling = "mean"
) -> np.ndarray:
    """Scores of time points out of the scores of windows.

    Args:
        window_scores: ``(n,)``; NaN for a window without a score, which counts for nothing, except by ``"last"``, where
            the points that it decides have no score either.
        starts: ``(n,)`` first steps of the windows; ascending for ``"last"``.
        window: steps of each.
        length: steps of the series.
        how: the ``"mean"`` or the ``"max"`` over the windows that cover a point, or the ``"last"`` window that ends at
            or before it.

    Returns:
        ``(length,)``; NaN at points that no window with a score covers, or before the end of the first window.

    Raises:
        ValueError: shapes disagree, a window reaches beyond the series, or ``how`` is neither.

    Example:
        >>> point_scores(np.array([1.0, 3.0]), np.array([0, 1]), window=2, length=4)
        array([ 1.,  2.,  3., nan])
        >>> point_scores(np.array([1.0, 3.0]), np.array([0, 1]), window=2, length=4, how="last")
        array([nan,  1.,  3.,  3.])
    """
    if how not in get_args(Pooling):
        raise unknown_name("way from windows to points:", how, get_args(Pooling))
    if window_scores.shape != starts.shape or starts.ndim != 1:
        raise ValueError(f"expected as many scores as starts, saw {window_scores.shape} and {starts.shape}")
    if len(starts) and not 0 <= starts.min() <= starts.max() <= length - window:
        raise ValueError(
            f"windows of {window} steps start at {starts.min()} to {starts.max()}, beyond a series of {length} steps"
        )
    if how == "last":
        newest = np.searchsorted(starts + window - 1, np.arange(length), side="right")
        return np.append(np.nan, window_scores)[newest]
    starts, window_scores = starts[~np.isnan(window_scores)], window_scores[~np.isnan(window_scores)]
    count = np.zeros(length, np.int64)
    total = np.full(length, 0.0 if how == "mean" else -np.inf)
    gather = np.add if how == "mean" else np.maximum
    for offset in range(window):
        gather.at(total, starts + offset, window_scores)
        np.add.at(count, starts + offset, 1)
    scores = total / np.maximum(count, 1) if how == "mean" else total
    return np.where(count > 0, scores, np.nan)


def score_series(
    scorer: Callable[[dict[str, Tensor]], Tensor | np.ndarray],
    values: np.ndarray,
    window: int,
    stride: int = 1,
    how: Pooling = "mean",
    breaks: Sequence[int] = (),
) -> np.ndarray:
    """Score every time point of a series.

    Args:
        scorer: maps ``{"sequence": (n, window, C)}`` to ``(n,)`` scores, NaN where there is none.
        values: ``(T,)`` or ``(T, C)``; NaN where a value is missing.
        window: steps of a window.
        stride: steps from one window to the next; at most ``window``. Except by ``"last"``, a last window ends with the
            series, so that no point is left uncovered.
        how: see :func:`point_scores`.
        breaks: positions at which the series continues after a gap; no window reaches across.

    Returns:
        ``(T,)``; NaN between gaps that lie closer together than a window, and by ``"last"`` at the first
        ``window - 1`` points after each gap.

    Raises:
        ValueError: the series is shorter than a window, or the stride leaves gaps.
    """
    series = Series("the series", values)
    length = len(series.values)
    if length < window:
        raise ValueError(f"the series has {length} steps, fewer than the model's window of {window}: give more")
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}; expected 1 to {window} (the window), or points would have no score")
    if len(breaks):
        parts = np.split(series.values, list(breaks))
        return np.concatenate(
            [
                score_series(scorer, x, window, stride, how) if len(x) >= window else np.full(len(x), np.nan)
                for x in parts
            ]
        )
    starts = window_starts(length, window, stride)
    if starts[-1] != length - window and how != "last":
        starts = np.append(starts, length - window)
    windows = SeriesWindows(series.values, starts, window)
    parts = np.split(np.arange(len(starts)), np.arange(SCORED_AT_ONCE, len(starts), SCORED_AT_ONCE))
    scores = np.concatenate([np.asarray(scorer(windows.read(ids)), np.float64) for ids in parts])
    return point_scores(scores, starts, window, length, how)

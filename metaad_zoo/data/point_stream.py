"""Scores of every time point of a series of any length, which passes by in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
from torch import Tensor

from metaad_zoo.data.windows import SCORED_AT_ONCE, Pooling, SeriesWindows, point_scores
from metaad_zoo.registry import unknown_name


class PointStream:
    """Scores of the points of one series without a gap, block by block.

    They are the same, to the last bit, as :func:`metaad_zoo.data.windows.score_series` gives of the whole, except that
    steps without any value have no score, although windows of their neighbours cover them. Held in memory are the steps
    and the scores of the windows that points without a score yet may need.

    Args:
        scorer: maps ``{"sequence": (n, window, C)}`` to ``(n,)`` scores.
        window: steps of a window.
        stride: steps from one window to the next; 1 to ``window``.
        how: see :func:`metaad_zoo.data.windows.point_scores`.
        batch: windows are scored in whole batches of this number, at most 256; with 1 as soon as they are complete.

    Attributes:
        received: number of points so far.
        scored: number of points that have their score.

    Raises:
        ValueError: the stride leaves gaps, or ``how`` is unknown.

    Example:
        >>> mean = lambda windows: windows["sequence"].mean((1, 2))
        >>> points = PointStream(mean, window=3, stride=3, how="mean")
        >>> parts = [points.take(block) for block in np.split(np.arange(10.0)[:, None], [3, 4])]
        >>> np.concatenate([*parts, points.end()])
        array([1. , 1. , 1. , 4. , 4. , 4. , 7. , 7.5, 7.5, 8. ])
    """

    def __init__(
        self,
        scorer: Callable[[dict[str, Tensor]], Tensor | np.ndarray],
        window: int,
        stride: int,
        how: Pooling,
        batch: int = 1,
    ) -> None:
        if not 1 <= stride <= window:
            raise ValueError(f"stride is {stride}; expected 1 to {window} (the window), or points would have no score")
        if how not in get_args(Pooling):
            raise unknown_name("way from windows to points:", how, get_args(Pooling))
        self._scorer, self._window, self._stride, self._how, self._batch = scorer, window, stride, how, batch
        self._rows: np.ndarray | None = None  # from step _base on
        self._base = self._next = 0  # _next: start of the next window
        self.received = self.scored = 0
        self._starts, self._scores = np.zeros(0, np.int64), np.zeros(0)
        self._newest = np.nan  # score of the last window that is forgotten

    def take(self, block: np.ndarray) -> np.ndarray:
        """Scores of the next points, as many as a further block ``(steps, C)`` completes."""
        self._rows = block if self._rows is None else np.concatenate([self._rows, block])
        self.received += len(block)
        ready = max(0, (self.received - self._window - self._next) // self._stride + 1)
        self._score_next(ready // self._batch * self._batch)
        if self._how == "last":
            points = self._points(min(self.received, self._next + self._window - 1))
            keep = self._next
        else:
            # The last window of all ends with the series, and may start right behind the one before the next.
            points = self._points(max(0, self._next - self._stride + 1))
            keep = max(0, self._next - self._stride)
        self._rows, self._base = self._rows[keep - self._base :].copy(), keep
        return points

    def end(self) -> np.ndarray:
        """Scores of the points that wait for windows to come; NaN if the series is shorter than a window."""
        length = self.received
        if length < self._window:
            scores = np.full(length - self.scored, np.nan)
            self.scored = length
            return scores
        starts = np.arange(self._next, length - self._window + 1, self._stride)
        if self._how != "last" and (starts[-1] if len(starts) else self._next - self._stride) != length - self._window:
            starts = np.append(starts, length - self._window)
        for i in range(0, len(starts), SCORED_AT_ONCE):
            self._score(starts[i : i + SCORED_AT_ONCE])
        return self._points(length)

    def _score_next(self, n: int) -> None:
        """Score the next ``n`` windows, at most 256 at once."""
        size = self._batch if self._batch > 1 else SCORED_AT_ONCE
        for i in range(0, n, size):
            self._score(self._next + self._stride * np.arange(min(size, n - i)))
            self._next += self._stride * min(size, n - i)

    def _score(self, starts: np.ndarray) -> None:
        assert self._rows is not None
        windows = SeriesWindows(self._rows, starts - self._base, self._window).read(np.arange(len(starts)))
        self._starts = np.concatenate([self._starts, starts])
        self._scores = np.concatenate([self._scores, np.asarray(self._scorer(windows), np.float64)])

    def _points(self, until: int) -> np.ndarray:
        """Scores of the points up to ``until``; windows that no later point needs are forgotten."""
        if until <= self.scored:
            return np.zeros(0)
        ready = self._causal(until) if self._how == "last" else self._covered(until)
        assert self._rows is not None
        ready[np.isnan(self._rows[self.scored - self._base : until - self._base]).all(1)] = np.nan
        self.scored = until
        return ready

    def _causal(self, until: int) -> np.ndarray:
        ends = self._starts + self._window - 1
        newest = np.searchsorted(ends, np.arange(self.scored, until), side="right")
        ready = np.append(self._newest, self._scores)[newest]
        past = int(np.searchsorted(ends, until - 1, side="right"))
        if past:
            self._newest = self._scores[past - 1]
        self._starts, self._scores = self._starts[past:], self._scores[past:]
        return ready

    def _covered(self, until: int) -> np.ndarray:
        first = int(self._starts[0])
        reach = int(self._starts[-1]) + self._window
        scores = point_scores(self._scores, self._starts - first, self._window, reach - first, self._how)
        needed = self._starts + self._window > until
        self._starts, self._scores = self._starts[needed], self._scores[needed]
        return scores[self.scored - first : until - first]

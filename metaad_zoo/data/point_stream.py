"""Scores of every time point of a series of any length, which passes by in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from torch import Tensor

from metaad_zoo.data.windows import SCORED_AT_ONCE, Pooling, SeriesWindows, point_scores


def stream_point_scores(
    scorer: Callable[[dict[str, Tensor]], Tensor | np.ndarray],
    blocks: Iterable[np.ndarray],
    window: int,
    stride: int = 1,
    how: Pooling = "mean",
    short: bool = False,
) -> Iterator[np.ndarray]:
    """The same scores, to the last bit, as :func:`metaad_zoo.data.windows.score_series` gives of the whole.

    Held in memory are the steps and the scores of the windows that points without a score yet may need.

    Args:
        scorer: maps ``{"sequence": (n, window, C)}`` to ``(n,)`` scores.
        blocks: arrays ``(steps, C)``, one behind the other.
        window: steps of a window.
        stride: steps from one window to the next; at most ``window``.
        how: see :func:`metaad_zoo.data.windows.point_scores`.
        short: whether a series that is shorter than a window gets NaN, as a part between gaps does, and no error.

    Yields:
        Scores of the next points, ``(steps,)``.

    Raises:
        ValueError: the series is shorter than a window, or the stride leaves gaps.

    Example:
        >>> blocks = np.split(np.arange(10.0)[:, None], [3, 4])
        >>> mean = lambda windows: windows["sequence"].mean((1, 2))
        >>> np.concatenate(list(stream_point_scores(mean, blocks, window=3, stride=3)))
        array([1. , 1. , 1. , 4. , 4. , 4. , 7. , 7.5, 7.5, 8. ])
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}; expected 1 to {window} (the window), or points would have no score")
    passing = _Passing(scorer, window, stride, how)
    for block in blocks:
        yield passing.take(block)
    yield passing.end(short)


class _Passing:
    def __init__(
        self, scorer: Callable[[dict[str, Tensor]], Tensor | np.ndarray], window: int, stride: int, how: Pooling
    ) -> None:
        self._scorer, self._window, self._stride, self._how = scorer, window, stride, how
        self._rows: np.ndarray | None = None  # from step _base on
        self._base = self._next = self._scored_until = 0  # the next window's start; points that have their score
        self._starts, self._scores = np.zeros(0, np.int64), np.zeros(0)

    def take(self, block: np.ndarray) -> np.ndarray:
        self._rows = block if self._rows is None else np.concatenate([self._rows, block])
        # Whole batches alone, as they would be scored out of the whole series.
        ready = (self._base + len(self._rows) - self._window - self._next) // self._stride + 1
        batches = max(0, ready) // SCORED_AT_ONCE
        for _ in range(batches):
            self._score(self._next + self._stride * np.arange(SCORED_AT_ONCE))
            self._next += self._stride * SCORED_AT_ONCE
        # The last window of all ends with the series, and may start right behind the one before the next.
        safe = max(0, self._next - self._stride + 1)
        points = self._points(safe)
        keep = max(0, self._next - self._stride)
        self._rows, self._base = self._rows[keep - self._base :].copy(), keep
        return points

    def end(self, short: bool) -> np.ndarray:
        length = self._base + (0 if self._rows is None else len(self._rows))
        if length < self._window and short:
            return np.full(length, np.nan)
        if length < self._window:
            raise ValueError(
                f"the series has {length} steps, fewer than the model's window of {self._window}: give more"
            )
        starts = np.arange(self._next, length - self._window + 1, self._stride)
        last = starts[-1] if len(starts) else self._next - self._stride
        if last != length - self._window:
            starts = np.append(starts, length - self._window)
        for i in range(0, len(starts), SCORED_AT_ONCE):
            self._score(starts[i : i + SCORED_AT_ONCE])
        return self._points(length)

    def _score(self, starts: np.ndarray) -> None:
        assert self._rows is not None
        windows = SeriesWindows(self._rows, starts - self._base, self._window).read(np.arange(len(starts)))
        self._starts = np.concatenate([self._starts, starts])
        self._scores = np.concatenate([self._scores, np.asarray(self._scorer(windows), np.float64)])

    def _points(self, until: int) -> np.ndarray:
        """Scores of the points up to ``until``; windows that reach no later point are forgotten."""
        if until <= self._scored_until:
            return np.zeros(0)
        first = int(self._starts[0])
        reach = int(self._starts[-1]) + self._window
        scores = point_scores(self._scores, self._starts - first, self._window, reach - first, self._how)
        ready = scores[self._scored_until - first : until - first]
        self._scored_until = until
        needed = self._starts + self._window > until
        self._starts, self._scores = self._starts[needed], self._scores[needed]
        return ready

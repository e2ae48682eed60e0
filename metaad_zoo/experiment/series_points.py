"""Series of any length scored point by point, with their times and labels, in constant memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from metaad_zoo.data.point_stream import PointStream
from metaad_zoo.data.read.series import Piece
from metaad_zoo.data.read.times import clock_times
from metaad_zoo.data.windows import SCORED_AT_ONCE, Pooling
from metaad_zoo.modality.streams import SampleStream

FILES_NAMED = 5
"""Largest number of files that an error names."""


@dataclass(frozen=True)
class ScoredPoints:
    """Successive points of a series with their scores.

    Attributes:
        series: the file.
        start: position of the first point in the series.
        scores: ``(n,)``; NaN where a point has no score.
        values: ``(n, C)``.
        labels: ``(n,)`` of 0, 1 and -1.
        times: ``(n,)`` as :func:`metaad_zoo.data.read.times.clock_times` gives them; None without times.
        after_gap: ``(n,)`` booleans: whether the series has a gap before the point.
        done: share of all files that is read with them.
    """

    series: Any
    start: int
    scores: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    times: np.ndarray | None
    after_gap: np.ndarray
    done: float

    @property
    def names(self) -> list[str]:
        """Names ``series:step``."""
        return [f"{self.series}:{self.start + i}" for i in range(len(self.scores))]


class _Waiting:
    """Steps of a series that wait for their scores."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def add(self, piece: Piece) -> None:
        labels = np.full(len(piece.values), -1) if piece.labels is None else piece.labels
        times = None if piece.times is None else clock_times(piece.times, piece.in_seconds)
        self._parts.append((piece.values, labels, times))

    def take(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Values, labels and times of the next ``n`` steps."""
        values, labels = (np.concatenate([part[i] for part in self._parts]) for i in range(2))
        all_times = [part[2] for part in self._parts if part[2] is not None]
        times = np.concatenate(all_times) if all_times else None
        self._parts = [(values[n:], labels[n:], None if times is None else times[n:])]
        return values[:n], labels[:n], None if times is None else times[:n]


def scored_points(
    score: Callable[[Any], np.ndarray], stream: SampleStream, window: int, stride: int, how: Pooling
) -> Iterator[ScoredPoints]:
    """Score every point of all series of a stream.

    A part between gaps that is shorter than a window has no scores, which the stream's account notes.

    Args:
        score: scores ``(n,)`` of windows.
        stream: the series.
        window: steps of a window.
        stride: steps from one window to the next, 1 to ``window``.
        how: from windows to points, see :func:`metaad_zoo.data.windows.point_scores`.

    Raises:
        ValueError: no series has a part as long as a window, or the stride leaves gaps.
    """
    lengths: dict[Any, int] = {}
    is_scored = False
    for file in stream.files:
        start = short = 0
        for pieces in _between_gaps(stream.series(file)):
            points = PointStream(score, window, stride, how, SCORED_AT_ONCE)
            yield from _of_part(points, pieces, file, start)
            start += points.received
            short += points.received if points.received < window else 0
        lengths[file], is_scored = start, is_scored or short < start
        if short:
            reason = f"{short} steps have no score: they are in parts shorter than the window of {window}"
            stream.account.add("left out", file.name, reason)
    if not is_scored:
        steps = ", ".join(f"{file} ({n} steps)" for file, n in itertools.islice(lengths.items(), FILES_NAMED))
        raise ValueError(
            f"no series has a part between gaps as long as the model's window of {window}: {steps}; give a longer one"
        )


def _of_part(
    points: PointStream, pieces: Iterable[tuple[Piece, float]], series: Any, start: int
) -> Iterator[ScoredPoints]:
    """The points of a part without a gap, whose first step is number ``start`` of its series."""
    waiting, share = _Waiting(), 0.0

    def scored(scores: np.ndarray, done: float) -> ScoredPoints:
        n, first = len(scores), points.scored - len(scores)
        values, labels, times = waiting.take(n)
        after_gap = (np.arange(first, first + n) == 0) & (start > 0)
        return ScoredPoints(series, start + first, scores, values, labels, times, after_gap, done)

    for piece, share in pieces:
        waiting.add(piece)
        yield scored(points.take(piece.values), share)
    yield scored(points.end(), share)


def _between_gaps(pieces: Iterable[tuple[Piece, float]]) -> Iterator[Iterable[tuple[Piece, float]]]:
    """The pieces of a series, in groups without a gap."""
    groups = itertools.count()
    current = next(groups)

    def group(piece: tuple[Piece, float]) -> int:
        nonlocal current
        if not piece[0].continues:
            current = next(groups)
        return current

    for _, several in itertools.groupby(pieces, group):
        yield several

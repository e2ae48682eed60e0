"""Whole series with a label at every time point, to be scored point by point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from metaad_zoo.data.series import Series
from metaad_zoo.data.windows import WindowRule, score_series, support_end
from metaad_zoo.episodes import Domain
from metaad_zoo.episodes.draw import Reader


@dataclass(frozen=True)
class LabelledSeries:
    """One unseen series: normal windows of its training part, and its later part with a label at every point.

    Attributes:
        name: name of the domain.
        reader: reads windows.
        support: positions of the normal windows of the training part; none of them shares a point with the later part.
        values: ``(T, C)`` values of the later part.
        labels: ``(T,)`` of 0 and 1.
        window: steps of a window.
        stride: steps from one scored window to the next.
        breaks: positions in the later part at which it continues after a gap.
    """

    name: str
    reader: Reader
    support: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    window: int
    stride: int
    breaks: tuple[int, ...] = ()

    @classmethod
    def of(cls, series: Series, domain: Domain, rule: WindowRule, stride: int) -> LabelledSeries:
        """The series that ``domain`` was cut out of by ``rule``.

        Raises:
            ValueError: the series has no labels.
        """
        if series.labels is None or domain.support is None:
            raise ValueError(f"{series.name} has no label at its time points: name their column with data.label")
        until = support_end(series, rule)
        return cls(
            series.name,
            domain.reader,
            domain.support,
            series.values[until:],
            series.labels[until:].astype(np.int64),
            rule.window,
            stride,
            _between_windows([b - until for b in series.breaks if b > until], len(series.values) - until, rule.window),
        )

    def first(self, points: int) -> LabelledSeries:
        """The same series with at most ``points`` points of its later part."""
        breaks = tuple(b for b in self.breaks if b < points)
        return replace(self, values=self.values[:points], labels=self.labels[:points], breaks=breaks)

    def draw_support(self, shots: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw ``shots`` distinct support windows, as ``{"sequence": (shots, window, C)}``, in the order of time."""
        return self.reader.read(np.sort(rng.choice(self.support, shots, replace=False)), rng)

    def score_points(self, scorer: Callable[[dict[str, Tensor]], Tensor]) -> np.ndarray:
        """Scores ``(T,)``: at each point the mean over the windows that cover it.

        Raises:
            ValueError: the score of a window is NaN.
        """

        def checked(windows: dict[str, Tensor]) -> Tensor:
            scores = scorer(windows)
            if scores.isnan().any():
                raise ValueError(f"{self.name}: {int(scores.isnan().sum())} windows score NaN; expected numbers")
            return scores

        return score_series(checked, self.values, self.window, self.stride, breaks=self.breaks)


def _between_windows(breaks: list[int], length: int, window: int) -> tuple[int, ...]:
    """Gaps with room for a window on both sides; near other gaps, points would have no score."""
    wide_enough: list[int] = []
    for b in breaks:
        if b - (wide_enough[-1] if wide_enough else 0) >= window and length - b >= window:
            wide_enough.append(b)
    return tuple(wide_enough)

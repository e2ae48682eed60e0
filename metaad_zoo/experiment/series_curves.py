"""Picture of a whole series of any length: its channels, score, threshold and events, out of a constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from metaad_zoo.evaluation.plots.style import COLOURS, FAINT, drawing
from metaad_zoo.experiment.series_events import DAY, Event, Steps

BINS = 2000
MOST_DRAWN = 5
"""Number of channels on the picture."""


class Envelope:
    """Lowest and highest values of successive rows, in at most ``2 * bins`` bins of equal numbers of rows.

    Args:
        bins: least number of bins that a long run of rows is summarised by.

    Example:
        >>> envelope = Envelope(bins=2)
        >>> envelope.add(np.arange(16.0)[:, None])
        >>> envelope.rows_per_bin, envelope.low[:, 0], envelope.high[:, 0]
        (8, array([0., 8.]), array([ 7., 15.]))
    """

    def __init__(self, bins: int = BINS) -> None:
        self.rows_per_bin = 1
        self._bins, self._n = bins, 0
        self._low = self._high = self._rest = np.zeros((0, 0))

    def add(self, rows: np.ndarray) -> None:
        """Take the next rows ``(n, K)``."""
        if not self._n and not len(self._rest):
            self._low = np.full((2 * self._bins, rows.shape[1]), np.nan)
            self._high, self._rest = self._low.copy(), rows[:0]
        self._rest = np.concatenate([self._rest, rows])
        while len(self._rest) >= self.rows_per_bin:
            m = min(len(self._rest) // self.rows_per_bin, 2 * self._bins - self._n)
            used = m * self.rows_per_bin
            self._put(*_extremes(self._rest[:used], self._rest[:used], self.rows_per_bin))
            self._rest = self._rest[used:].copy()
            if self._n == 2 * self._bins:
                low, high = _extremes(self._low, self._high, 2)
                self._n, self.rows_per_bin = 0, 2 * self.rows_per_bin
                self._put(low, high)

    def _put(self, low: np.ndarray, high: np.ndarray) -> None:
        self._low[self._n : self._n + len(low)] = low
        self._high[self._n : self._n + len(low)] = high
        self._n += len(low)

    @property
    def low(self) -> np.ndarray:
        """Lowest values ``(bins, K)``, NaN where there is none; rows that fill no bin are the last one."""
        return self._with_rest(self._low[: self._n], np.fmin)

    @property
    def high(self) -> np.ndarray:
        """Highest values ``(bins, K)``."""
        return self._with_rest(self._high[: self._n], np.fmax)

    def _with_rest(self, bins: np.ndarray, extreme: np.ufunc) -> np.ndarray:
        return np.concatenate([bins, extreme.reduce(self._rest, axis=0)[None]]) if len(self._rest) else bins


def _extremes(low: np.ndarray, high: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest of ``low`` and highest of ``high`` of each ``length`` rows."""
    shape = (len(low) // length, length, low.shape[1])
    return np.fmin.reduce(low.reshape(shape), axis=1), np.fmax.reduce(high.reshape(shape), axis=1)


class SeriesCurves:
    """What a picture of one series needs."""

    def __init__(self) -> None:
        self._envelope = Envelope()
        self._clock = False
        self._timed = False

    def add(self, steps: Steps) -> None:
        """Take the next steps of the series."""
        position = steps.start + np.arange(len(steps.scores), dtype=np.float64)
        if steps.times is not None:
            position = self._positions(steps.times)
        thresholds = np.where(np.isinf(steps.thresholds), np.nan, steps.thresholds)
        scores = np.where(np.isinf(steps.scores), np.nan, steps.scores)
        self._envelope.add(np.column_stack([position, scores, thresholds, steps.values]))

    def _positions(self, times: np.ndarray) -> np.ndarray:
        self._timed, self._clock = True, times.dtype.kind == "M"
        if not self._clock:
            return times.astype(np.float64)
        days: np.ndarray = times.astype("datetime64[us]").astype(np.int64) / (DAY * 1e6)  # as in matplotlib
        return days

    def draw(self, path: Path, events: Sequence[Event], names: Sequence[str] | None, title: str) -> None:
        """Write the picture as a PNG file.

        Args:
            path: file to write.
            events: events of the series, shaded.
            names: names of the channels; None: their numbers.
            title: title.
        """
        low, high = self._envelope.low, self._envelope.high
        names = list(names) if names else [f"channel {i + 1}" for i in range(low.shape[1] - 3)]
        channels = most_telling(events, names, high[:, 3:] - low[:, 3:])
        with drawing():
            figure = Figure(figsize=(10, 1.6 + 1.1 * len(channels)), layout="constrained")
            ratios = [1.6, *[1.0] * len(channels)]
            panels = figure.subplots(1 + len(channels), 1, sharex=True, height_ratios=ratios, squeeze=False)[
                :, 0
            ].tolist()
            x = low[:, 0]
            _band(panels[0], x, low[:, 1], high[:, 1], COLOURS[0], "score")
            panels[0].plot(x, high[:, 2], color=FAINT, linestyle="--", linewidth=1, label="threshold")
            panels[0].set(ylabel="score", title=title)
            for panel, channel in zip(panels[1:], channels, strict=True):
                _band(panel, x, low[:, 3 + channel], high[:, 3 + channel], COLOURS[7], None)
                panel.set_ylabel(names[channel][:20], fontsize=8)
            self._shade(panels, events)
            panels[0].legend(loc="upper left", ncols=3)
            self._label_steps(panels[-1])
            figure.savefig(path, dpi=130, facecolor="white")

    def _shade(self, panels: Sequence[Axes], events: Sequence[Event]) -> None:
        for i, event in enumerate(events):
            span: list[float] = [event.begin, event.end + 1]
            if self._timed:
                texts = np.array([event.begin_time, event.end_time])
                span = self._positions(texts.astype("datetime64[us]" if self._clock else np.float64)).tolist()
            for panel in panels:
                label = "event" if i == 0 and panel is panels[0] else None
                panel.axvspan(*span, color=COLOURS[1], alpha=0.3, linewidth=1.5, label=label)

    def _label_steps(self, panel: Axes) -> None:
        if self._clock:
            locator = AutoDateLocator()
            panel.xaxis.set_major_locator(locator)
            panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            panel.set_xlabel("time" if self._timed else "step")


def _band(panel: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, label: str | None) -> None:
    panel.fill_between(x, low, high, color=colour, alpha=0.5, linewidth=0)
    panel.plot(x, (low + high) / 2, color=colour, linewidth=0.8, label=label)


def most_telling(events: Sequence[Event], names: Sequence[str], ranges: np.ndarray) -> list[int]:
    """Channels that contributed to the most events, then those with the largest changes for their range.

    Args:
        events: events with the names of their channels.
        names: names of all channels.
        ranges: ``(bins, C)`` differences of highest and lowest values.

    Example:
        >>> event = Event("a", 0, 1, 0, 1.0, 0.01, channels=["y"])
        >>> most_telling([event], ["x", "y"], np.zeros((1, 2)))
        [1, 0]
    """
    events_of = Counter(name for event in events for name in event.channels)
    spread = np.nan_to_num(ranges).sum(0)
    order = sorted(range(len(names)), key=lambda i: (-events_of[names[i]], -spread[i], i))
    return order[:MOST_DRAWN]

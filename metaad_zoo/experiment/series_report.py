"""What an operator gets of series that are scored: decisions, events, realised rates, a drift warning and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.read.roles import Schema
from metaad_zoo.detector import Detector
from metaad_zoo.experiment.series_decisions import SeriesDecisions
from metaad_zoo.experiment.series_events import DriftMonitor, EventLog, Steps

if TYPE_CHECKING:
    from metaad_zoo.experiment.series_curves import SeriesCurves

EVENTS = "events.csv"
LAST = {"points": 500, "windows": 50}
"""Number of latest samples that are judged for drift."""


class SeriesReport:
    """Decides on series as their scores come, and reports events; a context manager, in constant memory.

    Args:
        detector: fitted detector of windows.
        decisions: way to decide.
        events: CSV file of events to write.
        plot: PNG file to write a picture of the series to; of several series, each gets a file of its own, with its
            number. None: no picture.
        points: whether a sample is a step; else it is a window.
        schemas: schemas of the series by modality, for the names of channels, complete once a series is read.
        warn: called once, when most of the latest samples are flagged by a threshold that is fixed.

    Attributes:
        log: the events.
        pictures: files of pictures.
    """

    def __init__(
        self,
        detector: Detector,
        decisions: SeriesDecisions,
        events: Path,
        plot: Path | None,
        points: bool,
        schemas: Mapping[str, Schema],
        warn: Callable[[str], None] = lambda warning: None,
    ) -> None:
        self.log = EventLog(events, detector.window, detector.drops_by_channel, self._names)
        self.pictures: list[Path] = []
        self._decisions, self._plot, self._schemas, self._warn = decisions, plot, schemas, warn
        self._span = 1 if points else detector.window
        what = "points" if points else "windows"
        self._monitor = DriftMonitor(decisions.alpha, LAST[what], what)
        self._curves: SeriesCurves | None = None
        self._series: str | None = None
        self._stack = ExitStack()

    def __enter__(self) -> SeriesReport:
        self._stack.enter_context(self.log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            self._draw()

    def _names(self) -> Sequence[str] | None:
        schema = next(iter(self._schemas.values()), None)
        return None if schema is None else schema.features

    def decide(
        self,
        names: Sequence[str],
        scores: np.ndarray,
        values: np.ndarray,
        times: np.ndarray | None,
        labels: np.ndarray | None,
        after_gap: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """p-values and decisions, 0 or 1, of the next samples that have a score; reports them.

        Args:
            names: names ``series:step`` of ``n`` samples.
            scores: ``(n,)``; NaN for samples without a score.
            values: ``(n, C)`` of steps, or ``(n, window, C)`` of windows.
            times: ``(n,)`` of steps, or ``(n, window)`` of the steps of windows, as in
                :class:`~metaad_zoo.experiment.series_events.Steps`; None without times.
            labels: ``(n,)`` of 0, 1 and -1; None without labels.
            after_gap: ``(n,)`` booleans: whether the series has a gap before the sample; None without gaps.
        """
        parts = []
        gaps = np.zeros(len(names), bool) if after_gap is None else after_gap
        for series, start, rows in _adjoining(names, self._span, gaps):
            part = self._decisions.decide(series, scores[rows])
            parts.append((part.p, part.flagged))
            of_samples = (scores[rows], part.p, part.flagged, part.thresholds)
            score, p, flagged, limit = (np.repeat(x, self._span) for x in of_samples)
            of_steps = None if times is None else times[rows].reshape(-1)
            of_labels = None if labels is None else np.repeat(labels[rows], self._span)
            flat, is_after_gap = values[rows].reshape(-1, values.shape[-1]), bool(gaps[rows.start])
            self._take(Steps(series, start, flat, score, p, flagged, limit, of_steps, of_labels, is_after_gap))
            if not self._decisions.adaptive and self._monitor.add(part.flagged[~np.isnan(scores[rows])]):
                self._warn(str(self._monitor.warning))
        valued = ~np.isnan(scores)
        p, flagged = (np.concatenate([np.zeros(0), *(part[i] for part in parts)]) for i in range(2))
        return p[valued], flagged[valued].astype(np.int64)

    def decide_windows(self, chunk: Chunk, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`decide`, for a chunk of windows."""
        values = next(iter(chunk.samples.values())).numpy()
        return self.decide(chunk.names, scores, values, chunk.times, chunk.labels, chunk.after_gap)

    def _take(self, steps: Steps) -> None:
        self.log.add(steps)  # first, because it ends the last event of the series before
        if steps.series != self._series:
            self._draw()
            self._series = steps.series
        if self._plot is not None:
            from metaad_zoo.experiment.series_curves import SeriesCurves  # matplotlib takes a second to load

            self._curves = SeriesCurves() if self._curves is None else self._curves
            self._curves.add(steps)

    def _draw(self) -> None:
        if self._curves is None or self._plot is None or self._series is None:
            return
        n = len(self.pictures)
        path = self._plot if not n else self._plot.with_stem(f"{self._plot.stem}_{n + 1}")
        events = [event for event in self.log.highest if event.series == self._series]
        self._curves.draw(path, events, self._names(), Path(self._series).name)
        self._curves = None
        self.pictures.append(path)

    def as_json(self) -> dict[str, Any]:
        """Events, rates, drift and pictures."""
        return {
            "adaptive": self._decisions.adaptive,
            "events": self.log.as_json(),
            "drift": self._monitor.warning,
            "pictures": [str(path) for path in self.pictures],
        }


def _adjoining(names: Sequence[str], span: int, after_gap: np.ndarray) -> Iterator[tuple[str, int, slice]]:
    """Groups of samples that adjoin in one series, without a gap: its name, the first step and the rows."""
    places = [(series, int(step)) for series, _, step in (name.rpartition(":") for name in names)]
    first = 0
    for i in range(1, len(places) + 1):
        series, step = places[i - 1]
        if i == len(places) or places[i] != (series, step + span) or after_gap[i]:
            yield places[first][0], places[first][1], slice(first, i)
            first = i

"""Events of a series that is scored: flagged steps merged, with begin, end, peak and the channels behind them."""

from __future__ import annotations

import csv
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from metaad_zoo.atomic_write import replacing
from metaad_zoo.data.read.times import time_texts

COLUMNS = (
    "series", "begin", "end", "peak", "begin_time", "end_time", "peak_time", "score", "p_value", "flagged", "channels"
)  # fmt: skip
MOST_CHANNELS = 5
LEAST_SHARE = 0.1
"""Share of the score's fall over all channels from which on a channel is named."""
HIGHEST = 100
"""Number of events kept in memory: those of the highest scores."""
DAY = 86_400.0


@dataclass(frozen=True)
class Steps:
    """Successive steps of one series, scored.

    Attributes:
        series: name of the series.
        start: position of the first step in the series, from 0.
        values: ``(n, C)``.
        scores: ``(n,)``; NaN for steps without a score.
        p: ``(n,)`` p-values.
        flagged: ``(n,)`` booleans.
        thresholds: ``(n,)``: scores above this are flagged.
        times: ``(n,)`` ``datetime64``, or numbers in a unit of their own; None where the series has no times.
        labels: ``(n,)`` of 0, 1 and -1; None where the series has none.
        after_gap: whether the series has a gap before the first step.
    """

    series: str
    start: int
    values: np.ndarray
    scores: np.ndarray
    p: np.ndarray
    flagged: np.ndarray
    thresholds: np.ndarray
    times: np.ndarray | None = None
    labels: np.ndarray | None = None
    after_gap: bool = False


@dataclass
class Event:
    """Flagged steps of a series that lie less than a window apart, without a gap between them.

    Attributes:
        series: name of the series.
        begin: position of the first flagged step, from 0.
        end: position of the last flagged step.
        peak: position of the highest score, the last of several.
        score: highest score.
        p_value: p-value at the peak.
        flagged: number of flagged steps.
        begin_time: time of the first flagged step; empty without times.
        end_time: time of the last flagged step.
        peak_time: time of the highest score.
        channels: names of the channels that contribute to the score at the peak, the largest share first.
        labelled: whether a flagged step lies less than a window away from a step labelled anomalous.
    """

    series: str
    begin: int
    end: int
    peak: int
    score: float
    p_value: float
    flagged: int = 1
    begin_time: str = ""
    end_time: str = ""
    peak_time: str = ""
    channels: list[str] = field(default_factory=list)
    labelled: bool = False


class EventLog:
    """Merges flagged steps into events and writes them as a CSV file; a context manager, in constant memory.

    Args:
        path: CSV file to write, with the columns :data:`COLUMNS`; it appears when the context ends without an error.
        window: steps of a window; flagged steps less than this apart are one event.
        drops_by_channel: gives what each channel contributes ``(C,)`` to the score of a window ``(window, C)``.
        names: gives the names of the channels, once a series is read.

    Raises:
        ValueError: when the context begins: the file exists and holds something else than events.

    Attributes:
        events: number of events; all numbers are complete when the context has ended.
        steps: number of steps with a score.
        flagged: number of flagged steps.
        seconds: time that the series cover without their gaps, where their times are clock times.
        highest: up to 100 events of the highest scores, in the order of the series.
        labelled_normal: number of steps with a score that are labelled normal.
        flagged_normal: number of those that are flagged.
        false_events: number of events that lie a window or more away from all steps labelled anomalous.
        incidents: number of labelled incidents, runs of steps labelled anomalous, which end at a gap.
        detected: number of incidents with a flagged step inside.
        detected_around: number of incidents with a flagged step inside or less than a window away, because a score may
            look up to a window ahead.
    """

    def __init__(
        self,
        path: Path,
        window: int,
        drops_by_channel: Callable[[np.ndarray], np.ndarray],
        names: Callable[[], Sequence[str] | None],
    ) -> None:
        self.events = self.steps = self.flagged = 0
        self.labelled_normal = self.flagged_normal = self.false_events = 0
        self.incidents = self.detected = self.detected_around = 0
        self.seconds = 0.0
        self._window, self._drops_by_channel, self._names = window, drops_by_channel, names
        self._path, self._stack = path, ExitStack()
        self._highest: list[tuple[float, int, Event]] = []
        self._series: str | None = None
        self._event: Event | None = None
        self._peak_window = np.zeros((0, 0))
        self._before, self._next = np.zeros((0, 0)), -1
        self._last_time: float | None = None
        self._last_flagged: int | None = None
        self._last_labelled: int | None = None
        self._is_hit = self._is_near = False  # whether the latest incident has a flagged step, inside or near it

    def __enter__(self) -> EventLog:
        self._refuse_other_file()
        beside = self._stack.enter_context(replacing(self._path))
        self._writer = csv.writer(self._stack.enter_context(beside.open("w", newline="", encoding="utf-8")))
        self._writer.writerow(COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end_part()
        self._stack.__exit__(kind, error, trace)

    def _refuse_other_file(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            header = file.readline().strip()
        if header and header != ",".join(COLUMNS).encode():
            raise ValueError(
                f"{self._path} would be replaced by events, but it has other columns than a file of events: move it, "
                "or name another --out"
            )

    @property
    def highest(self) -> list[Event]:
        """See the class."""
        return [event for _, _, event in sorted(self._highest, key=lambda entry: entry[1])]

    def add(self, steps: Steps) -> None:
        """Take the next steps of a series, or the first of the next series."""
        if steps.series != self._series:
            self._series, self._next = steps.series, -1
        if steps.after_gap or steps.start != self._next:
            self._end_part()
            self._before = steps.values[:0]  # no window reaches across a gap
        self.steps += int((~np.isnan(steps.scores)).sum())
        self.flagged += int(steps.flagged.sum())
        values = np.concatenate([self._before, steps.values])
        labelled = np.zeros(len(steps.flagged), bool) if steps.labels is None else steps.labels == 1
        for i in np.flatnonzero(steps.flagged | labelled).tolist():
            if steps.flagged[i]:
                self._take(steps, i, values)
            if labelled[i]:
                self._take_label(steps.start + i, bool(steps.flagged[i]))
        self._before, self._next = values[max(0, len(values) - self._window) :].copy(), steps.start + len(steps.values)
        if steps.times is not None and len(steps.times):
            self._add_seconds(steps.times)
        if steps.labels is not None:
            normal = (steps.labels == 0) & ~np.isnan(steps.scores)
            self.labelled_normal += int(normal.sum())
            self.flagged_normal += int(steps.flagged[normal].sum())
        if self._event is not None and steps.start + len(steps.scores) - self._event.end > self._window:
            self._end_event()

    def _take(self, steps: Steps, i: int, values: np.ndarray) -> None:
        """A flagged step at position ``i`` of ``steps``; ``values`` begin with those of the steps before."""
        step, score = steps.start + i, float(steps.scores[i])
        time = "" if steps.times is None else str(time_texts(steps.times[i : i + 1])[0])
        if self._event is not None and step - self._event.end >= self._window:
            self._end_event()
        event = self._event
        if event is None:
            self._event = event = Event(steps.series, step, step, step, -np.inf, 1.0, 0, time)
        event.end, event.end_time, event.flagged = step, time, event.flagged + 1
        event.labelled |= self._last_labelled is not None and step - self._last_labelled < self._window
        self._last_flagged = step
        self._take_nearness(step)
        if score >= event.score:  # of a window, whose steps have one score, the last step
            event.peak, event.peak_time, event.score, event.p_value = step, time, score, float(steps.p[i])
            until = max(self._window, len(self._before) + i + 1)  # the window that ends with the peak
            self._peak_window = values[until - self._window : until].copy()

    def _end_event(self) -> None:
        event = self._event
        if event is None:
            return
        self._event = None
        self.events += 1
        self.false_events += not event.labelled
        event.channels = self._channels()
        times = (event.begin_time, event.end_time, event.peak_time)
        row = (event.series, event.begin, event.end, event.peak, *times, event.score, event.p_value, event.flagged)
        self._writer.writerow((*row, "; ".join(event.channels)))
        entry = (event.score, self.events, event)
        (heapq.heappush if len(self._highest) < HIGHEST else heapq.heappushpop)(self._highest, entry)

    def _channels(self) -> list[str]:
        if len(self._peak_window) < self._window:
            return []
        drops = np.nan_to_num(self._drops_by_channel(self._peak_window)).clip(min=0)
        names = self._names() or [f"channel {i + 1}" for i in range(len(drops))]
        order = np.argsort(-drops, kind="stable")[:MOST_CHANNELS]
        return [names[i] for i in order if drops[i] > 0 and drops[i] >= LEAST_SHARE * drops.sum()]

    def _end_part(self) -> None:
        """The series ends, or has a gap."""
        self._end_event()
        self._last_time = self._last_flagged = self._last_labelled = None

    def _take_label(self, step: int, flagged: bool) -> None:
        """A step that is labelled anomalous."""
        if self._last_labelled is None or step > self._last_labelled + 1:
            self.incidents += 1
            self._is_hit = self._is_near = False
        self._last_labelled = step
        if flagged and not self._is_hit:
            self._is_hit = True
            self.detected += 1
        if self._event is not None and step - self._event.end < self._window:
            self._event.labelled = True
        self._take_nearness(step)

    def _take_nearness(self, step: int) -> None:
        """A step that is flagged or labelled: whether the incident has a flagged step less than a window away."""
        last = (self._last_flagged, self._last_labelled)
        if not self._is_near and all(x is not None and step - x < self._window for x in last):
            self._is_near = True
            self.detected_around += 1

    def _add_seconds(self, times: np.ndarray) -> None:
        if times.dtype.kind != "M":  # numbers in a unit of their own
            return
        first, last = times[[0, -1]].astype("datetime64[us]").astype(np.int64) / 1e6
        self.seconds += last - (first if self._last_time is None else self._last_time)
        self._last_time = last

    def rates(self) -> dict[str, float | None]:
        """Realised rates: events and false events a day, or else for 1,000 steps, and the share of flagged steps, of
        all and of those labelled normal; None where there is nothing to count."""
        days, thousands = self.seconds / DAY, self.steps / 1000
        unit, amount = ("day", days) if self.seconds else ("1000_steps", thousands)
        labelled = bool(self.labelled_normal)
        return {
            f"events_per_{unit}": self.events / amount if amount else None,
            f"false_events_per_{unit}": self.false_events / amount if labelled and amount else None,
            "flagged_share": self.flagged / self.steps if self.steps else None,
            "flagged_normal_share": self.flagged_normal / self.labelled_normal if labelled else None,
        }

    def sentence(self) -> str:
        """The realised rates in words."""
        rates = self.rates()
        unit = "a day" if self.seconds else "for 1,000 steps"
        events = rates["events_per_day" if self.seconds else "events_per_1000_steps"] or 0.0
        text = (
            f"{self.events} events, {events:.3g} {unit}; {self.flagged / max(1, self.steps):.2%} of the steps flagged"
        )
        if not self.labelled_normal:
            return text
        false = rates["false_events_per_day" if self.seconds else "false_events_per_1000_steps"] or 0.0
        return (
            f"{text}. By the labels: {self.flagged_normal / self.labelled_normal:.2%} of the normal steps flagged; "
            f"{self.false_events} false events, {false:.3g} {unit}; {self.detected} of {self.incidents} incidents have "
            f"a flagged step inside, {self.detected_around} inside or less than a window away"
        )

    def as_json(self) -> dict[str, object]:
        """All numbers, and the events of the highest scores."""
        labels = {name: getattr(self, name) for name in ("incidents", "detected", "detected_around", "false_events")}
        return {
            "events": self.events,
            **self.rates(),
            **(labels if self.labelled_normal or self.incidents else {}),
            "highest": [asdict(event) for event in self.highest],
        }


class DriftMonitor:
    """Warns once when most of the latest samples are flagged, which a series that stays like its support is not.

    Args:
        alpha: false-alarm rate that is aimed at.
        last: number of latest samples to look at.
        what: what a sample is, for the warning.

    Attributes:
        warning: the warning; None as long as there is none.
    """

    def __init__(self, alpha: float, last: int, what: str) -> None:
        self.warning: str | None = None
        self._limit, self._what = max(0.2, min(0.5, 4 * alpha), alpha), what
        self._latest: deque[bool] = deque(maxlen=last)
        self._flagged = 0

    def add(self, flagged: np.ndarray) -> bool:
        """Take the decisions of the next samples; whether they lead to the warning."""
        for flag in [] if self.warning else flagged.tolist():
            full = len(self._latest) == self._latest.maxlen
            self._flagged += flag - (self._latest[0] if full else 0)
            self._latest.append(flag)
            n = len(self._latest)
            if n == self._latest.maxlen and self._flagged > self._limit * n:
                self.warning = (
                    f"the last {n} {self._what} look unlike the support: {self._flagged / n:.0%} flagged; add later "
                    "normal samples (`metaad update`) or use --adaptive"
                )
                return True
        return False

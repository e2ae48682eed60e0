"""Times out of text, the usual step of a series, gaps, and series brought to even steps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone

import numpy as np

GAP_STEPS = 5
"""Between two known values that lie further apart than this many steps, nothing is made up: NaN."""

FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")
"""Fraction of a second. Python 3.10 reads only three or six digits of it."""

LARGEST = 10_000_000
"""Steps of a resampled series; more are taken for a mistake."""


def as_seconds(texts: Iterable[str]) -> np.ndarray:
    """Times in ISO 8601 (``2014-04-01 00:05:00``, also with a zone; else UTC) as seconds since 1970.

    Raises:
        ValueError: one is not a time; it is named.
    """
    seconds = []
    for text in texts:
        text = FRACTION.sub(lambda match: f".{match[1]:0<6.6}", text)
        time = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
        seconds.append((time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp())
    return np.asarray(seconds, np.float64)


def clock_times(times: np.ndarray, in_seconds: bool) -> np.ndarray:
    """Times as ``datetime64[us]`` if they are seconds since 1970; numbers in a unit of their own stay as they are."""
    return np.round(times * 1e6).astype("datetime64[us]") if in_seconds else times


def time_texts(times: np.ndarray) -> np.ndarray:
    """Times ``(n,)`` as texts: ``datetime64`` in ISO 8601 (UTC), others as numbers.

    Example:
        >>> time_texts(clock_times(np.array([1396310700.0]), True)).tolist(), time_texts(np.array([3.0])).tolist()
        (['2014-04-01T00:05:00'], ['3'])
    """
    if times.dtype.kind != "M":
        return np.array([f"{time:.15g}" for time in times])
    whole = bool((times == times.astype("datetime64[s]")).all())
    return np.datetime_as_string(times, unit="s" if whole else "us")


def usual_step(times: np.ndarray) -> float:
    """Median distance of successive times that differ, in seconds; NaN where there are none."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else float("nan")


def gap_length(times: np.ndarray) -> float:
    """The longest distance of successive times that is no gap: :data:`GAP_STEPS` times that of 95 % of the steps.

    Example:
        >>> gap_length(np.array([0.0, 1.0, 2.0, 3.0, 100.0]))
        5.0
    """
    steps = np.diff(times)
    steps = steps[steps > 0]
    return GAP_STEPS * float(np.quantile(steps, 0.95, method="lower")) if len(steps) else np.inf


def resampled(
    times: np.ndarray, values: np.ndarray, labels: np.ndarray | None, step: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """A series at even steps, by linear interpolation of each channel between its known values.

    Args:
        times: ``(T,)`` seconds, in order.
        values: ``(T, C)``; NaN where missing.
        labels: ``(T,)`` of 0 and 1, or None. A new point is anomalous if the nearest old one is, or if it is the
            nearest new one to an anomalous old one: no short anomaly gets lost between coarse steps.
        step: seconds from one new point to the next; the first lies on the first old one.

    Returns:
        Values and labels. A value is NaN where the known values around it lie further apart than :data:`GAP_STEPS`
        steps (old or new ones, whichever are longer).

    Raises:
        ValueError: the step is not above 0, or so short that more than :data:`LARGEST` points arise.
    """
    if not step > 0:
        raise ValueError(f"data.resample is {step}; expected seconds a step, above 0")
    points = int((times[-1] - times[0]) / step + 1e-9) + 1
    if points > LARGEST:
        raise ValueError(f"data.resample={step} seconds makes {points:,} steps of {len(times):,}: take longer steps")
    grid = times[0] + step * np.arange(points)
    longest = GAP_STEPS * max(step, np.nan_to_num(usual_step(times)))
    made = np.stack([_interpolated(grid, times, column, longest) for column in values.T], 1)
    if labels is None:
        return made.astype(np.float32), None
    marked = labels[_nearest(times, grid)].copy()
    marked[_nearest(grid, times[labels == 1])] = 1
    return made.astype(np.float32), marked


def _interpolated(grid: np.ndarray, times: np.ndarray, column: np.ndarray, longest: float) -> np.ndarray:
    present = ~np.isnan(column)
    if not present.any():
        return np.full(len(grid), np.nan)
    known_times = times[present]
    values = np.interp(grid, known_times, column[present].astype(np.float64), left=np.nan, right=np.nan)
    after = np.searchsorted(known_times, grid).clip(max=len(known_times) - 1)
    before = np.where(known_times[after] == grid, after, (after - 1).clip(min=0))
    values[known_times[after] - known_times[before] > longest] = np.nan
    return values


def _nearest(of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Positions in ``of``, which is in order, of the values nearest to each of ``to``."""
    after = np.searchsorted(of, to).clip(max=len(of) - 1)
    before = (after - 1).clip(min=0)
    nearest: np.ndarray = np.where(np.abs(of[before] - to) <= np.abs(of[after] - to), before, after)
    return nearest

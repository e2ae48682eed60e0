"""Anomalies of sequences ``(n, steps, channels)`` in raw units; for meta-training only, never used in evaluation.

A random subset of the channels is changed, all of them in the same window. A missing value (NaN) stays missing, and a
channel's other values are changed as if they followed each other. Sizes are in deviations of a channel: the donors',
or, where those do not vary, as :func:`~metaad_zoo.data.synthetic.sizes.column_sizes` says. Where a kind changes a
sample by less than a tenth of a deviation, such as a change of speed of a constant channel, the window's level is
shifted instead.

Source: the kinds of Lai et al., "Revisiting Time Series Outlier Detection: Definitions and Benchmarks", NeurIPS 2021
(point, shapelet, seasonal and trend outliers), and of Wen et al., "Time Series Data Augmentation for Deep Learning: A
Survey", IJCAI 2021 (warping).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from metaad_zoo.data.synthetic.registry import register_synthetic
from metaad_zoo.data.synthetic.sizes import column_sizes, known_values, rounded

LEAST = 0.1
"""A change below this many deviations is none."""


@dataclass(frozen=True)
class Event:
    """Parameters that the channels of one sample share.

    Attributes:
        start: start of the window, as a share of the steps.
        stop: end of the window, as a share of the steps.
        strength: strength in [0, 1].
        faster: whether time runs faster rather than slower.
    """

    start: float
    stop: float
    strength: float
    faster: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Event:
        length = rng.uniform(0.1, 0.4)
        start = rng.uniform(0, 1 - length)
        return cls(start, start + length, rng.uniform(), bool(rng.integers(2)))

    @property
    def deviations(self) -> float:
        """Size of the change, 2 to 6 deviations."""
        return 2 + 4 * self.strength

    def window(self, steps: int) -> slice:
        """Steps of the window, at least one."""
        first = min(int(self.start * steps), steps - 1)
        return slice(first, max(first + 1, round(self.stop * steps)))


Change = Callable[[np.ndarray, float, Event, np.random.Generator], np.ndarray]
"""One channel's values ``(steps,)``, the size of one deviation, the event, to the changed values."""


def _register(name: str, varying: bool = False) -> Callable[[Change], Change]:
    """Register a change of one channel; ``varying`` prefers channels whose values differ within the sample."""

    def register(change: Change) -> Change:
        def corrupt(samples: Tensor, donors: Tensor, rng: np.random.Generator) -> Tensor:
            values = known_values(samples)
            sizes = column_sizes(values, known_values(donors))
            return rounded(np.stack([_sample(x, sizes, change, varying, rng) for x in values]), samples)

        register_synthetic(name, modality="sequence", axes=2)(corrupt)
        return change

    return register


def _sample(x: np.ndarray, sizes: np.ndarray, change: Change, varying: bool, rng: np.random.Generator) -> np.ndarray:
    """One sample ``(steps, channels)``, changed; ``sizes`` ``(channels,)`` are those of one deviation."""
    event = Event.draw(rng)
    finite = [np.flatnonzero(~np.isnan(channel)) for channel in x.T]
    channels = np.array([c for c, steps in enumerate(finite) if len(steps)])
    moving = np.array([c for c in channels if np.ptp(x[finite[c], c]) > LEAST * sizes[c]])
    if varying and len(moving):
        channels = moving
    chosen = rng.choice(channels, int(rng.integers(1, len(channels) + 1)), replace=False)
    out = x.copy()
    for c in chosen:
        out[finite[c], c] = change(x[finite[c], c], sizes[c], event, rng)
    if np.nanmax(np.abs(out - x) / sizes) < LEAST:
        for c in chosen:
            out[finite[c], c] = level_shift(x[finite[c], c], sizes[c], event, rng)
    return out


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.integers(2) else -1


@_register("spike")
def spike(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """One to three single steps of the window jump by 2 to 6 deviations."""
    out = values.copy()
    steps = np.arange(len(values))[event.window(len(values))]
    chosen = rng.choice(steps, min(len(steps), int(rng.integers(1, 4))), replace=False)
    out[chosen] += _sign(rng) * event.deviations * size
    return out


@_register("drift")
def drift(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """From the window's start on, the level drifts away steadily, by 2 to 6 deviations in the end."""
    out = values.copy()
    start = event.window(len(values)).start
    rest = len(values) - start
    out[start:] += _sign(rng) * event.deviations * size * np.arange(1, rest + 1) / rest
    return out


@_register("level_shift")
def level_shift(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """The whole window is shifted by 2 to 6 deviations."""
    out = values.copy()
    out[event.window(len(values))] += _sign(rng) * event.deviations * size
    return out


@_register("drop_out", varying=True)
def drop_out(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """In the window the values are stuck, at the first of them or at the channel's minimum."""
    out = values.copy()
    window = event.window(len(values))
    out[window] = values[window.start] if rng.integers(2) else values.min()
    return out


@_register("time_warp", varying=True)
def time_warp(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """The window is passed through at changing speed, first up to three times as slow and then faster, or reversed."""
    window = event.window(len(values))
    last = window.stop - 1 - window.start
    power = 1.5 + 1.5 * event.strength
    share = np.linspace(0, 1, last + 1) ** (power if event.faster else 1 / power)
    out = values.copy()
    out[window] = np.interp(window.start + last * share, np.arange(len(values)), values)
    return out


@_register("frequency", varying=True)
def frequency(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """All steps are resampled at 1.5 to 3 times the speed, or that much slower; where values end they run back."""
    speed = 1.5 + 1.5 * event.strength
    at = np.arange(len(values)) * (speed if event.faster else 1 / speed)
    last = max(len(values) - 1, 1)
    at = last - np.abs(at % (2 * last) - last)  # back and forth
    return np.interp(at, np.arange(len(values)), values)


@_register("noise")
def noise(values: np.ndarray, size: float, event: Event, rng: np.random.Generator) -> np.ndarray:
    """In the window, noise of 2 to 6 deviations is added."""
    out = values.copy()
    window = event.window(len(values))
    out[window] += event.deviations * size * rng.standard_normal(len(out[window]))
    return out

"""Tasks over generated periodic signals: each task a law of its own, and kinds of anomaly that training never sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import SPLITS, Episode, EpisodeSpec, Split, TaskPool
from metaad_zoo.episodes.draw import assemble
from metaad_zoo.registry import unknown_name

HARMONICS = 3
"""Overtones of a law beside its first wave."""

LEVEL_VARIES, SWING_VARIES = 0.5, 0.15
"""From stretch to stretch of one law: standard deviation of the level in amplitudes, and of the swing's logarithm."""


@dataclass(frozen=True)
class Law:
    """A periodic signal: a wave with overtones, in units of its own, with noise.

    Args:
        saw: a falling sawtooth as the first wave, in place of a sine.
        period: period in steps.
        amplitude: amplitude of the first wave.
        level: mean of the signal.
        overtones: ``(HARMONICS,)`` sizes of the overtones, in amplitudes.
        phases: ``(HARMONICS,)`` phases of the overtones, in radians.
        noise: standard deviation of the noise, in amplitudes.

    What is normal varies too: from stretch to stretch the level and the size of the swing differ a little
    (:data:`LEVEL_VARIES`, :data:`SWING_VARIES`), or a comparison of raw numbers would do.
    """

    saw: bool
    period: float
    amplitude: float
    level: float
    overtones: np.ndarray
    phases: np.ndarray
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator, window: int) -> Law:
        """A random law with two to six periods in a window."""
        amplitude = float(10 ** rng.uniform(-1, 1))
        return cls(
            saw=bool(rng.random() < 0.5),
            period=window / float(rng.uniform(2, 6)),
            amplitude=amplitude,
            level=amplitude * float(rng.normal(0, 3)),
            overtones=rng.uniform(0, 0.5, HARMONICS) * (rng.random(HARMONICS) < 0.5),
            phases=rng.uniform(0, 2 * np.pi, HARMONICS),
            noise=float(rng.uniform(0.05, 0.2)),
        )

    def wave(self, time: np.ndarray) -> np.ndarray:
        """The signal without noise, about 0 and in amplitudes, at times in steps."""
        cycles = time / self.period
        first = 1 - 2 * (cycles % 1) if self.saw else np.sin(2 * np.pi * cycles)
        order = np.arange(2, 2 + HARMONICS)
        further = self.overtones * np.sin(2 * np.pi * cycles[..., None] * order + self.phases)
        signal: np.ndarray = first + further.sum(-1)
        return signal


def _sign(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _spike(law: Law, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three single points stand out."""
    wave = law.wave(time)
    points = rng.choice(len(time), rng.integers(1, 4), replace=False)
    wave[points] += _sign(rng) * rng.uniform(1.0, 2.5, len(points))
    return wave


def _drift(law: Law, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From some point on, the signal runs away."""
    onset = rng.uniform(0, 0.5) * len(time)
    ramp = (np.arange(len(time)) - onset).clip(min=0) / (len(time) - onset)
    drifted: np.ndarray = law.wave(time) + _sign(rng) * rng.uniform(0.8, 2.0) * ramp
    return drifted


def _frequency(law: Law, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From some point on, the signal runs faster or slower; it does not jump."""
    onset = rng.uniform(0, 0.5) * len(time)
    factor = rng.uniform(1.1, 1.5) ** _sign(rng)
    after = (np.arange(len(time)) - onset).clip(min=0)
    return law.wave(time + (factor - 1) * after)


def _level(law: Law, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a third to two thirds of the window lies higher or lower."""
    length = int(rng.uniform(0.33, 0.67) * len(time))
    start = rng.integers(len(time) - length + 1)
    wave = law.wave(time)
    wave[start : start + length] += _sign(rng) * rng.uniform(0.6, 1.4)
    return wave


def _shape(law: Law, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same period and size, but another wave with other overtones."""
    overtones, phases = rng.uniform(0.2, 0.5, HARMONICS), rng.uniform(0, 2 * np.pi, HARMONICS)
    reshaped = Law(not law.saw, law.period, law.amplitude, law.level, overtones, phases, law.noise)
    return reshaped.wave(time)


KINDS: dict[str, Callable[[Law, np.ndarray, np.random.Generator], np.ndarray]] = {
    "spike": _spike,
    "drift": _drift,
    "frequency": _frequency,
    "level": _level,
    "shape": _shape,
}
"""Kinds of anomaly; all sizes are in amplitudes of the law's first wave."""


@dataclass(frozen=True)
class GeneratedOptions:
    """Number of tasks, and their anomalies.

    Args:
        tasks: number of tasks in the train, val and test split.
        train_anomalies: kinds in meta-training and validation, out of :data:`KINDS`.
        test_anomalies: kinds in meta-test.

    Raises:
        ValueError: a kind is unknown, or a number is below 1.
    """

    tasks: tuple[int, int, int] = (2000, 50, 200)
    train_anomalies: tuple[str, ...] = ("spike", "drift")
    test_anomalies: tuple[str, ...] = ("frequency", "level")

    def __post_init__(self) -> None:
        if min(self.tasks) < 1:
            raise ValueError(f"data.generated.tasks is {list(self.tasks)}; expected at least 1 in each split")
        require_kinds(self.train_anomalies)
        require_kinds(self.test_anomalies)

    def pools(self, window: int, seed: int) -> dict[str, GeneratedSeries]:
        """The pool of each split."""
        kinds = (self.train_anomalies, self.train_anomalies, self.test_anomalies)
        return {
            split: GeneratedSeries(split, n, window, anomalies, seed)
            for split, n, anomalies in zip(get_args(Split), self.tasks, kinds, strict=True)
        }


def require_kinds(kinds: Sequence[str]) -> None:
    """Refuse unknown kinds of anomaly, and none at all.

    Raises:
        ValueError: one is unknown, or there is none.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of anomaly", kind, KINDS)
    if not kinds:
        raise ValueError(f"expected at least one kind of anomaly, out of {sorted(KINDS)}")


class GeneratedSeries(TaskPool):
    """Tasks each of which is a random periodic law; a sample is a random stretch of its signal.

    Task ``i`` of a split is a pure function of ``(seed, split, i)``; its anomalies are of random kinds out of those
    given, one kind a sample.

    Args:
        split: part of the seed, so that splits never share a law.
        n_tasks: number of tasks.
        window: steps of a sample, at least 8.
        anomalies: kinds, out of :data:`KINDS`.
        seed: random seed of the laws.

    Raises:
        ValueError: a kind is unknown, or a number is out of range.

    Example:
        >>> pool = GeneratedSeries("test", 3, window=32, anomalies=["level"], seed=0)
        >>> pool.draw(0, EpisodeSpec(), np.random.default_rng(0)).query["sequence"].shape
        torch.Size([20, 32, 1])
    """

    def __init__(self, split: Split, n_tasks: int, window: int, anomalies: Sequence[str], seed: int = 0) -> None:
        require_kinds(anomalies)
        if n_tasks < 1 or window < 8:
            raise ValueError(
                f"expected at least 1 task and a window of at least 8 steps, saw {n_tasks} and data.window={window}"
            )
        self.split, self.n_tasks, self.window = split, n_tasks, window
        self.anomalies, self.seed = tuple(anomalies), seed

    def __len__(self) -> int:
        return self.n_tasks

    def task_name(self, task: int) -> str:
        return f"generated/{self.split}-{task:05d}"

    @property
    def members(self) -> frozenset[str]:
        return frozenset(map(self.task_name, range(self.n_tasks)))

    def law(self, task: int) -> Law:
        """The law of the task at this position."""
        address = np.random.SeedSequence([self.seed, SPLITS.index(self.split)], spawn_key=(task,))
        return Law.drawn(np.random.default_rng(address), self.window)

    @property
    def recorded(self) -> frozenset[str]:
        return frozenset()

    def check(self, spec: EpisodeSpec) -> None:
        """Accept any episode: any number of samples can be generated."""

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        spec = spec.drawn(rng)
        stretches = _Stretches(self.law(task), self.window, spec.normal_needed, self.anomalies)
        normals = np.arange(spec.normal_needed)
        anomalies = spec.normal_needed + np.arange(spec.anomalous_needed)
        return assemble(stretches, self.task_name(task), spec, normals, anomalies, rng)


class _Stretches:
    """Stretches of one law's signal, made when they are read; positions from ``normal`` on are anomalous."""

    def __init__(self, law: Law, window: int, normal: int, kinds: Sequence[str]) -> None:
        self._law, self._window, self._normal, self._kinds = law, window, normal, kinds

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        law, steps = self._law, np.arange(self._window)
        starts = rng.uniform(0, law.period, len(ids))
        kinds = rng.integers(len(self._kinds), size=len(ids))
        waves = np.stack(
            [
                law.wave(start + steps) if i < self._normal else KINDS[self._kinds[kind]](law, start + steps, rng)
                for i, start, kind in zip(ids, starts, kinds, strict=True)
            ]
        )
        swing = np.exp(SWING_VARIES * rng.standard_normal((len(ids), 1)))
        level = LEVEL_VARIES * rng.standard_normal((len(ids), 1))
        noisy = swing * waves + level + law.noise * rng.standard_normal(waves.shape)
        values = (law.level + law.amplitude * noisy).astype(np.float32)
        return {"sequence": torch.as_tensor(values)[..., None]}

"""Series and short sequences held in memory, the forms that every reader of sequences returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.table import compact
from metaad_zoo.registry import unknown_name

Fit = Literal["pad", "resample"]


@dataclass
class Series:
    """A long recording of one domain: a machine, a channel, a file.

    Args:
        name: readable, stable name of the domain.
        values: ``(T, C)`` float32, or float64 where that is too coarse; NaN where a value is missing.
        labels: ``(T,)`` of 0 (normal) and 1 (anomalous); None where nothing is known.
        support_until: where the recording's normal, training part ends; None where it has no such part.
        breaks: positions at which the recording continues after a gap; no window reaches across.

    Raises:
        ValueError: shapes disagree, a value is infinite, or a label is neither 0 nor 1.
    """

    name: str
    values: np.ndarray
    labels: np.ndarray | None = None
    support_until: int | None = None
    breaks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim == 1:
            self.values = self.values[:, None]
        if self.values.ndim != 2 or 0 in self.values.shape or self.values.dtype.kind not in "biuf":
            raise ValueError(
                f"{self.name}: expected numbers of shape (T,) or (T, C) with at least one step, saw "
                f"{self.values.dtype} of shape {self.values.shape}"
            )
        self.values = np.ascontiguousarray(compact(self.values))
        if np.isinf(self.values).any():
            step, channel = np.argwhere(np.isinf(self.values))[0]
            raise ValueError(f"{self.name}: step {step}, channel {channel} is infinite: write NaN where it is missing")
        if self.labels is not None:
            self.labels = as_flags(self.name, self.labels, len(self.values))

    @property
    def channels(self) -> int:
        """Number of values of a step."""
        return int(self.values.shape[1])

    @property
    def varies(self) -> bool:
        """Whether any channel takes two values."""
        recorded = self.values[:, ~np.isnan(self.values).all(0)]
        return bool((np.nanmax(recorded, 0) > np.nanmin(recorded, 0)).any()) if recorded.size else False


@dataclass
class SeriesSet:
    """Series that were read together.

    Args:
        name: readable, stable name of the data set.
        series: all series; their names are distinct.
        skipped: what was left out, and why: a sentence each.
    """

    name: str
    series: list[Series]
    skipped: list[str] = field(default_factory=list)


def as_flags(where: str, labels: np.ndarray, length: int) -> np.ndarray:
    """Labels of time points as uint8.

    Raises:
        ValueError: there are not ``length`` of them, or one is neither 0 nor 1.
    """
    if labels.shape != (length,):
        raise ValueError(f"{where}: {length} steps but labels of shape {labels.shape}; expected one label a step")
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise ValueError(
            f"{where}: expected labels 0 (normal) and 1 (anomalous), saw {labels[wrong[0]]} at step {wrong[0]} "
            f"({len(wrong)} such steps): mend them"
        )
    return labels.astype(np.uint8)


@dataclass
class SequenceArrays:
    """Short sequences with a class each: each class serves as normal in turn.

    Args:
        name: readable, stable name of the data set.
        sequences: each ``(T_i, C)`` float32, of one C.
        labels: ``(n,)`` integers into ``class_names``.
        class_names: readable, stable names of the classes.
        increments: channels that hold steps from point to point (a pen's dx and dy), which resampling must add up.
        about: further facts of each sequence by name, ``(n,)`` each: who spoke.

    Raises:
        ValueError: shapes disagree, a sequence is empty, or a label points nowhere.
    """

    name: str
    sequences: Sequence[np.ndarray]
    labels: np.ndarray
    class_names: Sequence[str]
    increments: tuple[int, ...] = ()
    about: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.sequences),) or not len(self.sequences):
            raise ValueError(f"{self.name}: {len(self.sequences)} sequences but labels of shape {self.labels.shape}")
        channels = self.sequences[0].shape[-1]
        for i, x in enumerate(self.sequences):
            if x.ndim != 2 or 0 in x.shape or x.shape[1] != channels:
                raise ValueError(
                    f"{self.name}: expected sequences of shape (T, {channels}), sequence {i} has {x.shape}"
                )
        if not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(
                f"{self.name}: labels run from {self.labels.min()} to {self.labels.max()} but there are "
                f"{len(self.class_names)} class names"
            )

    @property
    def channels(self) -> int:
        """Number of values of a step."""
        return int(self.sequences[0].shape[1])

    def fitted(self, length: int | None = None, fit: Fit = "pad") -> FittedSequences:
        """The same sequences at one length.

        Args:
            length: steps; None takes the longest sequence's.
            fit: ``"pad"``: NaN behind the end of a shorter one, a longer one is cut off; ``"resample"``: linear
                interpolation at ``length`` evenly spaced points, so that the first and the last step stay.

        Raises:
            ValueError: ``fit`` is neither, or the length is too short.
        """
        if fit not in get_args(Fit):
            raise unknown_name("fit of sequences:", fit, get_args(Fit))
        longest = max(len(x) for x in self.sequences)
        length = longest if length is None else length
        if length < 2:
            raise ValueError(f"data.length is {length}; expected at least 2 steps")
        values = np.full((len(self.sequences), length, self.channels), np.nan, np.float32)
        for row, x in zip(values, self.sequences, strict=True):
            if fit == "resample":
                row[:] = _resampled(x, length, self.increments)
            else:
                row[: len(x)] = x[:length]
        return FittedSequences(self.name, torch.as_tensor(values), self.labels, self.class_names)


@dataclass
class FittedSequences:
    """Sequences of one length with a class each; a source of class-as-normal tasks.

    Args:
        name: readable, stable name of the data set.
        values: ``(n, T, C)`` float32; NaN behind a sequence's end.
        labels: ``(n,)`` integers into ``class_names``.
        class_names: readable, stable names of the classes.
    """

    name: str
    values: Tensor
    labels: np.ndarray
    class_names: Sequence[str]

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The sequences at ``ids`` as ``{"sequence": (n, T, C)}``."""
        return {"sequence": self.values[torch.as_tensor(ids, dtype=torch.int64)]}


def _resampled(x: np.ndarray, length: int, increments: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation; increments are added up before and taken apart after, so that the path stays."""
    path = x.astype(np.float64)
    for c in increments:
        path[:, c] = np.cumsum(path[:, c])
    at = np.linspace(0, len(x) - 1, length)
    resampled = np.stack([np.interp(at, np.arange(len(x)), path[:, c]) for c in range(x.shape[1])], 1)
    for c in increments:
        resampled[:, c] = np.diff(resampled[:, c], prepend=0.0)
    return resampled.astype(np.float32)

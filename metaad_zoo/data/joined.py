"""Samples of several modalities, held together or apart, as the multimodal readers return them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.episodes import Reader
from metaad_zoo.registry import unknown_name

Self = TypeVar("Self", bound="Modalities")


@dataclass
class Part:
    """One modality's samples.

    Args:
        reader: gives them under the modality's name; those of which it has none are NaN.
        shape: shape of one sample.
        labels: ``(n,)`` integers, the class of each sample.
    """

    reader: Reader
    shape: tuple[int, ...]
    labels: np.ndarray


class ArrayReader:
    """Samples of one modality out of an array.

    Args:
        modality: its name.
        values: ``(n, ...)`` float32 or float64; NaN where something is missing.
    """

    def __init__(self, modality: str, values: np.ndarray | Tensor) -> None:
        values = torch.as_tensor(values)
        self.modality, self.values = modality, values if values.is_floating_point() else values.float()

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The samples at ``ids``."""
        return {self.modality: self.values[torch.as_tensor(ids, dtype=torch.int64)]}


class GappyReader:
    """A reader some of whose samples do not exist, such as the image of a patient who had none taken.

    Args:
        inner: reads the samples there are.
        places: ``(n,)`` position in ``inner`` of each sample, -1 where there is none: it is read as NaN.
    """

    def __init__(self, inner: Reader, places: np.ndarray) -> None:
        self.inner, self.places = inner, places

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The samples at ``ids``."""
        places = self.places[ids]
        samples = self.inner.read(np.maximum(places, 0), rng)
        gone = torch.as_tensor(places < 0)
        return {m: x.masked_fill(gone.view(-1, *(1,) * (x.ndim - 1)), torch.nan) for m, x in samples.items()}


def image_part(images: ImageArrays) -> Part:
    """Images as a modality."""
    return Part(images, images.image_shape, images.labels)


def array_part(modality: str, values: np.ndarray, labels: np.ndarray) -> Part:
    """An array of sequences or rows as a modality."""
    return Part(ArrayReader(modality, values), tuple(values.shape[1:]), labels)


@dataclass
class Modalities(ABC):
    """Base of both kinds of multimodal sources: the modalities of a sample that are returned.

    Args:
        name: readable, stable name of the data set.
        class_names: readable, stable names of the classes or domains.
        parts: samples by modality.
        given: the modalities that are given out; None gives all. The others are still drawn, so that episodes do not
            depend on it.
        absent: share of samples of which one modality, chosen at random, is hidden (NaN). One that has nothing else is
            left alone.
        skipped: what of the data is left out, and why.
    """

    name: str
    class_names: Sequence[str]
    parts: Mapping[str, Part]
    _: KW_ONLY
    given: Sequence[str] | None = None
    absent: float = 0.0
    skipped: list[str] = field(default_factory=list)

    def giving(self: Self, given: Sequence[str] | None, absent: float = 0.0) -> Self:
        """The same samples, of which other modalities are given out, or some are hidden.

        Raises:
            ValueError: a modality is unknown or named twice, none is named, or the share is out of range.
        """
        for modality in given or ():
            if modality not in self.parts:
                raise unknown_name(f"modality of {self.name}:", modality, self.parts)
        if given is not None and (not given or len(set(given)) != len(given)):
            raise ValueError(f"data.modalities is {list(given)}; expected distinct ones out of {sorted(self.parts)}")
        if not 0 <= absent < 1:
            raise ValueError(f"data.absent is {absent}; expected a share of samples, from 0 to below 1")
        return replace(self, given=given, absent=absent)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample by modality that is given out."""
        return {m: part.shape for m, part in self.parts.items() if self.given is None or m in self.given}

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The samples at ``ids`` by modality."""
        samples: dict[str, Tensor] = {}
        for part, positions in zip(self.parts.values(), self.positions(ids), strict=True):
            samples.update(part.reader.read(positions, rng))
        # Drawn over all modalities, even those that are left out, so that the same samples are hidden.
        hidden = rng.integers(len(self.parts), size=len(ids))
        hidden[rng.random(len(ids)) >= self.absent] = -1
        visible = {m: samples[m] for m in self.shapes}
        present = torch.stack([~x.flatten(1).isnan().all(1) for x in visible.values()])
        for i, modality in enumerate(self.parts):
            if modality in visible:
                gone = torch.as_tensor(hidden == i) & (present.sum(0) > 1)
                x = visible[modality]
                visible[modality] = x.masked_fill(gone.view(-1, *(1,) * (x.ndim - 1)), torch.nan)
        return visible

    def all_samples(self) -> dict[str, Tensor]:
        """All samples by modality, in order, nothing hidden."""
        n = len(next(iter(self.parts.values())).labels)
        return self.read(np.arange(n), np.random.default_rng(0))

    @abstractmethod
    def positions(self, ids: np.ndarray) -> Sequence[np.ndarray]:
        """By modality, in the order of ``parts``, where the samples at ``ids`` are."""

    @abstractmethod
    def separate(self) -> SeparateModalities:
        """The same modalities as sets of their own."""


@dataclass
class JoinedModalities(Modalities):
    """Samples whose modalities belong together row by row: a leaf's silhouette and its measures.

    Args:
        anomalous: ``(n,)`` booleans where the data itself says which samples are anomalous, and ``labels`` tell the
            domain; None where each class serves as normal in turn.

    Raises:
        ValueError: the modalities' labels differ.
    """

    anomalous: np.ndarray | None = None

    def __post_init__(self) -> None:
        if any(not np.array_equal(part.labels, self.labels) for part in self.parts.values()):
            raise ValueError(f"{self.name}: rows of different classes can't be joined; give SeparateModalities")

    @property
    def labels(self) -> np.ndarray:
        """Class or domain of each sample."""
        return next(iter(self.parts.values())).labels

    def positions(self, ids: np.ndarray) -> Sequence[np.ndarray]:
        return [ids] * len(self.parts)

    def separate(self) -> SeparateModalities:
        return SeparateModalities(
            self.name, self.class_names, self.parts, given=self.given, absent=self.absent, skipped=self.skipped
        )


@dataclass
class SeparateModalities(Modalities):
    """Modalities that are sets of their own over the same classes: images of digits, and sounds of digits.

    A sample is any combination of one sample of each, and its position tells which
    (:func:`numpy.ravel_multi_index`).
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each modality."""
        return tuple(len(part.labels) for part in self.parts.values())

    def combine(self, positions: Sequence[np.ndarray]) -> np.ndarray:
        """Positions of the samples that are made of these of each modality, in the order of ``parts``."""
        return np.ravel_multi_index(tuple(positions), self.sizes)

    def positions(self, ids: np.ndarray) -> Sequence[np.ndarray]:
        return np.unravel_index(ids, self.sizes)

    def separate(self) -> SeparateModalities:
        return self

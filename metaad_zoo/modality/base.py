"""Modalities by name: all that is particular to one, as an object that every other room asks.

Nothing heavy is imported at the top of this room's files: names and titles are there without torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from metaad_zoo.registry import Registry, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import SubFigure
    from torch import Tensor

    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.data.read.rows import SampleSource
    from metaad_zoo.episodes import EpisodeSpec, Samples, Scaling, SupportScaling
    from metaad_zoo.modality.drawing import Thumbnails

Standardise = Literal["none", "sample", "support"]
Shapes = Mapping[str, Sequence[int]]
"""Shape of one sample by modality; -1 for an axis of any length."""
FormClass = TypeVar("FormClass", bound="type[SampleForm]")

SCORING_CHUNK = 256
"""Samples that a model scores at once. Chunks of a stream are multiples of it: scores are then those of the whole."""
SMALL_SAMPLES = 2**16
"""Number of values of small samples that a model scores at once, see :func:`scoring_chunk`."""


def scoring_chunk(samples: Samples) -> int:
    """Number of samples to score at once: :data:`SCORING_CHUNK`, or twice or four times as many small samples, for
    which a model takes as long as for fewer.

    Example:
        >>> import torch
        >>> scoring_chunk({"tabular": torch.zeros(9, 10)}), scoring_chunk({"image": torch.zeros(9, 3, 32, 32)})
        (1024, 256)
    """
    values = sum(math.prod(x.shape[1:]) for x in samples.values())
    return max(
        size * SCORING_CHUNK for size in (1, 2, 4) if size == 1 or size * SCORING_CHUNK * values <= SMALL_SAMPLES
    )


class SampleForm(ABC):
    """Form of samples: one modality, or several at once.

    Attributes:
        name: what users type.
        title: plural of a sample, for sentences.
        chunk: number of samples in a stream's chunk, a multiple of :data:`SCORING_CHUNK`.
        neighbours: how each nearest-neighbour baseline of a training's test standardises samples, by its name.
        has_label_column: whether files hold a label for each sample.
        read_as: the modality whose backbones and baselines read these samples; None: its own.
    """

    name: str
    title: str
    chunk: int = 4 * SCORING_CHUNK
    neighbours: ClassVar[Mapping[str, Standardise]] = {
        "1-NN on raw inputs": "none",
        "1-NN on standardised inputs": "support",
    }
    has_label_column: bool = False
    read_as: str | None = None

    @property
    def reader(self) -> str:
        """Name of the modality whose backbones and baselines read these samples."""
        return self.read_as or self.name

    @abstractmethod
    def data_module(self) -> type[EpisodeDataModule]:
        """The DataModule whose ``dataset="own"`` reads files at ``root``: for one folder a class, see
        :class:`metaad_zoo.modality.ClassEpisodes`."""

    @abstractmethod
    def recognises(self, path: Path, columns: Sequence[str] | None) -> bool:
        """Whether the files at a path are taken for this form where nobody says what they are.

        Args:
            path: file or folder.
            columns: names of the columns, where it is a table.
        """

    @abstractmethod
    def source_class(self) -> type[SampleSource]:
        """The reader of a user's own files and DataFrames."""

    def source(self, *args: Any, **options: Any) -> SampleSource:
        """Samples of a user's own; arguments as for :class:`metaad_zoo.data.read.rows.SampleSource`."""
        return self.source_class()(*args, **options)

    @abstractmethod
    def usual_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes in which files are read where no model asks for others."""

    def own_options(self, shapes: Shapes) -> dict[str, Any]:
        """Options of the DataModule that make it read a user's own files in these shapes."""
        return {}

    def own_episodes(self, path: Path, shapes: Shapes, episode: EpisodeSpec, seed: int) -> EpisodeDataModule:
        """Test episodes out of all classes or domains at a path."""
        options = {"dataset": "own", "root": str(path), "splits": {"test": ["*"]}, **self.own_options(shapes)}
        return self.data_module()(**options, episode=episode, seed=seed)


class Modality(SampleForm):
    """One modality: a sample is one tensor.

    A new one is a subclass with :func:`register_modality`. Where its samples look like those of a known modality, as
    spectrograms look like images, it derives from that one's class, and overrides what differs.

    Attributes:
        axes: names of the axes of a sample.
        shape: shape of a sample where nothing else is asked for; -1 for an axis of any length.
        scaling: how values are brought to common units by the support set where nothing else is asked for.
        encoder: the backbone in a fusion where none is named; None: the usual one for so many axes.
        missing: whether a sample may lack values (NaN); if not, it is there as a whole or not at all.
        value_range: bounds of the values, into which whole numbers are scaled; None: there are none.
        entry: what an entry of the last axis is called, if entries have names of their own; None: they have none.
        windows: whether a sample is a window cut from something longer, in the order of time.
        reads_arrays: whether the source of files reads arrays too.
        preparation: how to bring raw data to samples outside this package, for those who get an exported model.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    scaling: Scaling = "none"
    encoder: str | None = None
    missing: bool = True
    value_range: tuple[float, float] | None = None
    entry: str | None = None
    windows: bool = False
    reads_arrays: bool = False
    preparation: str | None = None

    def usual_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {self.name: self.shape}

    def of_array(self, data: Any, shape: Sequence[int]) -> Tensor:
        """Samples ``(n, ...)`` out of an array or a tensor; by default as they are, float32.

        Raises:
            ValueError: it holds no numbers, or can't be brought to ``shape``.
        """
        import torch

        from metaad_zoo.data.read.rows import numbers_of

        return self.fit(torch.as_tensor(numbers_of(data)).float(), shape)

    def own_options(self, shapes: Shapes) -> dict[str, Any]:
        return {"modality": self.name, **self.data_options(shapes[self.name])}

    def data_options(self, shape: Sequence[int], own: bool = True) -> dict[str, Any]:
        """Options of a DataModule that make it give samples of this shape; by default those of :class:`ClassEpisodes`.

        Args:
            shape: shape of one sample.
            own: whether it reads a user's own files.
        """
        return {"sample_shape": list(shape)}

    def fit(self, samples: Tensor, shape: Sequence[int]) -> Tensor:
        """Samples ``(n, ...)`` brought to another shape of one sample.

        Raises:
            ValueError: they can't be.
        """
        sample_shape = tuple(samples.shape[1:])
        if len(sample_shape) == len(shape) and all(b in (a, -1) for a, b in zip(sample_shape, shape, strict=True)):
            return samples
        raise ValueError(f"samples of {self.name} have shape {sample_shape}, expected {tuple(shape)}")

    def synthetic(self) -> list[str]:
        """Names of the synthetic anomalies that can be made of these samples."""
        from metaad_zoo.data.synthetic import list_synthetic

        return list_synthetic(modality=self.reader)

    def feature_scaling(self, support: Tensor) -> SupportScaling:
        """Units of a support ``(n, ...)`` for methods that take a sample as a vector of numbers."""
        from metaad_zoo.episodes import SupportScaling

        return SupportScaling.fit(support, self.scaling)

    def statistics(self, samples: Tensor) -> Tensor | None:
        """Numbers ``(n, d)`` between 0 and 1 that describe any samples ``(n, ...)``, to compare domains
        (:mod:`metaad_zoo.evaluation.novelty`); None: this modality has none.
        """
        return None

    @abstractmethod
    def usual(self, support: Tensor) -> Tensor:
        """The sample to which others are compared, which broadcasts over them; NaN where the support has nothing.

        Args:
            support: ``(n, ...)``, the samples that count as normal.
        """

    @abstractmethod
    def patches(self, shape: Sequence[int]) -> Tensor:
        """Numbers from 0, in the shape of one sample: cells of one number are replaced together by an occlusion."""

    @abstractmethod
    def thumbnails(self, support: np.ndarray, query: np.ndarray) -> Thumbnails | None:
        """How samples of one episode, in the support's units, are drawn small; None: as the rows of one table."""

    @abstractmethod
    def explanation_height(self, sample: np.ndarray) -> float:
        """Height in inches of what :meth:`draw_explanation` draws."""

    @abstractmethod
    def draw_explanation(
        self, figure: SubFigure, sample: np.ndarray, attribution: np.ndarray, names: Sequence[str]
    ) -> None:
        """Draw a sample and its attributions: red raised the score, blue lowered it.

        Args:
            figure: figure to draw in.
            sample: sample in raw units.
            attribution: attributions in the sample's shape.
            names: names of the entries of its last axis; ignored where entries have no names.
        """

    def names(self, given: Sequence[str] | None, number: int) -> list[str]:
        """Names of the entries of a sample's last axis: as given, or numbered.

        Raises:
            ValueError: there are not as many names as entries.
        """
        names = [f"{self.entry} {i}" for i in range(number)] if given is None else list(given)
        if len(names) != number:
            raise ValueError(
                f"expected {number} names, one a {self.entry} of {self.name!r}, saw {len(names)}: {names[:5]}"
            )
        return names


_FORMS: Registry[SampleForm] = Registry("modality")


def register_modality(form: FormClass) -> FormClass:
    """Class decorator: make a modality known by its ``name``.

    Raises:
        ValueError: the name is taken.
    """
    _FORMS.add(form.name, form())
    return form


def get_form(name: str) -> SampleForm:
    """Form of samples, by the name of a modality or of a combination.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    return _FORMS[name]


def get_modality(name: str) -> Modality:
    """A modality by its name.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named), or stands for several modalities.
    """
    form = _FORMS[name]
    if not isinstance(form, Modality):
        raise unknown_name("modality of one tensor:", name, list_modalities())
    return form


def list_modalities(several: bool = False) -> list[str]:
    """Names of the modalities, sorted.

    Args:
        several: also the name that stands for samples of several modalities.

    Example:
        >>> {"image", "sequence", "tabular"} <= set(list_modalities())
        True
    """
    return [name for name in _FORMS.names() if several or isinstance(_FORMS[name], Modality)]


def read_as(names: Sequence[str], reader: str) -> list[str]:
    """Those of some modalities that backbones and baselines of ``reader`` read; the one of this name alone, if it is
    among them.

    Example:
        >>> read_as(["tabular", "image"], "image")
        ['image']
    """
    return [reader] if reader in names else [n for n in names if get_modality(n).reader == reader]

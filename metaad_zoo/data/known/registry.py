"""Registry of known data sets: functions that read one, by the name that ``data.dataset`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from metaad_zoo.registry import Registry

Reader = TypeVar("Reader", bound=Callable[..., Any])

DATASETS: Registry[Callable[..., Any]] = Registry("dataset")


def register_dataset(name: str, *, modality: str) -> Callable[[Reader], Reader]:
    """Decorator: make a data set known by its name.

    The function takes the folder or file to read from (None for ``METAAD_DATA``). It returns
    :class:`~metaad_zoo.data.image_arrays.ImageArrays` of images or, for files of several sizes,
    :class:`~metaad_zoo.data.known.inspection.InspectionImages`, a :class:`~metaad_zoo.data.series.SeriesSet` or
    :class:`~metaad_zoo.data.series.SequenceArrays`, a list of :class:`~metaad_zoo.data.tables.Table`; of several
    modalities, given also the images' size and the sequences' steps or None,
    :class:`~metaad_zoo.data.joined.Modalities`.

    Args:
        name: what users type.
        modality: modality of its samples.

    Raises:
        ValueError: the name is taken.
    """
    return DATASETS.decorator(name, (modality,))

"""All known data sets: their names, and how one is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaad_zoo.data.known import (  # noqa: F401 - they register their data sets
    image_bank,
    images,
    inspection,
    multimodal,
    series,
    tables,
)
from metaad_zoo.data.known.registry import DATASETS
from metaad_zoo.registry import unknown_name


def list_datasets(pattern: str = "*", modality: str | None = None) -> list[str]:
    """Names of the known data sets, for ``data.dataset``.

    Args:
        pattern: fnmatch pattern.
        modality: list only data sets of this modality; None lists all.

    Raises:
        ValueError: there are no data sets of this modality.

    Example:
        >>> list_datasets("*wine*")
        ['sklearn/wine']
        >>> list_datasets("*digits*", modality="image")
        ['digits']
    """
    modalities = {m for name in DATASETS.names() for m in DATASETS.modalities(name) or ()}
    if modality is not None and modality not in modalities:
        raise unknown_name("modality of data sets:", modality, modalities)
    return sorted(DATASETS.names(pattern, modality=modality))


def read_dataset(
    name: str,
    modality: str,
    root: str | Path | list[str] | None = None,
    *options: Any,
    others: Sequence[str] = ("own",),
) -> Any:
    """Read a known data set.

    Args:
        name: one of ``list_datasets(modality=modality)``.
        modality: modality of the samples.
        root: folder or file to read from; by default ``METAAD_DATA``.
        options: image size in pixels and sequence length in steps, for data sets of several modalities.
        others: further names that the caller takes, for the error.

    Returns:
        See :func:`metaad_zoo.data.known.registry.register_dataset`.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named), ``root`` names
            several paths, or the files are missing or damaged.

    Example:
        >>> [(t.name, t.values.shape) for t in read_dataset("sklearn/iris", "tabular")]
        [('iris', (150, 4))]
    """
    if isinstance(root, list):
        raise ValueError(f"data.root names {len(root)} paths; the known data set {name!r} takes one")
    names = DATASETS.names(modality=modality)
    if name not in names:
        raise unknown_name(f"{modality} dataset", name, [*names, *others])
    return DATASETS[name](root, *options)

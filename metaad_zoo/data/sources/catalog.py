"""The names of all known data sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from metaad_zoo.data.sources.known import IMAGE_READERS
from metaad_zoo.data.sources.known_multimodal import MULTIMODAL_READERS
from metaad_zoo.data.sources.known_series import SERIES_READERS
from metaad_zoo.data.sources.known_tables import TABLE_READERS
from metaad_zoo.registry import unknown_name

_DATASETS: Mapping[str, Collection[str]] = {
    "image": IMAGE_READERS,
    "multimodal": MULTIMODAL_READERS,
    "sequence": SERIES_READERS,
    "tabular": TABLE_READERS,
}


def list_datasets(pattern: str = "*", modality: str | None = None) -> list[str]:
    """Names of the known data sets, for ``data.dataset``.

    Args:
        pattern: of fnmatch.
        modality: of their samples; None lists all.

    Raises:
        ValueError: there are no data sets of this modality.

    Example:
        >>> list_datasets("*wine*")
        ['sklearn/wine']
        >>> list_datasets("*digits*", modality="image")
        ['digits']
    """
    if modality is not None and modality not in _DATASETS:
        raise unknown_name("modality of data sets:", modality, _DATASETS)
    kinds = _DATASETS if modality is None else [modality]
    return sorted(n for kind in kinds for n in _DATASETS[kind] if fnmatchcase(n, pattern))

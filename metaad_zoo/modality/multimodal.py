"""Samples of several modalities at once, read from a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.modality.base import SCORING_CHUNK, SampleForm, Shapes, get_form, get_modality, register_modality

if TYPE_CHECKING:
    from metaad_zoo.data import EpisodeDataModule


@register_modality
class Multimodal(SampleForm):
    """Several modalities, of which a sample may lack some."""

    name = "multimodal"
    title = "samples of several kinds"
    chunk = SCORING_CHUNK
    has_label_column = True

    def data_module(self) -> type[EpisodeDataModule]:
        from metaad_zoo.data import MultimodalEpisodes

        return MultimodalEpisodes

    def recognises(self, path: Path) -> bool:
        from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, read_columns
        from metaad_zoo.data.sources.manifest import FILE_COLUMNS

        if not path.is_file() or path.suffix.lower() not in COLUMN_SUFFIXES:
            return False
        return bool(set(FILE_COLUMNS) & set(read_columns(path).text))

    def usual_shapes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        from metaad_zoo.data.sources.manifest import read_manifest

        channels, size, _ = get_modality("image").shape
        return read_manifest(path, size, None, channels).shapes


def form_of(shapes: Shapes) -> SampleForm:
    """What samples of these shapes are made of.

    Example:
        >>> form_of({"image": [1, 28, 28], "tabular": [5]}).title
        'samples of several kinds'
    """
    return get_form(next(iter(shapes)) if len(shapes) == 1 else Multimodal.name)

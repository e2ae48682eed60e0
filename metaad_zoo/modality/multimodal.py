"""Samples of several modalities at once, read from a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.modality.base import SCORING_CHUNK, SampleForm, Shapes, get_form, register_modality

if TYPE_CHECKING:
    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.data.read.rows import SampleSource


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

    def recognises(self, path: Path, columns: Sequence[str] | None) -> bool:
        from metaad_zoo.data.read.manifest import FILE_COLUMNS

        return columns is not None and bool(set(FILE_COLUMNS) & set(columns))

    def source_class(self) -> type[SampleSource]:
        from metaad_zoo.data.read.manifest import ManifestSource

        return ManifestSource

    def usual_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}  # those of the files that a manifest names


def form_of(shapes: Shapes) -> SampleForm:
    """Form of samples with these shapes.

    Example:
        >>> form_of({"image": [1, 28, 28], "tabular": [5]}).title
        'samples of several kinds'
    """
    return get_form(next(iter(shapes)) if len(shapes) == 1 else Multimodal.name)

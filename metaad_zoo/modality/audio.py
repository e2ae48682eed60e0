"""The modality ``audio``: recordings as log-mel images ``(1, bands, columns)``, which any image backbone reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.modality.base import register_modality
from metaad_zoo.modality.image import ImageModality, PictureModality

if TYPE_CHECKING:
    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.data.read.rows import SampleSource


@register_modality
class AudioModality(PictureModality):
    """Recordings: a folder of WAV files, or one folder of them a class; drawn and explained as images."""

    name = "audio"
    title = "recordings"
    axes = ("channel", "mel bands", "columns of time")
    shape = (1, 64, 64)
    read_as = ImageModality.name
    preparation = "it reads log-mel images between 0 and 1 (metaad_zoo.data.read.audio.mel_picture)"

    def data_module(self) -> type[EpisodeDataModule]:
        from metaad_zoo.modality.class_episodes import ClassEpisodes

        return ClassEpisodes

    def source_class(self) -> type[SampleSource]:
        from metaad_zoo.data.read.audio import AudioSource

        return AudioSource

    def recognises(self, path: Path, columns: Sequence[str] | None) -> bool:
        from metaad_zoo.data.read.account import Account
        from metaad_zoo.data.read.audio import ENDINGS
        from metaad_zoo.data.read.listing import list_files

        if path.is_dir():
            return any(list_files(path, ENDINGS, Account()).values())
        return path.suffix.lower() in ENDINGS

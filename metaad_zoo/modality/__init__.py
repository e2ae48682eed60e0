"""Modalities: one file and one registered object each. Every other room asks the object; none switches on a name."""

from typing import TYPE_CHECKING

from metaad_zoo.lazy import lazy_names
from metaad_zoo.modality.audio import AudioModality
from metaad_zoo.modality.base import (
    SCORING_CHUNK,
    Modality,
    SampleForm,
    get_form,
    get_modality,
    list_modalities,
    read_as,
    register_modality,
    scoring_chunk,
)
from metaad_zoo.modality.image import ImageModality
from metaad_zoo.modality.multimodal import Multimodal, form_of
from metaad_zoo.modality.sequence import SequenceModality
from metaad_zoo.modality.tabular import TabularModality

if TYPE_CHECKING:
    from metaad_zoo.modality.class_episodes import ClassEpisodes
    from metaad_zoo.modality.single_domain import SingleDomainEpisodes

__all__ = [
    "SCORING_CHUNK",
    "AudioModality",
    "ClassEpisodes",
    "ImageModality",
    "Modality",
    "Multimodal",
    "SampleForm",
    "SequenceModality",
    "SingleDomainEpisodes",
    "TabularModality",
    "form_of",
    "get_form",
    "get_modality",
    "list_modalities",
    "read_as",
    "register_modality",
    "scoring_chunk",
]

__getattr__, _ = lazy_names(  # Lightning takes seconds to import
    __name__,
    {
        "ClassEpisodes": "metaad_zoo.modality.class_episodes",
        "SingleDomainEpisodes": "metaad_zoo.modality.single_domain",
    },
)

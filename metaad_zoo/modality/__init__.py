"""Modalities: one file and one registered object each. Every other room asks the object; none switches on a name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
]


def __getattr__(name: str) -> Any:
    modules = {"ClassEpisodes": "class_episodes", "SingleDomainEpisodes": "single_domain"}
    if name in modules:  # Lightning takes seconds to import
        return getattr(import_module(f"metaad_zoo.modality.{modules[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

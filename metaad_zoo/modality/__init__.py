"""Modalities: one file and one registered object each. Every other room asks the object; none switches on a name."""

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

__all__ = [
    "SCORING_CHUNK",
    "ImageModality",
    "Modality",
    "Multimodal",
    "SampleForm",
    "SequenceModality",
    "TabularModality",
    "form_of",
    "get_form",
    "get_modality",
    "list_modalities",
    "read_as",
    "register_modality",
]

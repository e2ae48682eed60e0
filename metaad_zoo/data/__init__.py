"""DataModules over episodes, one a modality, and the readers they use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

from metaad_zoo.lazy import lazy_names

if TYPE_CHECKING:
    from metaad_zoo.data.camera import CarelessCamera, RandomCamera
    from metaad_zoo.data.generated_tables import TablePrior
    from metaad_zoo.data.known.catalog import list_datasets
    from metaad_zoo.data.modules.base import EpisodeDataModule
    from metaad_zoo.data.modules.image import ImageEpisodes
    from metaad_zoo.data.modules.multimodal import MultimodalEpisodes
    from metaad_zoo.data.modules.sequence import SequenceEpisodes
    from metaad_zoo.data.modules.tabular import TabularEpisodes

__all__ = [
    "CarelessCamera",
    "EpisodeDataModule",
    "ImageEpisodes",
    "MultimodalEpisodes",
    "RandomCamera",
    "SequenceEpisodes",
    "TablePrior",
    "TabularEpisodes",
    "list_datasets",
]

_MODULES = {
    "CarelessCamera": "metaad_zoo.data.camera",
    "EpisodeDataModule": "metaad_zoo.data.modules.base",
    "ImageEpisodes": "metaad_zoo.data.modules.image",
    "MultimodalEpisodes": "metaad_zoo.data.modules.multimodal",
    "RandomCamera": "metaad_zoo.data.camera",
    "SequenceEpisodes": "metaad_zoo.data.modules.sequence",
    "TablePrior": "metaad_zoo.data.generated_tables",
    "TabularEpisodes": "metaad_zoo.data.modules.tabular",
    "list_datasets": "metaad_zoo.data.known.catalog",
}
_lazy, __dir__ = lazy_names(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    if name == "SingleDomainEpisodes":
        warn(f"metaad_zoo.data.{name} is metaad_zoo.modality.{name} now", DeprecationWarning, stacklevel=2)
        return getattr(import_module("metaad_zoo.modality"), name)
    return _lazy(name)

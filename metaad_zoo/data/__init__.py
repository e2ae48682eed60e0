"""DataModules over episodes, one a modality, and the readers they use."""

from metaad_zoo.data.base import EpisodeDataModule
from metaad_zoo.data.camera import CarelessCamera
from metaad_zoo.data.generated_tables import TablePrior
from metaad_zoo.data.image import ImageEpisodes
from metaad_zoo.data.multimodal import MultimodalEpisodes
from metaad_zoo.data.sequence import SequenceEpisodes
from metaad_zoo.data.single_domain import SingleDomainEpisodes
from metaad_zoo.data.sources import list_datasets
from metaad_zoo.data.tabular import TabularEpisodes

__all__ = [
    "CarelessCamera",
    "EpisodeDataModule",
    "ImageEpisodes",
    "MultimodalEpisodes",
    "SequenceEpisodes",
    "SingleDomainEpisodes",
    "TablePrior",
    "TabularEpisodes",
    "list_datasets",
]

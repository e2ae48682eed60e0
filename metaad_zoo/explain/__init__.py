"""Explanations of scores: figures of attributions, heat maps over photographs, and the folder of `metaad explain`."""

from metaad_zoo.explain.figures import explanation_figure
from metaad_zoo.explain.folder import Choice, Explained, write_explanations
from metaad_zoo.explain.maps import heat_maps
from metaad_zoo.explain.overlay import Region, find_regions, overlay, region_level

__all__ = [
    "Choice",
    "Explained",
    "Region",
    "explanation_figure",
    "find_regions",
    "heat_maps",
    "overlay",
    "region_level",
    "write_explanations",
]

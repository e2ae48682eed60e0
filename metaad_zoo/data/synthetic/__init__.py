"""Synthetic anomalies, made of normal samples: an optional, named source of anomalies for meta-training only.

They are never used in evaluation, whose anomalies are those of the data. Importing this package registers all kinds.
"""

from metaad_zoo.data.synthetic import defects, image, series, table
from metaad_zoo.data.synthetic.defects import draw_defect, list_defects, register_defect, require_defects
from metaad_zoo.data.synthetic.registry import create_synthetic, list_synthetic, register_synthetic

__all__ = [
    "create_synthetic",
    "defects",
    "draw_defect",
    "image",
    "list_defects",
    "list_synthetic",
    "register_defect",
    "register_synthetic",
    "require_defects",
    "series",
    "table",
]

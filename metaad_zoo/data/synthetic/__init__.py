"""Synthetic anomalies, made of normal samples: an optional, named source of anomalies for meta-training only.

They are never used in evaluation, whose anomalies are those of the data. Importing this package registers all kinds.
"""

from metaad_zoo.data.synthetic import image, series, table
from metaad_zoo.data.synthetic.registry import create_synthetic, list_synthetic, register_synthetic

__all__ = ["create_synthetic", "image", "list_synthetic", "register_synthetic", "series", "table"]

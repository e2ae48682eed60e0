"""Base of learners that read embeddings as table rows of any width."""

from __future__ import annotations

from typing import Any

from metaad_zoo.backbones.tabular import RowBackbone
from metaad_zoo.episodes import Scaling
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.modality import read_as


class TableRowLearner(EmbeddingLearner):
    """Base of learners that read an embedding as a table row, which may have NaN.

    Args:
        backbone: name of the backbone; with ``raw_columns`` the embedding is the sample itself, of any width.
        scaling: scaling by modality; None: ``standard`` for table rows of ``raw_columns``, against effects of units.
        kwargs: further arguments of :class:`EmbeddingLearner`.
    """

    reads_missing = True

    def __init__(
        self, *, backbone: str = "raw_columns", scaling: dict[str, Scaling] | None = None, **kwargs: Any
    ) -> None:
        if scaling is None and backbone == "raw_columns":
            scaling = dict.fromkeys(read_as(list(kwargs.get("input_shapes") or {}), RowBackbone.modality), "standard")
        super().__init__(backbone=backbone, scaling=scaling, **kwargs)

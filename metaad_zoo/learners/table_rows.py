"""Learners that read embeddings as rows of a table, whatever its width."""

from __future__ import annotations

from typing import Any

from metaad_zoo.backbones.tabular import RowBackbone
from metaad_zoo.episodes import Scaling
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.modality import read_as


class TableRowLearner(EmbeddingLearner):
    """An embedding is read as a table row; with the backbone ``raw_columns`` it is one, of any width, NaN for what is
    missing.

    Args:
        backbone: as for :class:`EmbeddingLearner`.
        scaling: likewise; None standardises table rows of ``raw_columns``, so that no column's unit counts.
        kwargs: likewise.
    """

    reads_missing = True

    def __init__(
        self, *, backbone: str = "raw_columns", scaling: dict[str, Scaling] | None = None, **kwargs: Any
    ) -> None:
        if scaling is None and backbone == "raw_columns":
            scaling = dict.fromkeys(read_as(list(kwargs.get("input_shapes") or {}), RowBackbone.modality), "standard")
        super().__init__(backbone=backbone, scaling=scaling, **kwargs)

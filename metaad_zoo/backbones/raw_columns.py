"""A table row as its own embedding: for learners that read a table's columns themselves."""

from __future__ import annotations

from torch import Tensor

from metaad_zoo.backbones.missing import ANY
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.tabular import RowBackbone, check_rows, require_width


@register_backbone("raw_columns", modality="tabular")
class RawColumns(RowBackbone):
    """Hands each row on as it is, missing values (NaN) included; it has no weights.

    ``embedding_dim`` is the table's number of columns, or -1 where tables differ: learners with a layer of a fixed
    width on top refuse that, those that read tables of any width (``in_context``, ``cnp``) do not.

    Args:
        in_features: number of columns, or -1 for any.

    Shape:
        ``(n, D)`` to ``(n, D)``.

    Example:
        >>> import torch
        >>> RawColumns(3)(torch.tensor([[1.0, 2.0, torch.nan]]))
        tensor([[1., 2., nan]])
    """

    def __init__(self, in_features: int = ANY) -> None:
        super().__init__()
        if in_features != ANY:
            require_width("raw_columns", in_features)
        self.embedding_dim = in_features

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.embedding_dim)
        return x

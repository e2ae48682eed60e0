"""Identity backbone for table rows, for learners that read columns directly."""

from __future__ import annotations

from torch import Tensor

from metaad_zoo.backbones.missing import ANY
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.tabular import RowBackbone, check_rows, require_width


@register_backbone("raw_columns", modality="tabular")
class RawColumns(RowBackbone):
    """Returns each row unchanged, with missing values (NaN); it has no weights.

    ``embedding_dim`` is the number of columns, or -1 if tables differ in width. Only learners that read tables of any
    width (``in_context``, ``cnp``) accept -1.

    Args:
        in_features: number of columns; -1: any number.

    Shape:
        ``(n, D)`` to ``(n, D)``.

    Example:
        >>> import torch
        >>> RawColumns(3)(torch.tensor([[1.0, 2.0, torch.nan]]))
        tensor([[1., 2., nan]])
    """

    gives_missing = True

    def __init__(self, in_features: int = ANY) -> None:
        super().__init__()
        if in_features != ANY:
            require_width("raw_columns", in_features)
        self.embedding_dim = in_features

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.embedding_dim)
        return x

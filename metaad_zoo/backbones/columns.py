"""Set network over table columns: the same weights for tables of any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaad_zoo.backbones.missing import ANY, pool_present, split_missing
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.tabular import RowBackbone, check_rows, require_width

SCALES = (0.5, 2.0, 8.0)
"""Scales, in spreads, at which the distance from the centre saturates; scaled values lie in [-10, 10]."""


def value_features(x: Tensor) -> Tensor:
    """Bounded features of a scaled value, for each of :data:`SCALES`: signed and absolute distance from the centre.

    The features lie in [-1, 1], so that far outliers do not cause larger inner steps.

    Shape:
        ``(...)`` to ``(..., 2 * len(SCALES))``.
    """
    side = torch.stack([torch.tanh(x / scale) for scale in SCALES], -1)
    return torch.cat([side, side.abs()], -1)


class ColumnBlock(nn.Module):
    """Residual block that combines each column's token with the mean and maximum of its row's tokens (pre-norm).

    Equivariant to the order of the columns, and linear in their number.

    Source: Zaheer et al., "Deep Sets", NeurIPS 2017, section 3.2; the residual form is that of a transformer block.

    Shape:
        ``(n, D, width)`` and ``(n, D)`` booleans to ``(n, D, width)``.
    """

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, expansion * width)
        self.others = nn.Linear(2 * width, expansion * width, bias=False)
        self.out = nn.Sequential(nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        normed = self.norm(tokens)
        context = self.others(pool_present(normed, present))
        y: Tensor = tokens + self.out(self.own(normed) + context.unsqueeze(1))
        return y


@register_backbone("columns", modality="tabular")
class Columns(RowBackbone):
    """Set network over the columns of a row: the same weights for tables of any width and any meaning of columns.

    One network embeds the value of each column; blocks exchange information between the columns of a row; the embedding
    is the mean and maximum over columns. It depends neither on the order of columns nor on absent columns (NaN).
    Columns differ only by their values, scaled by the support set: two rows with the same values in different columns
    have the same embedding.

    Source: Zaheer et al., "Deep Sets", NeurIPS 2017; the embedding of a number before any layer mixes columns follows
    Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022.

    Args:
        in_features: -1 or the number of columns, which has no effect.
        width: length of a column's token.
        layers: number of blocks.
        expansion: number of hidden units of a block, as a multiple of ``width``.

    Shape:
        ``(n, D)`` for any D to ``(n, 2 * width)``.

    Raises:
        ValueError: ``in_features`` is out of range, or a batch has another shape.

    Example:
        >>> backbone = Columns(width=8)
        >>> backbone(torch.zeros(2, 3)).shape, backbone(torch.zeros(2, 1500)).shape
        (torch.Size([2, 16]), torch.Size([2, 16]))
    """

    def __init__(self, in_features: int = ANY, width: int = 64, layers: int = 2, expansion: int = 2) -> None:
        super().__init__()
        if in_features != ANY:
            require_width("columns", in_features)
        self.into = nn.Sequential(nn.Linear(2 * len(SCALES), width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(ColumnBlock(width, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.embedding_dim = 2 * width

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the columns ``(n, D, width)``, and the mask of present columns ``(n, D)``.

        A permutation of the columns permutes the tokens. Tokens of absent columns have no meaning.
        """
        check_rows(x, ANY)
        values, present = split_missing(x)
        tokens = self.into(value_features(values))
        for block in self.blocks:
            tokens = block(tokens, present)
        return self.norm(tokens), present

    def forward(self, x: Tensor) -> Tensor:
        return pool_present(*self.tokens(x))

"""A backbone whose one set of weights reads tables of any width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metaad_zoo.backbones.missing import ANY, split_missing
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.tabular import RowBackbone, check_rows, require_width

SCALES = (0.5, 2.0, 8.0)
"""Spreads at which a value's distance from the centre saturates; scaled values reach from -10 to 10."""


def value_features(x: Tensor) -> Tensor:
    """What a column-agnostic network sees of a value: which side of the centre it is on and how far, at three scales.

    The features lie between -1 and 1, so that a far outlier takes no larger inner step than a near one.

    Shape:
        ``(...)`` to ``(..., 2 * len(SCALES))``.
    """
    side = torch.stack([torch.tanh(x / scale) for scale in SCALES], -1)
    return torch.cat([side, side.abs()], -1)


def pool_columns(tokens: Tensor, there: Tensor) -> Tensor:
    """Mean and maximum over the columns that are there, side by side; 0 where none is.

    Args:
        tokens: ``(n, D, width)``.
        there: ``(n, D)`` booleans.

    Returns:
        ``(n, 2 * width)``.
    """
    here = there.unsqueeze(-1)
    count = here.sum(1)
    mean = torch.where(here, tokens, 0).sum(1) / count.clamp_min(1)
    # Ties share amax's gradient, so that it does not depend on the columns' order either.
    largest = torch.where(here, tokens, -math.inf).amax(1)
    return torch.cat([mean, torch.where(count > 0, largest, 0)], -1)


class ColumnBlock(nn.Module):
    """Each column's token meets the mean and maximum of its row's tokens, in a network behind a norm (pre-norm).

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

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        normed = self.norm(tokens)
        context = self.others(pool_columns(normed, there))
        y: Tensor = tokens + self.out(self.own(normed) + context.unsqueeze(1))
        return y


@register_backbone("columns", modality="tabular")
class Columns(RowBackbone):
    """A set network over the columns of a row: the same weights for tables of any width and any meaning of columns.

    Each value is embedded by a network that all columns share; blocks let the columns of a row know of each other; the
    embedding is their mean and maximum. It does not depend on the order of the columns, nor on absent ones (NaN).
    Columns are told apart by their values alone, scaled by the support set: two rows that hold the same values in
    different columns have the same embedding.

    Source: Zaheer et al., "Deep Sets", NeurIPS 2017; the embedding of a number before any layer mixes columns follows
    Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022.

    Args:
        in_features: not needed: -1, or the table's number of columns, which then binds to nothing.
        width: of the columns' tokens.
        layers: blocks.
        expansion: hidden units of a block, in widths.

    Shape:
        ``(n, D)`` for any D to ``(n, 2 * width)``.

    Raises:
        ValueError: ``in_features`` is neither, or later a batch has another shape.

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
        """A token for each column, ``(n, D, width)``, and which are there, ``(n, D)``; the others hold nothing of use.

        A permutation of the columns permutes the tokens.
        """
        check_rows(x, ANY)
        values, there = split_missing(x)
        tokens = self.into(value_features(values))
        for block in self.blocks:
            tokens = block(tokens, there)
        return self.norm(tokens), there

    def forward(self, x: Tensor) -> Tensor:
        return pool_columns(*self.tokens(x))

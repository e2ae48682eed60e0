"""Attention within a set at a cost linear in its size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attend(nn.Module):
    """Multi-head attention of tokens to other tokens, of which some may not be there; pre-norm and residual.

    Args:
        width: of the tokens.
        heads: that divide it.

    Shape:
        ``(..., m, width)``, ``(..., n, width)`` and ``(..., n)`` booleans to ``(..., m, width)``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_others = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.read = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.after = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, others: Tensor, there: Tensor) -> Tensor:
        query = self._split(self.query(self.norm(tokens)))
        key, value = (self._split(x) for x in self.read(self.norm_others(others)).chunk(2, -1))
        none = ~there.any(-1)[..., None, None, None]  # a set of nothing gives nothing, and no NaN
        mask = there.unsqueeze(-2).unsqueeze(-3) | none
        found = torch.where(none, 0, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
        tokens = tokens + self.out(found.transpose(-2, -3).flatten(-2))
        y: Tensor = tokens + self.after(tokens)
        return y

    def _split(self, x: Tensor) -> Tensor:
        """``(..., n, width)`` to ``(..., heads, n, width / heads)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class InducedSetAttention(nn.Module):
    """A few learned tokens read the set, and each of the set's tokens reads them.

    Equivariant to the set's order, and linear in its size.

    Source: Lee et al., "Set Transformer", ICML 2019, section 3.1 (ISAB).

    Args:
        width: of the tokens.
        heads: of each attention.
        inducing: how many learned tokens.

    Shape:
        ``(..., n, width)`` and ``(..., n)`` booleans to ``(..., n, width)``.
    """

    def __init__(self, width: int, heads: int, inducing: int) -> None:
        super().__init__()
        self.inducing = nn.Parameter(torch.randn(inducing, width))
        self.gather, self.spread = Attend(width, heads), Attend(width, heads)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        inducing = self.inducing.expand(*tokens.shape[:-2], *self.inducing.shape)
        summary = self.gather(inducing, tokens, there)
        y: Tensor = self.spread(tokens, summary, summary.new_ones(summary.shape[:-1], dtype=torch.bool))
        return y

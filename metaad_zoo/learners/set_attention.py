"""Attention within a set, in time linear in its size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """``x`` where the mask is true, else the value; without a copy if it is true everywhere."""
    if not torch.compiler.is_compiling() and bool(mask.all()):  # a traced graph has no branch
        return x
    return torch.where(mask, x, value)


class Attend(nn.Module):
    """Multi-head attention of tokens to a masked set of tokens; pre-norm and residual.

    Args:
        width: length of a token.
        heads: number of heads, a divisor of ``width``.

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

    def forward(self, tokens: Tensor, context: Tensor, present: Tensor) -> Tensor:
        query = self._split(self.query(self.norm(tokens)))
        key, value = (self._split(x) for x in self.read(self.norm_others(context)).chunk(2, -1))
        empty = ~present.any(-1)[..., None, None, None]  # an empty set yields 0 instead of NaN
        mask = present.unsqueeze(-2).unsqueeze(-3) | empty
        mixed = torch.where(empty, 0, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
        tokens = tokens + self.out(mixed.transpose(-2, -3).flatten(-2))
        y: Tensor = tokens + self.after(tokens)
        return y

    def _split(self, x: Tensor) -> Tensor:
        """``(..., n, width)`` to ``(..., heads, n, width / heads)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class AttendOwn(Attend):
    """The same attention, of each token to a set of its own.

    The keys' projection is applied to the queries, and the values' projection to the weighted means: that is faster,
    and keys and values need no memory.

    Shape:
        ``(..., width)``, ``(..., n, width)`` and ``(..., n)`` booleans to ``(..., width)``.
    """

    def forward(self, tokens: Tensor, context: Tensor, present: Tensor) -> Tensor:
        size = tokens.shape[-1] // self.heads
        key, value = (x.unflatten(0, (self.heads, size)) for x in self.read.weight.chunk(2))
        query = self.query(self.norm(tokens)).unflatten(-1, (self.heads, size)) / math.sqrt(size)
        context = self.norm_others(context)
        logits = torch.einsum("...hs,hsw->...hw", query, key) @ context.transpose(-1, -2)  # softmax ignores a bias
        empty = ~present.any(-1)[..., None, None]  # an empty set yields 0 instead of NaN
        weights = masked(logits, present.unsqueeze(-2) | empty, -torch.inf).softmax(-1)
        mixed = torch.einsum("...hw,hsw->...hs", weights @ context, value).flatten(-2) + self.read.bias.chunk(2)[1]
        tokens = tokens + self.out(masked(mixed, ~empty.squeeze(-1), 0))
        y: Tensor = tokens + self.after(tokens)
        return y


class InducedSetAttention(nn.Module):
    """Learned tokens attend to the set, and the set's tokens attend to them.

    It is equivariant to the order of the set, and linear in its size.

    Source: Lee et al., "Set Transformer", ICML 2019, section 3.1 (ISAB).

    Args:
        width: length of a token.
        heads: number of heads of each attention.
        inducing: number of learned tokens.

    Shape:
        ``(..., n, width)`` and ``(..., n)`` booleans to ``(..., n, width)``.
    """

    def __init__(self, width: int, heads: int, inducing: int) -> None:
        super().__init__()
        rows = torch.empty(inducing, width)
        self.inducing = nn.Parameter(rows if rows.is_meta else rows.normal_())  # on meta it imports torch's compiler
        self.gather, self.spread = Attend(width, heads), Attend(width, heads)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        inducing = self.inducing.expand(*tokens.shape[:-2], *self.inducing.shape)
        summary = self.gather(inducing, tokens, present)
        y: Tensor = self.spread(tokens, summary, summary.new_ones(summary.shape[:-1], dtype=torch.bool))
        return y

"""Transformer backbone for sequences, with twice differentiable attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.sequences import SequenceBackbone, mean_over_steps, step_mask


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2. A second derivative needs the
    unfused attention kernel, which the inner loop selects.

    Args:
        width: length of a position's vector.
        heads: number of heads.

    Shape:
        ``(n, T, width)`` to the same; ``attended``: booleans ``(n, 1, 1, T)`` of the attended positions, or None for
        all.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        q, k, v = self.into(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attended)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, both residual with a preceding layer norm (pre-norm)."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), attended)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of position, ``(length, width)`` (Vaswani et al., 2017, section 3.5)."""
    at = torch.arange(length, device=like.device, dtype=torch.float64).unsqueeze(1)
    rates = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float64) * (-math.log(1e4) / width))
    table = torch.stack([torch.sin(at * rates), torch.cos(at * rates)], -1).flatten(1)
    return table[:, :width].to(torch.promote_types(like.dtype, torch.float32))


@register_backbone("transformer", modality="sequence")
class Transformer(SequenceBackbone):
    """Transformer encoder over steps or patches of steps; the embedding is the mean over them.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with a layer norm before each part (Xiong et al.,
    "On Layer Normalization in the Transformer Architecture", ICML 2020). Patches: Nie et al., "A Time Series is Worth
    64 Words", ICLR 2023, without overlap.

    Args:
        in_channels: number of channels; -1: any number, each embedded separately (see :class:`SequenceBackbone`).
        width: length of a token; a multiple of ``heads``.
        layers: number of transformer blocks.
        heads: number of attention heads.
        expansion: number of hidden units of a block's network, as a multiple of ``width``.
        patch: number of steps of a token; the last token is padded with zeros.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``, or ``(n, 2 * width)`` with ``in_channels=-1``.

    Raises:
        ValueError: the heads do not divide the width, the patch has no step, or a batch has another shape.
    """

    cpu_tasks = 4

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        expansion: int = 2,
        patch: int = 1,
    ) -> None:
        super().__init__(in_channels, width)
        if width % heads:
            raise ValueError(f"transformer: heads={heads} do not divide width={width}")
        if patch < 1:
            raise ValueError(f"transformer: a token holds at least one step, saw patch={patch}")
        self.patch = patch
        self.into = nn.Linear(patch * self.channels, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if self.patch > 1:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.patch)).unflatten(1, (-1, self.patch)).flatten(2)
            lengths = None if lengths is None else (lengths + self.patch - 1) // self.patch
        h = self.into(x)
        h = h + positions(h.shape[1], h.shape[2], h)  # in mixed precision the sum over layers stays in float32
        attended = None if lengths is None else step_mask(lengths, h.shape[1])[:, None, None]
        for block in self.blocks:
            h = block(h, attended)
        return mean_over_steps(self.norm(h), lengths)

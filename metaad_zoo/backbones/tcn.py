"""Temporal convolutional network for sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.sequences import SequenceBackbone, mean_over_steps


class CausalConvolution(nn.Module):
    """Causal convolution, layer norm over each step's channels, and ReLU.

    Shape:
        ``(n, T, in_channels)`` to ``(n, T, width)``.
    """

    def __init__(self, in_channels: int, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.convolution = nn.Conv1d(in_channels, width, kernel, dilation=dilation)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution(F.pad(x.transpose(1, 2), (self.before, 0))).transpose(1, 2)
        h = h.to(torch.promote_types(h.dtype, torch.float32))  # the second derivative needs a norm in float32
        return F.relu(self.norm(h))


class TemporalBlock(nn.Module):
    """Two causal convolutions with a residual connection, linear if the widths differ."""

    def __init__(self, in_channels: int, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            CausalConvolution(in_channels, width, kernel, dilation), CausalConvolution(width, width, kernel, dilation)
        )
        self.shortcut = nn.Identity() if in_channels == width else nn.Linear(in_channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


@register_backbone("tcn", modality="sequence")
class TCN(SequenceBackbone):
    """A temporal convolutional network; the embedding is the mean over steps.

    Source: Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling",
    2018, section 3: dilated causal convolutions in residual blocks, the dilation doubled from block to block. Weight
    norm is replaced by a layer norm over each step's channels, which is causal too, and dropout is left out.

    Args:
        in_channels: number of channels; -1: any number, each embedded separately (see :class:`SequenceBackbone`).
        width: number of channels of each block.
        layers: number of blocks; the receptive field is ``1 + 2 * (kernel - 1) * (2**layers - 1)`` steps.
        kernel: kernel size in steps.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``, or ``(n, 2 * width)`` with ``in_channels=-1``.

    Raises:
        ValueError: there is no block, or a batch has another shape.
    """

    def __init__(self, in_channels: int = 1, width: int = 64, layers: int = 4, kernel: int = 3) -> None:
        super().__init__(in_channels, width)
        if layers < 1:
            raise ValueError(f"tcn needs at least one block, saw layers={layers}")
        widths = [self.channels] + [width] * layers
        self.blocks = nn.Sequential(*(TemporalBlock(widths[i], width, kernel, 2**i) for i in range(layers)))

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        return mean_over_steps(self.blocks(x), lengths)  # causal: padding at the end does not affect earlier steps

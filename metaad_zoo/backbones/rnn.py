"""Recurrent backbones for sequences."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.sequences import SequenceBackbone
from metaad_zoo.backbones.task_recurrent import TaskLSTM


class _Recurrent(SequenceBackbone):
    """Base of recurrent backbones; the embedding is the top layer's state at the last step before padding."""

    cell_type: ClassVar[type[nn.GRU | nn.LSTM]]

    def __init__(self, in_channels: int = 1, width: int = 64, layers: int = 1) -> None:
        super().__init__(in_channels, width)
        self.cells = self.cell_type(self.channels, width, num_layers=layers, batch_first=True)

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        states, last = self.cells(x)
        if lengths is None:
            return (last[0] if isinstance(last, tuple) else last)[-1]
        positions = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return states.gather(1, positions).squeeze(1)


@register_backbone("gru", modality="sequence")
class GRU(_Recurrent):
    """Gated recurrent units; the embedding is the state at the last step before padding.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
    EMNLP 2014.

    Args:
        in_channels: number of channels; -1: any number, each embedded separately (see :class:`SequenceBackbone`).
        width: number of units of each layer.
        layers: number of layers.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``, or ``(n, 2 * width)`` with ``in_channels=-1``.

    Raises:
        ValueError: a batch has another shape.
    """

    cell_type = nn.GRU


@register_backbone("lstm", modality="sequence")
class LSTM(_Recurrent):
    """Long short-term memory; the embedding is the state at the last step before padding.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997.

    Args:
        in_channels: number of channels; -1: any number, each embedded separately (see :class:`SequenceBackbone`).
        width: number of units of each layer.
        layers: number of layers.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``, or ``(n, 2 * width)`` with ``in_channels=-1``.

    Raises:
        ValueError: a batch has another shape.
    """

    cell_type = TaskLSTM

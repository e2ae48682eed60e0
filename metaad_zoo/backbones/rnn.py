"""Recurrent backbones for sequences."""

from __future__ import annotations

from torch import Tensor, nn

from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.sequences import SequenceBackbone
from metaad_zoo.backbones.task_recurrent import TaskLSTM


@register_backbone("gru", modality="sequence")
class GRU(SequenceBackbone):
    """Gated recurrent units; the embedding is the state at the last step that is there.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
    EMNLP 2014.

    Args:
        in_channels: of the sequences; -1: any number, each read by itself (:class:`SequenceBackbone`).
        width: units of each layer.
        layers: stacked on each other.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``, or ``(n, 2 * width)`` with ``in_channels=-1``.

    Raises:
        ValueError: a batch has another shape.
    """

    def __init__(self, in_channels: int = 1, width: int = 64, layers: int = 1) -> None:
        super().__init__(in_channels, width)
        self.cells = nn.GRU(self.channels, width, num_layers=layers, batch_first=True)

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        states, last = self.cells(x)
        return _last_state(states, last, lengths)


@register_backbone("lstm", modality="sequence")
class LSTM(SequenceBackbone):
    """Long short-term memory; the embedding is the state at the last step that is there.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997.

    Args:
        in_channels: of the sequences; -1: any number, each read by itself (:class:`SequenceBackbone`).
        width: units of each layer.
        layers: stacked on each other.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``, or ``(n, 2 * width)`` with ``in_channels=-1``.

    Raises:
        ValueError: a batch has another shape.
    """

    def __init__(self, in_channels: int = 1, width: int = 64, layers: int = 1) -> None:
        super().__init__(in_channels, width)
        self.cells = TaskLSTM(self.channels, width, num_layers=layers, batch_first=True)

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        states, (last, _) = self.cells(x)
        return _last_state(states, last, lengths)


def _last_state(states: Tensor, last: Tensor, lengths: Tensor | None) -> Tensor:
    """Of the top layer: from its states ``(n, T, width)``, or where no step is padding from all layers' last ones."""
    if lengths is None:
        return last[-1]
    at = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, at).squeeze(1)

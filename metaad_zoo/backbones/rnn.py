"""Recurrent backbones for sequences."""

from __future__ import annotations

from torch import Tensor, nn

from metaad_zoo.backbones.registry import Backbone, register_backbone


def check_sequences(x: Tensor, channels: int) -> None:
    """Refuse a batch that is not ``(n, T, channels)`` with at least one step.

    Raises:
        ValueError: tells what was seen and what was expected.
    """
    if x.ndim != 3 or x.shape[2] != channels or x.shape[1] == 0:
        raise ValueError(
            f"expected sequences of shape (n, T, {channels}), saw {tuple(x.shape)}: let the backbone's in_channels "
            "agree with the data's channels"
        )


@register_backbone("gru", modality="sequence")
class GRU(Backbone):
    """Gated recurrent units; the embedding is the last state.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
    EMNLP 2014.

    Args:
        in_channels: of the sequences.
        width: units of each layer.
        layers: stacked on each other.

    Shape:
        ``(n, T, in_channels)`` to ``(n, width)``.

    Raises:
        ValueError: a batch has another shape.
    """

    modality = "sequence"

    def __init__(self, in_channels: int = 1, width: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.cells = nn.GRU(in_channels, width, num_layers=layers, batch_first=True)
        self.embedding_dim = width

    def forward(self, x: Tensor) -> Tensor:
        check_sequences(x, self.in_channels)
        _, last = self.cells(x)
        embedding: Tensor = last[-1]
        return embedding

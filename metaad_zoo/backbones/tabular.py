"""Backbones for rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from metaad_zoo.backbones.registry import Backbone, register_backbone


def check_rows(x: Tensor, features: int) -> None:
    """Refuse a batch that is not ``(n, features)``.

    Raises:
        ValueError: tells what was seen and what was expected.
    """
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(
            f"expected table rows of shape (n, {features}), saw {tuple(x.shape)}: let the backbone's in_features "
            "agree with the number of columns"
        )


@register_backbone("mlp", modality="tabular")
class MLP(Backbone):
    """Fully connected layers with ReLU between them and behind the last.

    Args:
        in_features: columns of the table.
        widths: units of each layer; the last is the embedding.

    Shape:
        ``(n, in_features)`` to ``(n, widths[-1])``.

    Raises:
        ValueError: there is no layer, or later a batch has another shape.
    """

    modality = "tabular"

    def __init__(self, in_features: int = 32, widths: Sequence[int] = (128, 128, 128)) -> None:
        super().__init__()
        if not widths:
            raise ValueError("mlp needs at least one layer: give widths such as (128, 128, 128)")
        self.in_features = in_features
        layers: list[nn.Module] = []
        for a, b in pairwise((in_features, *widths)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.embedding_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.in_features)
        embedding: Tensor = self.layers(x)
        return embedding

"""Fully connected backbones for table rows with a fixed number of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from metaad_zoo.backbones.missing import ANY, centre_missing
from metaad_zoo.backbones.registry import Backbone, register_backbone
from metaad_zoo.registry import unknown_name

Activation = Literal["relu", "gelu", "tanh", "sigmoid"]
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

READ_ANY_WIDTH = ("columns", "raw_columns")
"""Tabular backbones for any number of columns."""


def require_width(name: str, in_features: int) -> None:
    """Check that the number of columns is given.

    Raises:
        ValueError: the number is unknown or below 1.
    """
    if in_features == ANY:
        raise ValueError(
            f"{name} needs the number of columns, but in_features is {ANY}: the data's tables differ in width. "
            f"Backbones that read any width: {', '.join(READ_ANY_WIDTH)}; or give in_features and tables that all have "
            "so many columns"
        )
    if in_features < 1:
        raise ValueError(f"{name}: in_features is {in_features}; expected the table's number of columns, at least 1")


def check_rows(x: Tensor, features: int) -> None:
    """Check that a batch has the shape ``(n, features)``; with ``features=ANY``, at least one column.

    Raises:
        ValueError: the batch has another shape.
    """
    if features == ANY and (x.ndim != 2 or x.shape[1] == 0):
        raise ValueError(
            f"expected table rows of shape (n, any number of columns from 1 on), saw {tuple(x.shape)}: give one row a "
            "sample, one value a column"
        )
    if features != ANY and (x.ndim != 2 or x.shape[1] != features):
        raise ValueError(
            f"expected table rows of shape (n, {features}), saw {tuple(x.shape)}: let the backbone's in_features "
            "agree with the number of columns"
        )


class RowBackbone(Backbone):
    """Base of backbones that read table rows ``(n, D)``."""

    modality = "tabular"
    axes = ("columns",)

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        return {"in_features": shape[0]}


@register_backbone("mlp", modality="tabular")
class MLP(RowBackbone):
    """Fully connected layers, each followed by an activation; a missing value counts as 0.

    A learner adds a linear layer to one logit, and the loss includes its sigmoid. So the classic network of 128, 64 and
    1 sigmoid units is ``widths=(128, 64), activation="sigmoid"``.

    Args:
        in_features: number of columns.
        widths: number of units of each layer; the last is the length of the embedding.
        activation: ``"relu"``, ``"gelu"``, ``"tanh"`` or ``"sigmoid"``.

    Shape:
        ``(n, in_features)`` to ``(n, widths[-1])``.

    Raises:
        ValueError: there is no layer, the number of columns or the activation is unknown, or a batch has another shape.

    Example:
        >>> MLP(in_features=9, widths=(128, 64), activation="sigmoid").embedding_dim
        64
    """

    def __init__(
        self, in_features: int = 32, widths: Sequence[int] = (128, 128, 128), activation: Activation = "relu"
    ) -> None:
        super().__init__()
        require_width("mlp", in_features)
        if not widths:
            raise ValueError("mlp needs at least one layer: give widths such as (128, 128, 128)")
        if activation not in ACTIVATIONS:
            raise unknown_name("activation of mlp:", activation, ACTIVATIONS)
        self.in_features = in_features
        layers: list[nn.Module] = []
        for a, b in pairwise((in_features, *widths)):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.embedding_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.in_features)
        embedding: Tensor = self.layers(centre_missing(x))
        return embedding


Norm = Literal["layer", "batch"]
NORMS: Mapping[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class ResidualBlock(nn.Module):
    """Residual block: a norm and a two-layer network.

    Shape:
        ``(n, width)`` to the same.
    """

    def __init__(self, width: int, expansion: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm = norm(width)
        self.layers = nn.Sequential(nn.Linear(width, expansion * width), nn.ReLU(), nn.Linear(expansion * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(self.norm(x))
        return y


@register_backbone("resnet_mlp", modality="tabular")
class ResNetMLP(RowBackbone):
    """Residual blocks of fully connected layers; a missing value counts as 0.

    Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021, section 3.2 (ResNet).
    Differences: layer normalisation unless ``norm="batch"``, because a support set has few rows; and no dropout.

    Args:
        in_features: number of columns.
        width: number of units between blocks.
        layers: number of residual blocks.
        expansion: number of hidden units of a block, as a multiple of ``width``.
        norm: ``"layer"``, or ``"batch"`` as in the paper.

    Shape:
        ``(n, in_features)`` to ``(n, width)``.

    Raises:
        ValueError: the number of columns or the norm is unknown, or a batch has another shape.
    """

    def __init__(
        self, in_features: int = 32, width: int = 128, layers: int = 2, expansion: int = 2, norm: Norm = "layer"
    ) -> None:
        super().__init__()
        require_width("resnet_mlp", in_features)
        if norm not in NORMS:
            raise unknown_name("norm of resnet_mlp:", norm, NORMS)
        self.in_features = in_features
        self.into = nn.Linear(in_features, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, expansion, NORMS[norm]) for _ in range(layers)))
        self.out = nn.Sequential(NORMS[norm](width), nn.ReLU())
        self.embedding_dim = width

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.in_features)
        embedding: Tensor = self.out(self.blocks(self.into(centre_missing(x))))
        return embedding

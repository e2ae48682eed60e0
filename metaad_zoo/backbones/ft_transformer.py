"""FT-Transformer: a transformer over the columns of a table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.missing import centre_missing
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.tabular import RowBackbone, check_rows, require_width
from metaad_zoo.backbones.task_axis import current_task_axis
from metaad_zoo.backbones.transformer import TransformerBlock


class FeatureTokenizer(nn.Module):
    """Token of each column: its value times a learned vector plus a learned bias, after a [CLS] token.

    Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021, section 3.3.

    Args:
        in_features: number of columns.
        width: length of a token.

    Attributes:
        weight: ``(in_features, width)``, or with a task axis ``(tasks, in_features, width)``.
        bias: ``(1 + in_features, width)``, or with a leading task axis; the first row is the [CLS] token.

    Shape:
        ``(n, in_features)`` to ``(n, 1 + in_features, width)``.
    """

    carries_task_axis = True

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.empty(1 + in_features, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        axis = current_task_axis()
        if axis is None:
            return F.pad(x.unsqueeze(-1) * self.weight, (0, 0, 1, 0)) + self.bias
        weight, bias = (axis.per_task(p, 2).unsqueeze(1) for p in (self.weight, self.bias))
        return axis.fold(F.pad(axis.split(x).unsqueeze(-1) * weight, (0, 0, 1, 0)) + bias)


@register_backbone("ft_transformer", modality="tabular")
class FTTransformer(RowBackbone):
    """FT-Transformer: attention between the columns of a row; the embedding is the output of a [CLS] token.

    A missing value counts as the centre of the support set: its token is the column's bias.

    Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021, section 3.3.
    Differences: the blocks are those of ``transformer`` (GELU in place of ReGLU, a norm in front of the first attention
    too), and there is no dropout.

    Args:
        in_features: number of columns; memory and time grow with its square.
        width: length of a token; a multiple of ``heads``.
        layers: number of transformer blocks.
        heads: number of attention heads.
        expansion: number of hidden units of a block's network, as a multiple of ``width``.

    Shape:
        ``(n, in_features)`` to ``(n, width)``.

    Raises:
        ValueError: the number of columns is unknown, the heads do not divide the width, or a batch has another shape.
    """

    def __init__(
        self, in_features: int = 32, width: int = 64, layers: int = 2, heads: int = 4, expansion: int = 2
    ) -> None:
        super().__init__()
        require_width("ft_transformer", in_features)
        if width % heads:
            raise ValueError(f"ft_transformer: heads={heads} do not divide width={width}")
        self.in_features = in_features
        self.tokenizer = FeatureTokenizer(in_features, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, expansion) for _ in range(layers)))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.ReLU())
        self.embedding_dim = width

    def forward(self, x: Tensor) -> Tensor:
        check_rows(x, self.in_features)
        tokens = self.blocks(self.tokenizer(centre_missing(x)))
        embedding: Tensor = self.out(tokens[:, 0])
        return embedding

"""Vision transformer with twice differentiable attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaad_zoo.backbones.cnn import ImageBackbone, check_images
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.transformer import TransformerBlock


def grid_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of column and row, ``(side ** 2, width)`` row by row, in float64.

    Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k", 2022, and its code: a quarter of the width each
    for the sines and cosines of the column and of the row, at rates from 1 to 1/10000.

    Example:
        >>> grid_positions(2, 4)[1]  # row 0, column 1
        tensor([0.8415, 0.5403, 0.0000, 1.0000], dtype=torch.float64)
    """
    # On the meta device, arithmetic with Python numbers imports torch's compiler, which takes as long as torch.
    if torch.empty(0).is_meta:
        return torch.empty(side**2, width, dtype=torch.float64)
    quarter = width // 4
    rates = 1e-4 ** (torch.arange(quarter, dtype=torch.float64) / max(quarter - 1, 1))
    at = torch.arange(side, dtype=torch.float64)
    row, column = (place.reshape(-1, 1) * rates for place in torch.meshgrid(at, at, indexing="ij"))
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], 1)


@register_backbone("vit", modality="image")
class VisionTransformer(ImageBackbone):
    """Transformer encoder over square patches of an image; the embedding is the mean over patches.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; with fixed positions on the grid and the
    mean in place of a class token as in Beyer et al., "Better plain ViT baselines for ImageNet-1k", 2022.

    Args:
        in_channels: number of image channels.
        image_size: height and width in pixels; a multiple of ``patch``.
        patch: height and width of a patch in pixels.
        width: length of a token; a multiple of 4 and of ``heads``.
        layers: number of transformer blocks.
        heads: number of attention heads.
        expansion: number of hidden units of a block's network, as a multiple of ``width``.

    Shape:
        ``(n, in_channels, image_size, image_size)`` to ``(n, width)``.

    Raises:
        ValueError: the patch does not divide the size, the heads or 4 do not divide the width, there are no layers, or
            a batch has another shape.
    """

    cpu_tasks = 4

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 28,
        patch: int = 4,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        if min(image_size, patch, width, layers, heads, expansion) < 1:
            raise ValueError("vit: image_size, patch, width, layers, heads and expansion must be at least 1")
        if image_size % patch:
            fitting = ", ".join(str(p) for p in range(1, image_size + 1) if image_size % p == 0)
            raise ValueError(f"vit: patch={patch} does not divide image_size={image_size}: take one of {fitting}")
        if width % heads or width % 4:
            raise ValueError(f"vit: width={width} must be a multiple of 4 (for the positions) and of heads={heads}")
        self.in_channels, self.image_size, self.patch = in_channels, image_size, patch
        self.into = nn.Linear(in_channels * patch**2, width)
        # Fixed: a parameter outside the layers could not have a task axis. They are not part of the state dict.
        positions = grid_positions(image_size // patch, width).to(torch.get_default_dtype())
        self.positions: Tensor
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.embedding_dim = width

    def _tokens(self, x: Tensor) -> list[Tensor]:
        """Tokens after each block ``(n, patches, width)``, the last ones normalised."""
        check_images(x, self.in_channels, self.image_size)
        patches = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)  # (n, C, rows, columns, p, p)
        tokens = [self.into(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)) + self.positions]
        for block in self.blocks:
            tokens.append(block(tokens[-1]))
        return [*tokens[1:-1], self.norm(tokens[-1])]

    def forward(self, x: Tensor) -> Tensor:
        return self._tokens(x)[-1].mean(1)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Tokens after each block on the grid of patches, the last ones normalised; all maps have one resolution."""
        side = self.image_size // self.patch
        return [tokens.transpose(1, 2).unflatten(2, (side, side)) for tokens in self._tokens(x)]

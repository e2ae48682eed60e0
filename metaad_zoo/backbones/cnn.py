"""Convolutional image backbones of the few-shot literature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.registry import Backbone, register_backbone

Norm = Literal["batch", "group", "none"]


def check_images(x: Tensor, channels: int, size: int | None = None) -> None:
    """Check that a batch has the shape ``(n, channels, size, size)``.

    Raises:
        ValueError: the batch has another shape.
    """
    expected = f"(n, {channels}, {size or 'H'}, {size or 'W'})"
    if x.ndim != 4 or x.shape[1] != channels or (size and tuple(x.shape[2:]) != (size, size)):
        raise ValueError(
            f"expected images of shape {expected}, saw {tuple(x.shape)}: let the backbone's in_channels and "
            "image_size agree with the data's channels and image_size"
        )


class ImageBackbone(Backbone):
    """Base of image backbones ``(n, C, H, W)``, with optional intermediate feature maps.

    Attributes:
        any_size: whether it reads images of any height and width.
        last_map: index of the last feature map that is needed; those after it need not be computed. None: all.
    """

    modality = "image"
    axes = ("channels", "height", "width")
    any_size: bool = False
    last_map: int | None = None

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        channels, height, width = shape
        if height != width:
            raise ValueError(
                f"backbones read square images, saw {height} x {width} pixels: set data.image_size, and data.aspect to "
                "squash or pad"
            )
        return {"in_channels": channels, "image_size": height}

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Intermediate feature maps, from fine to coarse; at equal resolution, from shallow to deep.

        Args:
            x: images, as for ``forward``.

        Returns:
            Maps ``(n, C_i, H_i, W_i)``. They are differentiable, and in an inner loop depend on the adapted weights.

        Raises:
            ValueError: the backbone has no feature maps, or the batch has another shape.
        """
        raise ValueError(f"{type(self).__name__} has no intermediate feature maps: take another image backbone")


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(4, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm is {kind!r}; expected 'batch', 'group' or 'none'")


class _FourBlocks(ImageBackbone):
    """Backbone of four blocks, each of which halves height and width."""

    cpu_tasks = 8
    blocks: nn.Sequential

    def __init__(self, name: str, in_channels: int, image_size: int) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"{name} halves its input four times: image_size must be at least 16, saw {image_size}")
        self.in_channels, self.image_size = in_channels, image_size

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The output of each block; the embedding comes from the last one."""
        check_images(x, self.in_channels, self.image_size)
        return list(accumulate(self.blocks, lambda features, block: block(features), initial=x))[1:]


@register_backbone("conv4", modality="image")
class Conv4(_FourBlocks):
    """Four blocks of 3x3 convolution, normalisation, 2x2 max-pooling and ReLU.

    The published order, ReLU before pooling, gives the same result with four times as many ReLU operations.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016; as in Finn et al., "Model-Agnostic
    Meta-Learning", ICML 2017.

    Args:
        in_channels: number of image channels.
        image_size: height and width in pixels, at least 16.
        width: number of channels of each block (64 in Vinyals et al., 32 in Finn et al.'s miniImageNet runs).
        norm: ``"batch"`` as published; ``"group"`` (4 groups), independent of other samples; or ``"none"``.

    Shape:
        ``(n, in_channels, image_size, image_size)`` to ``(n, width * (image_size // 16) ** 2)``.

    Raises:
        ValueError: the size is too small, or a batch has another shape.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 28, width: int = 64, norm: Norm = "batch") -> None:
        super().__init__("conv4", in_channels, image_size)
        channels = [in_channels, width, width, width, width]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), _norm(norm, b), nn.MaxPool2d(2), nn.ReLU())
                for a, b in pairwise(channels)
            )
        )
        self.embedding_dim = width * (image_size // 16) ** 2

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, self.image_size)
        embedding: Tensor = self.blocks(x).flatten(1)
        return embedding


class _ResidualBlock(nn.Module):
    """Three 3x3 convolutions with a 1x1 shortcut, then 2x2 max-pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        channels = [in_channels, out_channels, out_channels, out_channels]
        layers: list[nn.Module] = []
        for a, b in pairwise(channels):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.max_pool2d(self.body(x) + self.shortcut(x), 2), 0.1)


@register_backbone("resnet12", modality="image")
class ResNet12(_FourBlocks):
    """Four residual blocks of three convolutions, then global average pooling; without DropBlock.

    Source: Lee et al., "Meta-Learning with Differentiable Convex Optimization", CVPR 2019 (widths 64, 160, 320, 640).

    Args:
        in_channels: number of image channels.
        image_size: height and width in pixels, at least 16.
        widths: number of channels of each block.

    Shape:
        ``(n, in_channels, image_size, image_size)`` to ``(n, widths[-1])``.

    Raises:
        ValueError: the size is too small, there are not four widths, or a batch has another shape.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 84,
        widths: tuple[int, int, int, int] = (64, 160, 320, 640),
    ) -> None:
        super().__init__("resnet12", in_channels, image_size)
        if len(widths) != 4:
            raise ValueError(f"resnet12 has four blocks: give four widths, saw {widths}")
        self.blocks = nn.Sequential(
            *(_ResidualBlock(a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True))
        )
        self.embedding_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, self.image_size)
        return torch.mean(self.blocks(x), dim=(2, 3))

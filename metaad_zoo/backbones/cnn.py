"""Convolutional image backbones of the few-shot literature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.registry import Backbone, register_backbone

Norm = Literal["batch", "group", "none"]


def check_images(x: Tensor, channels: int, size: int | None = None) -> None:
    """Refuse a batch that is not ``(n, channels, size, size)``.

    Raises:
        ValueError: tells what was seen and what was expected.
    """
    expected = f"(n, {channels}, {size or 'H'}, {size or 'W'})"
    if x.ndim != 4 or x.shape[1] != channels or (size and tuple(x.shape[2:]) != (size, size)):
        raise ValueError(
            f"expected images of shape {expected}, saw {tuple(x.shape)}: let the backbone's in_channels and "
            "image_size agree with the data's channels and image_size"
        )


class ImageBackbone(Backbone):
    """A backbone of images ``(n, C, H, W)`` that shows its intermediate features on request."""

    modality = "image"
    axes = ("channels", "height", "width")

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        channels, height, width = shape
        if height != width:
            raise ValueError(f"backbones read square images, saw {height} x {width} pixels: set data.image_size")
        return {"in_channels": channels, "image_size": height}

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Features of an image's places, from fine to coarse; where resolutions are equal, from shallow to deep.

        Args:
            x: as for ``forward``.

        Returns:
            Maps ``(n, C_i, H_i, W_i)``. They keep the graph, and within an inner loop follow the adapted weights.

        Raises:
            ValueError: the backbone has none, or the batch has another shape.
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


@register_backbone("conv4", modality="image")
class Conv4(ImageBackbone):
    """Four blocks of 3x3 convolution, normalisation, 2x2 max-pooling and ReLU.

    Published with ReLU in front of the pooling, which gives the same for four times the work.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016; as in Finn et al., "Model-Agnostic
    Meta-Learning", ICML 2017.

    Args:
        in_channels: of the images.
        image_size: height and width in pixels, at least 16: each block halves it.
        width: channels of each block (64 in Vinyals et al., 32 in Finn et al.'s miniImageNet runs).
        norm: ``"batch"`` as published; ``"group"`` (4 groups) depends on no other sample; ``"none"``.

    Shape:
        ``(n, in_channels, image_size, image_size)`` to ``(n, width * (image_size // 16) ** 2)``.

    Raises:
        ValueError: the size is too small, or later a batch has another shape.
    """

    cpu_tasks = 8

    def __init__(self, in_channels: int = 3, image_size: int = 28, width: int = 64, norm: Norm = "batch") -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"conv4 halves its input four times: image_size must be at least 16, saw {image_size}")
        self.in_channels, self.image_size = in_channels, image_size
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

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The output of each block; the last, flattened, is the embedding."""
        check_images(x, self.in_channels, self.image_size)
        return _one_by_one(self.blocks, x)


class _ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, then 2x2 max-pooling."""

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
class ResNet12(ImageBackbone):
    """Four residual blocks of three convolutions each, averaged over space; without DropBlock.

    Source: Lee et al., "Meta-Learning with Differentiable Convex Optimization", CVPR 2019 (widths 64, 160, 320, 640).

    Args:
        in_channels: of the images.
        image_size: height and width in pixels, at least 16: each block halves it.
        widths: channels of the four blocks.

    Shape:
        ``(n, in_channels, image_size, image_size)`` to ``(n, widths[-1])``.

    Raises:
        ValueError: the size is too small, there are not four widths, or later a batch has another shape.
    """

    cpu_tasks = 8

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 84,
        widths: tuple[int, int, int, int] = (64, 160, 320, 640),
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"resnet12 halves its input four times: image_size must be at least 16, saw {image_size}")
        if len(widths) != 4:
            raise ValueError(f"resnet12 has four blocks: give four widths, saw {widths}")
        self.in_channels, self.image_size = in_channels, image_size
        self.blocks = nn.Sequential(
            *(_ResidualBlock(a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True))
        )
        self.embedding_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, self.image_size)
        return torch.mean(self.blocks(x), dim=(2, 3))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The output of each block; the last one's mean over space is the embedding."""
        check_images(x, self.in_channels, self.image_size)
        return _one_by_one(self.blocks, x)


def _one_by_one(blocks: nn.Sequential, x: Tensor) -> list[Tensor]:
    outputs = []
    for block in blocks:
        x = block(x)
        outputs.append(x)
    return outputs

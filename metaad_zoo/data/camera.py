"""Random rotation, shift, scale, contrast, brightness and noise of images, as a camera on a line adds them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RandomCamera:
    """Random rotation, shift, scale, contrast, brightness and noise, drawn independently for each image.

    Args:
        rotation: largest turn to either side, in degrees.
        shift: largest move in each direction, as a share of the image's width and height.
        scale: smallest and largest magnification.
        contrast: smallest and largest factor on the pixel values.
        brightness: smallest and largest offset, after the contrast.
        noise: standard deviation of the Gaussian noise of each pixel.

    What moves into the image from outside is black (0). Values may leave [0, 1]; a sensor's clipping is not imitated.

    Raises:
        ValueError: a range runs backwards or a magnification is not positive.
    """

    rotation: float = 25.0
    shift: float = 0.125
    scale: tuple[float, float] = (0.8, 1.1)
    contrast: tuple[float, float] = (0.5, 1.0)
    brightness: tuple[float, float] = (0.0, 0.3)
    noise: float = 0.05

    def __post_init__(self) -> None:
        for name in ("scale", "contrast", "brightness"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"RandomCamera.{name} runs from {low} to {high}; give the smaller number first")
        if self.scale[0] <= 0:
            raise ValueError(f"RandomCamera.scale starts at {self.scale[0]}; a magnification must be above 0")
        if min(self.rotation, self.shift, self.noise) < 0:
            raise ValueError(f"RandomCamera takes no negative rotation, shift or noise, saw {self}")

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Photograph ``images`` ``(n, C, H, W)``; the same generator state gives the same photographs."""
        n = len(images)

        def uniform(low: float, high: float) -> Tensor:
            return torch.as_tensor(rng.uniform(low, high, n), dtype=images.dtype)

        angle = uniform(-self.rotation, self.rotation) * (math.pi / 180)
        zoom = uniform(*self.scale)
        # affine_grid maps output to input positions, which run from -1 to 1: a shift of one width is 2.
        dx, dy = uniform(-2 * self.shift, 2 * self.shift), uniform(-2 * self.shift, 2 * self.shift)
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        affine = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        seen = F.grid_sample(images, grid, align_corners=False)
        seen = seen * uniform(*self.contrast).view(n, 1, 1, 1) + uniform(*self.brightness).view(n, 1, 1, 1)
        noise = torch.as_tensor(rng.standard_normal(seen.shape, dtype=np.float32), dtype=images.dtype)
        return seen + self.noise * noise


class CarelessCamera(RandomCamera):
    """Old name of :class:`RandomCamera`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("CarelessCamera is now called RandomCamera", DeprecationWarning, stacklevel=2)
        super().__init__(*args, **kwargs)

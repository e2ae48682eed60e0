"""Defects drawn into images ``(n, C, H, W)`` with values in [0, 1]; for meta-training only, never used in evaluation.

Where the pasted pixels have the mean colour of those they cover, as on a plain or evenly textured surface, they are
made lighter or darker, so that a defect is there to be seen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.synthetic.registry import register_synthetic

VISIBLE = 0.05
"""Least change of a defect's mean colour, in any channel."""


@register_synthetic("cut_paste", modality="image", axes=3)
def cut_paste(images: Tensor, donors: Tensor, rng: np.random.Generator) -> Tensor:
    """A rectangle of 3 to 15 % of the image's area, cut from it and pasted elsewhere, its colours shifted a little.

    Source: Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021.
    """
    return torch.stack([_pasted(x, x, rng.uniform(0.03, 0.15), rng.uniform(1, 3), 0.0, rng) for x in images])


@register_synthetic("scar", modality="image", axes=3)
def scar(images: Tensor, donors: Tensor, rng: np.random.Generator) -> Tensor:
    """A long thin rectangle of 2 to 6 % of the image's area, cut from it, turned and pasted elsewhere.

    Source: Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021.
    """
    return torch.stack(
        [_pasted(x, x, rng.uniform(0.02, 0.06), rng.uniform(5, 10), rng.uniform(-45, 45), rng) for x in images]
    )


@register_synthetic("patch_swap", modality="image", axes=3)
def patch_swap(images: Tensor, donors: Tensor, rng: np.random.Generator) -> Tensor:
    """A patch of 4 to 15 % of the image's area from another normal image, blended in with a smooth border.

    The border is a ramp of weights, where the paper solves a Poisson equation.

    Source: Schlüter et al., "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization",
    ECCV 2022.
    """
    return torch.stack(
        [
            _pasted(x, donors[rng.integers(len(donors))], rng.uniform(0.04, 0.15), rng.uniform(1, 2), 0.0, rng, True)
            for x in images
        ]
    )


def _pasted(
    image: Tensor,
    giver: Tensor,
    area: float,
    aspect: float,
    degrees: float,
    rng: np.random.Generator,
    smooth: bool = False,
) -> Tensor:
    """``image`` with a rectangle that is cut upright out of ``giver`` and pasted elsewhere.

    Args:
        image: ``(C, H, W)`` image that is changed.
        giver: ``(C, H, W)`` image that the rectangle is cut from.
        area: area of the rectangle, as a share of the image's.
        aspect: length of the rectangle over its width, at least 1; which way it lies is drawn at random.
        degrees: rotation of the rectangle.
        rng: draws both places and the shift of the colours.
        smooth: blend the outer quarters in, and keep the colours.
    """
    height, width = image.shape[-2:]
    long, short = math.sqrt(area * height * width * aspect), math.sqrt(area * height * width / aspect)
    half_u, half_v = (max(side, 2 if aspect < 4 else 1) / 2 for side in (long, short))
    if rng.random() < 0.5:
        half_u, half_v = half_v, half_u
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    reach = (half_u * abs(sin) + half_v * abs(cos), half_u * abs(cos) + half_v * abs(sin))
    y, x = (_centre(size, half, rng) for size, half in zip((height, width), reach, strict=True))
    from_y, from_x = (_centre(size, half, rng) for size, half in zip((height, width), (half_v, half_u), strict=True))

    rows, columns = np.ogrid[:height, :width]
    u, v = cos * (columns - x) + sin * (rows - y), cos * (rows - y) - sin * (columns - x)
    inside = (np.abs(u) <= half_u) & (np.abs(v) <= half_v)
    source_rows = np.clip(np.rint(from_y + v), 0, height - 1).astype(int)
    source_columns = np.clip(np.rint(from_x + u), 0, width - 1).astype(int)
    patch = giver[:, torch.as_tensor(source_rows), torch.as_tensor(source_columns)]
    weight = inside.astype(np.float64)
    if smooth:
        weight *= np.minimum(_ramp(u, half_u), _ramp(v, half_v))
    else:
        patch = _jittered(patch, rng)
    return _blended(image, patch, torch.as_tensor(weight, dtype=image.dtype), rng)


def _centre(size: int, half: float, rng: np.random.Generator) -> int:
    """A pixel around which a side fits, or the middle one where it does not."""
    low, high = math.ceil(half - 0.5), math.floor(size - half - 0.5)
    return int(rng.integers(low, high + 1)) if low <= high else size // 2


def _ramp(distance: np.ndarray, half: float) -> np.ndarray:
    """Weights of whole pixels from 1 in the middle half of an upright side down towards 0 at its ends."""
    return np.clip(2 * (1 - np.abs(distance) / (math.floor(half) + 1)), 0, 1)


def _jittered(patch: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast and each channel's brightness shifted a little."""
    channels = len(patch)
    shift = torch.as_tensor(rng.uniform(-0.1, 0.1, (channels, 1, 1)), dtype=patch.dtype)
    return (patch * rng.uniform(0.8, 1.2) + shift).clamp(0, 1)


def _blended(image: Tensor, patch: Tensor, weight: Tensor, rng: np.random.Generator) -> Tensor:
    """``patch`` over ``image`` where ``weight`` ``(H, W)`` says; always to be seen."""
    share = weight / weight.sum()
    step = rng.uniform(0.1, 0.3)
    if not ((patch - image) * share).sum((1, 2)).abs().max() >= VISIBLE:
        patch = patch + (step if (image.mean(0) * share).sum() < 0.5 else -step)
    return image + weight * (patch.clamp(0, 1) - image)

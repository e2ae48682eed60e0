"""Region of interest: a mask of the pixels that count, for all images of a domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.masks import resize_masks
from metaad_zoo.data.read.pixels import SAME_RATIO, Aspect, array_in_bytes, decode

WHITE = 128
"""Least brightness of a pixel inside the region, of 255."""


def read_region(source: Any, size: Sequence[int], ratio: float | None = None, aspect: Aspect = "squash") -> Tensor:
    """A region of interest at the size of samples.

    Args:
        source: image file, or array or tensor ``(H, W)`` of bool, uint8 or floats from 0 to 1: white, 128 of 255 and
            brighter, is inside.
        size: height and width of a sample.
        ratio: width by height of the images before they were brought to this size; None: that of ``size``.
        aspect: how they were brought to it.

    Returns:
        ``size``, bool: a pixel is inside where the nearest pixel of the source is white.

    Raises:
        ValueError: the source can't be read, has another aspect ratio than the images, or no white pixel.

    Example:
        >>> read_region(np.array([[0, 255], [0, 255]], np.uint8), (4, 4))[0]
        tensor([False, False,  True,  True])
    """
    place = str(source) if isinstance(source, (str, Path)) else "roi"
    pixels = _pixels(source)
    height, width = pixels.shape
    expected = size[1] / size[0] if ratio is None else ratio
    if abs(math.log(width / height / expected)) > math.log(SAME_RATIO):
        raise ValueError(
            f"{place} has {width} x {height} pixels, a ratio of {width / height:.2f} (width by height), but that of "
            f"the support's images is {expected:.2f}: draw the region of interest over one of these images, uncropped"
        )
    region = resize_masks(torch.from_numpy(pixels >= WHITE)[None], size, aspect)[0]
    if not region.any():
        what = f"only {int((pixels >= WHITE).sum())} white pixels" if (pixels >= WHITE).any() else "no white pixel"
        raise ValueError(
            f"{place} has {what} (128 of 255 or brighter), and none of it remains at {size[0]} x {size[1]} pixels: "
            "paint the region of interest white, and all else black"
        )
    return region


def _pixels(source: Any) -> np.ndarray:
    """Brightness ``(H, W)`` uint8."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise ValueError(f"{path} does not exist: expected an image, white in the region of interest, else black")
        return decode(path, 1)[0][0].numpy()
    array = np.asarray(source.detach().cpu().numpy() if isinstance(source, Tensor) else source)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"expected roi as an image file or an array (H, W), saw an array of shape {array.shape}")
    return array_in_bytes(array, "roi")

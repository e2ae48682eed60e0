"""Heat maps laid over photographs, with contours and boxes of the anomalous regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

TOP = 0.01
"""Share of a map's pixels, the highest, whose mean stands for the image's score."""
HEAT, EDGE = (255, 59, 48), (255, 255, 255)
MOST_HEAT = 0.6
"""Opacity of the heat where it is strongest."""
_TOUCHING = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Region:
    """An anomalous region of an image: connected pixels, diagonal neighbours included.

    Attributes:
        x0: its leftmost column.
        y0: its uppermost row.
        x1: the column right of it.
        y1: the row below it.
        peak: its highest value in the heat map.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    peak: float


def region_level(heat: np.ndarray, threshold: float) -> float:
    """The value of a heat map from which on pixels are anomalous, in an image whose score is above the threshold.

    It is the threshold of the scores: a score is the mean over the highest 1 % of the patches' values, which the map
    shows. The map is smoothed, so that less than 1 % of it may reach the threshold; then it is the mean of its highest
    1 %, and there is always such a pixel. Pixels of exactly 0, outside a region of interest, do not count.

    Args:
        heat: heat map ``(H, W)``, in the unit of the scores.
        threshold: score above which images are called anomalous.

    Example:
        >>> heat = np.array([[0.0, 1.0], [2.0, 3.0]])
        >>> region_level(heat, 1.5), region_level(heat, 3.5)
        (1.5, 3.0)
    """
    counted = heat[heat != 0]
    return min(threshold, top_mean(counted)) if counted.size else threshold


def top_mean(heat: np.ndarray) -> float:
    """Mean of the highest 1 % of a map's pixels, at least one.

    Example:
        >>> top_mean(np.arange(200.0).reshape(10, 20))
        198.5
    """
    n = max(1, round(TOP * heat.size))
    return float(np.partition(heat.ravel(), heat.size - n)[heat.size - n :].mean(dtype=np.float64))


def find_regions(heat: np.ndarray, level: float) -> list[Region]:
    """Connected regions of a heat map ``(H, W)`` from a level on, the highest peak first.

    Example:
        >>> heat = np.zeros((4, 6))
        >>> heat[1:3, 2:5] = [[1, 2, 1], [1, 1, 1]]
        >>> find_regions(heat, 0.5)
        [Region(x0=2, y0=1, x1=5, y1=3, peak=2.0)]
    """
    labels, _ = ndimage.label(heat >= level, _TOUCHING)
    regions = []
    for k, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        peak = heat[rows, columns][labels[rows, columns] == k].max()
        regions.append(Region(columns.start, rows.start, columns.stop, rows.stop, float(peak)))
    return sorted(regions, key=lambda region: -region.peak)


def overlay(picture: Any, heat: Any, level: float | None = None) -> np.ndarray:
    """A photograph with its heat map laid over it, and contours and boxes of the regions from a level on.

    The heat is red. It fades from the map's highest value, or from the level if no pixel reaches it, to transparent at
    the map's median. Contours are white, boxes are white and black.

    Args:
        picture: ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``: uint8, or floats from 0 to 1.
        heat: heat map ``(H, W)``, higher is more anomalous, such as ``detector.explain(images, "patches")[i].sum(0)``
            where the image has the model's size.
        level: value of the map from which on pixels are anomalous (:func:`region_level`); None draws the heat alone.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: the shapes differ, or the image is of another type.

    Example:
        >>> heat = np.zeros((40, 60))
        >>> heat[10:20, 30:50] = 1
        >>> drawn = overlay(np.full((40, 60), 0.5), heat, level=0.5)
        >>> drawn.shape, drawn[15, 40].tolist(), drawn[0, 0].tolist()
        ((40, 60, 3), [204, 86, 80], [128, 128, 128])
    """
    pixels, values = _rgb(np.asarray(picture)), np.asarray(heat, np.float32)
    if values.shape != pixels.shape[:2]:
        raise ValueError(f"expected a heat map of the image's size {pixels.shape[:2]}, saw shape {values.shape}")
    low, high = float(np.median(values)), float(values.max())
    high = high if level is None else max(high, level)
    strength = np.clip((values - low) / max(high - low, 1e-12), 0, 1)[..., None]
    opacity = strength**2 * np.float32(MOST_HEAT)  # squared: what is usual stays clear
    drawn = np.round(pixels * (1 - opacity) + np.array(HEAT, np.float32) * opacity).astype(np.uint8)
    return drawn if level is None else _outlined(drawn, values, level)


def _outlined(drawn: np.ndarray, heat: np.ndarray, level: float) -> np.ndarray:
    width = max(1, round(min(heat.shape) / 250))
    inside = heat >= level
    drawn[inside & ~ndimage.binary_erosion(inside, _TOUCHING, width, border_value=1)] = EDGE
    image = Image.fromarray(drawn)
    brush = ImageDraw.Draw(image)
    bottom, right = heat.shape[0] - 1, heat.shape[1] - 1
    for region in find_regions(heat, level):
        for k, colour in enumerate(("black", "white")):
            gap = (2 - k) * width  # the box stands clear of what it encloses
            corners = (region.x0 - gap, region.y0 - gap, region.x1 - 1 + gap, region.y1 - 1 + gap)
            x0, y0, x1, y1 = (min(max(c, 0), end) for c, end in zip(corners, (right, bottom) * 2, strict=True))
            brush.rectangle((x0, y0, x1, y1), outline=colour, width=width)
    return np.array(image)


def _rgb(picture: np.ndarray) -> np.ndarray:
    """The image ``(H, W, 3)`` float32 from 0 to 255."""
    pixels = picture[..., None] if picture.ndim == 2 else picture
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or picture.dtype.kind not in "uf":
        raise ValueError(
            "expected an image (H, W), (H, W, 1) or (H, W, 3) of uint8 or of floats from 0 to 1, saw "
            f"{picture.dtype} of shape {picture.shape}"
        )
    scaled = pixels.astype(np.float32) * np.float32(255 if picture.dtype.kind == "f" else 1)
    return np.broadcast_to(scaled, (*pixels.shape[:2], 3))

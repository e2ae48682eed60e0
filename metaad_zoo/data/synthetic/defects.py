"""Defects of surfaces and parts, drawn into an image together with a mask; for meta-training only.

Each kind is a pure function of an image ``(C, H, W)`` with values in [0, 1] and a generator. A pixel either changes by
at least a byte's step or keeps its value, so the mask is where the two images differ. A change too faint to be seen,
such as a blur of a plain surface, is made lighter or darker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaad_zoo.data.synthetic import image as pasting
from metaad_zoo.registry import Registry

STEP = 1 / 255
"""A pixel changed by less than this, in all channels, keeps its value."""

Defect = Callable[[Tensor, np.random.Generator], tuple[Tensor, np.ndarray]]
"""An image ``(C, H, W)``, to a changed one and weights ``(H, W)`` in [0, 1] with which it replaces the original."""

_DEFECTS: Registry[Defect] = Registry("defect")


def register_defect(name: str) -> Callable[[Defect], Defect]:
    """Register a kind of defect.

    Raises:
        ValueError: the name is taken.
    """

    def register(defect: Defect) -> Defect:
        _DEFECTS.add(name, defect)
        return defect

    return register


def list_defects(pattern: str = "*") -> list[str]:
    """Names of the kinds of defects that match an fnmatch pattern.

    Example:
        >>> list_defects("d*")
        ['dent', 'doubled']
    """
    return _DEFECTS.names(pattern)


def require_defects(kinds: Sequence[str] | None) -> list[str]:
    """Kinds of defects, checked; all for None.

    Raises:
        ValueError: there is none, or one is unknown (the nearest names are given).
    """
    names = list_defects() if kinds is None else list(kinds)
    if not names:
        raise ValueError(f"expected at least one of the defects {list_defects()}, saw none")
    for name in names:
        _ = _DEFECTS[name]
    return names


def draw_defect(image: Tensor, rng: np.random.Generator, kinds: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Draw a defect of a random kind into an image.

    Args:
        image: normal image ``(C, H, W)`` in [0, 1]; not changed.
        rng: source of all randomness.
        kinds: names that :func:`list_defects` lists; None: all.

    Returns:
        The image with the defect ``(C, H, W)``, and the mask of its changed pixels ``(H, W)``, booleans.

    Raises:
        ValueError: a kind is unknown (the nearest names are given).

    Example:
        >>> image = torch.full((3, 32, 32), 0.5)
        >>> changed, mask = draw_defect(image, np.random.default_rng(0), ["scratch"])
        >>> bool((changed != image).any(0).eq(mask).all()), bool(mask.any())
        (True, True)
    """
    names = require_defects(kinds)
    defect = _DEFECTS[names[rng.integers(len(names))]]
    changed = _visible(image, *defect(image, rng), rng)
    return changed, (changed != image).any(0)


@register_defect("cut_paste")
def cut_paste(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """See :func:`metaad_zoo.data.synthetic.image.cut_paste`."""
    pasted = pasting.cut_paste(image[None], image[None], rng)[0]
    return pasted, (pasted != image).any(0).double().numpy()


@register_defect("scar")
def scar(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """See :func:`metaad_zoo.data.synthetic.image.scar`."""
    pasted = pasting.scar(image[None], image[None], rng)[0]
    return pasted, (pasted != image).any(0).double().numpy()


@register_defect("texture")
def texture(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """Another texture over irregular regions: the image itself, turned, moved and recoloured, through Perlin noise.

    Source: Zavrtanik et al., "DRÆM: A Discriminatively Trained Reconstruction Embedding for Surface Anomaly
    Detection", ICCV 2021, which takes the textures from another data set.
    """
    height, width = image.shape[-2:]
    inside = _irregular(height, width, _area(rng), rng)
    other = image.flip([[1], [2], [1, 2]][rng.integers(3)])
    other = other.roll((int(rng.integers(height)), int(rng.integers(width))), (1, 2))
    gain = torch.as_tensor(rng.uniform(0.4, 1.6, (len(image), 1, 1)), dtype=image.dtype)
    shift = torch.as_tensor(rng.uniform(-0.3, 0.3, (len(image), 1, 1)), dtype=image.dtype)
    other = (1 - other if rng.random() < 0.3 else other) * gain + shift
    return other, inside * rng.uniform(0.3, 1)


@register_defect("scratch")
def scratch(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """One to three thin curves, lighter or darker than the surface."""
    height, width = image.shape[-2:]
    y, x = np.ogrid[:height, :width]
    weight = np.zeros((height, width))
    half = max(0.6, rng.uniform(0.004, 0.015) * math.hypot(height, width))
    reach = math.ceil(half + 0.5)
    for _ in range(rng.integers(1, 4)):
        corners = rng.uniform(0, 1, (3, 2)) * (height - 1, width - 1)
        t = np.linspace(0, 1, math.ceil(2 * math.hypot(height, width) / half))[:, None]
        curve = (1 - t) ** 2 * corners[0] + 2 * t * (1 - t) * corners[1] + t**2 * corners[2]  # quadratic Bézier
        for cy, cx in curve:
            box = tuple(slice(max(0, int(c) - reach), int(c) + reach + 2) for c in (cy, cx))
            distance = np.hypot(y[box[0]] - cy, x[:, box[1]] - cx)
            weight[box] = np.maximum(weight[box], np.clip(half + 0.5 - distance, 0, 1))
    return image + _contrast(image, rng), weight


@register_defect("dent")
def dent(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """A round region that bulges or caves in, light on one side and dark on the other."""
    height, width = image.shape[-2:]
    u, v, (cy, cx), (half_y, half_x) = _ellipse(height, width, _area(rng), rng)
    radius = np.hypot(u, v)
    depth = np.clip(1 - radius**2, 0, 1) ** 2
    scale = 1 + rng.uniform(0.3, 0.7) * (-1 if rng.random() < 0.5 else 1) * depth
    y, x = cy + scale * v * half_y, cx + scale * u * half_x
    grid = np.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    warped = F.grid_sample(
        image[None], torch.as_tensor(grid, dtype=image.dtype)[None], padding_mode="border", align_corners=True
    )[0]
    angle = rng.uniform(0, 2 * math.pi)
    slope = (u * math.cos(angle) + v * math.sin(angle)) * np.clip(1 - radius**2, 0, 1) * rng.uniform(0.3, 1)
    return warped + torch.as_tensor(slope, dtype=image.dtype), (radius < 1).astype(float)


@register_defect("missing")
def missing(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """A region filled smoothly with the colours around it, as where a part is absent."""
    height, width = image.shape[-2:]
    u, v, _, _ = _ellipse(height, width, _area(rng), rng)
    inside = _region(u, v, rng)
    outside = torch.as_tensor(~inside, dtype=image.dtype)[None, None]
    visible = torch.cat([image[None] * outside, outside], 1)
    fill = image.mean((1, 2), keepdim=True).expand_as(image)
    for cells in (1, 2, 4, 8, 16):  # each finer mean replaces the coarser one where it has pixels
        coarse = F.adaptive_avg_pool2d(visible, (min(cells, height), min(cells, width)))
        total = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]
        fill = torch.where(total[-1] > 0.05, total[:-1] / total[-1].clamp_min(0.05), fill)
    return fill, inside.astype(float)


@register_defect("doubled")
def doubled(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """A region of the image a second time, close to the first one."""
    height, width = image.shape[-2:]
    u, v, _, (half_y, half_x) = _ellipse(height, width, _area(rng), rng)
    angle = rng.uniform(0, 2 * math.pi)
    distance = rng.uniform(0.8, 2)
    dy, dx = round(distance * half_y * math.sin(angle)), round(distance * half_x * math.cos(angle))
    rows = _reflected(np.arange(height) + (dy if dy or dx else 1), height)
    columns = _reflected(np.arange(width) + dx, width)
    return image[:, rows][:, :, columns], _region(u, v, rng).astype(float)


@register_defect("stain")
def stain(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """A spot of another colour with an irregular and soft border, through which the surface shows."""
    height, width = image.shape[-2:]
    u, v, _, _ = _ellipse(height, width, _area(rng), rng)
    radius = np.hypot(u, v) * (1 + 0.5 * _perlin(height, width, 4, rng))
    weight = np.clip((1 - radius) * rng.uniform(2, 10) + 0.1, 0, 1) * (radius < 1)
    colour = torch.as_tensor(rng.uniform(0, 1, (len(image), 1, 1)), dtype=image.dtype)
    return colour.expand_as(image), weight * rng.uniform(0.3, 0.9)


@register_defect("blur")
def blur(image: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """A region out of focus."""
    height, width = image.shape[-2:]
    u, v, _, _ = _ellipse(height, width, _area(rng), rng)
    reach = 2 * max(1, round(rng.uniform(0.01, 0.05) * min(height, width))) + 1
    soft = torch.cat([image, torch.ones_like(image[:1])])
    for axis in ((reach, 1), (1, reach)) * 3:  # repeated means approach a Gaussian
        soft = F.avg_pool2d(soft[None], axis, stride=1, padding=(axis[0] // 2, axis[1] // 2))[0]
    return soft[:-1] / soft[-1], _region(u, v, rng).astype(float)


def _visible(image: Tensor, proposal: Tensor, weight: np.ndarray, rng: np.random.Generator) -> Tensor:
    """The image with the proposal laid over it; a change too faint to be seen becomes lighter or darker."""
    step = rng.uniform(0.1, 0.3)
    if weight.max() == 0:
        weight = _middle(weight)
    over = torch.as_tensor(weight / min(1, 10 * weight.max()), dtype=image.dtype)
    changed = _changed(image, image + over * (proposal.clamp(0, 1) - image))
    differs = (changed != image).any(0)
    if differs.sum() < 0.25 * (over > 0).sum() or (changed - image).abs().mean(0)[differs].mean() < pasting.VISIBLE:
        lighter = (image.mean(0) * over).sum() < 0.5 * over.sum()
        changed = _changed(image, (image + over.sqrt() * (step if lighter else -step)).clamp(0, 1))
    return changed


def _changed(image: Tensor, proposal: Tensor) -> Tensor:
    """The proposal, where it differs from the image by a byte's step."""
    return torch.where((proposal - image).abs().amax(0) >= STEP, proposal, image)


def _middle(weight: np.ndarray) -> np.ndarray:
    """Weight 1 at the middle pixel."""
    weight = np.zeros_like(weight)
    weight[weight.shape[0] // 2, weight.shape[1] // 2] = 1
    return weight


def _contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A shift of colour ``(C, 1, 1)``, grey for the most part, away from the image's mean."""
    size = rng.uniform(0.15, 0.6)
    sign = 1 if float(image.mean()) + rng.uniform(-0.4, 0.4) < 0.5 else -1
    return torch.as_tensor(sign * size * rng.uniform(0.7, 1, (len(image), 1, 1)), dtype=image.dtype)


def _area(rng: np.random.Generator) -> float:
    """Share of the image's area that a defect covers; small ones are as frequent as large ones."""
    return math.exp(rng.uniform(math.log(0.01), math.log(0.15)))


def _ellipse(
    height: int, width: int, area: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[float, float], tuple[float, float]]:
    """Coordinates ``u`` and ``v`` ``(H, W)`` in units of the half axes, the centre, and the half axes in pixels.

    Args:
        height: of the image.
        width: of the image.
        area: area of the ellipse, as a share of the image's.
        rng: draws the place and the aspect.
    """
    aspect = math.exp(rng.uniform(-0.7, 0.7))
    half = math.sqrt(area * height * width / math.pi)
    half_y = min(max(half * math.sqrt(aspect), 1.0), height / 2)
    half_x = min(max(half / math.sqrt(aspect), 1.0), width / 2)
    cy = rng.uniform(half_y - 0.5, height - half_y - 0.5) if height > 2 * half_y else (height - 1) / 2
    cx = rng.uniform(half_x - 0.5, width - half_x - 0.5) if width > 2 * half_x else (width - 1) / 2
    y, x = np.mgrid[:height, :width]
    return (x - cx) / half_x, (y - cy) / half_y, (cy, cx), (half_y, half_x)


def _region(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An ellipse or the rectangle of the same area, ``(H, W)`` booleans."""
    if rng.random() < 0.5:
        inside: np.ndarray = np.hypot(u, v) < 1
    else:
        inside = np.maximum(np.abs(u), np.abs(v)) < math.sqrt(math.pi) / 2
    return inside


def _irregular(height: int, width: int, area: float, rng: np.random.Generator) -> np.ndarray:
    """Irregular regions that cover ``area`` of the image, ``(H, W)`` of 0 and 1."""
    noise = _perlin(height, width, int(rng.integers(2, 6)), rng)
    return (noise >= np.quantile(noise, 1 - area)).astype(float)


def _perlin(height: int, width: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Gradient noise ``(H, W)`` from about -1 to 1, on a lattice of ``cells`` x ``cells``.

    Source: Perlin, "Improving Noise", SIGGRAPH 2002.
    """
    angles = rng.uniform(0, 2 * math.pi, (cells + 1, cells + 1))
    y, x = (np.linspace(0, cells, size, endpoint=False) for size in (height, width))
    row, column = y.astype(int)[:, None], x.astype(int)[None, :]
    inside_y, inside_x = y[:, None] - row, x[None, :] - column

    def corner(down: int, right: int) -> np.ndarray:
        angle = angles[row + down, column + right]
        product: np.ndarray = np.sin(angle) * (inside_y - down) + np.cos(angle) * (inside_x - right)
        return product

    def fade(t: np.ndarray) -> np.ndarray:
        return t**3 * (t * (6 * t - 15) + 10)

    top = corner(0, 0) + fade(inside_x) * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade(inside_x) * (corner(1, 1) - corner(1, 0))
    noise: np.ndarray = math.sqrt(2) * (top + fade(inside_y) * (bottom - top))
    return noise


def _reflected(places: np.ndarray, size: int) -> np.ndarray:
    """Places inside ``range(size)``: those outside are mirrored at the borders."""
    places = places % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)

"""Patches of images: features, coresets and nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRS_AT_ONCE = 2**24
"""Maximum number of distances in memory at once."""
Grid = Literal["finest", "coarsest"]


def patch_features(maps: Sequence[Tensor], unit_length: bool, grid: Grid = "finest") -> Tensor:
    """Feature vector of each position of a grid: local means over 3 x 3 positions of all maps, concatenated.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (PatchCore), CVPR 2022, section 3.1.

    Args:
        maps: maps ``(n, C_i, H_i, W_i)``, the finest first.
        unit_length: whether each map's vectors are scaled to unit length, for equal weight of all maps.
        grid: positions of the finest or of the coarsest map. Coarser maps are interpolated bilinearly to it; of finer
            ones the means over its cells are taken.

    Returns:
        ``(n, H, W, sum of the C_i)``, with H and W of the finest or the coarsest map.
    """
    height, width = maps[0 if grid == "finest" else -1].shape[-2:]
    size = (height, width)
    parts = []
    for x in maps:
        around = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        if unit_length:
            around = F.normalize(around, dim=1)
        if around.shape[-1] > size[-1]:
            around = F.adaptive_avg_pool2d(around, size)
        elif tuple(around.shape[-2:]) != size:
            around = F.interpolate(around, size, mode="bilinear", align_corners=False)
        parts.append(around)
    return torch.cat(parts, 1).permute(0, 2, 3, 1)


def coreset(x: Tensor, size: int) -> Tensor:
    """Positions of a subset that covers all samples: each next sample is the farthest from the previous ones.

    The first is the farthest from the mean, so the choice is deterministic.

    Source: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018
    (greedy k-centre), as in PatchCore.

    Args:
        x: ``(n, d)``.
        size: maximum number of samples.

    Returns:
        ``(min(size, n),)``, in the order of choice, or ascending if all samples are chosen.

    Example:
        >>> coreset(torch.tensor([[0.0], [0.1], [5.0], [5.1], [2.0]]), 3).tolist()
        [3, 0, 4]
    """
    if size >= len(x):
        return torch.arange(len(x), device=x.device)
    chosen = [int((x - x.mean(0)).square().sum(1).argmax())]
    distances = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    while len(chosen) < size:
        distances = torch.minimum(distances, (x - x[chosen[-1]]).square().sum(1))
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen, device=x.device)


def nearest(x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest row of a memory, and the index of this row.

    Args:
        x: ``(m, d)``.
        memory: ``(n, d)``.

    Returns:
        ``(m,)`` each.
    """
    rows = max(1, PAIRS_AT_ONCE // len(memory))
    with torch.no_grad():
        # A traced graph can't split batches of unknown length.
        parts = [x] if torch.compiler.is_compiling() else x.split(rows)
        places = torch.cat([farness(part, memory).argmin(1) for part in parts])
    return (x - memory[places]).norm(dim=1), places  # more accurate than by a matrix product


def farness(x: Tensor, memory: Tensor) -> Tensor:
    """Half the squared distances ``(m, n)`` of ``x`` ``(m, d)`` to a memory ``(n, d)``, up to a constant for each row.

    It replaces cdist, which ONNX lacks, for ordering the memory by distance.
    """
    return memory.square().sum(1) / 2 - x @ memory.T


@dataclass(frozen=True)
class Subspace:
    """A linear subspace of features through their mean.

    Source: Lendering et al., "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026.

    Attributes:
        mean: ``(d,)``.
        axes: ``(d, r)``, orthonormal.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, x: Tensor, share: float) -> Subspace:
        """The principal components that hold a share of the variance.

        Args:
            x: ``(n, d)``.
            share: share of the variance, in (0, 1).

        Example:
            >>> line = Subspace.of(torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 0.0]]), 0.9)
            >>> line.residual(torch.tensor([[9.0, 1.0]]))
            tensor([1.])
        """
        mean = x.mean(0)
        centred = x - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
        held = variances.flip(0).cumsum(0) / variances.sum().clamp_min(torch.finfo(x.dtype).tiny)
        return cls(mean, axes.flip(1)[:, : int((held < share).sum()) + 1].contiguous())

    def residual(self, x: Tensor) -> Tensor:
        """Distances ``(m,)`` of ``x`` ``(m, d)`` to the subspace."""
        centred = x - self.mean
        return (centred - centred @ self.axes @ self.axes.T).norm(dim=1)


def to_pixels(distances: Tensor, size: Sequence[int]) -> Tensor:
    """Map of patch distances at the image's resolution: interpolated, and smoothed over half a patch.

    The smoothing is that of PatchCore (4 pixels for a patch spacing of 8), for any size.

    Args:
        distances: ``(n, H, W)``.
        size: height and width of the image.

    Returns:
        ``(n, *size)``.
    """
    pixels = F.interpolate(distances.unsqueeze(1), tuple(size), mode="bilinear", align_corners=False)
    sigma = [size[1] / distances.shape[2] / 2, size[0] / distances.shape[1] / 2]  # along x, along y
    if min(sigma) <= 0.5:
        return pixels.squeeze(1)
    reach = [min(math.ceil(2 * s), length - 1) for s, length in zip(sigma, (size[1], size[0]), strict=True)]
    from torchvision.transforms.v2.functional import gaussian_blur  # takes seconds to import

    smooth: Tensor = gaussian_blur(pixels, [2 * r + 1 for r in reach], sigma)
    return smooth.squeeze(1)

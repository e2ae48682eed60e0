"""Soft nearest neighbours: relative distances and their soft minimum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-3
"""Added to relative distances before the logarithm."""


def soft_minimum(distances: Tensor, rows: Tensor, sharpness: Tensor) -> Tensor:
    """Logarithm of the soft minimum of distances over the selected rows.

    The soft minimum ``-log(mean(exp(-s d))) / s`` tends to the minimum for large sharpness ``s``, and to the mean for
    small ``s``.

    Args:
        distances: non-negative distances ``(..., m, n, heads)``.
        rows: ``(..., n)`` booleans of the selected rows; without any, the distance counts as 1.
        sharpness: ``(heads,)``.

    Returns:
        ``(..., m, heads)``.
    """
    count = rows.sum(-1)[..., None, None]
    nonempty = count > 0
    mask = rows[..., None, :, None] | ~nonempty.unsqueeze(-1)
    energies = torch.where(mask, -sharpness * distances, -torch.inf)
    soft = (count.clamp_min(1).log() - energies.logsumexp(-2)) / sharpness
    return torch.where(nonempty, (soft.clamp_min(0) + LEAST).log(), math.log(1 + LEAST))


def own_distances(between: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest-neighbour distances among the support rows.

    Args:
        between: distances ``(..., n, n, heads)``.
        rows: ``(..., n)`` booleans of the selected rows.

    Returns:
        The mean over rows of the distance to the nearest other row ``(..., heads)``, or 1 if there are no two distinct
        rows; and the logarithm of each row's distance relative to this mean ``(..., n, heads)``.
    """
    n = rows.shape[-1]
    pairs = rows.unsqueeze(-1) & rows.unsqueeze(-2) & ~torch.eye(n, dtype=torch.bool, device=rows.device)
    nearest = torch.where(pairs.unsqueeze(-1), between, torch.inf).amin(-2)  # (..., n, heads)
    finite = nearest.isfinite()
    nearest = torch.where(finite, nearest, 0)
    mean = nearest.sum(-2) / finite.sum(-2).clamp_min(1)
    unit = torch.where(mean > 0, mean, 1)
    return unit, torch.where(finite, (nearest / unit.unsqueeze(-2) + LEAST).log(), 0)

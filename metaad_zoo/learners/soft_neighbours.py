"""Soft nearest neighbours: relative distances and their soft minimum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaad_zoo.learners.set_attention import masked

LEAST = 1e-3
"""Added to relative distances before the logarithm."""
DISTANCES_AT_ONCE = 2**18
"""Number of a support's own distances in memory at once: more would not fit a processor's cache."""


def l1_distances(x: Tensor, y: Tensor) -> Tensor:
    """L1 distances ``(..., m, n)`` of vectors ``(..., m, d)`` and ``(..., n, d)``."""
    if torch.compiler.is_compiling():  # ONNX has no cdist; the alternative needs memory for m x n x d numbers
        return (x.unsqueeze(-2) - y.unsqueeze(-3)).abs().sum(-1)
    return torch.cdist(x, y, p=1)


def soft_minimum(distances: Tensor, rows: Tensor, sharpness: Tensor) -> Tensor:
    """Logarithm of the soft minimum of distances over the selected rows.

    The soft minimum ``-log(mean(exp(-s d))) / s`` tends to the minimum for large sharpness ``s``, and to the mean for
    small ``s``.

    Args:
        distances: non-negative distances ``(..., heads, m, n)``.
        rows: ``(..., n)`` booleans of the selected rows; without any, the distance counts as 1.
        sharpness: ``(heads,)``.

    Returns:
        ``(..., m, heads)``.
    """
    count = rows.sum(-1)[..., None, None]
    nonempty = count > 0
    mask = rows[..., None, None, :] | ~nonempty.unsqueeze(-1)
    energies = masked(distances * -sharpness[:, None, None], mask, -torch.inf)
    soft = (count.clamp_min(1).log() - energies.logsumexp(-1).transpose(-1, -2)) / sharpness
    return masked((soft.clamp_min(0) + LEAST).log(), nonempty, math.log(1 + LEAST))


def own_distances(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest-neighbour distances among the support rows.

    Args:
        x: rows in the units of each head ``(..., heads, n, d)``.
        rows: ``(..., n)`` booleans of the selected rows.

    Returns:
        The mean over rows of the distance to the nearest other row ``(..., heads)``, or 1 if there are no two distinct
        rows; and the logarithm of each row's distance relative to this mean ``(..., n, heads)``.
    """
    n, selected = rows.shape[-1], rows.unsqueeze(-2)  # (..., 1, n), beside the heads
    at_once = max(1, DISTANCES_AT_ONCE // (n * x.shape[-3]))
    parts = []
    for part in torch.arange(n, device=rows.device).split(at_once):
        itself = part.unsqueeze(-1) == torch.arange(n, device=rows.device)
        pairs = selected[..., part].unsqueeze(-1) & selected.unsqueeze(-2) & ~itself
        parts.append(torch.where(pairs, l1_distances(x[..., part, :], x), torch.inf).amin(-1))
    nearest = torch.cat(parts, -1)  # (..., heads, n)
    finite = nearest.isfinite()
    nearest = torch.where(finite, nearest, 0)
    mean = nearest.sum(-1) / finite.sum(-1).clamp_min(1)
    unit = torch.where(mean > 0, mean, 1)
    relative = torch.where(finite, (nearest / unit.unsqueeze(-1) + LEAST).log(), 0)
    return unit, relative.transpose(-1, -2)

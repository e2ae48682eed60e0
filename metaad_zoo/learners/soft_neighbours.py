"""Soft nearest neighbours: distances in units of the support's own, and their soft minimum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-3
"""Added to distances, in the support's own, before their logarithm is taken."""


def soft_minimum(distances: Tensor, rows: Tensor, sharpness: Tensor) -> Tensor:
    """Logarithm of the soft minimum of distances over those rows that count.

    The soft minimum is ``-log(mean(exp(-s d))) / s``: the minimum for a large sharpness ``s``, the mean for a small
    one.

    Args:
        distances: ``(..., m, n, heads)``, not negative.
        rows: ``(..., n)`` booleans; where none counts, the result is that of a distance of 1.
        sharpness: ``(heads,)``.

    Returns:
        ``(..., m, heads)``.
    """
    count = rows.sum(-1)[..., None, None]
    some = count > 0
    here = rows[..., None, :, None] | ~some.unsqueeze(-1)
    energies = torch.where(here, -sharpness * distances, -torch.inf)
    soft = (count.clamp_min(1).log() - energies.logsumexp(-2)) / sharpness
    return torch.where(some, (soft.clamp_min(0) + LEAST).log(), math.log(1 + LEAST))


def own_distances(between: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What distance is usual among the support rows.

    Args:
        between: ``(..., n, n, heads)`` distances among them.
        rows: ``(..., n)`` booleans: which count.

    Returns:
        The mean over rows of the distance to the nearest other row, ``(..., heads)``, 1 where there are no two rows or
        all are equal; and by row the logarithm of its own one relative to that, ``(..., n, heads)``.
    """
    n = rows.shape[-1]
    pairs = rows.unsqueeze(-1) & rows.unsqueeze(-2) & ~torch.eye(n, dtype=torch.bool, device=rows.device)
    nearest = torch.where(pairs.unsqueeze(-1), between, torch.inf).amin(-2)  # (..., n, heads)
    known = nearest.isfinite()
    nearest = torch.where(known, nearest, 0)
    mean = nearest.sum(-2) / known.sum(-2).clamp_min(1)
    own = torch.where(mean > 0, mean, 1)
    lonely = torch.where(known, (nearest / own.unsqueeze(-2) + LEAST).log(), 0)
    return own, lonely

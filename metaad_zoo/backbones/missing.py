"""What is not there: NaN stands for a missing value, a padded step, an absent channel, column or modality."""

from __future__ import annotations

import torch
from torch import Tensor

ANY = -1
"""In a shape: this axis may have any length."""


def split_missing(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values with 0 for what is missing, and where they are there (booleans of the same shape).

    Example:
        >>> values, there = split_missing(torch.tensor([1.0, float("nan")]))
        >>> values, there
        (tensor([1., 0.]), tensor([ True, False]))
    """
    there = ~x.isnan()
    return torch.where(there, x, torch.zeros_like(x)), there

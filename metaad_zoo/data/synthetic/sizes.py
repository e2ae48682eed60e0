"""Size of a visible change, in the units of the data."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

NOISE = 1e-5
"""A deviation below this share of the level is rounding."""


def column_sizes(samples: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """One deviation of each column or channel.

    Args:
        samples: ``(..., columns)``, NaN where nothing is known.
        donors: normal ones, ``(..., columns)``.

    Returns:
        ``(columns,)``, above 0: the donors' standard deviation; where they do not vary, the samples'; where those do
        not either, the mean absolute value; 1 where that is 0.

    Example:
        >>> column_sizes(np.array([[0.0, 7.0, 0.0]]), np.array([[1.0, 7.0, 0.0], [5.0, 7.0, 0.0]]))
        array([2., 7., 1.])
    """
    columns = samples.shape[-1]
    flat, normal = samples.reshape(-1, columns), donors.reshape(-1, columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN alone has no mean: it gets the next choice
        level = np.nanmean(np.abs(np.concatenate([normal, flat])), 0)
        choices = [np.nanstd(normal, 0), np.nanstd(flat, 0), level, np.ones(columns)]
    least = [NOISE * level, NOISE * level, 0 * level, 0 * level]
    enough = np.stack([size > smallest for size, smallest in zip(choices, least, strict=True)])
    enough[-1] = True
    return np.take_along_axis(np.stack(choices), enough.argmax(0)[None], 0)[0]


def known_values(x: Tensor) -> np.ndarray:
    """Float64 values, NaN for what is not finite."""
    return x.double().where(x.isfinite(), torch.nan).numpy()


def rounded(values: np.ndarray, samples: Tensor) -> Tensor:
    """Float64 values in the samples' own type, within its range; the samples' own where they are not finite."""
    most = torch.finfo(samples.dtype).max
    clamped = torch.as_tensor(values).clamp(-most, most).to(samples.dtype)
    return torch.where(samples.isfinite(), clamped, samples)

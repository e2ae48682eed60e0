"""Arrays, tensors and nested lists of a user's own as numpy arrays of real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)
"""Floating-point types of tensors that numpy has too."""


def require_values(x: Tensor) -> None:
    """Check that a tensor holds real numbers in memory, one beside the other.

    Raises:
        ValueError: it is on the meta device, sparse, nested or complex.
    """
    reasons = {
        "on the meta device, which holds no values: load them first": x.is_meta,
        f"of layout {x.layout}: call .to_dense() first": x.layout != torch.strided,
        "nested: pad it by .to_padded_tensor(float('nan')) first": x.is_nested,
        f"of {x.dtype}: give real numbers, such as .abs()": x.is_complex(),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(f"expected a dense tensor of real numbers, saw one {reason}")


def array_of(data: Any) -> np.ndarray:
    """A numpy array of an array, a tensor on any device or nested lists; masked values are NaN.

    Raises:
        ValueError: it is ragged, sparse, complex or a tensor without values.

    Example:
        >>> array_of(np.ma.masked_array([1, 2], mask=[True, False]))
        array([nan,  2.])
    """
    if isinstance(data, Tensor):
        require_values(data)
        x = data.detach().cpu().resolve_neg()
        return (x.float() if x.is_floating_point() and x.dtype not in NUMPY_FLOATS else x).numpy()
    if hasattr(data, "toarray"):
        raise ValueError(f"expected a dense array, saw {type(data).__name__}: call .toarray() first")
    try:
        array = np.asanyarray(data)
    except ValueError as error:  # ragged lists
        raise ValueError(f"expected an array, saw {type(data).__name__} ({error})") from error
    if array.dtype.kind == "c":
        raise ValueError(f"expected real numbers, saw {array.dtype}: give real numbers, such as np.abs(x)")
    if isinstance(array, np.ma.MaskedArray):
        gaps = np.ma.getmaskarray(array)
        return np.where(gaps, np.nan, array.data) if gaps.any() else array.data
    return np.asarray(array)

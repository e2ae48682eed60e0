"""Missing data as NaN: a missing value, a padded step, an absent channel, column or modality."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

ANY = -1
"""Size of an axis that may have any length."""

_declared: ContextVar[bool | None] = ContextVar("declared_missing", default=None)
_absent: ContextVar[frozenset[str]] = ContextVar("declared_absent", default=frozenset())


@contextmanager
def declare_missing(missing: bool) -> Iterator[None]:
    """Context in which no batch is searched for missing values, so that a trace has no branch on values.

    Args:
        missing: whether values may be missing; False for batches without NaN only.
    """
    token = _declared.set(missing)
    try:
        yield
    finally:
        _declared.reset(token)


def declared_missing() -> bool | None:
    """Value of :func:`declare_missing`; None outside of it."""
    return _declared.get()


@contextmanager
def declare_absent(modalities: Collection[str]) -> Iterator[None]:
    """Context in which all samples lack some modalities: their encoders are skipped, since the result would be masked.

    Args:
        modalities: names of modalities of which every sample holds only NaN.
    """
    token = _absent.set(frozenset(modalities))
    try:
        yield
    finally:
        _absent.reset(token)


def declared_absent() -> frozenset[str]:
    """Value of :func:`declare_absent`; empty outside of it."""
    return _absent.get()


def is_traced() -> bool:
    """Whether the present operations are recorded for other batches, so that none may depend on values."""
    return torch.compiler.is_compiling() or declared_missing() is not None


def may_miss(x: Tensor) -> bool:
    """Whether a batch has missing values; in a trace, whether other batches may have some."""
    return declared_missing() is not False if is_traced() else bool(torch.isnan(x).any())


def split_missing(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values with 0 in place of NaN, and the mask of present values (booleans of the same shape).

    Example:
        >>> split_missing(torch.tensor([1.0, float("nan")]))
        (tensor([1., 0.]), tensor([ True, False]))
    """
    present = ~x.isnan()
    return torch.where(present, x, torch.zeros_like(x)), present


def centre_missing(x: Tensor) -> Tensor:
    """Replace missing values by 0, which is the centre of the support set for scaled rows."""
    return x.masked_fill(x.isnan(), 0.0)  # half the operations of split_missing


def pool_present(x: Tensor, present: Tensor) -> Tensor:
    """Mean and maximum over the present items of a set, concatenated; 0 if none is present.

    Args:
        x: ``(n, items, width)``.
        present: ``(n, items)`` booleans.

    Returns:
        ``(n, 2 * width)``.
    """
    mask = present.unsqueeze(-1)
    count = mask.sum(1)
    mean = torch.where(mask, x, 0).sum(1) / count.clamp_min(1)
    # Ties share amax's gradient, so that it does not depend on the items' order either.
    largest = torch.where(mask, x, -math.inf).amax(1)
    return torch.cat([mean, torch.where(count > 0, largest, 0)], -1)

"""Floating-point precision and attention kernels of the inner loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HIGHEST_SCALE = 2.0**16


@contextmanager
def inner_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Context in which ``"full"`` switches autocast off and ``"mixed"`` keeps the trainer's setting."""
    if precision == "mixed":
        yield
    else:
        with torch.autocast(device.type, enabled=False):
            yield


def safe_scale(loss: Tensor, at: Sequence[Tensor]) -> float:
    """Factor for the support loss with which float16 gradients neither underflow nor overflow; 1 outside float16.

    A float16 gradient is 0 below 6e-8 and infinite above 65504, and the right factor differs between networks. So 2^16
    is tried first, then a quarter of it, and so on, until all gradients are finite. The factor has no state between
    steps, so a resumed run gives the same gradients.

    Args:
        loss: support loss ``()``.
        at: tensors to differentiate by.
    """
    kind = loss.device.type
    if not (torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16):
        return 1.0
    scale = HIGHEST_SCALE
    while scale > 1:
        gradients = torch.autograd.grad(loss * scale, at, retain_graph=True, allow_unused=True)
        if all(g is None or torch.isfinite(g).all() for g in gradients):
            break
        scale /= 4
    return scale


def inner_gradients(loss: Tensor, at: Sequence[Tensor], *, create_graph: bool) -> tuple[Tensor | None, ...]:
    """Gradients of the support loss, with a :func:`safe_scale` in float16.

    Args:
        loss: support loss ``()``.
        at: tensors to differentiate by.
        create_graph: whether the graph is kept for second derivatives.

    Returns:
        Gradients; None for a tensor on which the loss does not depend.
    """
    scale = safe_scale(loss, at)
    gradients = torch.autograd.grad(loss * scale, at, create_graph=create_graph, allow_unused=True)
    return gradients if scale == 1.0 else tuple(None if g is None else g / scale for g in gradients)


def twice_differentiable() -> AbstractContextManager[None]:
    """Context with unfused attention, because the fused kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast; a null context while a graph is traced, which would record it as an operation."""
    return nullcontext() if torch.compiler.is_compiling() else torch.autocast(device.type, enabled=False)

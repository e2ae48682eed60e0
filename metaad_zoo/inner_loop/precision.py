"""In which numbers and by which kernels the inner loop computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HIGHEST_SCALE = 2.0**16


@contextmanager
def inner_precision(precision: str, device: torch.device) -> Iterator[None]:
    """``"full"`` switches autocast off; ``"mixed"`` leaves it as the trainer has set it."""
    if precision == "mixed":
        yield
    else:
        with torch.autocast(device.type, enabled=False):
            yield


def safe_scale(loss: Tensor, at: Sequence[Tensor]) -> float:
    """A factor for the support loss at which float16 gradients neither underflow nor overflow; else 1.

    A gradient in float16 is 0 below 6e-8 and infinite above 65504, and a factor that lifts one network's gradients
    overflows another's. So 2^16 is tried, then a quarter of it again and again, until all gradients are finite. Nothing
    is remembered from step to step: a resumed run does the same.

    Args:
        loss: ``()``.
        at: what it is differentiated by.
    """
    kind = loss.device.type
    if not (torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16):
        return 1.0
    scale = HIGHEST_SCALE
    while scale > 1:
        tried = torch.autograd.grad(loss * scale, at, retain_graph=True, allow_unused=True)
        if all(g is None or torch.isfinite(g).all() for g in tried):
            break
        scale /= 4
    return scale


def inner_gradients(loss: Tensor, at: Sequence[Tensor], *, create_graph: bool) -> tuple[Tensor | None, ...]:
    """Gradients of the support loss, in float16 computed at a :func:`safe_scale`.

    Args:
        loss: ``()``.
        at: what to differentiate by.
        create_graph: keep the graph for second derivatives.

    Returns:
        Gradients; None where the loss does not depend on a tensor.
    """
    scale = safe_scale(loss, at)
    gradients = torch.autograd.grad(loss * scale, at, create_graph=create_graph, allow_unused=True)
    return gradients if scale == 1.0 else tuple(None if g is None else g / scale for g in gradients)


def twice_differentiable() -> AbstractContextManager[None]:
    """Plain attention, for the fused kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast within; nothing at all while a graph is traced, which would keep the context as an operation."""
    return nullcontext() if torch.compiler.is_compiling() else torch.autocast(device.type, enabled=False)

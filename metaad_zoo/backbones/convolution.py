"""Grouped convolution with fast derivatives of every order.

torch computes the second derivative of a grouped convolution group by group, with kernels as large as the image, which
is slower than a loop over groups. A convolution ``y = x * w`` is linear in both arguments, and so are its two
gradients. The derivative of each of these three functions consists of the other two, and torch has a fast kernel for
each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class _Geometry(NamedTuple):
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


def grouped_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Grouped convolution, differentiable to any order.

    Args:
        x: ``(n, C, ...)``.
        weight: ``(out, C / groups, ...)``.
        bias: ``(out,)``.
        stride: stride along each spatial axis.
        padding: number of zeros on both sides of each spatial axis.
        dilation: spacing of kernel elements along each spatial axis.
        groups: number of independent groups of channels.

    Returns:
        ``(n, out, ...)``, in autocast's type if that is on.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    geometry = _Geometry(list(stride), list(padding), list(dilation), groups)
    with torch.autocast(kind, enabled=False):
        y: Tensor = _Convolution.apply(x, weight, bias, geometry)
    return y


def _gradients(gy: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, wanted: Sequence[bool]) -> Sequence[Tensor]:
    """Wanted gradients of input, weight and bias; a single wanted argument may hold any values of its shape."""
    stride, padding, dilation, groups = geometry
    places = (stride, padding, dilation, False, [0] * len(stride), groups)
    gradients: Sequence[Tensor] = torch.ops.aten.convolution_backward(gy, x, weight, weight.shape[:1], *places, wanted)
    return gradients


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():  # without a further derivative, one call gives all three
            gradients = _gradients(gy, x, weight, ctx.geometry, wanted)
            return (*(g if want else None for g, want in zip(gradients, wanted, strict=True)), None)
        return (
            _InputGradient.apply(gy, weight, x.shape, ctx.geometry) if wanted[0] else None,
            _WeightGradient.apply(x, gy, weight.shape, ctx.geometry) if wanted[1] else None,
            gy.sum([0, *range(2, gy.ndim)]) if wanted[2] else None,
            None,
        )


class _InputGradient(Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, weight: Tensor, shape: torch.Size, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(gy, weight)
        ctx.geometry = geometry
        return _gradients(gy, gy.new_empty(()).expand(shape), weight, geometry, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, ggx: Tensor) -> Any:
        gy, weight = ctx.saved_tensors
        need_gy, need_weight, *_ = ctx.needs_input_grad
        return (
            _Convolution.apply(ggx, weight, None, ctx.geometry) if need_gy else None,
            _WeightGradient.apply(ggx, gy, weight.shape, ctx.geometry) if need_weight else None,
            None,
            None,
        )


class _WeightGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gy: Tensor, shape: torch.Size, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, gy)
        ctx.geometry = geometry
        return _gradients(gy, x, x.new_empty(()).expand(shape), geometry, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, ggw: Tensor) -> Any:
        x, gy = ctx.saved_tensors
        need_x, need_gy, *_ = ctx.needs_input_grad
        return (
            _InputGradient.apply(gy, ggw, x.shape, ctx.geometry) if need_x else None,
            _Convolution.apply(x, ggw, None, ctx.geometry) if need_gy else None,
            None,
            None,
        )

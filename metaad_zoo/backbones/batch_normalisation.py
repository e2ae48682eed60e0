"""Batch normalisation by the statistics of the batch, with a fast second derivative.

torch composes the second derivative of ``F.batch_norm`` from some sixty operations on the whole batch. Per channel, it
is a linear combination of the input and the two gradients, with coefficients that are means of their products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def batch_normalisation(x: Tensor, rows: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Same as ``F.batch_norm`` in training, without running statistics.

    Args:
        x: ``(n, C, ...)``, in float32 or float64.
        rows: number of leading samples that contribute to the statistics.
        weight: factor of each channel ``(C,)``.
        bias: offset of each channel ``(C,)``.
        eps: number added to the variance.

    Returns:
        ``(n, C, ...)``, twice differentiable if all samples contribute to the statistics, else once.
    """
    y: Tensor
    if rows == len(x):
        y = _Normalisation.apply(x, weight, bias, eps)
    else:
        y = _NormalisationByFirst.apply(x, rows, weight, bias, eps)
    return y


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.ndim - 2))


class _Normalisation(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        return (*_Gradient.apply(gy, x, weight, mean, inverse, ctx.eps), None)


class _Gradient(Function):
    """Gradients of input, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        gx, gw, gb = torch.ops.aten.native_batch_norm_backward(
            gy, x, weight, None, None, mean, inverse, True, eps, [True, True, True]
        )
        ctx.save_for_backward(gy, x, weight, mean, inverse)
        return gx, gw, gb

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, uw: Tensor, ub: Tensor) -> Any:
        gy, x, weight, mean, inverse = ctx.saved_tensors
        axes = [0, *range(2, x.ndim)]
        # Means of each channel; with z = (x - mean) * inverse, the gradient of x is w * inverse * (g - <g> - z * <gz>).
        u_mean, g_mean = u.mean(axes), gy.mean(axes)
        uz = ((u * x).mean(axes) - mean * u_mean) * inverse
        gz = ((gy * x).mean(axes) - mean * g_mean) * inverse
        spread = (u * gy).mean(axes) - u_mean * g_mean - uz * gz
        factor = weight * inverse
        # Coefficients of z, of the gradients and 1.
        of_u, of_g = -factor * inverse * gz, inverse * (uw - factor * uz)
        of_z = -factor * inverse * spread - of_u * uz - of_g * gz
        of_x = of_z * inverse
        constant = -of_u * u_mean - of_g * g_mean - of_x * mean
        gx = torch.addcmul(_by_channel(constant, x), u, _by_channel(of_u, x))
        gx = torch.addcmul(gx, gy, _by_channel(of_g, x))
        gx = torch.addcmul(gx, x, _by_channel(of_x, x))
        of_x = (uw - factor * uz) * inverse
        constant = ub - factor * u_mean - of_x * mean
        ggy = torch.addcmul(torch.addcmul(_by_channel(constant, x), u, _by_channel(factor, x)), x, _by_channel(of_x, x))
        gw = inverse * spread * (x.numel() // x.shape[1])
        return ggy, gx, gw, None, None, None


class _NormalisationByFirst(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        _, mean, inverse = torch.native_batch_norm(x[:rows], weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.rows, ctx.eps = rows, eps
        factor = weight * inverse
        return torch.addcmul(_by_channel(bias - mean * factor, x), x, _by_channel(factor, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        _, gw, gb = torch.ops.aten.native_batch_norm_backward(
            gy, x, weight, None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        first = x[: ctx.rows]
        factor, share = weight * inverse, x.shape[1] / first.numel()
        gx = gy * _by_channel(factor, x)
        of_x = factor * inverse * gw * share
        constant = factor * gb * share - of_x * mean
        through_statistics = torch.addcmul(_by_channel(constant, x), first, _by_channel(of_x, x))
        gx[: ctx.rows] -= through_statistics
        return gx, None, gw, gb, None

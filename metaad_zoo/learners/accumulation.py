"""Accumulation of a batch's meta-gradient over parts of the batch, with one part's graph in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.learners.base import explain_missing_derivative


def mean_part_by_part(
    batch: EpisodeBatch,
    tasks_at_once: int,
    task_losses: Callable[[EpisodeBatch], Tensor],
    parameters: Sequence[Tensor],
    scale: float,
) -> Tensor:
    """Mean of the tasks' losses, with the gradient accumulated over parts of the batch.

    Each part is differentiated immediately, and its graph is freed. The result holds the sum of the gradients, so that
    its backward pass works with gradient scalers, ``DistributedDataParallel`` and accumulation over batches.

    Args:
        batch: batch of tasks.
        tasks_at_once: number of tasks in a part.
        task_losses: function from a part to its losses ``(tasks,)``.
        parameters: parameters of the outer loop.
        scale: factor of the loss during differentiation, against underflow of float16 gradients.
    """
    parts = batch.parts(tasks_at_once)
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([task_losses(part) for part in parts]).mean()

    def differentiate(part: EpisodeBatch) -> tuple[Tensor, Sequence[Tensor | None]]:
        loss = task_losses(part).sum() / len(batch)
        with explain_missing_derivative():
            gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
        return loss.detach(), gradients

    value, sums = sum_of_parts(parts, differentiate)
    gradient_of = {p: g / scale for p, g in zip(parameters, sums, strict=True) if g is not None}
    return loss_with_gradient(value, list(gradient_of), list(gradient_of.values()))


def sum_of_parts(
    parts: Sequence[EpisodeBatch], differentiate: Callable[[EpisodeBatch], tuple[Tensor, Sequence[Tensor | None]]]
) -> tuple[Tensor, list[Tensor | None]]:
    """Sums of the losses and of the gradients of a batch's parts.

    Args:
        parts: at least one part.
        differentiate: function from a part to its loss ``()`` and its gradients, None for an unused parameter.
    """
    value, first = differentiate(parts[0])
    sums = list(first)
    for part in parts[1:]:
        loss, gradients = differentiate(part)
        value = value + loss
        sums = [_plus(total, new) for total, new in zip(sums, gradients, strict=True)]
    return value, sums


def _plus(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    if total is None or new is None:
        return total if new is None else new
    return total + new


def loss_with_gradient(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar ``()`` with a given gradient.

    Args:
        value: value of the scalar.
        parameters: tensors to differentiate by.
        gradients: gradient of each parameter, of its shape.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> loss_with_gradient(torch.tensor(5.0), [w], [torch.tensor([1.0, -1.0])]).backward()
        >>> w.grad
        tensor([ 1., -1.])
    """
    loss: Tensor = _WithGradient.apply(value, tuple(gradients), *parameters)
    return loss


class _WithGradient(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return (None, None, *(g * upstream.to(g.dtype) for g in ctx.gradients))

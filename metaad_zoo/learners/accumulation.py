"""A batch's meta-gradient summed up part by part, with one part's graph in memory at a time."""

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
    """The mean of the tasks' losses; its gradient is the same as if all of them had been summed first.

    A part is differentiated as soon as its losses are there, and its graph freed. What is returned carries the sum of
    the gradients, and hands it on in the backward pass: to a gradient scaler, to ``DistributedDataParallel``, to
    accumulation over batches.

    Args:
        batch: the tasks.
        tasks_at_once: how many make a part.
        task_losses: ``(tasks,)`` of a part.
        parameters: what the outer loop optimises.
        scale: of the loss while it is differentiated, so that float16 gradients do not underflow.
    """
    parts = batch.parts(tasks_at_once)
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([task_losses(part) for part in parts]).mean()
    value = torch.zeros((), device=parameters[0].device)
    sums: list[Tensor | None] = [None] * len(parameters)
    for part in parts:
        loss = task_losses(part).sum() / len(batch)
        with explain_missing_derivative():
            gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
        value = value + loss.detach()
        sums = [_plus(total, new) for total, new in zip(sums, gradients, strict=True)]
    found = [(p, g / scale) for p, g in zip(parameters, sums, strict=True) if g is not None]
    return loss_with_gradient(value, [p for p, _ in found], [g for _, g in found])


def _plus(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    if total is None or new is None:
        return total if new is None else new
    return total + new


def loss_with_gradient(value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A number ``()`` whose gradient is given.

    Args:
        value: the number.
        parameters: what it is differentiated by.
        gradients: one for each, of its shape.

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

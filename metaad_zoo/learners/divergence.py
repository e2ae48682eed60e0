"""Divergence of a training: which task it arises in, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.inner_loop.compiled import without_compilation
from metaad_zoo.learners.base import Learner

REMEDY = (
    "lower the outer learning rate (model.optimizer.init_args.lr), inner_loop.lr or inner_loop.steps, set "
    "trainer.gradient_clip_val, or train with trainer.precision=32-true"
)


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None if all are finite."""
    floating = {name: x for name, x in tensors.items() if x.is_floating_point()}
    return next((name for name, x in floating.items() if not torch.isfinite(x).all()), None)


def require_finite_weights(learner: Learner, step: int) -> None:
    """Check weights, for instance before a checkpoint of good ones is overwritten.

    Raises:
        FloatingPointError: a weight or a statistic is not finite.
    """
    name = first_not_finite(learner.state_dict())
    if name is not None:
        raise FloatingPointError(
            f"{name} is not finite after outer step {step}, though the gradients of that step were: {REMEDY}"
        )


def explain_divergence(learner: Learner, batches: Sequence[EpisodeBatch], step: int) -> FloatingPointError:
    """Find what is not finite: the weights, or a task's loss or gradient, by repeating each task alone.

    Args:
        learner: learner with the weights before the outer step, which is not taken.
        batches: batches of the outer step.
        step: number of outer steps that have been taken.
    """
    try:
        require_finite_weights(learner, step)
    except FloatingPointError as error:
        return error
    parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    for batch in batches:
        for task in batch.parts(1):
            what = _what_is_wrong(learner, task, parameters)
            if what is not None:
                return FloatingPointError(f"at outer step {step}, {what}")
    names = ", ".join(name for batch in batches for name in batch.tasks)
    return FloatingPointError(
        f"at outer step {step}, the outer gradient is not finite, though that of each task alone is ({names}; or a "
        f"task of another process): {REMEDY}"
    )


def _what_is_wrong(learner: Learner, task: EpisodeBatch, parameters: Mapping[str, Tensor]) -> str | None:
    try:
        with without_compilation():
            loss = learner.outer_loss(task)
    except FloatingPointError as error:
        return str(error)
    if not torch.isfinite(loss):
        return (
            f"{task.tasks[0]}: the query loss is {loss.item()}, so the query holds NaN or infinity, or the scores are "
            f"too large: {REMEDY}"
        )
    gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    name = first_not_finite(dict(zip(parameters, gradients, strict=True)))
    if name is None:
        return None
    return (
        f"{task.tasks[0]}: the outer gradient of {name} is not finite, though the losses are: {REMEDY}; "
        "inner_loop.order=1 avoids second derivatives"
    )

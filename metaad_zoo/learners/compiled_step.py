"""The outer step of a gradient learner as one function of tensors, for :mod:`metaad_zoo.inner_loop.compiled`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaad_zoo.backbones import declare_missing
from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.inner_loop import DivergenceError
from metaad_zoo.inner_loop.compiled import CompiledSteps
from metaad_zoo.inner_loop.descent import deferred_checks, require_finite_table
from metaad_zoo.inner_loop.precision import twice_differentiable
from metaad_zoo.learners.base import explain_missing_derivative

TaskLosses = Callable[[EpisodeBatch], Tensor]


class CompiledOuterStep:
    """Sum of the losses of a batch and its gradient, compiled once for each shape of a batch.

    Args:
        steps: store of the compiled versions.
    """

    def __init__(self, steps: CompiledSteps) -> None:
        self.steps = steps

    def differentiate(
        self,
        learner: nn.Module,
        task_losses: TaskLosses,
        batch: EpisodeBatch,
        parameters: Sequence[Tensor],
        order: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the compiled step.

        Args:
            learner: module that holds all parameters and buffers.
            task_losses: function from a batch to the losses of its tasks ``(tasks,)``, by the learner's parameters.
            batch: batch of tasks.
            parameters: parameters of the outer loop.
            order: order of the meta-gradient.

        Returns:
            Sum of the losses ``()``, and its gradient with respect to each of the parameters.

        Raises:
            FloatingPointError: a support loss is not finite; the message names the tasks.
            ValueError: the step cannot be compiled.
        """
        state = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
        name_of = {id(p): name for name, p in learner.named_parameters()}
        outer = [name_of[id(p)] for p in parameters]
        support, query = sorted(batch.support), sorted(batch.query)

        # Infinite values too may become NaN when they are scaled.
        missing = not all(bool(x.isfinite().all()) for x in (*batch.support.values(), *batch.query.values()))

        def step(*tensors: Tensor) -> tuple[Tensor, ...]:
            values = dict(zip(state, tensors, strict=False))
            at = [values[name].requires_grad_() for name in outer]
            prefixed = {f"learner.{name}": value for name, value in values.items()}
            rest = iter(tensors[len(state) :])
            episodes = EpisodeBatch(
                {name: next(rest) for name in support},
                next(rest),
                {name: next(rest) for name in query},
                next(rest),
                batch.tasks,
            )
            # Traced, fused attention would count as an operation that draws random numbers.
            with deferred_checks() as tables, declare_missing(missing), twice_differentiable():
                total = functional_call(_Losses(learner, task_losses), prefixed, (episodes,)).sum()
            with explain_missing_derivative():
                gradients = torch.autograd.grad(total, at, materialize_grads=True)
            return (torch.cat([t.flatten(1) for t in tables]), total.detach(), *gradients)

        inputs = [
            *state.values(),
            *(batch.support[name] for name in support),
            batch.support_labels,
            *(batch.query[name] for name in query),
            batch.query_labels,
        ]
        device = batch.support_labels.device.type
        mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        table, total, *gradients = self.steps.run(step, inputs, (order, mixed, missing, learner.training))
        try:
            require_finite_table(table)
        except DivergenceError as error:
            raise FloatingPointError(f"{', '.join(batch.tasks[i] for i in error.tasks)}: {error}") from error
        return total, gradients


class _Losses(nn.Module):
    """A learner's losses as a module's forward pass, which ``functional_call`` gives other parameters."""

    def __init__(self, learner: nn.Module, task_losses: TaskLosses) -> None:
        super().__init__()
        self.learner = learner
        self._task_losses = task_losses

    def forward(self, batch: EpisodeBatch) -> Tensor:
        return self._task_losses(batch)

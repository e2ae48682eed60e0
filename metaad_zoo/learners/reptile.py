"""Reptile: the outer gradient is the difference between initial and adapted parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metaad_zoo.backbones import TaskAxis, differentiable_recurrence
from metaad_zoo.episodes import EpisodeBatch, Samples
from metaad_zoo.inner_loop import DivergenceError, InnerLoop, adapt_parameters
from metaad_zoo.learners.accumulation import loss_with_gradient
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.registry import register_learner


@register_learner("reptile")
class Reptile(GradientLearner):
    """First-order meta-learning with the outer gradient ``start - end`` of the inner steps, as a mean over tasks.

    Source: Nichol et al., "On First-Order Meta-Learning Algorithms", 2018, algorithm 2; ``start - end`` goes to the
    outer optimiser as its gradient (SGD with rate e gives ``start + e (end - start)``). In meta-training further steps
    follow on the query set, which has both classes. Otherwise the network would learn to score everything as normal;
    and the product of both gradients, Reptile's second-order effect, aligns one-class with balanced steps. A new task
    is adapted only on its support.

    Args:
        query_steps: number of steps on the query set after those on the support, in meta-training.
        kwargs: further arguments of ``maml``; learned rates and unadapted parameters are not supported.
    """

    fixed = {"order": 1, "learn_lr": "none", "adapt": ("*",)}  # noqa: RUF012

    def __init__(self, *, query_steps: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.multi_step_epochs or self.first_order_epochs:
            raise ValueError("reptile has no query loss to differentiate: multi_step_epochs=0, first_order_epochs=0")
        if self.inner_loop.config.compile:
            raise ValueError("reptile takes no meta-gradient that could be compiled: set inner_loop.compile=false")
        if query_steps < 1:
            raise ValueError(f"query_steps is {query_steps}: normal supports alone teach nothing, expected at least 1")
        self.query_steps = query_steps
        self.query_loop = InnerLoop(replace(self.inner_loop.config, steps=query_steps), self.network)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "query_steps": self.query_steps}

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """Mean query loss ``()`` after the steps on the support, with the gradient ``start - end``."""
        start = {name: p for name, p in self.network.named_parameters() if name in set(self.inner_loop.names)}
        value = torch.zeros((), device=self.device)
        moved = {name: torch.zeros_like(p) for name, p in start.items()}
        for part in batch.parts(self.tasks_at_once(len(batch))):
            for loss, end in self._by_engine(part, self._descent):
                value = value + loss.sum() / len(batch)
                for name, p in start.items():
                    ends = end[name] if end[name].ndim > p.ndim else end[name].unsqueeze(0)
                    moved[name] += (p.detach() - ends).sum(0) / len(batch)
        self.keep_observed()
        return loss_with_gradient(value, list(start.values()), list(moved.values()))

    def _descent(
        self,
        support: Samples,
        support_labels: Tensor,
        query: Samples,
        query_labels: Tensor,
        tasks: Sequence[str],
        axis: TaskAxis | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        after_support = self._adapt_parameters(support, support_labels, tasks, meta_gradient=False, axis=axis)
        losses: list[Tensor] = []

        def keep(step: int, parameters: Mapping[str, Tensor], loss: Tensor | None) -> None:
            if loss is not None:
                losses.append(loss)

        try:
            with differentiable_recurrence(self.network):
                end = adapt_parameters(
                    self.network,
                    self.query_loop,
                    lambda network: self.query_loss(network(support, query), query_labels),
                    meta_gradient=False,
                    start=after_support,
                    tasks=None if axis is None else axis.tasks,
                    visit=keep,
                )
        except DivergenceError as error:
            raise FloatingPointError(f"{', '.join(tasks[i] for i in error.tasks)}, on the query: {error}") from error
        return losses[0], end

"""Differentiable inner loop: adapted parameters, update rule, number of steps, order of the meta-gradient."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from torch import Tensor, nn

from metaad_zoo.inner_loop.descent import descend
from metaad_zoo.inner_loop.higher_engine import adapt_through_higher
from metaad_zoo.inner_loop.implicit import adapt_to_optimum
from metaad_zoo.inner_loop.loop import (
    ENGINES,
    DivergenceError,
    InnerLoop,
    InnerLoopConfig,
    Order,
    StepContext,
    SupportLoss,
    Visit,
)
from metaad_zoo.inner_loop.precision import inner_precision, twice_differentiable
from metaad_zoo.inner_loop.vectorized_engine import spread_over_tasks


def adapt_parameters(
    network: nn.Module,
    loop: InnerLoop,
    support_loss: SupportLoss,
    *,
    meta_gradient: bool,
    order: Order | None = None,
    start: Mapping[str, Tensor] | None = None,
    tasks: int | None = None,
    at_step: StepContext = lambda step: nullcontext(),
    visit: Visit | None = None,
) -> dict[str, Tensor]:
    """Run the inner loop of one task, or of several at once.

    Args:
        network: network with the initial parameters. It is not changed, but each call swaps parameters into it, so each
            thread needs its own (:func:`metaad_zoo.learners.network.with_own_modules`).
        loop: adapted parameters, rates and rule.
        support_loss: the task's loss ``()`` on its support set, given a network to call; with ``tasks``, ``(tasks,)``.
        meta_gradient: whether the outer loop differentiates through the adaptation; False if the adapted network only
            scores.
        order: order of the meta-gradient; None: that of ``loop.config``.
        start: initial parameters that replace the network's, by name; the meta-gradient flows into them.
        tasks: number of tasks in each call of the network; the adapted parameters get a leading task axis.
        at_step: context that passes the current inner step to the network.
        visit: callback with the number of steps taken, the parameters, and their support loss (None after the last).

    Returns:
        All parameters by name, the adapted ones replaced, for :func:`torch.func.functional_call`.

    Raises:
        DivergenceError: a support loss or the adapted weights are not finite.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> loop = InnerLoop(InnerLoopConfig(steps=1, lr=0.5), network)
        >>> x, w = torch.tensor([[2.0]]), network.weight.item()
        >>> adapted = adapt_parameters(network, loop, lambda net: net(x).square().sum() / 2, meta_gradient=True)
        >>> round(adapted["weight"].item() / w, 4)  # w - 0.5 * x^2 * w
        -1.0
    """
    begin: dict[str, Tensor] = {**dict(network.named_parameters()), **(start or {})}
    # Views, so that an inner gradient stops at the start even if one parameter's start was computed from another.
    begin.update({name: begin[name].view_as(begin[name]) for name in loop.names})
    if tasks is not None:
        begin = spread_over_tasks(network, loop.names, begin, tasks)
    order = loop.config.order if order is None else order
    with inner_precision(loop.precision, next(iter(begin.values())).device):
        if not meta_gradient:
            adapted = descend(network, loop, support_loss, begin, create_graph=False, at_step=at_step, visit=visit)
            return {name: p.detach() for name, p in adapted.items()}
        if order == "implicit":
            with twice_differentiable():
                return adapt_to_optimum(network, loop, support_loss, begin, at_step=at_step, visit=visit)
        if order == 1:
            return descend(network, loop, support_loss, begin, create_graph=False, at_step=at_step, visit=visit)
        with twice_differentiable():
            if tasks is None:
                return adapt_through_higher(network, loop, support_loss, begin, at_step=at_step, visit=visit)
            return descend(network, loop, support_loss, begin, create_graph=True, at_step=at_step, visit=visit)


__all__ = [
    "ENGINES",
    "DivergenceError",
    "InnerLoop",
    "InnerLoopConfig",
    "Order",
    "StepContext",
    "SupportLoss",
    "Visit",
    "adapt_parameters",
]

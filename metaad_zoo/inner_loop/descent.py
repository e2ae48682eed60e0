"""The inner loop as plain functions of parameters: every route but the one through ``higher``.

It takes first-order meta-gradients, adapts where no meta-gradient is wanted, and, with a task axis, runs all tasks of a
batch at once (see :mod:`metaad_zoo.inner_loop.vectorized_engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import copy_context

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from metaad_zoo.inner_loop.loop import DivergenceError, InnerLoop, StepContext, SupportLoss, Visit
from metaad_zoo.inner_loop.precision import inner_gradients, twice_differentiable
from metaad_zoo.inner_loop.rules import RuleState, take_step


def descend(
    network: nn.Module,
    loop: InnerLoop,
    support_loss: SupportLoss,
    start: Mapping[str, Tensor],
    *,
    create_graph: bool,
    at_step: StepContext,
    visit: Visit | None = None,
) -> dict[str, Tensor]:
    """Take the inner loop's steps.

    Without ``create_graph`` the inner gradient is taken at a detached copy of the current parameters. What is returned
    hangs on the start by the identity, so that its meta-gradient is the query's gradient at the adapted point (Finn et
    al., 2017, section 5.2), and on learned rates by ``-direction``. ``higher`` without tracking gives no meta-gradient
    at all, and with tracking it would build the second-order graph only to throw it away.

    Args:
        network: to be called with the parameters.
        loop: names, rates and rule.
        support_loss: the task's loss ``()``, or ``(tasks,)`` where parameters carry a task axis.
        start: all parameters by name.
        create_graph: let the meta-gradient flow through the inner gradients (second order).
        at_step: context that tells the network which step it is in.
        visit: called with the number of steps taken, the parameters and, but for the last, their support loss.

    Returns:
        All parameters by name, the adapted ones replaced.

    Raises:
        DivergenceError: the support loss is not finite.
    """
    parameters, state = dict(start), RuleState()
    losses: list[Tensor] = []
    for step in range(loop.config.steps):
        one = _step_function(network, loop, support_loss, start, step, create_graph=create_graph, at_step=at_step)
        before = parameters
        if create_graph and loop.config.checkpoint_steps:
            parameters, state, loss = checkpoint(_in_this_context(one), parameters, state, use_reentrant=False)
        else:
            parameters, state, loss = one(parameters, state)
        losses.append(loss)
        if visit is not None:
            visit(step, before, loss)
    require_finite(losses)
    if visit is not None:
        visit(loop.config.steps, parameters, None)
    return parameters


Step = Callable[[dict[str, Tensor], RuleState], tuple[dict[str, Tensor], RuleState, Tensor]]


def _step_function(
    network: nn.Module,
    loop: InnerLoop,
    support_loss: SupportLoss,
    start: Mapping[str, Tensor],
    step: int,
    *,
    create_graph: bool,
    at_step: StepContext,
) -> Step:
    """One step as a function without memory, so that it can be run again instead of being stored."""
    proximal = loop.config.proximal

    def one(parameters: dict[str, Tensor], state: RuleState) -> tuple[dict[str, Tensor], RuleState, Tensor]:
        here = parameters
        if not create_graph:
            here = {name: p.detach() for name, p in parameters.items()}
            for name in loop.names:
                here[name].requires_grad_()

        def forward(*args: object, **kwargs: object) -> Tensor:
            out: Tensor = functional_call(network, here, args, kwargs)
            return out

        with at_step(step):
            loss = support_loss(forward)
        leaves = [here[name] for name in loop.names]
        gradients = inner_gradients(loss.sum(), leaves, create_graph=create_graph)
        found = {name: g for name, g in zip(loop.names, gradients, strict=True) if g is not None}
        if proximal:
            pulls = {name: proximal * (parameters[name] - start[name]) for name in found}
            found = {name: g + (pulls[name] if create_graph else pulls[name].detach()) for name, g in found.items()}
        after = state.copy()
        taken = take_step(parameters, found, loop.rates_at(step), loop.direction(), after)
        return taken, after, loss.detach()

    return one


def _in_this_context(one: Step) -> Step:
    """The same, also when it is run again in the backward pass, where the task axis and the rest are long gone."""
    context = copy_context()

    def run(parameters: dict[str, Tensor], state: RuleState) -> tuple[dict[str, Tensor], RuleState, Tensor]:
        with twice_differentiable():
            return context.copy().run(one, parameters, state)

    return run


def require_finite(losses: list[Tensor]) -> None:
    """Stop where the inner loop has diverged; the losses are looked at together, for each look waits for a GPU.

    Args:
        losses: of each step, ``()`` or ``(tasks,)``.

    Raises:
        DivergenceError: names the first bad step, what to change and, with a task axis, the tasks.
    """
    if not losses:
        return
    table = torch.stack(losses).flatten(1) if losses[0].ndim else torch.stack(losses).unsqueeze(1)
    good = torch.isfinite(table)
    if good.all():
        return
    step = int((~good).any(1).nonzero()[0])
    tasks = (~good[step]).nonzero().flatten().tolist()
    raise DivergenceError(step, float(table[step, tasks[0]]), tasks)

"""Gradient descent in the inner loop as plain functions of parameters, without ``higher``.

It serves first-order meta-gradients, adaptation without a meta-gradient and, with a task axis, all tasks of a batch at
once (see :mod:`metaad_zoo.inner_loop.vectorized_engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.linalg import vector_norm
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

    Without ``create_graph`` the inner gradient is taken at a detached copy of the current parameters. The result
    depends on the start through the identity, so its meta-gradient is the query's gradient at the adapted point (Finn
    et al., 2017, section 5.2), and on learned rates through ``-direction``. ``higher`` gives no meta-gradient without
    tracking, and with tracking it would build an unused second-order graph.

    Args:
        network: network to call with the parameters.
        loop: names, rates and rule.
        support_loss: the task's loss ``()``, or ``(tasks,)`` if the parameters carry a task axis.
        start: all parameters by name.
        create_graph: whether the meta-gradient flows through the inner gradients (second order).
        at_step: context that passes the current inner step to the network.
        visit: callback with the number of steps taken, the parameters, and their support loss (None after the last).

    Returns:
        All parameters by name, the adapted ones replaced.

    Raises:
        DivergenceError: a support loss or the adapted weights are not finite.
    """
    parameters, state = dict(start), RuleState()
    losses: list[Tensor] = []
    for step in range(loop.config.steps):
        take = _step_function(network, loop, support_loss, start, step, create_graph=create_graph, at_step=at_step)
        before = parameters
        if create_graph and loop.config.checkpoint_steps:
            parameters, state, loss = checkpoint(_in_this_context(take), parameters, state, use_reentrant=False)
        else:
            parameters, state, loss = take(parameters, state)
        losses.append(loss)
        if visit is not None:
            visit(step, before, loss)
    require_finite(losses, [parameters[name] for name in loop.names])
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
    """One inner step as a pure function, so that checkpointing can recompute it."""
    proximal = loop.config.proximal

    def take(parameters: dict[str, Tensor], state: RuleState) -> tuple[dict[str, Tensor], RuleState, Tensor]:
        point = parameters
        if not create_graph:
            point = {name: p.detach() for name, p in parameters.items()}
            for name in loop.names:
                point[name].requires_grad_()

        def forward(*args: object, **kwargs: object) -> Tensor:
            out: Tensor = functional_call(network, point, args, kwargs)
            return out

        with at_step(step):
            loss = support_loss(forward)
        leaves = [point[name] for name in loop.names]
        values = inner_gradients(loss.sum(), leaves, create_graph=create_graph)
        gradients = {name: g for name, g in zip(loop.names, values, strict=True) if g is not None}
        if proximal:
            pulls = {name: proximal * (parameters[name] - start[name]) for name in gradients}
            gradients = {n: g + (pulls[n] if create_graph else pulls[n].detach()) for n, g in gradients.items()}
        after = state.copy()
        stepped = take_step(parameters, gradients, loop.rates_at(step), loop.direction(), after)
        return stepped, after, loss.detach()

    return take


def _in_this_context(take: Step) -> Step:
    """Bind a step to the present context variables, which have changed when the backward pass recomputes it."""
    context = copy_context()

    def run(parameters: dict[str, Tensor], state: RuleState) -> tuple[dict[str, Tensor], RuleState, Tensor]:
        with twice_differentiable():
            return context.copy().run(take, parameters, state)

    return run


_deferred: ContextVar[list[Tensor] | None] = ContextVar("deferred_checks", default=None)


@contextmanager
def deferred_checks() -> Iterator[list[Tensor]]:
    """Context in which :func:`require_finite` adds its figures to a list instead of reading them, for tracing."""
    tables: list[Tensor] = []
    token = _deferred.set(tables)
    try:
        yield tables
    finally:
        _deferred.reset(token)


def require_finite(losses: list[Tensor], adapted: Sequence[Tensor]) -> None:
    """Check that the inner loop has not diverged; everything at once, because each check waits for the GPU.

    Args:
        losses: support loss of each step, ``()`` or ``(tasks,)``.
        adapted: adapted parameters after the last step, with a task axis if the losses have one.

    Raises:
        DivergenceError: a loss is not finite, or the norm of the adapted parameters.
    """
    if not losses:
        return
    by_step = torch.stack([loss.view(-1) for loss in losses])
    norms = torch.stack([vector_norm(p.detach().reshape(by_step.shape[1], -1), dim=1) for p in adapted])
    table = torch.cat([by_step, vector_norm(norms, dim=0, keepdim=True).to(by_step)])
    if (tables := _deferred.get()) is not None:
        tables.append(table)
        return
    require_finite_table(table)


def require_finite_table(table: Tensor) -> None:
    """Check support losses and, in the last row, norms of the adapted parameters: ``(steps + 1, tasks)``.

    Raises:
        DivergenceError: a figure is not finite.
    """
    diverged = ~torch.isfinite(table)
    if not diverged.any():
        return
    step = int(diverged.any(1).nonzero()[0])
    tasks = diverged[step].nonzero().flatten().tolist()
    raise DivergenceError(step, tasks, float(table[step, tasks[0]]) if step < len(table) - 1 else None)

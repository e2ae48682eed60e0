"""Reference engine: second-order inner loops by the library ``higher``, one task after the other.

Source: Grefenstette et al., "Generalized Inner Loop Meta-Learning", 2019, https://github.com/facebookresearch/higher.
"""

from __future__ import annotations

from collections.abc import Mapping

import higher
import torch
from torch import Tensor, nn

from metaad_zoo.inner_loop.descent import require_finite
from metaad_zoo.inner_loop.loop import InnerLoop, StepContext, SupportLoss, Visit
from metaad_zoo.inner_loop.precision import safe_scale
from metaad_zoo.inner_loop.rules import ADAM_BETAS, ADAM_EPS


def adapt_through_higher(
    network: nn.Module,
    loop: InnerLoop,
    support_loss: SupportLoss,
    start: Mapping[str, Tensor],
    *,
    at_step: StepContext,
    visit: Visit | None = None,
) -> dict[str, Tensor]:
    """Adapt to one task, with the graph for a gradient through every inner step.

    Args, Returns and Raises are those of :func:`metaad_zoo.inner_loop.descent.descend`, for one task.
    """
    initial = dict(network.named_parameters())
    optimiser = _optimiser(loop, initial)
    losses: list[Tensor] = []
    with higher.innerloop_ctx(network, optimiser, copy_initial_weights=False) as (patched, differentiable):
        patched.update_params([start[name] for name in initial])
        for step in range(loop.config.steps):
            before = dict(zip(initial, patched.parameters(), strict=True))
            with at_step(step):
                loss = support_loss(patched)
            losses.append(loss.detach())
            if visit is not None:
                visit(step, before, losses[-1])
            if loop.config.proximal:
                distance = sum((before[name] - start[name]).square().sum() for name in loop.names)
                loss = loss + loop.config.proximal / 2 * distance
            scale = safe_scale(loss, [before[name] for name in loop.names])
            differentiable.step(
                loss * scale,
                override={"lr": list(loop.rates_at(step).values())},
                grad_callback=lambda all_grads, scale=scale: [None if g is None else g / scale for g in all_grads],
            )
        adapted = dict(zip(initial, patched.parameters(), strict=True))
        require_finite(losses, [adapted[name] for name in loop.names])
    if visit is not None:
        visit(loop.config.steps, adapted, None)
    return adapted


def _optimiser(loop: InnerLoop, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Optimiser for ``higher``, with one group for each parameter, so that each may have its own rate."""
    groups = [{"params": [parameters[name]]} for name in loop.names]
    if loop.config.rule == "adam":
        return torch.optim.Adam(groups, lr=loop.config.lr, betas=ADAM_BETAS, eps=ADAM_EPS)
    return torch.optim.SGD(groups, lr=loop.config.lr, momentum=loop.config.momentum)

"""The reference engine: second-order inner loops through the library ``higher``, one task after the other.

Source: Grefenstette et al., "Generalized Inner Loop Meta-Learning", 2019, https://github.com/facebookresearch/higher.
"""

from __future__ import annotations

import higher
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metaad_zoo.inner_loop.first_order import require_finite
from metaad_zoo.inner_loop.loop import InnerLoop, SupportLoss
from metaad_zoo.inner_loop.rules import ADAM_BETAS, ADAM_EPS


def adapt_second_order(network: nn.Module, loop: InnerLoop, support_loss: SupportLoss) -> dict[str, Tensor]:
    """Adapt and keep the graph, so that a gradient flows back through every inner step.

    Args:
        network: its parameters are the start, and part of the graph.
        loop: names, rates and rule.
        support_loss: the task's loss.

    Returns:
        All parameters by name, the adapted ones replaced.

    Raises:
        FloatingPointError: the support loss is not finite.
    """
    parameters = dict(network.named_parameters())
    optimiser = _optimiser(loop, parameters)
    # Fused attention has no second derivative, the plain one has.
    with (
        sdpa_kernel(SDPBackend.MATH),
        higher.innerloop_ctx(network, optimiser, copy_initial_weights=False) as (patched, differentiable),
    ):
        for step in range(loop.config.steps):
            loss = support_loss(patched)
            require_finite(loss, step)
            differentiable.step(loss, override={"lr": list(loop.rates_at(step).values())})
        return dict(zip(parameters, patched.parameters(), strict=True))


def _optimiser(loop: InnerLoop, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that ``higher`` takes its rule from; one group a parameter, so that each may have its own rate."""
    groups = [{"params": [parameters[name]]} for name in loop.names]
    if loop.config.rule == "adam":
        return torch.optim.Adam(groups, lr=loop.config.lr, betas=ADAM_BETAS, eps=ADAM_EPS)
    return torch.optim.SGD(groups, lr=loop.config.lr, momentum=loop.config.momentum)

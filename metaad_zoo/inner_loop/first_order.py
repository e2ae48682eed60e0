"""The inner loop without second derivatives: for first-order meta-gradients, and for adapting where none is wanted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaad_zoo.inner_loop.loop import InnerLoop, SupportLoss
from metaad_zoo.inner_loop.rules import RuleState, take_step


def adapt_first_order(network: nn.Module, loop: InnerLoop, support_loss: SupportLoss) -> dict[str, Tensor]:
    """Adapt by gradients that are constants to the outer loop.

    The inner gradient is taken at a detached copy of the current parameters. What is returned hangs on the initial
    parameters by the identity, so that its meta-gradient is the query's gradient at the adapted point (Finn et al.,
    2017, section 5.2), and on learned rates by ``-direction``. ``higher`` without tracking gives no meta-gradient at
    all, and with tracking it would build the second-order graph only to throw it away.

    Args:
        network: its parameters are the start.
        loop: names, rates and rule.
        support_loss: the task's loss.

    Returns:
        All parameters by name, the adapted ones replaced.

    Raises:
        FloatingPointError: the support loss is not finite.
    """
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    buffers = dict(network.named_buffers())
    direction, state = loop.direction(), RuleState()
    for step in range(loop.config.steps):
        here = {name: p.detach() for name, p in parameters.items()}
        leaves = {name: here[name].requires_grad_() for name in loop.names if parameters[name].requires_grad}

        def forward(*args: object, at: dict[str, Tensor] = here, **kwargs: object) -> Tensor:
            out: Tensor = functional_call(network, {**at, **buffers}, args, kwargs)
            return out

        loss = support_loss(forward)
        require_finite(loss, step)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        found = {name: g for name, g in zip(leaves, gradients, strict=True) if g is not None}
        parameters = take_step(parameters, found, loop.rates_at(step), direction, state)
    return parameters


def require_finite(loss: Tensor, step: int) -> None:
    """Stop where the inner loop has diverged.

    Raises:
        FloatingPointError: names the step and what to change.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the support loss is {loss.item()} at inner step {step}: the inner loop diverged or the support holds "
            "NaN; lower inner_loop.lr or inner_loop.steps"
        )

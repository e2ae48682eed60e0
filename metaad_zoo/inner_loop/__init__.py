"""The differentiable inner loop: what is adapted, by which rule, for how many steps, to which order."""

from __future__ import annotations

from torch import Tensor, nn

from metaad_zoo.inner_loop.first_order import adapt_first_order
from metaad_zoo.inner_loop.higher_engine import adapt_second_order
from metaad_zoo.inner_loop.loop import ENGINES, InnerLoop, InnerLoopConfig, SupportLoss

SECOND_ORDER = {"higher": adapt_second_order}
"""By engine, the inner loop through which a second-order meta-gradient flows."""


def adapt_parameters(
    network: nn.Module, loop: InnerLoop, support_loss: SupportLoss, *, meta_gradient: bool
) -> dict[str, Tensor]:
    """Run the inner loop of one task.

    Args:
        network: whose parameters are the start; it is not changed.
        loop: what is adapted and how.
        support_loss: the task's loss on its support set, given a network to call.
        meta_gradient: keep what the outer loop needs to differentiate through the adaptation, to ``loop.config.order``;
            False where the adapted network only has to score.

    Returns:
        All parameters by name, the adapted ones replaced, for :func:`torch.func.functional_call`.

    Raises:
        FloatingPointError: the support loss is not finite.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> loop = InnerLoop(InnerLoopConfig(steps=1, lr=0.5), network)
        >>> x, w = torch.tensor([[2.0]]), network.weight.item()
        >>> adapted = adapt_parameters(network, loop, lambda net: net(x).square().sum() / 2, meta_gradient=True)
        >>> round(adapted["weight"].item() / w, 4)  # w - 0.5 * x^2 * w
        -1.0
    """
    if meta_gradient and loop.config.order == 2:
        return SECOND_ORDER[loop.config.engine](network, loop, support_loss)
    adapted = adapt_first_order(network, loop, support_loss)
    return adapted if meta_gradient else {name: p.detach() for name, p in adapted.items()}


__all__ = ["ENGINES", "InnerLoop", "InnerLoopConfig", "SupportLoss", "adapt_parameters"]

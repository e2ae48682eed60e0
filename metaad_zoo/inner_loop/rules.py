"""Update rules of the inner loop, as differentiable operations on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

RuleName = Literal["sgd", "adam"]
RULES: tuple[str, ...] = get_args(RuleName)
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass
class RuleState:
    """State of a rule between steps: number of the step and, by parameter name, moving averages."""

    step: int = 0
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)

    def copy(self) -> RuleState:
        """Independent copy of the state."""
        return RuleState(self.step, dict(self.first), dict(self.second))


Direction = Callable[[str, Tensor, RuleState], Tensor]


def sgd(momentum: float) -> Direction:
    """Direction of ``torch.optim.SGD``: the gradient, or its running sum (momentum without dampening)."""

    def direction(name: str, gradient: Tensor, state: RuleState) -> Tensor:
        if momentum:
            before = state.first.get(name)
            gradient = gradient if before is None else momentum * before + gradient
            state.first[name] = gradient
        return gradient

    return direction


def adam(name: str, gradient: Tensor, state: RuleState) -> Tensor:
    """Direction of Adam (Kingma and Ba, ICLR 2015, section 2, the efficient order of computation, as in ``higher``)."""
    (b1, b2), t = ADAM_BETAS, state.step
    zero = torch.zeros_like(gradient)
    first = state.first[name] = b1 * state.first.get(name, zero) + (1 - b1) * gradient
    second = state.second[name] = b2 * state.second.get(name, zero) + (1 - b2) * gradient * gradient
    # The root has no derivative at 0, where Adam's direction is 0 anyway.
    root = torch.where(second == 0, 1.0, second).sqrt().where(second != 0, 0.0)
    return float((1 - b2**t) ** 0.5 / (1 - b1**t)) * first / (root + ADAM_EPS)


def take_step(
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    rates: Mapping[str, Tensor],
    direction: Direction,
    state: RuleState,
) -> dict[str, Tensor]:
    """One step of the inner loop: ``parameter - rate * direction(gradient)``.

    Args:
        parameters: all parameters by name.
        gradients: gradient of each adapted parameter.
        rates: learning rate of each adapted parameter, ``()`` or of its shape.
        direction: update rule.
        state: state of the rule, updated in place.

    Returns:
        All parameters, the adapted ones replaced.
    """
    state.step += 1
    stepped = {
        name: torch.addcmul(parameters[name], rates[name], direction(name, g, state), value=-1)
        for name, g in gradients.items()
    }
    return {**parameters, **stepped}

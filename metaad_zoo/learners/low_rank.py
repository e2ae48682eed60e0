"""Low-rank updates of weights (LoRA) as an optimiser, without changes to the learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metaad_zoo.learners.base import OptimizerCallable


class LowRankOptimizer(Optimizer):
    """Optimiser that updates each weight matrix by a product ``up @ down``, with steps on the two factors.

    By the chain rule a weight's gradient ``G`` gives the factors' gradients ``G down^T`` and ``up^T G``, the same as in
    a layer that adds the product in its forward pass. Each step merges the update into the weight, so that inner loops,
    engines with a task axis and checkpoints use ordinary weights. It reduces the number of free weights, but not the
    memory of gradients.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3, with the paper's
    initialisation (``up`` 0, ``down`` random) and scale 1; a convolution kernel is a matrix with a row for each output
    channel.

    Args:
        groups: parameter groups, as for any optimiser.
        optimizer: function that builds the optimiser of the factors.
        rank: rank of the updates, limited by each matrix's smaller side.
        in_full: ids of the parameters with full updates; any other parameter that is not a matrix is constant.

    Raises:
        ValueError: the rank is below 1, or there is no parameter to train.
    """

    def __init__(
        self, groups: Iterable[Mapping[str, Any]], optimizer: OptimizerCallable, rank: int, in_full: Collection[int]
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}; expected 1 or more")
        generator = torch.Generator().manual_seed(0)  # all processes must draw the same
        self.factors: dict[Tensor, tuple[nn.Parameter, nn.Parameter]] = {}
        outer, inner = [], []
        for group in groups:
            chosen = [p for p in group["params"] if id(p) in in_full or p.ndim > 1]
            self.factors |= {p: _factors(p, rank, generator) for p in chosen if id(p) not in in_full}
            stepped = [x for p in chosen for x in self.factors.get(p, (p,))]
            if chosen:
                outer.append({**group, "params": chosen})
                inner.append({**group, "params": stepped})
        if not outer:
            raise ValueError("there is no weight matrix to change: set train=full")
        self.on_factors = optimizer(inner)
        for group, stepped_group in zip(outer, self.on_factors.param_groups, strict=True):
            group.setdefault("lr", stepped_group["lr"])
        super().__init__(outer, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the factors by the gradients of their weights, and the weights accordingly."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, stepped in zip(self.param_groups, self.on_factors.param_groups, strict=True):
            stepped["lr"] = group["lr"]  # a schedule changes the outer groups
        before = {}
        for p, (up, down) in self.factors.items():
            g = None if p.grad is None else p.grad.flatten(1)
            up.grad, down.grad = (None, None) if g is None else (g @ down.T, up.T @ g)
            before[p] = up @ down
        self.on_factors.step()
        for p, (up, down) in self.factors.items():
            p += (up @ down - before[p]).view_as(p)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State including the factors, for exact resumption."""
        factors = [x.detach() for pair in self.factors.values() for x in pair]
        return {**super().state_dict(), "factors": factors, "on_factors": self.on_factors.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        factors = [x for pair in self.factors.values() for x in pair]
        for factor, saved in zip(factors, state_dict["factors"], strict=True):
            factor.copy_(saved)
        self.on_factors.load_state_dict(state_dict["on_factors"])


def _factors(p: Tensor, rank: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    rows, columns = p.shape[0], p[0].numel()
    r = min(rank, rows, columns)
    bound = 1 / math.sqrt(columns)
    down = (2 * torch.rand(r, columns, generator=generator) - 1) * bound
    return nn.Parameter(p.new_zeros(rows, r)), nn.Parameter(down.to(p.device, p.dtype))

"""What the inner loop adapts, by which rule, for how many steps and to which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metaad_zoo.inner_loop.rules import RULES, Direction, RuleName, adam, sgd
from metaad_zoo.names import unknown_name

LearnLr = Literal["none", "parameter", "parameter_and_step"]
EngineName = Literal["higher"]
ENGINES: tuple[str, ...] = get_args(EngineName)

SupportLoss = Callable[[Callable[..., Tensor]], Tensor]
"""The task's loss on its support set, given a network to call: the one definition that every engine uses."""


@dataclass(frozen=True)
class InnerLoopConfig:
    """The inner loop's settings.

    Args:
        steps: gradient steps on the support set; 0 leaves the network as it is.
        lr: inner learning rate, or where it is learned, its start.
        learn_lr: ``"none"``: fixed; ``"parameter"``: one learned rate for each adapted parameter tensor;
            ``"parameter_and_step"``: for each tensor and step (Antoniou et al., "How to train your MAML", ICLR 2019).
        rule: ``"sgd"`` or ``"adam"``.
        momentum: of SGD.
        adapt: fnmatch patterns of the parameters that are adapted, such as ``["head.*"]``; the others stay as they are
            in the inner loop and are meta-learned all the same.
        order: 2 for the exact meta-gradient (Finn et al., "Model-Agnostic Meta-Learning", ICML 2017), 1 to leave out
            second derivatives (section 5.2 there).
        batch_norm: where the statistics of batch normalisation come from; see
            :class:`metaad_zoo.backbones.EpisodicBatchNorm`.
        engine: ``"higher"``: one task after the other through the library ``higher``.

    Raises:
        ValueError: a setting is out of its range.
    """

    steps: int = 5
    lr: float = 0.1
    learn_lr: LearnLr = "none"
    rule: RuleName = "sgd"
    momentum: float = 0.0
    adapt: tuple[str, ...] = ("*",)
    order: Literal[1, 2] = 2
    batch_norm: Literal["support", "transductive", "running"] = "support"
    engine: EngineName = "higher"

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapt", tuple(self.adapt))
        if not isinstance(self.steps, int) or self.steps < 0 or self.lr <= 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"expected whole steps >= 0, lr > 0 and momentum in [0, 1), saw steps={self.steps}, lr={self.lr}, "
                f"momentum={self.momentum}"
            )
        for name, known in {"rule": RULES, "engine": ENGINES, "learn_lr": get_args(LearnLr)}.items():
            if getattr(self, name) not in known:
                raise unknown_name(f"inner_loop.{name}", getattr(self, name), known)
        if self.momentum and self.rule != "sgd":
            raise ValueError(f"momentum={self.momentum} is for rule='sgd'; {self.rule!r} takes none")
        if self.order not in (1, 2):
            raise ValueError(f"inner_loop.order is {self.order!r}; expected 1 or 2")


class InnerLoop(nn.Module):
    """The inner loop of one network: its settings, the names it adapts and its (perhaps learned) rates.

    Args:
        config: the settings.
        network: whose parameters are adapted.

    Attributes:
        names: adapted parameters, in the network's order.
        rates: ``(len(names), steps)``, or ``(len(names), 1)`` where all steps share them; a parameter where learned.

    Raises:
        ValueError: a pattern of ``config.adapt`` matches no trainable parameter; frozen ones are not adapted.
    """

    rates: Tensor

    def __init__(self, config: InnerLoopConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        known = [name for name, p in network.named_parameters() if p.requires_grad]
        for pattern in config.adapt:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(
                    f"inner_loop.adapt={pattern!r} matches no trainable parameter; there are {', '.join(known)}"
                )
        self.names = [n for n in known if any(fnmatchcase(n, pattern) for pattern in config.adapt)]
        columns = max(config.steps, 1) if config.learn_lr == "parameter_and_step" else 1
        rates = torch.full((len(self.names), columns), config.lr)
        if config.learn_lr == "none":
            self.register_buffer("rates", rates)
        else:
            self.rates = nn.Parameter(rates)

    def rates_at(self, step: int) -> dict[str, Tensor]:
        """Each adapted parameter's learning rate ``()`` at a step, counted from 0."""
        column = self.rates[:, step if self.rates.shape[1] > 1 else 0]
        return dict(zip(self.names, column.unbind(), strict=True))

    def direction(self) -> Direction:
        """The rule as a function of a gradient."""
        return adam if self.config.rule == "adam" else sgd(self.config.momentum)

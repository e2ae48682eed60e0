"""Configuration of the inner loop, the parameters that it adapts, and their learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metaad_zoo.inner_loop.rules import RULES, Direction, RuleName, adam, sgd
from metaad_zoo.registry import unknown_name

LearnLr = Literal["none", "parameter", "parameter_and_step", "element"]
EngineName = Literal["higher", "vectorized"]
Order = Literal[1, 2, "implicit"]
Precision = Literal["auto", "full", "mixed"]
ENGINES: tuple[str, ...] = get_args(EngineName)

SupportLoss = Callable[[Callable[..., Tensor]], Tensor]
"""Loss of a task on its support set, given a network to call; all engines share it."""
StepContext = Callable[[int], AbstractContextManager[None]]
"""Context that passes the current inner step to a network."""
Visit = Callable[[int, Mapping[str, Tensor], Tensor | None], None]
"""Callback with the number of steps taken, the parameters, and their support loss (None after the last step)."""


class DivergenceError(FloatingPointError):
    """A support loss or the adapted weights are not finite.

    Args:
        step: first inner step with such a loss, counted from 0; the number of steps if only the weights after it are.
        tasks: positions of the diverged tasks in the batch.
        loss: the loss; None if all losses are finite.

    Attributes:
        step: see above.
        tasks: see above.
    """

    def __init__(self, step: int, tasks: list[int], loss: float | None) -> None:
        if loss is None:
            what = f"the adapted weights are not finite after inner step {step - 1}, though the support losses are"
        else:
            what = f"the support loss is {loss} at inner step {step}"
        cause = "the inner loop diverged: lower inner_loop.lr or inner_loop.steps"
        if step == 0:
            cause = "that is before any step, so the support or the weights hold NaN, infinity or too large values"
        super().__init__(f"{what}: {cause}")
        self.step, self.tasks = step, tasks


@dataclass(frozen=True)
class InnerLoopConfig:
    """Settings of the inner loop.

    Args:
        steps: number of gradient steps on the support set; 0: no adaptation.
        lr: inner learning rate, or the initial value of learned rates.
        learn_lr: ``"none"``: fixed; ``"parameter"``: one learned rate for each adapted parameter tensor;
            ``"parameter_and_step"``: for each tensor and step (Antoniou et al., "How to train your MAML", ICLR 2019);
            ``"element"``: for each single weight (Li et al., "Meta-SGD", 2017).
        lr_range: range to which learned rates are clipped after each outer step.
        rule: ``"sgd"`` or ``"adam"``.
        momentum: momentum of SGD.
        proximal: weight of the penalty ``proximal / 2 * |adapted - start|^2`` on the support loss (Rajeswaran et al.,
            "Meta-Learning with Implicit Gradients", NeurIPS 2019, equation 3).
        adapt: fnmatch patterns of the adapted parameters, such as ``["head.*"]``; the inner loop does not change the
            rest, but they are meta-learned too.
        order: 2: exact meta-gradient (Finn et al., "Model-Agnostic Meta-Learning", ICML 2017); 1: without second
            derivatives (section 5.2 there); ``"implicit"``: meta-gradient of the inner loop's optimum, in memory that
            does not grow with the steps (Rajeswaran et al., 2019, equation 6); it needs ``proximal``.
        cg_steps: number of conjugate-gradient iterations, for ``order="implicit"``.
        batch_norm: source of the statistics of batch normalisation; see
            :class:`metaad_zoo.backbones.EpisodicBatchNorm`.
        engine: ``"higher"``: the reference, one task after the other by the library ``higher``; ``"vectorized"``:
            faster, all tasks of a batch at once, for networks whose layers can carry a task axis.
        tasks_at_once: number of tasks whose graphs are in memory together; the meta-gradients of such parts of a batch
            are summed. None: 1 for ``higher``, all for ``vectorized`` (on a CPU the backbone's ``cpu_tasks``, which is
            faster there).
        checkpoint_steps: whether the backward pass recomputes each inner step instead of storing it: less memory, more
            time. For ``engine="vectorized"`` at order 2.
        compile: whether the outer step is traced and compiled, once for each shape of a batch: faster for networks of
            many small operations. For ``engine="vectorized"`` at order 1 or 2 and networks without dropout and without
            branches on values; it needs a C++ compiler.
        precision: type of the inner loop and of the query pass if the trainer's precision is ``bf16-mixed`` or
            ``16-mixed``: ``"full"``: the parameters' type; ``"mixed"``: the trainer's; ``"auto"``: ``"full"`` for
            networks with batch normalisation, whose meta-gradient is inaccurate in half precision, else ``"mixed"``.

    Raises:
        ValueError: a setting is out of range, or incompatible with another.
    """

    steps: int = 5
    lr: float = 0.1
    learn_lr: LearnLr = "none"
    lr_range: tuple[float, float] | None = None
    rule: RuleName = "sgd"
    momentum: float = 0.0
    proximal: float = 0.0
    adapt: tuple[str, ...] = ("*",)
    order: Order = 2
    cg_steps: int = 5
    batch_norm: Literal["support", "transductive", "running", "per_step"] = "support"
    engine: EngineName = "higher"
    tasks_at_once: int | None = None
    checkpoint_steps: bool = False
    compile: bool = False
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapt", (self.adapt,) if isinstance(self.adapt, str) else tuple(self.adapt))
        if self.lr_range is not None:
            object.__setattr__(self, "lr_range", tuple(self.lr_range))
        names = {"rule": RULES, "engine": ENGINES, "learn_lr": get_args(LearnLr), "precision": get_args(Precision)}
        for name, allowed in names.items():
            if getattr(self, name) not in allowed:
                raise unknown_name(f"inner_loop.{name}", getattr(self, name), allowed)
        if self.order not in get_args(Order):
            raise ValueError(f"inner_loop.order is {self.order!r}; expected 1, 2 or 'implicit'")
        if complaint := next((text for bad, text in self._complaints() if bad), None):
            raise ValueError(complaint)

    def _complaints(self) -> list[tuple[bool, str]]:
        """Conditions under which the settings are invalid, each with its message."""
        low, high = self.lr_range or (0.0, self.lr)
        return [
            (
                not isinstance(self.steps, int) or self.steps < 0 or self.lr <= 0 or not 0 <= self.momentum < 1,
                f"expected whole steps >= 0, lr > 0 and momentum in [0, 1), saw steps={self.steps}, lr={self.lr}, "
                f"momentum={self.momentum}",
            ),
            (
                self.momentum > 0 and self.rule != "sgd",
                f"momentum={self.momentum} is for rule='sgd'; {self.rule!r} takes none",
            ),
            (
                not low <= self.lr <= high,
                f"inner_loop.lr={self.lr} lies outside inner_loop.lr_range={self.lr_range}",
            ),
            (
                self.lr_range is not None and self.learn_lr == "none",
                "inner_loop.lr_range bounds learned rates: set inner_loop.learn_lr",
            ),
            (
                self.proximal < 0 or (self.order == "implicit" and self.proximal == 0),
                f"inner_loop.proximal is {self.proximal}; expected a number >= 0, and above 0 for order='implicit'",
            ),
            (
                self.order == "implicit" and self.learn_lr != "none",
                "order='implicit' has no gradient for learned rates: set inner_loop.learn_lr=none",
            ),
            (self.cg_steps < 1, f"inner_loop.cg_steps is {self.cg_steps}; expected at least 1"),
            (
                self.tasks_at_once is not None and self.tasks_at_once < 1,
                f"inner_loop.tasks_at_once is {self.tasks_at_once}; expected at least 1, or null",
            ),
            (
                self.checkpoint_steps and (self.engine != "vectorized" or self.order != 2),
                "inner_loop.checkpoint_steps is for engine='vectorized' and order=2 (with tasks_at_once=1 it stores "
                "one step of one task)",
            ),
            (
                self.compile and (self.engine != "vectorized" or self.order == "implicit" or self.checkpoint_steps),
                "inner_loop.compile is for engine='vectorized' and order 1 or 2, without checkpoint_steps",
            ),
            (
                self.compile and self.batch_norm in ("running", "per_step"),
                f"inner_loop.compile can't collect the statistics of batch_norm={self.batch_norm!r}: take 'support'",
            ),
        ]


class InnerLoop(nn.Module):
    """The inner loop of a network: settings, names of the adapted parameters, and fixed or learned rates.

    Args:
        config: settings.
        network: network whose parameters are adapted.

    Attributes:
        names: names of the adapted parameters, in the network's order.
        precision: ``"full"`` or ``"mixed"``.
        rates: ``(len(names), steps)``, or ``(len(names), 1)`` if all steps share them; a parameter if they are learned.
            For ``learn_lr="element"`` a list with a parameter of each adapted parameter's shape.

    Raises:
        ValueError: a pattern of ``config.adapt`` matches no trainable parameter; frozen ones are not adapted.
    """

    rates: Tensor | nn.ParameterList

    def __init__(self, config: InnerLoopConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        trainable = [name for name, p in network.named_parameters() if p.requires_grad]
        for pattern in config.adapt:
            if not any(fnmatchcase(name, pattern) for name in trainable):
                raise ValueError(
                    f"inner_loop.adapt={pattern!r} matches no trainable parameter; there are {', '.join(trainable)}"
                )
        full = any(getattr(layer, "needs_full_precision", False) for layer in network.modules())
        self.precision = config.precision if config.precision != "auto" else ("full" if full else "mixed")
        self.names = [n for n in trainable if any(fnmatchcase(n, pattern) for pattern in config.adapt)]
        columns = max(config.steps, 1) if config.learn_lr == "parameter_and_step" else 1
        rates = torch.full((len(self.names), columns), config.lr)
        if config.learn_lr == "none":
            self.register_buffer("rates", rates)
        elif config.learn_lr == "element":
            adapted = dict(network.named_parameters())
            self.rates = nn.ParameterList(torch.full_like(adapted[name], config.lr) for name in self.names)
        else:
            self.rates = nn.Parameter(rates)

    def rates_at(self, step: int) -> dict[str, Tensor]:
        """Learning rate of each adapted parameter at a step, counted from 0: ``()``, or of the parameter's shape."""
        if isinstance(self.rates, nn.ParameterList):
            return dict(zip(self.names, self.rates, strict=True))
        column = self.rates[:, step if self.rates.shape[1] > 1 else 0]
        return dict(zip(self.names, column.unbind(), strict=True))

    @torch.no_grad()
    def bound_rates(self) -> None:
        """Clip learned rates to ``config.lr_range``."""
        if self.config.lr_range is not None:
            for rate in self.parameters():
                rate.clamp_(*self.config.lr_range)

    def direction(self) -> Direction:
        """Update direction of the rule, as a function of a gradient."""
        return adam if self.config.rule == "adam" else sgd(self.config.momentum)

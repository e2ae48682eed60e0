"""A meta-learned model otherwise: the same network without meta-learning, the same weights with other inner steps."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from metaad_zoo.backbones import ANY
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.learners.gradient import GradientLearner

SCRATCH_STEPS, SCRATCH_LR = 20, 0.01

Built = TypeVar("Built")


Learning = GradientLearner | EmbeddingLearner


def untrained(learner: Learning, seed: int) -> Learning:
    """The same network, and inner loop or head, at a random start.

    Args:
        learner: the model to imitate; left as it is.
        seed: of the random weights.
    """
    given = learner.arguments()
    if isinstance(learner, EmbeddingLearner):
        return _seeded(seed, lambda: type(learner)(**given)).to(learner.device).eval()
    config = learner.inner_loop.config
    if config.batch_norm == "per_step":  # its averages are meta-learned
        config = replace(config, batch_norm="support")
    return _seeded(seed, lambda: type(learner)(**{**given, "inner_loop": config})).to(learner.device).eval()


def can_start_from_scratch(learner: Learning) -> bool:
    """Whether the network has a fixed width, on which a linear head can be trained, and weights."""
    backbone = learner.network.backbone
    return backbone.embedding_dim != ANY and any(p.requires_grad for p in backbone.parameters())


def from_scratch(learner: Learning, seed: int, steps: int = SCRATCH_STEPS, lr: float = SCRATCH_LR) -> GradientLearner:
    """The same network at a random start, trained by Adam on each support set.

    Args:
        learner: the model to imitate; left as it is.
        seed: of the random weights.
        steps: of Adam, on the same support loss, all parameters adapted.
        lr: Adam's learning rate.
    """
    given = learner.arguments()
    embeds = isinstance(learner, EmbeddingLearner)
    batch_norm = given["batch_norm"] if embeds else given["inner_loop"]["batch_norm"]
    config = InnerLoopConfig(
        steps=steps,
        lr=lr,
        rule="adam",
        order=1,
        batch_norm="support" if batch_norm == "per_step" else batch_norm,  # it has no averages of so many steps
    )
    shared = {name: given[name] for name in ("backbone", "backbone_options", "input_shapes", "scaling")}
    return _seeded(seed, lambda: GradientLearner(**shared, inner_loop=config)).to(learner.device).eval()


def with_steps(learner: GradientLearner, steps: int) -> GradientLearner:
    """The same weights with another number of inner steps.

    Learned rates of each step stay as they are; steps beyond those that it was trained with take the last one's rates.

    Args:
        learner: left as it is.
        steps: to take on a support set; 0: none.

    Raises:
        ValueError: the number is below 0, or batch normalisation has averages of each step, which for another number of
            steps were never taken.
    """
    config = learner.inner_loop.config
    if config.batch_norm == "per_step" and steps != config.steps:
        raise ValueError(
            f"batch_norm=per_step has averages for {config.steps} inner steps alone, and the queries' behind the last: "
            "expected that number, or a model with batch_norm=support"
        )
    changed = deepcopy(learner)
    changed.inner_loop.config = replace(config, steps=steps)
    rates = changed.inner_loop.rates
    if isinstance(rates, nn.Parameter) and rates.shape[1] > 1:
        columns = torch.arange(max(steps, 1)).clamp_max(rates.shape[1] - 1)
        changed.inner_loop.rates = nn.Parameter(rates.detach()[:, columns.to(rates.device)])
    return changed.eval()


def _seeded(seed: int, build: Callable[[], Built]) -> Built:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()

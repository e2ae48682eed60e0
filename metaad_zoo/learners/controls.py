"""Control experiments: the same network without meta-learning, or with another number of inner steps."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from metaad_zoo.backbones import ANY, replace_pretrained
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.other_head import backbone_arguments

SCRATCH_STEPS, SCRATCH_LR = 20, 0.01

Built = TypeVar("Built")
Learning = GradientLearner | EmbeddingLearner


def untrained(learner: Learning, seed: int) -> Learning:
    """The same learner with random weights.

    Args:
        learner: learner to rebuild; not changed.
        seed: random seed of the weights.
    """
    arguments = learner.arguments()
    if isinstance(learner, EmbeddingLearner):
        return _seeded(seed, lambda: type(learner)(**arguments)).to(learner.device).eval()
    config = learner.inner_loop.config
    if config.batch_norm == "per_step":  # its averages are meta-learned
        config = replace(config, batch_norm="support")
    return _seeded(seed, lambda: type(learner)(**{**arguments, "inner_loop": config})).to(learner.device).eval()


def can_start_from_scratch(learner: Learning) -> bool:
    """Whether the backbone has trainable weights, and a fixed width for a linear head."""
    backbone = learner.network.backbone
    return backbone.embedding_dim != ANY and any(p.requires_grad for p in backbone.parameters())


def from_scratch(learner: Learning, seed: int, steps: int = SCRATCH_STEPS, lr: float = SCRATCH_LR) -> GradientLearner:
    """The same backbone with random weights, trained by Adam on each support set.

    Args:
        learner: learner whose backbone is rebuilt; not changed.
        seed: random seed of the weights.
        steps: number of Adam steps on the support loss, for all parameters.
        lr: learning rate of Adam.
    """
    shared = backbone_arguments(learner)
    config = InnerLoopConfig(steps=steps, lr=lr, rule="adam", order=1, batch_norm=shared.pop("batch_norm"))
    return _seeded(seed, lambda: GradientLearner(**shared, inner_loop=config)).to(learner.device).eval()


def with_steps(learner: GradientLearner, steps: int) -> GradientLearner:
    """The same weights with another number of inner steps.

    Additional steps use the learned rates of the last trained step.

    Args:
        learner: trained learner; not changed.
        steps: number of inner steps; 0: no adaptation.

    Raises:
        ValueError: the number is below 0, or batch normalisation has averages of each step, for a fixed number of
            steps.
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
    with torch.random.fork_rng(), replace_pretrained(False):
        torch.manual_seed(seed)
        return build()

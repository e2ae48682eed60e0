"""What a meta-learned model has to beat: the same network without meta-learning."""

from __future__ import annotations

from dataclasses import replace

import torch

from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners.gradient import GradientLearner

SCRATCH_STEPS, SCRATCH_LR = 20, 0.01


def untrained(learner: GradientLearner, seed: int) -> GradientLearner:
    """The same network and inner loop at a random start.

    Args:
        learner: the model to imitate; left as it is.
        seed: of the random weights.
    """
    return _fresh(learner, learner.inner_loop.config, seed)


def from_scratch(
    learner: GradientLearner, seed: int, steps: int = SCRATCH_STEPS, lr: float = SCRATCH_LR
) -> GradientLearner:
    """The same network at a random start, trained by Adam on each support set.

    Args:
        learner: the model to imitate; left as it is.
        seed: of the random weights.
        steps: of Adam, on the same support loss, all parameters adapted.
        lr: Adam's learning rate.
    """
    config = replace(
        learner.inner_loop.config,
        steps=steps,
        lr=lr,
        rule="adam",
        momentum=0.0,
        learn_lr="none",
        adapt=("*",),
    )
    return _fresh(learner, config, seed)


def _fresh(learner: GradientLearner, config: InnerLoopConfig, seed: int) -> GradientLearner:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(learner)(**{**learner.arguments(), "inner_loop": config})
    return fresh.to(learner.device).eval()

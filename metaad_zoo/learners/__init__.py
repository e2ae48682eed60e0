"""Learners: LightningModules that meta-train over many tasks and adapt to a new one."""

from metaad_zoo.learners.base import Learner
from metaad_zoo.learners.controls import from_scratch, untrained
from metaad_zoo.learners.gradient import AdaptedNetwork, GradientLearner
from metaad_zoo.learners.registry import learner_class, list_learners, register_learner

__all__ = [
    "AdaptedNetwork",
    "GradientLearner",
    "Learner",
    "from_scratch",
    "learner_class",
    "list_learners",
    "register_learner",
    "untrained",
]

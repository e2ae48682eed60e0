"""Registry of learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from metaad_zoo.registry import Registry

if TYPE_CHECKING:
    from metaad_zoo.learners.base import Learner

LearnerType = TypeVar("LearnerType", bound="type[Learner]")

LEARNERS: Registry[type[Learner]] = Registry("learner")
BASELINE_PREFIX = "baseline/"
"""Precedes a baseline's name in the name of its learner: ``baseline/knn``."""


def register_learner(name: str) -> Callable[[LearnerType], LearnerType]:
    """Register a learner class.

    Raises:
        ValueError: the name is taken.
    """

    def register(learner: LearnerType) -> LearnerType:
        LEARNERS.add(name, learner)
        learner.registered_name = name
        return learner

    return register


def list_learners(pattern: str = "*") -> list[str]:
    """Names of the registered learners that match an fnmatch pattern.

    Example:
        >>> list_learners("maml*")
        ['maml', 'maml_pp']
    """
    return LEARNERS.names(pattern)


def learner_class(name: str) -> type[Learner]:
    """Class of a registered learner.

    Args:
        name: one of :func:`list_learners`, or ``baseline/<name>`` for a baseline as a learner.

    Raises:
        ValueError: the name is unknown (the nearest names are given).
    """
    return LEARNERS.create(name) if name.startswith(BASELINE_PREFIX) else LEARNERS[name]

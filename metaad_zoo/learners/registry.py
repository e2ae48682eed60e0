"""Learners by name."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

from metaad_zoo.names import unknown_name

if TYPE_CHECKING:
    from metaad_zoo.learners.base import Learner

LearnerType = TypeVar("LearnerType", bound="type[Learner]")

_LEARNERS: dict[str, type[Learner]] = {}


def register_learner(name: str) -> Callable[[LearnerType], LearnerType]:
    """Make a learner class known by a name.

    Raises:
        ValueError: the name is taken.
    """

    def register(learner: LearnerType) -> LearnerType:
        if name in _LEARNERS:
            raise ValueError(f"a learner named {name!r} is registered already")
        _LEARNERS[name] = learner
        learner.registered_name = name
        return learner

    return register


def list_learners(pattern: str = "*") -> list[str]:
    """Names of the learners.

    Example:
        >>> list_learners("maml*")
        ['maml', 'maml_pp']
    """
    return sorted(n for n in _LEARNERS if fnmatchcase(n, pattern))


def learner_class(name: str) -> type[Learner]:
    """The class behind a name.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    if name not in _LEARNERS:
        raise unknown_name("learner", name, _LEARNERS)
    return _LEARNERS[name]

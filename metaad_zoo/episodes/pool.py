"""Where tasks come from: pools of tasks that draw episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np

from metaad_zoo.episodes.draw import Source, draw_episode, require_enough
from metaad_zoo.episodes.episode import Episode
from metaad_zoo.episodes.spec import EpisodeSpec


class TaskPool(ABC):
    """A fixed list of tasks, each of which can draw any number of episodes."""

    @abstractmethod
    def __len__(self) -> int:
        """How many tasks there are."""

    @abstractmethod
    def task_name(self, task: int) -> str:
        """Readable, stable name of the task at this position."""

    @property
    @abstractmethod
    def members(self) -> frozenset[str]:
        """What this pool is made of (names of classes or domains), never to be shared with another split's pool."""

    @abstractmethod
    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        """One episode of the task at this position; a pure function of its arguments."""

    @abstractmethod
    def check(self, spec: EpisodeSpec) -> None:
        """Raise a ValueError where some task can't fill ``spec``, before any work is lost."""


class ClassTaskPool(TaskPool):
    """Class-as-normal tasks: one class is normal, the anomalies come from other classes of the same pool.

    Args:
        source: the samples.
        classes: names of the classes this pool owns, as in ``source.class_names``.
        anomalies: ``"pair"``: a task is an ordered pair of classes, normal and anomalous; ``"rest"``: a task is one
            normal class, its anomalies are drawn from all other classes of the pool.

    Raises:
        ValueError: a class is unknown or named twice, there are fewer than two, or ``anomalies`` is neither.

    The pair task ``a-vs-b`` is named ``<source>/<a>-vs-<b>``, the rest task ``<source>/<a>``.
    """

    def __init__(self, source: Source, classes: Sequence[str], anomalies: Literal["pair", "rest"] = "pair") -> None:
        known = {name: i for i, name in enumerate(source.class_names)}
        unknown = [c for c in classes if c not in known]
        if unknown:
            raise ValueError(f"{source.name} has no class {unknown}; it has {list(known)[:30]}")
        if len(set(classes)) != len(classes):
            raise ValueError(f"a class is named twice in {list(classes)}")
        if len(classes) < 2:
            raise ValueError(
                f"a pool of class-as-normal tasks needs at least two classes, saw {list(classes)}: one class is "
                "normal, another gives the anomalies"
            )
        if anomalies not in ("pair", "rest"):
            raise ValueError(f"anomalies is {anomalies!r}; expected 'pair' or 'rest'")
        self.source, self.classes, self.anomalies = source, list(classes), anomalies
        self._ids = [np.flatnonzero(source.labels == known[c]) for c in classes]

    def __len__(self) -> int:
        n = len(self.classes)
        return n * (n - 1) if self.anomalies == "pair" else n

    def _classes_of(self, task: int) -> tuple[int, int | None]:
        """Positions of the normal class and, for a pair, of the anomalous one."""
        if self.anomalies == "rest":
            return task, None
        normal, other = divmod(task, len(self.classes) - 1)
        return normal, other + (other >= normal)

    def task_name(self, task: int) -> str:
        normal, other = self._classes_of(task)
        suffix = "" if other is None else f"-vs-{self.classes[other]}"
        return f"{self.source.name}/{self.classes[normal]}{suffix}"

    @property
    def members(self) -> frozenset[str]:
        return frozenset(f"{self.source.name}/{c}" for c in self.classes)

    def check(self, spec: EpisodeSpec) -> None:
        smallest = min(len(ids) for ids in self._ids)
        if smallest >= max(spec.normal_needed, spec.anomalous_needed):
            return
        for name, ids in zip(self.classes, self._ids, strict=True):
            anomalous = ids if self.anomalies == "pair" else np.setdiff1d(np.concatenate(self._ids), ids)
            require_enough(f"class {name!r} of {self.source.name}", spec, ids, anomalous)

    def ids_of(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of a task's normal samples and of its anomalous ones."""
        normal, other = self._classes_of(task)
        if other is not None:
            return self._ids[normal], self._ids[other]
        return self._ids[normal], np.concatenate([ids for i, ids in enumerate(self._ids) if i != normal])

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        normal, anomalous = self.ids_of(task)
        return draw_episode(self.source, self.task_name(task), spec, normal, anomalous, rng)


class DomainTaskPool(TaskPool):
    """One task a domain, where the data itself says which samples are anomalous: the categories of an inspection set.

    Args:
        source: the samples; its classes are the domains.
        domains: names of the domains this pool owns.
        anomalous: ``(n,)`` booleans over the source's samples.

    Raises:
        ValueError: a domain is unknown or named twice, or there is none.
    """

    def __init__(self, source: Source, domains: Sequence[str], anomalous: np.ndarray) -> None:
        known = {name: i for i, name in enumerate(source.class_names)}
        unknown = [d for d in domains if d not in known]
        if unknown or len(set(domains)) != len(domains) or not domains:
            raise ValueError(f"expected distinct domains out of {list(known)[:30]}, saw {list(domains)}")
        self.source, self.domains = source, list(domains)
        inside = [source.labels == known[d] for d in domains]
        self._normal = [np.flatnonzero(here & ~anomalous) for here in inside]
        self._anomalous = [np.flatnonzero(here & anomalous) for here in inside]

    def __len__(self) -> int:
        return len(self.domains)

    def task_name(self, task: int) -> str:
        return f"{self.source.name}/{self.domains[task]}"

    @property
    def members(self) -> frozenset[str]:
        return frozenset(f"{self.source.name}/{d}" for d in self.domains)

    def check(self, spec: EpisodeSpec) -> None:
        for task, name in enumerate(self.domains):
            require_enough(f"domain {name!r} of {self.source.name}", spec, self._normal[task], self._anomalous[task])

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        return draw_episode(self.source, self.task_name(task), spec, self._normal[task], self._anomalous[task], rng)


def require_disjoint(**pools: TaskPool) -> None:
    """Refuse pools of different splits that share a class or a domain.

    Raises:
        ValueError: names the shared members and the two splits.
    """
    splits = list(pools.items())
    for i, (a, first) in enumerate(splits):
        for b, second in splits[i + 1 :]:
            shared = sorted(first.members & second.members)
            if shared:
                raise ValueError(
                    f"the {a} and {b} splits share {shared[:10]}: meta-test classes and domains must never be seen in "
                    "meta-training; put each in one split only"
                )

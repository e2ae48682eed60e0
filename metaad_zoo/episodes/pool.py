"""Where tasks come from: pools of tasks that draw episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from metaad_zoo.episodes.draw import Corruption, Domain, Source, draw_episode, require_enough
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

    @property
    def recorded(self) -> frozenset[str]:
        """The members whose split a checkpoint records; not those of generated tasks, whose names tell it."""
        return self.members

    @abstractmethod
    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        """One episode of the task at this position; a pure function of its arguments."""

    @abstractmethod
    def check(self, spec: EpisodeSpec) -> None:
        """Raise a ValueError where some task can't fill ``spec``, before any work is lost."""

    def sizes(self) -> list[tuple[str, int, int]]:
        """Name, normal and anomalous samples of each thing the tasks are made of; empty where there is no such list."""
        return []


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

    def sizes(self) -> list[tuple[str, int, int]]:
        return [(f"{self.source.name}/{c}", len(ids), 0) for c, ids in zip(self.classes, self._ids, strict=True)]

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
    """One task a domain, where the data itself says which samples are anomalous: an inspection line, a machine.

    Args:
        domains: with distinct names.
        corrupt: for meta-training alone: makes anomalies of normal samples, in every episode of a domain that has no
            anomalies of its own, and in a share of the others'.
        share: that share, in [0, 1].

    Raises:
        ValueError: there is no domain, two have one name, or the share is out of range.
    """

    def __init__(self, domains: Sequence[Domain], corrupt: Corruption | None = None, share: float = 0.0) -> None:
        names = [d.name for d in domains]
        if not domains or len(set(names)) != len(names):
            raise ValueError(f"expected domains with distinct names, saw {names[:30]}")
        if not 0 <= share <= 1:
            raise ValueError(f"the share of episodes with synthetic anomalies is {share}; expected it in [0, 1]")
        self.domains, self.corrupt, self.share = list(domains), corrupt, share

    @classmethod
    def from_source(cls, source: Source, names: Sequence[str], anomalous: np.ndarray, **options: Any) -> DomainTaskPool:
        """Domains out of a source whose classes they are.

        Args:
            source: the samples.
            names: of the domains, as in ``source.class_names``.
            anomalous: ``(n,)`` booleans over the source's samples.
            options: as for the class.

        Raises:
            ValueError: a domain is unknown or named twice, or there is none.
        """
        known = {name: i for i, name in enumerate(source.class_names)}
        unknown = [n for n in names if n not in known]
        if unknown or len(set(names)) != len(names) or not names:
            raise ValueError(f"expected distinct domains out of {list(known)[:30]}, saw {list(names)}")
        inside = [source.labels == known[n] for n in names]
        domains = [
            Domain(f"{source.name}/{n}", source, np.flatnonzero(here & ~anomalous), np.flatnonzero(here & anomalous))
            for n, here in zip(names, inside, strict=True)
        ]
        return cls(domains, **options)

    def __len__(self) -> int:
        return len(self.domains)

    def task_name(self, task: int) -> str:
        return self.domains[task].name

    @property
    def members(self) -> frozenset[str]:
        return frozenset(d.name for d in self.domains)

    def check(self, spec: EpisodeSpec) -> None:
        for domain in self.domains:
            own = self._has_own(domain, spec)
            if own or self.corrupt is None:
                domain.check(spec)
            if self.corrupt is not None and (self.share or not own):
                domain.check(spec, synthetic=True)

    def leave_out_small(self, spec: EpisodeSpec) -> list[str]:
        """Leave out the domains that can't fill an episode, and say why of each.

        Raises:
            ValueError: none is left.
        """
        kept, reasons = [], []
        for domain in self.domains:
            try:
                DomainTaskPool([domain], self.corrupt, self.share).check(spec)
                kept.append(domain)
            except ValueError as error:
                reasons.append(str(error))
        if not kept:
            raise ValueError(reasons[0])
        self.domains = kept
        return reasons

    def _has_own(self, domain: Domain, spec: EpisodeSpec) -> bool:
        return len(domain.anomalous) >= spec.anomalous_needed

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        domain = self.domains[task]
        synthetic = self.corrupt is not None and (not self._has_own(domain, spec) or rng.random() < self.share)
        return domain.draw(spec, rng, self.corrupt if synthetic else None)

    def sizes(self) -> list[tuple[str, int, int]]:
        return [
            (d.name, len(d.normal) + (0 if d.support is None else len(d.support)), len(d.anomalous))
            for d in self.domains
        ]


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

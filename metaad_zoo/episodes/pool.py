"""Pools of tasks, from which episodes are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from metaad_zoo.episodes.draw import Corruption, Domain, Source, assemble, require_enough
from metaad_zoo.episodes.episode import Episode
from metaad_zoo.episodes.spec import EpisodeSpec


class TaskPool(ABC):
    """A fixed list of tasks, each of which can draw any number of episodes."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of tasks."""

    @abstractmethod
    def task_name(self, task: int) -> str:
        """Readable, stable name of the task at this position."""

    @property
    @abstractmethod
    def members(self) -> frozenset[str]:
        """Names of the pool's classes or domains, disjoint from those of the pools of other splits."""

    @property
    def recorded(self) -> frozenset[str]:
        """The members whose split a checkpoint records; none for generated tasks, whose names contain the split."""
        return self.members

    @abstractmethod
    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        """One episode of the task at this position; a pure function of its arguments.

        Take the numbers of samples from ``spec.drawn(rng)``: a contamination may be a range.
        """

    @abstractmethod
    def check(self, spec: EpisodeSpec) -> None:
        """Raise a ValueError if a task has too few samples for ``spec``."""

    def sizes(self) -> list[tuple[str, int, int]]:
        """Name, number of normal and of anomalous samples of each class or domain; empty for generated tasks."""
        return []


class ChangedPool(TaskPool):
    """Base of pools that have the tasks of another pool and change some of its episodes.

    Args:
        pool: the tasks.
    """

    def __init__(self, pool: TaskPool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool)

    def task_name(self, task: int) -> str:
        return self.pool.task_name(task)

    @property
    def members(self) -> frozenset[str]:
        return self.pool.members

    @property
    def recorded(self) -> frozenset[str]:
        return self.pool.recorded

    def check(self, spec: EpisodeSpec) -> None:
        self.pool.check(spec)

    def sizes(self) -> list[tuple[str, int, int]]:
        return self.pool.sizes()


class ClassTaskPool(TaskPool):
    """Class-as-normal tasks: one class is normal, the anomalies come from other classes of the same pool.

    Args:
        source: data set of the samples.
        classes: names of the pool's classes, as in ``source.class_names``.
        anomalies: ``"pair"``: a task is an ordered pair of classes, normal and anomalous; ``"rest"``: a task is one
            normal class, and its anomalies are drawn from all other classes of the pool.

    Raises:
        ValueError: a class is unknown or named twice, there are fewer than two, or ``anomalies`` is invalid.

    The pair task ``a-vs-b`` is named ``<source>/<a>-vs-<b>``, the rest task ``<source>/<a>``.
    """

    def __init__(self, source: Source, classes: Sequence[str], anomalies: Literal["pair", "rest"] = "pair") -> None:
        class_ids = {name: i for i, name in enumerate(source.class_names)}
        unknown = [c for c in classes if c not in class_ids]
        if unknown:
            raise ValueError(f"{source.name} has no class {unknown}; it has {list(class_ids)[:30]}")
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
        self._ids = [np.flatnonzero(source.labels == class_ids[c]) for c in classes]

    def __len__(self) -> int:
        n = len(self.classes)
        return n * (n - 1) if self.anomalies == "pair" else n

    def _classes_of(self, task: int) -> tuple[int, int | None]:
        """Positions of the normal class and, for a pair, of the anomalous one."""
        if self.anomalies == "rest":
            return task, None
        normal, anomalous = divmod(task, len(self.classes) - 1)
        return normal, anomalous + (anomalous >= normal)

    def task_name(self, task: int) -> str:
        normal, anomalous = self._classes_of(task)
        suffix = "" if anomalous is None else f"-vs-{self.classes[anomalous]}"
        return f"{self.source.name}/{self.classes[normal]}{suffix}"

    @property
    def members(self) -> frozenset[str]:
        return frozenset(f"{self.source.name}/{c}" for c in self.classes)

    def check(self, spec: EpisodeSpec) -> None:
        smallest = min(len(ids) for ids in self._ids)
        if smallest >= max(n for extreme in spec.extremes for n in (extreme.normal_needed, extreme.anomalous_needed)):
            return
        for name, ids in zip(self.classes, self._ids, strict=True):
            anomalous = ids if self.anomalies == "pair" else np.setdiff1d(np.concatenate(self._ids), ids)
            require_enough(f"class {name!r} of {self.source.name}", spec, ids, anomalous)

    def sizes(self) -> list[tuple[str, int, int]]:
        return [(f"{self.source.name}/{c}", len(ids), 0) for c, ids in zip(self.classes, self._ids, strict=True)]

    def ids_of(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of a task's normal samples and of its anomalous samples."""
        normal, anomalous = self._classes_of(task)
        if anomalous is not None:
            return self._ids[normal], self._ids[anomalous]
        return self._ids[normal], np.concatenate([ids for i, ids in enumerate(self._ids) if i != normal])

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        normal, anomalous = self.ids_of(task)
        name = self.task_name(task)
        spec = spec.drawn(rng, lambda one: require_enough(f"task {name}", one, normal, anomalous))
        normals = rng.choice(normal, spec.normal_needed, replace=False)
        anomalies = rng.choice(anomalous, spec.anomalous_needed, replace=False)
        return assemble(self.source, name, spec, normals, anomalies, rng)


class DomainTaskPool(TaskPool):
    """One task for each domain, with labelled anomalies: an inspection line, a machine.

    Args:
        domains: domains with distinct names.
        corrupt: function that makes anomalies from normal samples, for meta-training only. It applies to every episode
            of a domain with too few anomalies, and to a share of the remaining episodes.
        share: probability of synthetic anomalies in the remaining episodes, in [0, 1].

    Raises:
        ValueError: there is no domain, two have the same name, or the share is out of range.
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
        """Make a domain of each named class of a source.

        Args:
            source: data set of the samples.
            names: names of the domains, as in ``source.class_names``.
            anomalous: ``(n,)`` booleans over the source's samples.
            options: further arguments of the class.

        Raises:
            ValueError: a domain is unknown or named twice, or there is none.
        """
        class_ids = {name: i for i, name in enumerate(source.class_names)}
        if not names or len(set(names)) != len(names) or not class_ids.keys() >= set(names):
            raise ValueError(f"expected distinct domains out of {list(class_ids)[:30]}, saw {list(names)}")
        masks = [source.labels == class_ids[n] for n in names]
        domains = [
            Domain(f"{source.name}/{n}", source, np.flatnonzero(mask & ~anomalous), np.flatnonzero(mask & anomalous))
            for n, mask in zip(names, masks, strict=True)
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
            enough = self._has_anomalies(domain, spec)
            if enough or self.corrupt is None:
                domain.check(spec)
            if self.corrupt is not None and (self.share or not enough):
                domain.check(spec, synthetic=True)

    def leave_out_small(self, spec: EpisodeSpec) -> list[str]:
        """Drop the domains that are too small for an episode, and return the reason for each.

        Raises:
            ValueError: all domains are too small.
        """
        large_enough, reasons = [], []
        for domain in self.domains:
            try:
                DomainTaskPool([domain], self.corrupt, self.share).check(spec)
                large_enough.append(domain)
            except ValueError as error:
                reasons.append(str(error))
        if not large_enough:
            raise ValueError(reasons[0])
        self.domains = large_enough
        return reasons

    def _has_anomalies(self, domain: Domain, spec: EpisodeSpec) -> bool:
        """Whether the domain has enough anomalies for any episode; not a matter of the contamination that one draws."""
        return all(len(domain.anomalous) >= extreme.anomalous_needed for extreme in spec.extremes)

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        domain = self.domains[task]
        synthetic = self.corrupt is not None and (not self._has_anomalies(domain, spec) or rng.random() < self.share)
        return domain.draw(spec, rng, self.corrupt if synthetic else None)

    def sizes(self) -> list[tuple[str, int, int]]:
        return [
            (d.name, len(d.normal) + (0 if d.support is None else len(d.support)), len(d.anomalous))
            for d in self.domains
        ]


def require_disjoint(**pools: TaskPool) -> None:
    """Check that no two pools of different splits share a class or a domain.

    Raises:
        ValueError: two splits share a member.
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

"""Tasks of agreement: a sample is anomalous because its modalities do not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import torch

from metaad_zoo.data.joined import SeparateModalities
from metaad_zoo.data.new_classes import as_new_classes
from metaad_zoo.episodes import Episode, EpisodeSpec, TaskPool
from metaad_zoo.episodes.draw import assemble
from metaad_zoo.registry import unknown_name

Pairing = Literal["labelled", "any"]


class AgreementPool(TaskPool):
    """Tasks whose anomalies show in no modality alone.

    A task is a set of classes. All modalities of a normal sample are of one class of the set; of an anomalous one,
    exactly one modality, chosen at random, is of another. Classes take turns in either kind, so that normal and
    anomalous samples have, in each modality, the same number of samples of each class wherever the numbers of both are
    equal and divisible by the classes of a task.

    Args:
        source: two modalities or more, over the same classes.
        classes: names of the classes this pool owns, as in ``source.class_names``.
        classes_per_task: how many make a task.
        pairing: ``"labelled"``: what belongs together has the same class; ``"any"``: each episode draws anew which
            class of one modality goes with which of another, so that a model can't learn the pairs by heart and must
            read them from the support set. For meta-training.
        new_classes: share of episodes whose classes are made new ones
            (:func:`metaad_zoo.data.new_classes.as_new_classes`). For meta-training.
        one_class: share of episodes whose normal samples are all of one class (in each modality), so that a modality
            alone shows half of the anomalies. Agreement gives a network no gradient to begin with before it can tell
            classes, and this teaches it to. For meta-training.

    Raises:
        ValueError: a class is unknown or named twice, there are fewer than a task needs, or a setting is out of range.

    A task is named ``<source>/<a>,<b>``; with ``"any"`` an episode's name adds what goes with what, as in
    ``<source>/<a>~<c>,<b>~<d>``, and `` new`` where classes were made new.

    Source: for ``"any"``: Rajendran et al., "Meta-Learning Requires Meta-Augmentation", NeurIPS 2020.
    """

    def __init__(
        self,
        source: SeparateModalities,
        classes: Sequence[str],
        classes_per_task: int = 2,
        pairing: Pairing = "labelled",
        new_classes: float = 0.0,
        one_class: float = 0.0,
    ) -> None:
        label_of = {name: i for i, name in enumerate(source.class_names)}
        for name in classes:
            if name not in label_of:
                raise unknown_name(f"class of {source.name}:", name, label_of)
        if len(set(classes)) != len(classes):
            raise ValueError(f"a class is named twice in {list(classes)}")
        if pairing not in get_args(Pairing):
            raise unknown_name("pairing", pairing, get_args(Pairing))
        if len(source.parts) < 2:
            raise ValueError(
                f"{source.name} has {list(source.parts)} alone: whether modalities agree takes two or more"
            )
        if not 2 <= classes_per_task <= len(classes):
            raise ValueError(
                f"a task of agreement takes classes_per_task={classes_per_task} classes, at least 2, and this split "
                f"has {len(classes)}: {list(classes)[:20]}; give it more classes, or lower data.classes_per_task"
            )
        self.source, self.classes, self.pairing = source, list(classes), pairing
        for setting, share in {"new_classes": new_classes, "one_class": one_class}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"data.{setting} is {share}; expected a share of episodes, in [0, 1]")
        self.classes_per_task, self.new_classes, self.one_class = classes_per_task, new_classes, one_class
        self._tasks = list(combinations(range(len(classes)), classes_per_task))
        self._ids = [[np.flatnonzero(part.labels == label_of[c]) for c in classes] for part in source.parts.values()]

    def __len__(self) -> int:
        return len(self._tasks)

    def task_name(self, task: int) -> str:
        return f"{self.source.name}/{','.join(self.classes[c] for c in self._tasks[task])}"

    @property
    def members(self) -> frozenset[str]:
        return frozenset(f"{self.source.name}/{c}" for c in self.classes)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Samples of each class in the modality that has fewest."""
        return [
            (f"{self.source.name}/{c}", min(len(ids[i]) for ids in self._ids), 0) for i, c in enumerate(self.classes)
        ]

    def check(self, spec: EpisodeSpec) -> None:
        for extreme in spec.extremes:
            # Between the ends of a range of contamination, rounding to whole turns may take one sample more.
            self._check(extreme, int(isinstance(spec.contamination, tuple)))

    def _check(self, spec: EpisodeSpec, more: int = 0) -> None:
        """:meth:`check` for the spec of one episode, with so many samples more of each class."""
        turns = 1 if self.one_class else self.classes_per_task
        wanted = more + sum(-(-n // turns) for n in (*_normal_parts(spec), *_anomalous_parts(spec)))
        for modality, by_class in zip(self.source.parts, self._ids, strict=True):
            for name, ids in zip(self.classes, by_class, strict=True):
                if len(ids) < wanted:
                    raise ValueError(
                        f"class {name!r} of {self.source.name} has {len(ids)} samples of the modality {modality!r} but "
                        f"an episode draws up to {wanted} (support and query, normal and anomalous together): lower "
                        "the numbers of data.episode, or leave it out"
                    )

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        spec = spec.drawn(rng, self._check)
        goes = self._goes_with(task, rng)
        of_one = rng.random() < self.one_class
        slots = np.concatenate(
            [self._agreeing(n, of_one, rng) for n in _normal_parts(spec)]
            + [self._disagreeing(n, of_one, rng) for n in _anomalous_parts(spec)]
        )
        positions = []
        for i, by_class in enumerate(self._ids):
            chosen = np.empty(len(slots), np.int64)
            for slot, c in enumerate(goes[i]):
                in_slot = slots[:, i] == slot
                chosen[in_slot] = rng.choice(by_class[c], int(in_slot.sum()), replace=False)
            positions.append(chosen)
        ids, n = self.source.combine(positions), spec.normal_needed
        episode = assemble(self.source, self._episode_name(task, goes), spec, ids[:n], ids[n:], rng)
        return self._with_new_classes(episode, rng) if rng.random() < self.new_classes else episode

    def _with_new_classes(self, episode: Episode, rng: np.random.Generator) -> Episode:
        positions = self.source.positions(torch.cat([episode.support_ids, episode.query_ids]).numpy())
        parts = zip(self.source.parts.items(), positions, strict=True)
        classes = {modality: part.labels[at] for (modality, part), at in parts}
        together = {m: torch.cat([x, episode.query[m]]) for m, x in episode.support.items()}
        changed, n = as_new_classes(together, classes, rng), len(episode.support_ids)
        support, query = ({m: x[part] for m, x in changed.items()} for part in (slice(n), slice(n, None)))
        return replace(episode, support=support, query=query, task=f"{episode.task} new")

    def _goes_with(self, task: int, rng: np.random.Generator) -> np.ndarray:
        """``(modalities, classes_per_task)``: the classes in each modality; one column belongs together."""
        first = np.asarray(self._tasks[task])
        if self.pairing == "labelled":
            return np.tile(first, (len(self._ids), 1))
        partners = [rng.permutation(len(self.classes))[: self.classes_per_task] for _ in self._ids[1:]]
        return np.stack([first, *partners])

    def _episode_name(self, task: int, goes: np.ndarray) -> str:
        if self.pairing == "labelled":
            return self.task_name(task)
        return f"{self.source.name}/{','.join('~'.join(self.classes[c] for c in column) for column in goes.T)}"

    def _agreeing(self, n: int, of_one: bool, rng: np.random.Generator) -> np.ndarray:
        """``(n, modalities)``: by sample and modality, which class of the task, the same for all modalities."""
        turns = np.zeros(n, np.int64) if of_one else self._in_turn(n, rng)
        return np.repeat(turns[:, None], len(self._ids), 1)

    def _disagreeing(self, n: int, of_one: bool, rng: np.random.Generator) -> np.ndarray:
        """The same, but for one modality, which is of another class.

        The classes are gone through once with each choice of the modality that disagrees and of how far its class is
        shifted. So that modality too gets each class once.
        """
        m = self.classes_per_task
        slots = self._agreeing(n, of_one, rng)
        rounds = -(-n // m)
        modality = np.resize(rng.permutation(len(self._ids)), rounds)
        shift = rng.integers(1, m, size=rounds)
        rows = np.arange(n)
        odd = modality[rows // m]
        slots[rows, odd] = (slots[rows, odd] + shift[rows // m]) % m
        return slots

    def _in_turn(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n,)``: each class of the task once, in random order, and again."""
        m = self.classes_per_task
        rounds = [rng.permutation(m) for _ in range(-(-n // m))]
        return np.concatenate([*rounds, np.empty(0, np.int64)])[:n].astype(np.int64)


def _normal_parts(spec: EpisodeSpec) -> tuple[int, int, int]:
    """Numbers of normal samples in the labelled support, the unlabelled support and the query."""
    return spec.support_normal, spec.support_unlabelled - spec.unlabelled_anomalous, spec.query_normal


def _anomalous_parts(spec: EpisodeSpec) -> tuple[int, int, int]:
    return spec.support_anomalous, spec.unlabelled_anomalous, spec.query_anomalous

"""Comparison in the modalities that a sample shares with the support."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from metaad_zoo.backbones import declare_absent
from metaad_zoo.episodes import ANOMALOUS, Samples, SupportScaling, only, present
from metaad_zoo.learners.network import AdaptedScorer

Adapt = Callable[[Samples, Tensor], AdaptedScorer]
"""Adapts to a support set in the network's units, with its labels."""


def adapt_to_shared(adapt: Adapt, support: Samples, labels: Tensor) -> AdaptedScorer:
    """Adapt to a support set; of several modalities, to each set of them that a sample may share with it.

    Args:
        adapt: adaptation to one support set.
        support: support set in the network's units, by modality ``(n, ...)``.
        labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled.
    """
    whole = adapt(support, labels)
    return whole if len(support) == 1 else SharedModalities(adapt, labels, whole)


@dataclass(frozen=True)
class Group:
    """Samples that share the same modalities with the support.

    Attributes:
        modalities: names of the shared modalities.
        rows: ``(m,)`` positions of the samples.
        scorer: learner adapted to the support's shared modalities.
        samples: the samples, NaN in all modalities that are not shared.
    """

    modalities: tuple[str, ...]
    rows: Tensor
    scorer: AdaptedScorer
    samples: dict[str, Tensor]


@dataclass(frozen=True)
class SharedModalities(AdaptedScorer):
    """A learner that scores each sample in the modalities that the sample and the normal support samples have.

    It is adapted to the support reduced to these modalities, at the first sample that needs it. So a sample without an
    image scores as if the support had no images either, and a support without images reads no image of a sample.

    Attributes:
        adapt: adaptation to one support set.
        labels: labels ``(n,)`` of the support.
        whole: the learner adapted to the support with all its modalities.
        adapted: the learner by shared modalities, as far as samples needed it.
        modalities: names of the modalities that the normal support samples have, sorted.
    """

    adapt: Adapt
    labels: Tensor
    whole: AdaptedScorer
    adapted: dict[tuple[str, ...], AdaptedScorer] = field(default_factory=dict)
    modalities: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        has = {name: present(x) & (self.labels != ANOMALOUS).to(x.device) for name, x in self.support.items()}
        object.__setattr__(self, "modalities", tuple(name for name in sorted(has) if bool(has[name].any())))
        self.adapted.setdefault(self.modalities, self.whole)

    @property
    def support(self) -> Samples:  # type: ignore[override]
        """The support set in the network's units."""
        return self.whole.support

    @property
    def scalings(self) -> Mapping[str, SupportScaling]:  # type: ignore[override]
        """Scaling of new samples by modality."""
        return self.whole.scalings

    @property
    def notes(self) -> list[str]:
        """What a user should know of how the support was read."""
        notes: list[str] = list(getattr(self.whole, "notes", ()))
        names = sorted(self.support)
        if lost := [name for name in names if name not in self.modalities]:
            notes.append(f"no normal sample has {' or '.join(lost)}: samples are compared by the others alone")
        return notes

    def compared_in(self, samples: Samples) -> list[tuple[str, ...]]:
        """Names of the modalities that each of ``n`` samples, raw or in units, shares with the support."""
        masks = {name: present(samples[name]).tolist() for name in self.modalities}
        n = len(next(iter(samples.values())))
        return [tuple(name for name, mask in masks.items() if mask[i]) for i in range(n)]

    def groups(self, samples: Samples) -> list[Group]:
        """Samples in units by the modalities that they share with the support."""
        shared = self.compared_in(samples)
        if apart := shared.count(()):
            raise ValueError(
                f"{apart} of {len(shared)} samples share no modality with the normal support samples, which have "
                f"{list(self.modalities)} (a value counts if the support has its column): leave them out, or add "
                "support samples that have what they have"
            )
        groups = []
        for names in dict.fromkeys(shared):
            rows = torch.tensor([i for i, x in enumerate(shared) if x == names])
            part = {name: x[rows.to(x.device)] for name, x in samples.items()}
            groups.append(Group(names, rows, self.scorer(names), only(part, names)))
        return groups

    def scorer(self, names: tuple[str, ...]) -> AdaptedScorer:
        """The learner adapted to some of the support's modalities."""
        if names not in self.adapted:  # threads that come at once adapt alike
            rows = torch.stack([present(self.support[name]) for name in names]).any(0)
            part = only({name: x[rows] for name, x in self.support.items()}, names)
            self.adapted.setdefault(names, self.adapt(part, self.labels[rows.to(self.labels.device)]))
        return self.adapted[names]

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the network's :meth:`units`, differentiable by the samples."""
        if torch.compiler.is_compiling():
            return self._traced(samples)
        groups = self.groups(samples)
        if len(groups) == 1:
            return groups[0].scorer.logits(groups[0].samples)
        logits = torch.cat([group.scorer.logits(group.samples) for group in groups])
        order = torch.cat([group.rows for group in groups]).argsort()
        return logits[order.to(logits.device)]

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of samples in units by all their modalities; of the support if None."""
        embeddings: Tensor = self.whole.embed(samples)  # type: ignore[attr-defined]
        return embeddings

    def separate(self) -> list[AdaptedScorer]:
        """The learner adapted to each set of the support's modalities, none sharing a layer with another."""
        sets = [names for n in range(len(self.modalities)) for names in combinations(self.modalities, n + 1)]
        self.adapted.update({names: copy.deepcopy(self.scorer(names)) for names in sets})
        return list(self.adapted.values())

    def _traced(self, samples: Samples) -> Tensor:
        """Scores in a graph, which can't depend on the samples: by each set of modalities, of which one is chosen."""
        masks = {name: present(samples[name]) for name in self.modalities}
        scores = torch.full_like(next(iter(masks.values())), torch.nan, dtype=next(iter(self.support.values())).dtype)
        for names, scorer in self.adapted.items():
            chosen = torch.stack([mask == (name in names) for name, mask in masks.items()]).all(0)
            with declare_absent(set(self.modalities) - set(names)):
                scores = torch.where(chosen, scorer.logits(only(samples, names)), scores)
        return scores

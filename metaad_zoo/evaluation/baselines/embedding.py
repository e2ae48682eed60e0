"""Classical methods on the embedding of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metaad_zoo.episodes import Adapted, Method, Samples, SupportScaling
from metaad_zoo.modality import TabularModality

Embed = Callable[[Samples], Tensor]
"""Embeddings ``(n, features)`` of samples with a leading axis n."""


class EmbedsEpisodes(Protocol):
    """A network that embeds samples given a support set, such as a learner's ``EpisodeNetwork``."""

    training: bool

    def scalings(self, support: Samples) -> Mapping[str, SupportScaling]:
        """Scaling of each modality from this support's units to common ones."""
        ...

    def embed(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Embeddings of the query, or without one of the support; both are scaled."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """Weights of the network, on its device."""
        ...


@dataclass(frozen=True)
class Embedded:
    """A method that has adapted to embeddings."""

    scorer: Adapted
    embed: Embed

    def score(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of the samples' embeddings."""
        return self.scorer.score(_table(self.embed, samples))


@dataclass(frozen=True)
class OnEmbedding:
    """Any method, applied to the embeddings of samples instead of the samples.

    Args:
        method: method that reads tables, as all do except those for sequences.
        embed: function from samples to embeddings ``(n, features)``, independent of the support. For a network that
            depends on the support, see :class:`OnNetwork`.

    Example:
        >>> from metaad_zoo.evaluation.baselines import create_baseline
        >>> knn = create_baseline("knn", standardise="none")
        >>> method = OnEmbedding(knn, lambda samples: samples["image"].mean((2, 3)))
        >>> scorer = method.adapt({"image": torch.zeros(3, 1, 8, 8)}, torch.zeros(3))
        >>> scorer.score({"image": torch.ones(1, 1, 8, 8)})
        tensor([1.], dtype=torch.float64)
    """

    method: Method
    embed: Embed

    def adapt(self, support: Samples, support_labels: Tensor) -> Embedded:
        """Adapt the method to the support's embeddings.

        Raises:
            ValueError: the embeddings have another shape; or the method refuses the support.
        """
        return Embedded(self.method.adapt(_table(self.embed, support), support_labels), self.embed)


@dataclass(frozen=True)
class OnNetwork:
    """Any method on the embedding of a network, which scales samples by the support set.

    Args:
        method: baseline that reads tables, as for :class:`OnEmbedding`.
        network: network in evaluation mode; ``learner.network`` of any learner that has one.
    """

    method: Method
    network: EmbedsEpisodes

    @property
    def reads_unlabelled(self) -> bool:
        """Whether the baseline weighs unlabelled samples."""
        return bool(getattr(self.method, "reads_unlabelled", False))

    def adapt(self, support: Samples, support_labels: Tensor) -> Embedded:
        """Adapt the method to the support's embeddings.

        Raises:
            ValueError: the network is in training mode; or the method refuses the support.
        """
        return OnEmbedding(self.method, embedding_of(self.network, support)).adapt(support, support_labels)


def embedding_of(network: EmbedsEpisodes, support: Samples) -> Embed:
    """Embedding of samples by a network, for the domain of one support set.

    Samples are scaled by the support. Each call passes the support to the network again, because batch normalisation
    may take its statistics from it.

    Raises:
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("the network is in training mode, where embeddings may be random: call its eval() first")
    weight = next(iter(network.parameters()), torch.zeros(()))

    def raw(samples: Samples) -> dict[str, Tensor]:
        kinds = {m: x.dtype if x.dtype == torch.float64 else weight.dtype for m, x in samples.items()}
        return {m: x.to(weight.device, kinds[m]) for m, x in samples.items()}

    scalings = network.scalings(raw(support))

    def scaled(samples: Samples) -> dict[str, Tensor]:
        units = {m: scalings[m].apply(x) if m in scalings else x for m, x in raw(samples).items()}
        return {m: x.to(weight.dtype) for m, x in units.items()}

    reference = scaled(support)

    @torch.no_grad()
    def embed(samples: Samples) -> Tensor:
        return network.embed(reference, scaled(samples))

    return embed


def _table(embed: Embed, samples: Samples) -> dict[str, Tensor]:
    x = embed(samples).detach()
    if x.ndim != 2:
        raise ValueError(
            f"expected embeddings of shape (n, features), saw {tuple(x.shape)}: flatten or pool them first"
        )
    return {TabularModality.name: x}

"""Nearest neighbours and ensembles that weigh the unlabelled support samples by how normal they look."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED, Samples, count
from metaad_zoo.episodes.scaling import LIMIT
from metaad_zoo.evaluation.baselines.features import (
    DifferentiableScorer,
    ScoreVectors,
    SignedLogarithms,
    sample_shapes,
    tensors,
    usual,
)
from metaad_zoo.evaluation.baselines.registry import register_baseline
from metaad_zoo.evaluation.baselines.subspaces import ShrunkCovariance
from metaad_zoo.evaluation.baselines.vectors import city_block

LANDMARKS = 2_000
"""Maximum number of unlabelled samples that are compared with each other."""
NEIGHBOUR_SHARE = 0.1
"""The density among the unlabelled samples is the distance to the neighbour at this share of them."""
EXPERTS_SHARE = 0.5
"""Share of the unlabelled samples that the experts take as normal."""
NEAREST = 1e-3
"""Summand of relative distances: the logarithm of 0 must not outweigh all other experts."""


def feature_weights(samples: Samples) -> Tensor:
    """Weights ``(features,)`` of vectors' features: each modality weighs 1 in total."""
    sizes = [max(math.prod(samples[name].shape[1:]), 1) for name in sorted(samples)]
    return torch.cat([torch.full((size,), 1 / size, dtype=torch.float64) for size in sizes])


def standardised(logarithms: Tensor) -> Tensor:
    """Standardised values, clipped as those of our learners, of their signed logarithms."""
    return logarithms.sign() * logarithms.abs().clamp_max(math.log1p(LIMIT)).expm1()


def separated(support: Samples, support_labels: Tensor, least: int, name: str) -> tuple[Samples, Samples]:
    """Normal support samples, and the unlabelled ones, without those that have no value.

    Where no sample is labelled normal, the unlabelled samples take the place of the normal ones. More than
    :data:`LANDMARKS` unlabelled samples are reduced to that number, evenly spaced in the given order, which is random
    in episodes and detectors.

    Args:
        support: all support samples, by modality ``(n, ...)``.
        support_labels: ``(n,)`` of 0, 1 and -1.
        least: minimum number of samples that are normal or unlabelled.
        name: name of the method, for the error.

    Raises:
        TypeError: the support is not tensors by modality.
        ValueError: see :func:`metaad_zoo.evaluation.baselines.usual`.
    """
    tensors(support)
    labels = torch.as_tensor(support_labels).cpu()
    empty = torch.stack([x.cpu().flatten(1).isnan().all(1) for x in support.values()]).all(0)
    if len(empty) == len(labels):  # else refused below
        labels = torch.where(empty & (labels == UNLABELLED), ANOMALOUS, labels)
    samples = usual(support, labels, least, name)
    labels = labels[labels != ANOMALOUS]
    pile = (labels == UNLABELLED).nonzero().flatten()
    if len(pile) == len(labels):
        return samples, {m: x[:0] for m, x in samples.items()}
    if len(pile) > LANDMARKS:
        pile = pile[torch.arange(LANDMARKS) * len(pile) // LANDMARKS]
    normal = labels == NORMAL
    return {m: x[normal] for m, x in samples.items()}, {m: x[pile] for m, x in samples.items()}


def ranks(values: Tensor) -> Tensor:
    """Ranks ``(n,)`` from 1; equal values share the mean of their ranks."""
    ascending = values.sort().values
    below = torch.searchsorted(ascending, values)
    return (below + torch.searchsorted(ascending, values, right=True) + 1).double() / 2


class Pile:
    """Unlabelled samples beside normal ones, in the order of how normal they look.

    The order is by the sum of the ranks of three L1 distances between signed logarithms: to the nearest normal sample,
    in the units of the normal samples and in those of all; and to the sample's own neighbour number 10 % among the
    unlabelled samples.

    Args:
        normal: K normal samples, by modality ``(K, ...)``.
        unlabelled: m unlabelled samples, by modality ``(m, ...)``; may be none.

    Attributes:
        features: units of all samples.
        weights: ``(features,)`` of the features.
        normal: ``(K, features)`` in these units.
        order: ``(m,)`` positions of the unlabelled samples, the most normal first.
        unlabelled: ``(m, features)`` in these units, in this order.
    """

    def __init__(self, normal: Samples, unlabelled: Samples) -> None:
        self.features = SignedLogarithms.fit({m: torch.cat([x, unlabelled[m]]) for m, x in normal.items()})
        self.weights = feature_weights(normal)
        self.normal = self.features(normal)
        x = self.features(unlabelled)
        self.order = self._order(x, normal, unlabelled) if len(x) else torch.arange(0)
        self.unlabelled = x[self.order]

    def _order(self, x: Tensor, normal: Samples, unlabelled: Samples) -> Tensor:
        own = SignedLogarithms.fit(normal)
        near_in_own = self.distances(own(unlabelled), own(normal)).amin(1)
        near = self.distances(x, self.normal).amin(1)
        k = min(max(1, round(NEIGHBOUR_SHARE * len(x))), len(x) - 1)
        sparse = self.distances(x, x).kthvalue(k + 1, dim=1).values  # the smallest distance is to itself
        total = ranks(near_in_own) + ranks(near) + ranks(sparse)
        order = torch.arange(len(x))
        for key in (sparse, near, near_in_own, total):  # the later keys count first, the others among equal samples
            order = order[key[order].argsort(stable=True)]
        return order

    def logarithmic(self, x: Tensor) -> Tensor:
        """Vectors ``(n, features)`` in the units of all, weighted for L1 distances."""
        return x * self.weights

    def plain(self, x: Tensor) -> Tensor:
        """Standardised values ``(n, features)`` of such vectors, weighted for L1 distances."""
        return standardised(x) * self.weights

    def euclidean(self, x: Tensor) -> Tensor:
        """Standardised values ``(n, features)`` of such vectors, weighted for L2 distances."""
        return standardised(x) * self.weights.sqrt()

    def distances(self, query: Tensor, x: Tensor) -> Tensor:
        """L1 distances ``(n, m)`` of such vectors."""
        return city_block(self.logarithmic(query), self.logarithmic(x))

    def most_normal(self, share: float) -> Tensor:
        """The share of the unlabelled samples that look most normal, at least one of them if there are any."""
        n = len(self.unlabelled)
        return self.unlabelled[: min(n, max(1, round(share * n)))]

    def scorer(self, score_vectors: ScoreVectors, own: Callable[[], Tensor], support: Samples) -> PileScorer:
        """Score samples by their vectors in the units of all.

        Args:
            score_vectors: scores vectors.
            own: leave-one-out scores ``(m,)`` of the unlabelled samples in :attr:`order`; only called if there are any.
            support: the normal samples.
        """
        return PileScorer(self.features, score_vectors, sample_shapes(support), support, self, own)


@dataclass(frozen=True)
class PileScorer(DifferentiableScorer):
    """A method fitted to normal and unlabelled samples.

    Attributes:
        pile: the samples.
        own: leave-one-out scores of the unlabelled samples, in the order of the pile.
    """

    pile: Pile
    own: Callable[[], Tensor]

    @property
    def unlabelled_scores(self) -> Tensor:
        """Score ``(m,)`` of each unlabelled sample that is used, left out of what it is compared with, in the given
        order."""
        if not len(self.pile.order):
            return torch.zeros(0, dtype=torch.float64)
        return self.own()[self.pile.order.argsort()]


class Neighbour:
    """Distance to the k-th nearest of normal samples and of the unlabelled ones that look most normal.

    Args:
        pile: the samples.
        share: share of the unlabelled samples in the memory.
        k: rank of the neighbour, capped at the size of the memory.
    """

    def __init__(self, pile: Pile, share: float, k: int) -> None:
        self.pile, self.k = pile, k
        self.memory = torch.cat([pile.most_normal(share), pile.normal])
        self.own = len(self.memory) - len(pile.normal)

    def __call__(self, query: Tensor) -> Tensor:
        """Distances ``(n,)``."""
        k = min(self.k, len(self.memory))
        return self.pile.distances(query, self.memory).topk(k, dim=1, largest=False).values[:, -1]

    def of_unlabelled(self) -> Tensor:
        """Distances ``(m,)`` of the unlabelled samples, each to the others."""
        distances = self.pile.distances(self.pile.unlabelled, self.memory)
        distances[: self.own].fill_diagonal_(torch.inf)  # the memory begins with the most normal ones
        return distances.kthvalue(min(self.k, len(self.memory) - 1), dim=1).values


@register_baseline("pile_knn")
class PileNeighbour:
    """Distance to the k-th nearest of the normal samples and of the unlabelled ones that look most normal.

    How normal an unlabelled sample looks is the sum of its ranks by three distances: to the nearest normal sample, in
    the units of the normal samples and in those of all; and to its own neighbour number 10 % among the unlabelled
    samples. Distances are L1, between signed logarithms of standardised values, in the units of all. Without unlabelled
    samples it is the nearest normal sample. At most 2,000 unlabelled samples are used: more are reduced to that number,
    evenly spaced in the given order, which is random in episodes and detectors. Unlabelled samples without any value
    are left out.

    Source: the refinement of data in Yoon et al., "Self-supervise, Refine, Repeat: Improving Unsupervised Anomaly
    Detection", TMLR 2022, with distances in place of learned detectors.

    Args:
        share: share of the unlabelled samples that is taken as normal. 0.5 is the best of 0.5, 0.7 and 0.9 on
            average over contaminations of 0 to 30 %; a stated contamination sets it to 1 - contamination.
        k: rank of the neighbour; 1 without unlabelled samples. 3 smooths over the anomalies that are taken as normal.

    Raises:
        ValueError: an option is out of range.
    """

    title = "pile_knn"
    reads_unlabelled: ClassVar[bool] = True

    def __init__(self, share: float = 0.5, k: int = 3) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; expected a share of the unlabelled samples above 0 and at most 1")
        if k < 1:
            raise ValueError(f"k is {k}; expected the number of a neighbour, at least 1")
        self.share, self.k = share, k

    def expecting(self, contamination: float) -> PileNeighbour:
        """The same method for a stated contamination of the unlabelled samples, in [0, 1)."""
        return PileNeighbour(1 - contamination, self.k)

    def adapt(self, support: Samples, support_labels: Tensor) -> PileScorer:
        """Order the unlabelled samples and store the memory.

        Raises:
            ValueError: no support sample is normal or unlabelled.
        """
        normal, unlabelled = separated(support, support_labels, 1, self.title)
        pile = Pile(normal, unlabelled)
        neighbour = Neighbour(pile, self.share, self.k if count(unlabelled) else 1)
        return pile.scorer(neighbour, neighbour.of_unlabelled, normal)


def relative(own: Tensor) -> ScoreVectors:
    """Logarithms of distances relative to the median of the support's own, or to their mean where that is 0."""
    unit = float(own.median()) or float(own.mean()) or 1.0
    return lambda values: (values / unit + NEAREST).log()


def places(own: Tensor) -> ScoreVectors:
    """Ranks of distances among the m own ones, as shares of m.

    Equal own distances share the mean of their ranks; in between it is linear, from 0 at the distance 0. Beyond the
    largest, each factor of e adds one rank, so that far samples are not tied.
    """
    knots, numbers = own.unique(return_counts=True)
    heights = (numbers.cumsum(0).double() - (numbers - 1).double() / 2) / len(own)
    if knots[0] > 0:
        knots, heights = (torch.cat([x.new_zeros(1), x]) for x in (knots, heights))
    widths, steps = knots.diff(), heights.diff()
    top = knots[-1].clamp_min(1e-12)

    def place(values: Tensor) -> Tensor:
        between = ((values.unsqueeze(1) - knots[:-1]) / widths).clamp(0, 1) @ steps
        return heights[0] + between + (values / top).clamp_min(1).log() / len(own)

    return place


@register_baseline("experts")
class Experts:
    """Equal mean of several distances, each made comparable by those of the samples that it is fitted to.

    Without unlabelled samples: the nearest normal sample in L1 of standardised values, the same of their signed
    logarithms, and the Mahalanobis distance to the normal samples under a covariance shrunk as Ledoit and Wolf do; of
    each the logarithm relative to the median leave-one-out distance of the normal samples.

    With unlabelled samples: the same three, in the units of all samples, :class:`PileNeighbour` with half of the
    unlabelled samples, and the Mahalanobis distance to the normal samples and this half; of each the rank among the
    distances of the unlabelled samples, each left out of what it is compared with. Beyond the largest, the rank grows
    with the logarithm of the distance. At most 2,000 unlabelled samples are used, as by :class:`PileNeighbour`.

    Nothing to tune. Source: means of ranks of detectors, as in Aggarwal & Sathe, "Theoretical Foundations and
    Algorithms for Outlier Ensembles", SIGKDD Explorations 2015.
    """

    title = "experts"
    reads_unlabelled: ClassVar[bool] = True

    def adapt(self, support: Samples, support_labels: Tensor) -> PileScorer:
        """Fit each expert.

        Raises:
            ValueError: fewer than two support samples are normal or unlabelled.
        """
        normal, unlabelled = separated(support, support_labels, 2, self.title)
        pile = Pile(normal, unlabelled)
        experts = _experts_of_all(pile) if count(unlabelled) else _experts_of_normal(pile)

        def score(query: Tensor) -> Tensor:
            return torch.stack([expert.comparable(expert.distance(query)) for expert in experts]).mean(0)

        def own() -> Tensor:
            return torch.stack([expert.comparable(expert.own) for expert in experts]).mean(0)

        return pile.scorer(score, own, normal)


class Expert(NamedTuple):
    """A distance that is comparable to those of other experts.

    Attributes:
        distance: distances ``(n,)`` of vectors ``(n, features)``.
        own: leave-one-out distances of the samples that make it comparable.
        comparable: comparable scores of distances, by :func:`relative` or :func:`places`.
    """

    distance: ScoreVectors
    own: Tensor
    comparable: ScoreVectors


def _experts_of_normal(pile: Pile) -> list[Expert]:
    """The experts on normal samples alone."""
    x, n = pile.normal, len(pile.normal)
    some = x[torch.arange(LANDMARKS) * n // LANDMARKS] if n > LANDMARKS else x
    # The smallest distance is to itself.
    own = [city_block(space(some), space(x)).kthvalue(2, dim=1).values for space in (pile.plain, pile.logarithmic)]
    covariance = ShrunkCovariance.of(pile.euclidean(x))
    own.append(covariance.leave_one_out(pile.euclidean(x)))
    return [Expert(d, values, relative(values)) for d, values in zip(_three(pile, covariance), own, strict=True)]


def _experts_of_all(pile: Pile) -> list[Expert]:
    """The experts on normal samples, and those that add the most normal half of the unlabelled ones."""
    space, half = pile.euclidean, pile.most_normal(EXPERTS_SHARE)
    both = space(torch.cat([half, pile.normal]))
    covariance = ShrunkCovariance.of(both)
    rest = covariance.distance(space(pile.unlabelled[len(half) :]))
    neighbour = Neighbour(pile, EXPERTS_SHARE, PileNeighbour().k)
    own = {distance: distance(pile.unlabelled) for distance in _three(pile, ShrunkCovariance.of(space(pile.normal)))}
    own[neighbour] = neighbour.of_unlabelled()
    own[lambda query: covariance.distance(space(query))] = torch.cat(
        [covariance.leave_one_out(both)[: len(half)], rest]
    )
    return [Expert(distance, values, places(values)) for distance, values in own.items()]


def _three(pile: Pile, covariance: ShrunkCovariance) -> list[ScoreVectors]:
    """Distances to the normal samples: the nearest in L1, plain and logarithmic, and that of Mahalanobis."""

    def nearest(space: ScoreVectors) -> ScoreVectors:
        memory = space(pile.normal)
        return lambda query: city_block(space(query), memory).amin(1)

    return [
        nearest(pile.plain),
        nearest(pile.logarithmic),
        lambda query: covariance.distance(pile.euclidean(query)),
    ]

"""Feature vectors for classical methods: one vector a sample, in the support's units, without missing values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, Samples, SupportScaling, count
from metaad_zoo.modality import get_modality
from metaad_zoo.registry import unknown_name

Standardise = Literal["none", "sample", "support"]
ScoreVectors = Callable[[Tensor], Tensor]
"""Scores ``(n,)`` of feature vectors ``(n, features)``; higher is more anomalous."""
WIDEST = 1e30
"""Limit of standardised values before their logarithm is taken, against overflow in single precision."""


def flatten(samples: Samples) -> Tensor:
    """All modalities side by side as raw numbers ``(n, features)``, in the modalities' alphabetical order; NaN as 0."""
    count(samples)
    return _side_by_side(samples)


def _side_by_side(samples: Samples) -> Tensor:
    return torch.cat([samples[name].flatten(1).cpu().double().nan_to_num(0.0) for name in sorted(samples)], dim=1)


def tensors(samples: Samples) -> Samples:
    """Return the samples if they are tensors by modality; refuse anything else.

    Raises:
        TypeError: the samples are something else.
    """
    wrong = [x for x in samples.values() if not isinstance(x, Tensor)] if isinstance(samples, Mapping) else [samples]
    if wrong:
        of = "a dict of " if isinstance(samples, Mapping) else ""
        raise TypeError(
            f"expected tensors by modality, such as {{'tabular': (n, D)}}, saw {of}{type(wrong[0]).__name__}: "
            "metaad_zoo.modality.samples.as_samples(data, {'tabular': (-1,)}) makes them of arrays and files"
        )
    return samples


def usual(support: Samples, support_labels: Tensor, least: int, name: str) -> dict[str, Tensor]:
    """The support samples that are normal or unlabelled, which classical methods are fitted to.

    Args:
        support: all support samples, by modality ``(n, ...)``.
        support_labels: ``(n,)`` of 0, 1 and -1.
        least: number of samples that the method needs.
        name: name of the method, for the error.

    Raises:
        TypeError: the support is not tensors by modality.
        ValueError: there are fewer than ``least`` such samples, or not one label for each sample.
    """
    tensors(support)
    labels = torch.as_tensor(support_labels).cpu()
    if count(support) != len(labels):
        raise ValueError(f"expected one label for each support sample, saw {len(labels)} for {count(support)}")
    usable = labels != ANOMALOUS
    n = int(usable.sum())
    if n < least:
        wanted = "a support sample that is" if least == 1 else f"at least {least} support samples that are"
        remedy = "" if least == 1 else ", or take a method that needs one, such as knn"
        raise ValueError(
            f"{name} needs {wanted} normal or unlabelled, saw {n or 'anomalies only'}: set "
            f"support_normal={least} or more{remedy}"
        )
    return {modality: x.cpu()[usable] for modality, x in support.items()}


@dataclass(frozen=True)
class SupportFeatures:
    """Samples as vectors, in the units of a support set.

    Attributes:
        scalings: scaling of each modality; a modality without one stays in its own units.
        standardise: ``"sample"``: bring each sample to mean 0 and standard deviation 1 over its own features first,
            which removes brightness and contrast; ``"support"``: scale each column or channel as our own learners do
            (:class:`metaad_zoo.episodes.SupportScaling`), images by all support pixels together, and let each modality
            weigh the same; ``"none"``.

    Missing values count as the support's centre, or 0 where nothing is scaled by the support.
    """

    scalings: Mapping[str, SupportScaling]
    standardise: Standardise

    @classmethod
    def fit(cls, support: Samples, standardise: Standardise = "support") -> SupportFeatures:
        """Estimate the scaling from the normal samples of a support set."""
        scaled = support if standardise == "support" else {}
        return cls({m: get_modality(m).feature_scaling(x) for m, x in scaled.items()}, standardise)

    def __call__(self, samples: Samples) -> Tensor:
        """Vectors ``(n, features)`` in double precision."""
        count(samples)
        return self.vectors(self.units(samples))

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Samples in the support's units, in their own shapes."""
        on_cpu = {m: x.cpu() for m, x in samples.items()}
        return {m: self.scalings[m].apply(x) if m in self.scalings else x for m, x in on_cpu.items()}

    def vectors(self, units: Samples) -> Tensor:
        """Vectors ``(n, features)`` in double precision of samples in the support's :meth:`units`."""
        x = _side_by_side({m: _equally_weighted(x) if m in self.scalings else x for m, x in units.items()})
        if self.standardise == "sample":
            spread, mean = torch.std_mean(x, dim=1, correction=0, keepdim=True)
            x = (x - mean) / spread.clamp_min(1e-12)
        return x


@dataclass(frozen=True)
class SignedLogarithms(SupportFeatures):
    """Samples as vectors of ``sign(z) log(1 + |z|)`` of their standardised values z, which are not clipped.

    Missing values count as the centre.
    """

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Signed logarithms in the samples' own shapes, in double precision."""
        scaled = {m: self.scalings[m].apply(x.cpu(), WIDEST).double() for m, x in samples.items()}
        return {m: x.sign() * x.abs().log1p() for m, x in scaled.items()}

    def vectors(self, units: Samples) -> Tensor:
        """Vectors ``(n, features)`` of samples in :meth:`units`."""
        return _side_by_side(units)


def _equally_weighted(x: Tensor) -> Tensor:
    """A modality of many numbers must not drown one of few."""
    return x / math.sqrt(max(math.prod(x.shape[1:]), 1))


class FeatureMethod(ABC):
    """A classical method on vectors: subclasses say how to :meth:`fit` them.

    Args:
        standardise: see :class:`SupportFeatures`.

    Attributes:
        least: minimum number of support samples.
        title: name of the method in errors.
        differentiable: whether its scores are made of differentiable operations of torch alone.
    """

    least = 2
    title: str
    differentiable: ClassVar[bool] = False

    def __init__(self, standardise: Standardise = "support") -> None:
        if standardise not in get_args(Standardise):
            raise unknown_name("standardise:", standardise, get_args(Standardise))
        self.standardise: Standardise = standardise

    @abstractmethod
    def fit(self, x: Tensor) -> ScoreVectors:
        """Fit to the normal support vectors ``(K, features)``."""

    def adapt(self, support: Samples, support_labels: Tensor) -> FeatureScorer:
        """Fit to the support samples whose label is 0 or -1.

        Raises:
            ValueError: there are too few.
        """
        normal = usual(support, support_labels, self.least, self.title)
        features = SupportFeatures.fit(normal, self.standardise)
        kind = DifferentiableScorer if self.differentiable else FeatureScorer
        return kind(features, self.fit(features(normal)), sample_shapes(support), normal)


@dataclass(frozen=True)
class FeatureScorer:
    """A classical method fitted to a support set.

    Attributes:
        features: turns samples into vectors.
        score_vectors: scores the vectors.
        shapes: shape of one sample of the support, by modality.
        support: the samples that it is fitted to, by modality ``(K, ...)``.
    """

    features: SupportFeatures
    score_vectors: ScoreVectors
    shapes: Mapping[str, tuple[int, ...]]
    support: Samples

    def score(self, samples: Samples) -> Tensor:
        """Anomaly scores ``(n,)``, each of its sample alone; higher is more anomalous.

        Raises:
            TypeError: the samples are not tensors by modality.
            ValueError: the samples have other modalities or sizes than the support's.
        """
        if (shapes := sample_shapes(tensors(samples))) != self.shapes:
            raise ValueError(f"expected samples of the support's shapes {self.shapes}, saw {shapes}")
        x = self.features(samples)
        return self.score_vectors(x) if len(x) else x.new_zeros(0)


class DifferentiableScorer(FeatureScorer):
    """A fitted method that can be differentiated and traced; see
    :class:`metaad_zoo.evaluation.explanation.Transparent`."""

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw samples in the support's units."""
        return self.features.units(samples)

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the support's :meth:`units`."""
        return self.score_vectors(self.features.vectors(samples))

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Feature vectors ``(n, d)`` of samples in the support's :meth:`units`; without any, of the support."""
        return self.features.vectors(self.units(self.support) if samples is None else samples)


def sample_shapes(samples: Samples) -> dict[str, tuple[int, ...]]:
    """Shape of one sample by modality."""
    return {m: tuple(x.shape[1:]) for m, x in samples.items()}

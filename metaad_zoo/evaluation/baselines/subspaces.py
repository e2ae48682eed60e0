"""Methods on the principal directions of the support."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaad_zoo.evaluation.baselines.features import FeatureMethod, ScoreVectors, Standardise
from metaad_zoo.evaluation.baselines.registry import register_baseline

FLOOR = 1e-6
"""Variance that every direction has at least, so that a support of equal samples still has distances."""


@dataclass(frozen=True)
class Directions:
    """Principal directions of vectors: at most one fewer than there are vectors.

    Attributes:
        centre: ``(features,)``.
        directions: ``(r, features)``, orthonormal, the one of the largest variance first.
        variances: ``(r,)``, with the divisor n.
    """

    centre: Tensor
    directions: Tensor
    variances: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Directions:
        """Directions of ``(n, features)``."""
        centre = x.mean(0)
        rows = x - centre
        if len(rows) > rows.shape[1]:  # the same singular vectors, of a smaller matrix
            rows = torch.linalg.qr(rows, mode="r").R
        _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
        r = min(len(singular), len(x) - 1)
        return cls(centre, directions[:r], singular[:r].square() / len(x))

    def explaining(self, share: float) -> Directions:
        """The first directions that together explain a share of the variance; none where nothing varies."""
        total = self.variances.sum()
        if total <= torch.finfo(total.dtype).eps * self.centre.square().sum():
            return Directions(self.centre, self.directions[:0], self.variances[:0])
        before = self.variances.cumsum(0) - self.variances
        r = int((before < share * total).sum())
        return Directions(self.centre, self.directions[:r], self.variances[:r])

    def residual(self, x: Tensor) -> Tensor:
        """Squared length ``(n,)`` of each vector's residual outside the directions."""
        rows = x - self.centre
        return (rows - (rows @ self.directions.T) @ self.directions).square().sum(1)


def ledoit_wolf(x: Tensor) -> tuple[float, float]:
    """Ledoit and Wolf's shrinkage of a covariance and the variance it shrinks to.

    The same numbers as scikit-learn's ``LedoitWolf``, from inner products of the samples or of the features, whichever
    are fewer: no memory holds a matrix of features x features of images.

    Args:
        x: ``(n, features)``, centred.

    Source: Ledoit & Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", JMVA 2004.
    """
    n, features = x.shape
    gram = x @ x.T if features > n else x.T @ x  # both have the norm of the covariance, times n
    squared = (gram / n).square().sum()
    squares = x.square().sum(1)
    trace = squares.sum() / n
    noise = (squares.square().sum() / n - squared) / (n * features)
    distance = (squared - trace.square() / features) / features
    shrinkage = float((noise / distance).clamp(0, 1)) if distance > 0 and noise > 0 else 0.0
    return shrinkage, float(trace / features)


@dataclass(frozen=True)
class ShrunkCovariance:
    """Mean and covariance of samples, shrunk as Ledoit and Wolf do.

    Attributes:
        samples: number n of samples.
        support: principal directions of the samples.
        shrinkage: weight of the spherical covariance, in [0, 1].
        residual_variance: variance that the spherical part adds to every direction.
    """

    samples: int
    support: Directions
    shrinkage: float
    residual_variance: float

    @classmethod
    def of(cls, x: Tensor) -> ShrunkCovariance:
        """Estimate from vectors ``(n, features)``."""
        shrinkage, variance = ledoit_wolf(x - x.mean(0))
        return cls(len(x), Directions.of(x), shrinkage, shrinkage * variance + FLOOR / x.shape[1])

    @property
    def variances(self) -> Tensor:
        """Variances ``(r,)`` in the principal directions."""
        return (1 - self.shrinkage) * self.support.variances + self.residual_variance

    def distance(self, x: Tensor) -> Tensor:
        """Mahalanobis distances ``(m,)`` of vectors ``(m, features)`` to the mean."""
        residual = self.support.residual(x) / self.residual_variance
        return ((self._coordinates(x).square() / self.variances).sum(1) + residual).sqrt()

    def leave_one_out(self, x: Tensor) -> Tensor:
        """Distance ``(n,)`` of each of the n samples to the mean of the others, under the covariance of the others
        with the shrinkage of all."""
        n, weight = self.samples, 1 - self.shrinkage
        variances = weight * n / (n - 1) * self.support.variances + self.residual_variance
        squared = (self._coordinates(x).square() / variances).sum(1)
        # Sherman and Morrison: without a sample, its own outer product is subtracted from the covariance.
        remainder = (1 - weight * n / (n - 1) ** 2 * squared).clamp_min(torch.finfo(x.dtype).eps)
        return n / (n - 1) * (squared / remainder).sqrt()

    def _coordinates(self, x: Tensor) -> Tensor:
        return (x - self.support.centre) @ self.support.directions.T


@register_baseline("mahalanobis")
class Mahalanobis(FeatureMethod):
    """Mahalanobis distance to the support's mean, under a covariance shrunk as Ledoit and Wolf do.

    Nothing to tune: the shrinkage is estimated, and is strong for 5 to 50 samples of many features. With two samples
    the noise can't be estimated and nothing is shrunk: the score is then dominated by the distance from the line
    through them.

    Source: Ledoit & Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", JMVA 2004; agrees
    with scikit-learn's ``LedoitWolf`` and takes memory in proportion to the samples.

    Args:
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`.
    """

    title = "mahalanobis"
    differentiable = True

    def fit(self, x: Tensor) -> ScoreVectors:
        """Mean, directions and shrinkage."""
        return ShrunkCovariance.of(x).distance


@register_baseline("pca")
class Reconstruction(FeatureMethod):
    """Reconstruction error: length of a sample's residual outside the support's principal directions.

    Source: Shyu et al., "A Novel Anomaly Detection Scheme Based on Principal Component Classifier", ICDM Workshops
    2003; the reconstruction error is its minor components taken together.

    Args:
        explained: share of the support's variance that the directions explain; 0.9 leaves out directions that one
            sample of 5 to 50 spans by itself. There are at most K - 1 directions, and none where nothing varies.
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`.
    """

    title = "pca"
    differentiable = True

    def __init__(self, explained: float = 0.9, standardise: Standardise = "support") -> None:
        super().__init__(standardise)
        check_share(explained)
        self.explained = explained

    def fit(self, x: Tensor) -> ScoreVectors:
        """The directions."""
        directions = Directions.of(x).explaining(self.explained)
        return lambda query: directions.residual(query).sqrt()


def check_share(explained: float) -> None:
    """Refuse a share of variance out of range.

    Raises:
        ValueError: ``explained`` is outside (0, 1].
    """
    if not 0 < explained <= 1:
        raise ValueError(f"explained is {explained}; expected a share of the variance above 0 and at most 1")

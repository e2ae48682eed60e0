"""Methods that compare a sample with its nearest support samples."""

from __future__ import annotations

import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from metaad_zoo.evaluation.baselines.features import FeatureMethod, ScoreVectors, Standardise
from metaad_zoo.evaluation.baselines.registry import register_baseline


class NearestNeighbour(FeatureMethod):
    """Distance to the k-th nearest support sample that is not known to be anomalous, by default on raw inputs.

    Source: Ramaswamy et al., "Efficient Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000.

    Args:
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`.
        k: rank of the neighbour, capped at the size of the support.

    Raises:
        ValueError: k is not at least 1; or later the support has anomalies only.
    """

    least = 1
    title = "nearest neighbour"

    def __init__(self, standardise: Standardise = "none", k: int = 1) -> None:
        super().__init__(standardise)
        if k < 1:
            raise ValueError(f"k is {k}; expected the number of a neighbour, at least 1")
        self.k = k

    def fit(self, x: Tensor) -> ScoreVectors:
        """Keep the vectors."""
        k = min(self.k, len(x))
        return lambda query: torch.cdist(query, x).kthvalue(k, dim=1).values


@register_baseline("knn")
def knn(k: int = 1, standardise: Standardise = "support") -> NearestNeighbour:
    """Distance to the k-th nearest support sample, in the support's units; see :class:`NearestNeighbour`.

    k=1 suits 5 to 50 samples: a larger k smooths over more neighbours than so few samples allow.
    """
    return NearestNeighbour(standardise, k)


@register_baseline("lof")
class LocalOutlier(FeatureMethod):
    """Local outlier factor: how much sparser it is around a sample than around its neighbours in the support.

    Source: Breunig et al., "LOF: Identifying Density-Based Local Outliers", SIGMOD 2000; scikit-learn's
    ``LocalOutlierFactor(novelty=True)``.

    Args:
        neighbours: number of neighbours, capped at K - 1. 10 is the lower end of the range that the paper advises (10
            to 20) and suits 5 to 50 samples.
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`.
    """

    title = "lof"

    def __init__(self, neighbours: int = 10, standardise: Standardise = "support") -> None:
        super().__init__(standardise)
        if neighbours < 1:
            raise ValueError(f"neighbours is {neighbours}; expected at least 1")
        self.neighbours = neighbours

    def fit(self, x: Tensor) -> ScoreVectors:
        """Densities of the support."""
        model = LocalOutlierFactor(n_neighbors=min(self.neighbours, len(x) - 1), novelty=True).fit(x.numpy())
        return lambda query: torch.as_tensor(-model.score_samples(query.numpy()))

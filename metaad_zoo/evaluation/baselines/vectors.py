"""Classical methods on feature vectors: nearest neighbours, one-class boundaries, isolation forest, tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaad_zoo.evaluation.baselines.features import FeatureMethod, ScoreVectors, Standardise
from metaad_zoo.evaluation.baselines.registry import register_baseline


def distances(query: Tensor, x: Tensor) -> Tensor:
    """Euclidean distances ``(n, m)`` of vectors ``(n, features)`` and ``(m, features)``."""
    if torch.compiler.is_compiling():  # ONNX has no cdist; the alternative needs memory for n x m x features numbers
        return (query.unsqueeze(1) - x).norm(dim=2)
    return torch.cdist(query, x)


def city_block(query: Tensor, x: Tensor) -> Tensor:
    """L1 distances ``(n, m)`` of vectors ``(n, features)`` and ``(m, features)``."""
    if torch.compiler.is_compiling():
        return (query.unsqueeze(1) - x).abs().sum(2)
    return torch.cdist(query, x, p=1.0)


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
    differentiable = True

    def __init__(self, standardise: Standardise = "none", k: int = 1) -> None:
        super().__init__(standardise)
        if k < 1:
            raise ValueError(f"k is {k}; expected the number of a neighbour, at least 1")
        self.k = k

    def fit(self, x: Tensor) -> ScoreVectors:
        """Keep the vectors."""
        k = min(self.k, len(x))
        if k == 1:  # topk takes as long as the distances to few samples
            return lambda query: distances(query, x).min(1).values
        return lambda query: distances(query, x).topk(k, dim=1, largest=False).values[:, -1]


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
        from sklearn.neighbors import LocalOutlierFactor  # as below: not for those who adapt another method

        model = LocalOutlierFactor(n_neighbors=min(self.neighbours, len(x) - 1), novelty=True).fit(x.numpy())
        return lambda query: torch.as_tensor(-model.score_samples(query.numpy()))


@register_baseline("ocsvm")
class OneClassBoundary(FeatureMethod):
    """One-class support vector machine with a Gaussian kernel: the distance beyond its boundary.

    Source: Schölkopf et al., "Estimating the Support of a High-Dimensional Distribution", Neural Computation 2001;
    scikit-learn's ``OneClassSVM``.

    Args:
        nu: upper bound on the share of the support outside the boundary. 0.1 suits 5 to 50 normal samples: below 10
            samples none may lie outside, whereas scikit-learn's default of 0.5 gives up half of a clean support.
        gamma: coefficient of the kernel; ``"scale"`` is 1 / (features x variance), which suits any number of features.
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`.
    """

    least = 1
    title = "ocsvm"
    differentiable = True

    def __init__(self, nu: float = 0.1, gamma: str | float = "scale", standardise: Standardise = "support") -> None:
        super().__init__(standardise)
        if not 0 < nu <= 1:
            raise ValueError(f"nu is {nu}; expected a share above 0 and at most 1")
        self.nu, self.gamma = nu, gamma

    def fit(self, x: Tensor) -> ScoreVectors:
        """The boundary."""
        from sklearn.svm import OneClassSVM

        model = OneClassSVM(kernel="rbf", gamma=self.gamma, nu=self.nu).fit(x.numpy())
        vectors, weights = torch.as_tensor(model.support_vectors_), torch.as_tensor(model.dual_coef_).squeeze(0)
        gamma = 1 / (x.shape[1] * (float(x.var(correction=0)) or 1.0)) if self.gamma == "scale" else model._gamma
        offset = float(model.intercept_[0])
        return lambda query: -(distances(query, vectors).square().mul(-gamma).exp() @ weights) - offset


@register_baseline("iforest")
class Forest(FeatureMethod):
    """Isolation forest: the fewer random cuts isolate a sample, the more anomalous it is.

    Source: Liu et al., "Isolation Forest", ICDM 2008; scikit-learn's ``IsolationForest``.

    Args:
        trees: 100, the paper's; its subsamples of 256 are the whole support where there are 5 to 50 samples.
        seed: random seed of the cuts.
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`; cuts do not
            depend on the units, so this only decides the value of a missing feature.

    With 2 samples, or with a support that does not vary, all paths have one length and all scores are equal.
    """

    title = "iforest"

    def __init__(self, trees: int = 100, seed: int = 0, standardise: Standardise = "support") -> None:
        super().__init__(standardise)
        if trees < 1:
            raise ValueError(f"trees is {trees}; expected at least 1")
        self.trees, self.seed = trees, seed

    def fit(self, x: Tensor) -> ScoreVectors:
        """The forest."""
        from sklearn.ensemble import IsolationForest

        model = IsolationForest(n_estimators=self.trees, random_state=self.seed).fit(x.numpy())
        return lambda query: torch.as_tensor(-model.score_samples(query.numpy()))


@register_baseline("ecod")
class Tails(FeatureMethod):
    """Empirical cumulative distributions (ECOD): how rare a sample's features are, taken one by one.

    A feature's score is -log of the share of support samples, the scored one among them, that are as small or as
    large, whichever is rarer; a sample's is their sum. Nothing to tune. As in the authors' own code in PyOD, the rarer
    tail is taken feature by feature, where the paper's algorithm compares the sums. PyOD puts all samples to be scored
    into the distribution; here each is scored alone, so that a score does not depend on the others.

    Source: Li et al., "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions", TKDE
    2022.

    Args:
        standardise: see :class:`metaad_zoo.evaluation.baselines.SupportFeatures`; ranks do not
            depend on the units, so this only decides the value of a missing feature.
    """

    title = "ecod"

    def fit(self, x: Tensor) -> ScoreVectors:
        """Sort each feature."""
        n = len(x)
        columns = x.T.sort(dim=1).values.contiguous()

        def score(query: Tensor) -> Tensor:
            values = query.T.contiguous()
            as_small = torch.searchsorted(columns, values, right=True) + 1
            as_large = n - torch.searchsorted(columns, values, right=False) + 1
            return (math.log(n + 1) - torch.minimum(as_small, as_large).double().log()).sum(0)

        return score

"""scikit-learn's one-class learners: a boundary, or a forest of random cuts."""

from __future__ import annotations

import torch
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM
from torch import Tensor

from metaad_zoo.evaluation.baselines.features import FeatureMethod, ScoreVectors, Standardise
from metaad_zoo.evaluation.baselines.registry import register_baseline


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

    def __init__(self, nu: float = 0.1, gamma: str | float = "scale", standardise: Standardise = "support") -> None:
        super().__init__(standardise)
        if not 0 < nu <= 1:
            raise ValueError(f"nu is {nu}; expected a share above 0 and at most 1")
        self.nu, self.gamma = nu, gamma

    def fit(self, x: Tensor) -> ScoreVectors:
        """The boundary."""
        model = OneClassSVM(kernel="rbf", gamma=self.gamma, nu=self.nu).fit(x.numpy())
        return lambda query: torch.as_tensor(-model.decision_function(query.numpy()))


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
        model = IsolationForest(n_estimators=self.trees, random_state=self.seed).fit(x.numpy())
        return lambda query: torch.as_tensor(-model.score_samples(query.numpy()))

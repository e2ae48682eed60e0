"""Methods on the tails of each feature's distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaad_zoo.evaluation.baselines.features import FeatureMethod, ScoreVectors
from metaad_zoo.evaluation.baselines.registry import register_baseline


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

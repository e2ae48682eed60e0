"""Zero-label adaptation by the statistics of an unlabelled, contaminated batch (ACR)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones import EpisodicBatchNorm
from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.network import masked_mean
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.registry import unknown_name

Centre = Literal["mean", "median", "reweighted"]
REWEIGHTINGS = 3


@register_learner("acr")
class AdaptiveCentredRepresentations(EmbeddingLearner):
    """Distance to a robust centre of the batch, in units of the batch's spread.

    Source: Li et al., "Zero-Shot Anomaly Detection via Batch Normalization" (ACR), NeurIPS 2023: with batch
    normalisation by each task's batch, a network learns to map the majority of a batch close to a centre. Here the
    batch is the support set, labelled or not. Its statistics also apply to queries, so that a score does not depend on
    other queries. If the backbone has no batch normalisation, the batch normalises its embedding; a second
    normalisation was harmful in experiments. Differences: the centre is a robust estimate from the batch instead of
    fixed; the loss is the cross-entropy of ``scale (D - R)`` with learned scale and radius instead of Deep SVDD's ``D``
    and ``1 / D``.

    Args:
        centre: ``"mean"``; ``"median"`` of each feature; ``"reweighted"``: the median, refined by three means with
            weights that decrease with distance (learned cutoff and steepness), robust to 20 % of anomalies.
        kwargs: further arguments of :class:`EmbeddingLearner`.
    """

    def __init__(self, *, centre: Centre = "reweighted", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if centre not in get_args(Centre):
            raise unknown_name("centre", centre, get_args(Centre))
        self._arguments |= {"centre": centre}
        self.centre: Centre = centre
        self.normalises = not any(isinstance(m, EpisodicBatchNorm) for m in self.network.modules())
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.radius = nn.Parameter(torch.tensor(0.5))
        if centre == "reweighted":
            self.cutoff = nn.Parameter(torch.tensor(2.0))
            self.steepness = nn.Parameter(torch.tensor(1.0))

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """``mean`` and ``spread`` of each feature, the scaled batch's ``centre``, and the median ``distance`` to it."""
        mask = (labels != ANOMALOUS).unsqueeze(-1)
        mean, spread = moments(embeddings, mask)
        if not self.normalises:
            mean, spread = torch.zeros_like(mean), torch.ones_like(spread)
        x = (embeddings - mean.unsqueeze(-2)) / spread.unsqueeze(-2)
        centre = self._centre(x, mask)
        distances = (x - centre.unsqueeze(-2)).square().mean(-1, keepdim=True)
        return {"mean": mean, "spread": spread, "centre": centre, "distance": median(distances, mask).squeeze(-1)}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """``scale (D - R)``, with a learned multiple of the batch's median distance as radius."""
        x = (embeddings - reading["mean"].unsqueeze(-2)) / reading["spread"].unsqueeze(-2)
        distances = (x - reading["centre"].unsqueeze(-2)).square().mean(-1)
        radius = F.softplus(self.radius) * reading["distance"].unsqueeze(-1)
        return self.log_scale.exp() * (distances - radius)

    def _centre(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.centre == "mean":
            return masked_mean(x, mask)
        centre = median(x, mask)
        if self.centre == "median":
            return centre
        for _ in range(REWEIGHTINGS):
            distances = (x - centre.unsqueeze(-2)).square().mean(-1, keepdim=True)
            relative = distances / median(distances, mask).unsqueeze(-2).clamp_min(1e-6)
            weights = torch.sigmoid(F.softplus(self.steepness) * (F.softplus(self.cutoff) - relative)) * mask
            centre = (weights * x).sum(-2) / weights.sum(-2).clamp_min(1e-6)
        return centre


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over the selected samples, ``(..., d)`` both.

    Args:
        x: ``(..., n, d)``.
        mask: ``(..., n, 1)`` booleans of the selected samples.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean.unsqueeze(-2)).square(), mask)
    return mean, (variance + 1e-5).sqrt()


def median(x: Tensor, mask: Tensor) -> Tensor:
    """Median of each feature over the selected samples, ``(..., d)``; the lower of two middle values.

    Args:
        x: ``(..., n, d)``.
        mask: ``(..., n, 1)`` booleans of the selected samples.
    """
    return x.masked_fill(~mask, torch.nan).nanmedian(-2).values

"""Zero-label adaptation: the statistics of an unlabelled, contaminated batch are all that is read of a new domain."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones import EpisodicBatchNorm
from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.registry import unknown_name

Centre = Literal["mean", "median", "reweighted"]
REWEIGHTINGS = 3


@register_learner("acr")
class AdaptiveCentredRepresentations(EmbeddingLearner):
    """Distance to a robust centre of the batch, in the batch's own units.

    Source: Li et al., "Zero-Shot Anomaly Detection via Batch Normalization" (ACR), NeurIPS 2023: trained over many
    tasks with batch normalisation by each task's own batch, a network learns to gather the batch's majority around a
    centre. Here the batch is the support set, labelled or not; its statistics also serve the queries, so that a score
    does not depend on the other queries. A backbone without batch normalisation has its embedding normalised by the
    batch instead; behind one that has it, a second normalisation was seen to harm. Differs from
    the paper in its centre, which is not fixed but taken from the batch so as to bear anomalies in it, and in its loss,
    the cross-entropy of ``scale (D - R)`` with learned scale and radius, in place of Deep SVDD's ``D`` and ``1 / D``.

    Args:
        centre: ``"mean"``; ``"median"`` of each feature; ``"reweighted"``: from the median, three means whose weights
            fall off with the distance (learned: where and how steeply): up to a fifth of anomalies hardly count.
        kwargs: as for :class:`EmbeddingLearner`.
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
        """Units (``mean`` and ``spread`` of each feature), the batch's ``centre`` in them and usual ``distance``."""
        here = (labels != ANOMALOUS).unsqueeze(-1)
        mean, spread = moments(embeddings, here)
        if not self.normalises:
            mean, spread = torch.zeros_like(mean), torch.ones_like(spread)
        x = (embeddings - mean.unsqueeze(-2)) / spread.unsqueeze(-2)
        centre = self._centre(x, here)
        distances = (x - centre.unsqueeze(-2)).square().mean(-1, keepdim=True)
        usual = median(distances, here).squeeze(-1)
        return {"mean": mean, "spread": spread, "centre": centre, "distance": usual}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """``scale (D - R)`` where the radius is a learned multiple of the batch's median distance."""
        x = (embeddings - reading["mean"].unsqueeze(-2)) / reading["spread"].unsqueeze(-2)
        distances = (x - reading["centre"].unsqueeze(-2)).square().mean(-1)
        radius = F.softplus(self.radius) * reading["distance"].unsqueeze(-1)
        return self.log_scale.exp() * (distances - radius)

    def _centre(self, x: Tensor, here: Tensor) -> Tensor:
        if self.centre == "mean":
            return moments(x, here)[0]
        centre = median(x, here)
        if self.centre == "median":
            return centre
        for _ in range(REWEIGHTINGS):
            distances = (x - centre.unsqueeze(-2)).square().mean(-1, keepdim=True)
            relative = distances / median(distances, here).unsqueeze(-2).clamp_min(1e-6)
            weights = torch.sigmoid(F.softplus(self.steepness) * (F.softplus(self.cutoff) - relative)) * here
            centre = (weights * x).sum(-2) / weights.sum(-2).clamp_min(1e-6)
        return centre


def moments(x: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over the samples that count, ``(..., d)`` both.

    Args:
        x: ``(..., n, d)``.
        here: ``(..., n, 1)``.
    """
    n = here.sum(-2).clamp_min(1)
    mean = (x * here).sum(-2) / n
    variance = ((x - mean.unsqueeze(-2)).square() * here).sum(-2) / n
    return mean, (variance + 1e-5).sqrt()


def median(x: Tensor, here: Tensor) -> Tensor:
    """Median of each feature over the samples that count, ``(..., d)``; the lower of two middle ones.

    Args:
        x: ``(..., n, d)``.
        here: ``(..., n, 1)``.
    """
    return x.masked_fill(~here, torch.nan).nanmedian(-2).values

"""Relation head: scores of pairs of a query and each support sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.network import fixed_width
from metaad_zoo.learners.registry import register_learner

BOTH, ONE, NONE = 8.0, 4.0, 0.0
"""Target score of a pair with two, one or no anomalies; as in the paper."""


@register_learner("pairwise")
class PairwiseRelation(EmbeddingLearner):
    """Pairwise relation network, whose score reflects the number of anomalies in a pair.

    Source: Pang et al., "Deep Weakly-supervised Anomaly Detection" (PReNet), KDD 2023 (2019 as a preprint): a network
    of pairs is trained by absolute error towards 8 for two anomalies, 4 for one and 0 for none, with unlabelled samples
    as normal. A sample's score is its mean over pairs with labelled anomalies and with unlabelled samples. The paper's
    network is linear in the concatenated embeddings. Over many tasks with different normal classes it must compare
    them, so here it reads squared differences and products (a learned relation as in Sung et al., "Learning to Compare:
    Relation Network", CVPR 2018). It has one output for pairs with a labelled anomaly and one for all other pairs. Both
    rise by 4 from a normal to an anomalous query; the logit is the mean rise minus 2.

    Args:
        hidden: width of the relation head.
        kwargs: further arguments of :class:`EmbeddingLearner`.
    """

    def __init__(self, *, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}; expected 1 or more")
        self._arguments |= {"hidden": hidden}
        features = fixed_width(self.network.backbone)
        last = nn.Linear(hidden, 2)
        with torch.no_grad():  # half way between the targets of each output, for faster training
            last.bias.copy_(torch.tensor([(NONE + ONE) / 2, (ONE + BOTH) / 2]))
        self.relation = nn.Sequential(nn.Linear(2 * features, hidden), nn.SiLU(), last)

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """Embeddings of the ``support``, and the mask ``is_anomaly`` of labelled anomalies."""
        return {"support": embeddings, "is_anomaly": labels == ANOMALOUS}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Mean rise of the pairs' scores above the target of a normal query, minus half the rise of an anomaly."""
        scores = self.pairs(reading, embeddings)
        anomalous = reading["is_anomaly"].unsqueeze(-2).to(scores.dtype)
        rises, counts = [], []
        for weight, target in ((1 - anomalous, NONE), (anomalous, ONE)):
            n = weight.sum(-1)
            rises.append(((scores - target) * weight).sum(-1) / n.clamp_min(1))
            counts.append((n > 0).to(scores.dtype).expand_as(rises[-1]))
        rise = (torch.stack(rises) * torch.stack(counts)).sum(0) / torch.stack(counts).sum(0)
        return rise - (ONE - NONE) / 2

    def pairs(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Scores ``(..., m, n)`` of each query with each support sample."""
        query, support = embeddings.unsqueeze(-2), reading["support"].unsqueeze(-3)
        features = torch.cat([(query - support).square(), query * support], -1)
        with_normal, with_anomaly = self.relation(features).unbind(-1)
        return torch.where(reading["is_anomaly"].unsqueeze(-2), with_anomaly, with_normal)

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Absolute error of the pairs' scores ``(tasks,)``, with equal weight of both kinds of support samples."""
        support, query = reading["is_anomaly"].unsqueeze(-2), (labels == ANOMALOUS).unsqueeze(-1)
        targets = torch.where(support, torch.where(query, BOTH, ONE), torch.where(query, ONE, NONE))
        error = (self.pairs(reading, embeddings) - targets).abs()
        means = []
        for mask in (support, ~support):
            weight = mask.expand_as(error).to(error.dtype)
            means.append((error * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1))
        return torch.stack(means).sum(0)

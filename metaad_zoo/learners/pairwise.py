"""A relation head: a query is compared, pair by pair, with labelled anomalies and with the rest of the support."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.network import fixed_width
from metaad_zoo.learners.registry import register_learner

BOTH, ONE, NONE = 8.0, 4.0, 0.0
"""What a pair's score shall be, by how many of the two are anomalies; as in the paper."""


@register_learner("pairwise")
class PairwiseRelation(EmbeddingLearner):
    """Scores of pairs that tell how many of the two are anomalies.

    Source: Pang et al., "Deep Weakly-supervised Anomaly Detection" (PReNet), KDD 2023 (2019 as a preprint): a network
    of pairs is trained by absolute error towards 8 for two anomalies, 4 for one and 0 for none, unlabelled samples
    taken as normal; a sample's score is its mean over pairs with labelled anomalies and with unlabelled samples. There
    the network is linear on both embeddings laid end to end; over many tasks, where what is normal changes, it must
    compare them: here it reads their squared differences and products (as in Sung et al., "Learning to Compare:
    Relation Network", CVPR 2018, it is learned), and has one output for pairs with an anomaly and one for the others.
    Without labelled anomalies the latter alone is used. Both outputs rise by 4 from a normal to an anomalous query; the
    logit is the mean rise, less half of it.

    Args:
        hidden: width of the relation head.
        kwargs: as for :class:`EmbeddingLearner`.
    """

    def __init__(self, *, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}; expected 1 or more")
        self._arguments |= {"hidden": hidden}
        features = fixed_width(self.network.backbone)
        last = nn.Linear(hidden, 2)
        with torch.no_grad():  # half way between what each output shall be: small steps would take long to get there
            last.bias.copy_(torch.tensor([(NONE + ONE) / 2, (ONE + BOTH) / 2]))
        self.relation = nn.Sequential(nn.Linear(2 * features, hidden), nn.SiLU(), last)

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """The support's embeddings, and which are labelled anomalies."""
        return {"support": embeddings, "is_anomaly": labels == ANOMALOUS}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """The mean rise of the pairs' scores over what a normal query's would be, less half of an anomaly's rise."""
        scores = self.pairs(reading, embeddings)
        anomalous = reading["is_anomaly"].unsqueeze(-2).to(scores.dtype)
        rises, there = [], []
        for here, of_normal in ((1 - anomalous, NONE), (anomalous, ONE)):
            n = here.sum(-1)
            rises.append(((scores - of_normal) * here).sum(-1) / n.clamp_min(1))
            there.append((n > 0).to(scores.dtype).expand_as(rises[-1]))
        rise = (torch.stack(rises) * torch.stack(there)).sum(0) / torch.stack(there).sum(0)
        return rise - (ONE - NONE) / 2

    def pairs(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Scores ``(..., m, n)`` of each query with each support sample."""
        query, support = embeddings.unsqueeze(-2), reading["support"].unsqueeze(-3)
        features = torch.cat([(query - support).square(), query * support], -1)
        with_normal, with_anomaly = self.relation(features).unbind(-1)
        return torch.where(reading["is_anomaly"].unsqueeze(-2), with_anomaly, with_normal)

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Absolute error of the pairs' scores, pairs of each kind of support sample weighing the same."""
        known, asked = reading["is_anomaly"].unsqueeze(-2), (labels == ANOMALOUS).unsqueeze(-1)
        wanted = torch.where(known, torch.where(asked, BOTH, ONE), torch.where(asked, ONE, NONE))
        error = (self.pairs(reading, embeddings) - wanted).abs()
        means = []
        for here in (known, ~known):
            weight = here.expand_as(error).to(error.dtype)
            means.append((error * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1))
        return torch.stack(means).sum(0)

"""ProtoMAML: MAML with a head initialised from prototypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.backbones import TaskAxis
from metaad_zoo.episodes import ANOMALOUS, Samples
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.network import masked_mean
from metaad_zoo.learners.registry import register_learner


@register_learner("proto_maml")
class ProtoMAML(GradientLearner):
    """MAML whose initial head classifies, for each task, by squared distance to two prototypes.

    Source: Triantafillou et al., "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples", ICLR
    2020, section 4: with prototypes ``c``, a head of weights ``2 c`` and biases ``-|c|^2`` gives the negative squared
    distances, up to a constant for all classes. For two classes and one logit, ``weight = 2 (a - n)`` and ``bias =
    |n|^2 - |a|^2``, with ``n`` and ``a`` the mean embeddings of normal and anomalous support samples; the logit is the
    squared distance to ``n`` minus that to ``a``. For supports without anomalies ``a`` is meta-learned, as half of the
    head's weight, initially 0 (like the null class of Kruspe, "One-Way Prototypical Networks", 2019). The head's bias
    is meta-learned and added. Unlabelled samples count as normal.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            nn.init.zeros_(self.network.head.weight)
            nn.init.zeros_(self.network.head.bias)

    def _start(self, support: Samples, support_labels: Tensor, axis: TaskAxis | None) -> dict[str, Tensor]:
        embeddings = self._initial_embeddings(support)
        anomalous = (support_labels == ANOMALOUS).unsqueeze(-1).to(embeddings.dtype)
        normal_centre = masked_mean(embeddings, 1 - anomalous)
        head = self.network.head
        learned = (head.weight.squeeze(0) / 2).expand_as(normal_centre)
        anomalous_centre = torch.where(anomalous.sum(-2) > 0, masked_mean(embeddings, anomalous), learned)
        weight = 2 * (anomalous_centre - normal_centre)
        bias = normal_centre.square().sum(-1) - anomalous_centre.square().sum(-1)
        return {"head.weight": weight.unsqueeze(-2), "head.bias": bias.unsqueeze(-1) + head.bias}

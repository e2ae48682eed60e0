"""Deep SAD: samples are drawn to a centre, labelled anomalies are pushed away from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.backbones import TaskAxis, at_inner_step, current_task_axis
from metaad_zoo.episodes import ANOMALOUS, Samples
from metaad_zoo.inner_loop.precision import inner_precision
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.network import EpisodeNetwork
from metaad_zoo.learners.registry import register_learner

SMALLEST = 1e-2
"""Added to a distance before it is inverted; in the authors' code 1e-6, under which single inner steps diverge."""


class DistanceToCentre(nn.Module):
    """Squared distance to a centre, the mean over features.

    Args:
        features: length of the embedding.

    Shape:
        ``(n, features)`` to ``(n, 1)``; with centres ``(tasks, features)``, of all tasks' samples folded.
    """

    carries_task_axis = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        axis = current_task_axis() if self.centre.ndim == 2 else None
        difference = x - self.centre if axis is None else axis.fold(axis.split(x) - self.centre.unsqueeze(1))
        return difference.square().mean(-1, keepdim=True)


class CentredNetwork(EpisodeNetwork):
    """A backbone, and the distance of its embedding to a centre.

    Args:
        args: as for :class:`metaad_zoo.learners.network.EmbeddingNetwork`.
        kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = DistanceToCentre(self.backbone.embedding_dim)  # type: ignore[assignment]  # in the linear one's place


@register_learner("deep_sad")
class DeepSAD(GradientLearner):
    """A few labelled anomalies among unlabelled samples: near the centre or far from it.

    Source: Ruff et al., "Deep Semi-Supervised Anomaly Detection", ICLR 2020, equation 7: the loss is the squared
    distance ``D`` to a centre for unlabelled and normal samples and ``eta / D`` for labelled anomalies; without any it
    is Deep SVDD (Ruff et al., ICML 2018). As there, the centre is the mean embedding at the start, of each task's
    unlabelled and normal support samples; a meta-learned vector, 0 at first, is added. In the paper it then stays where
    it is, which ``inner_loop.adapt=["backbone.*"]`` says; else the inner steps move it too. It is the loss of these
    steps on the support and, with eta 1, of the outer loop on the queries; the score is ``D``.

    Args:
        eta: weight of labelled anomalies in the support.
        kwargs: as for ``maml``.
    """

    network_type = CentredNetwork

    def __init__(self, *, eta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if eta < 0:
            raise ValueError(f"eta is {eta}; expected 0 or more")
        self.eta = eta

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "eta": self.eta}

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Deep SAD's loss with ``eta``."""
        return sad_loss(outputs, labels, self.eta)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Deep SAD's loss, both kinds alike."""
        return sad_loss(outputs, labels, 1.0)

    def _start(self, support: Samples, support_labels: Tensor, axis: TaskAxis | None) -> dict[str, Tensor]:
        with inner_precision(self.inner_loop.precision, self.device), at_inner_step(0):
            embeddings = self.network.embed(support)
        here = (support_labels != ANOMALOUS).unsqueeze(-1).to(embeddings.dtype)
        mean = (embeddings * here).sum(-2) / here.sum(-2).clamp_min(1)
        return {"head.centre": mean + self.network.get_parameter("head.centre")}


def sad_loss(distances: Tensor, labels: Tensor, eta: float) -> Tensor:
    """``D`` of what is not labelled anomalous, ``eta / D`` of what is; the mean over samples.

    Args:
        distances: ``(..., n)``, squared.
        labels: ``(..., n)``.
        eta: weight of labelled anomalies.

    Returns:
        ``(...)``.
    """
    return torch.where(labels == ANOMALOUS, eta / (distances + SMALLEST), distances).mean(-1)

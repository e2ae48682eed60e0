"""Deep SAD: squared distance to a centre, maximised for labelled anomalies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.backbones import TaskAxis, current_task_axis
from metaad_zoo.episodes import ANOMALOUS, Samples
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.network import EpisodeNetwork, masked_mean
from metaad_zoo.learners.registry import register_learner

SMALLEST = 1e-2
"""Added to a distance before inversion; with the 1e-6 of the authors' code, single inner steps diverge."""


class DistanceToCentre(nn.Module):
    """Mean squared difference from a centre.

    Args:
        features: length of the embedding.

    Shape:
        ``(n, features)`` to ``(n, 1)``; with centres ``(tasks, features)``, for the folded samples of all tasks.
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
    """A backbone with the distance of its embedding to a centre as head.

    Args:
        args: arguments of :class:`metaad_zoo.learners.network.EmbeddingNetwork`.
        kwargs: keyword arguments of the same class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = DistanceToCentre(self.backbone.embedding_dim)  # type: ignore[assignment]


@register_learner("deep_sad")
class DeepSAD(GradientLearner):
    """Semi-supervised detection with a few labelled anomalies, by the distance to a centre.

    Source: Ruff et al., "Deep Semi-Supervised Anomaly Detection", ICLR 2020, equation 7: the loss is the squared
    distance ``D`` to a centre for unlabelled and normal samples and ``eta / D`` for labelled anomalies; without any it
    is Deep SVDD (Ruff et al., ICML 2018). As in the paper, the centre is the mean initial embedding of each task's
    unlabelled and normal support samples; a meta-learned vector, initially 0, is added. The inner steps adapt the
    centre too, unless ``inner_loop.adapt=["backbone.*"]`` as in the paper. The inner steps minimise the loss on the
    support, and the outer loop minimises it on the queries with eta 1; the score is ``D``.

    Args:
        eta: weight of labelled anomalies in the support.
        kwargs: further arguments of ``maml``.
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
        """Deep SAD's loss with ``eta`` 1."""
        return sad_loss(outputs, labels, 1.0)

    def _start(self, support: Samples, support_labels: Tensor, axis: TaskAxis | None) -> dict[str, Tensor]:
        embeddings = self._initial_embeddings(support)
        mask = (support_labels != ANOMALOUS).unsqueeze(-1).to(embeddings.dtype)
        centre: Tensor = self.network.head.centre  # type: ignore[assignment]
        return {"head.centre": masked_mean(embeddings, mask) + centre}


def sad_loss(distances: Tensor, labels: Tensor, eta: float) -> Tensor:
    """Mean over samples of ``eta / D`` for labelled anomalies and ``D`` for all other samples.

    Args:
        distances: squared distances ``(..., n)``.
        labels: ``(..., n)``.
        eta: weight of labelled anomalies.

    Returns:
        ``(...)``.
    """
    return torch.where(labels == ANOMALOUS, eta / (distances + SMALLEST), distances).mean(-1)

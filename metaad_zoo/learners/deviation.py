"""Deviation networks: scores as deviations from those of samples that are normal for their most part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from metaad_zoo.episodes import ANOMALOUS, Samples
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.registry import register_learner


@register_learner("deviation")
class DeviationNetwork(GradientLearner):
    """A few labelled anomalies among unlabelled samples: scores are pushed so many standard deviations away.

    Source: Pang et al., "Deep Anomaly Detection with Deviation Networks" (DevNet), KDD 2019: with the z-score ``dev``
    of a sample's score against reference scores, the loss is ``|dev|`` for unlabelled and normal samples and ``max(0,
    margin - dev)`` for labelled anomalies. The paper draws its reference from N(0, 1), once for all; here a task has
    its own, the scores of the support's unlabelled and normal samples, among which N(0, 1) counts as ``prior`` further
    samples: few samples hardly tell a mean, and one no deviation. It is the loss of the inner steps on the support and
    of the outer loop on the queries; a query's score is its deviation, and so in the same units in every task.

    Args:
        margin: how far anomalies shall be, in standard deviations; 5 in the paper.
        prior: weight of N(0, 1) in the reference, in samples.
        kwargs: as for ``maml``.
    """

    def __init__(self, *, margin: float = 5.0, prior: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if margin <= 0 or prior <= 0:
            raise ValueError(f"margin is {margin} and prior {prior}; expected both above 0")
        self.margin, self.prior = margin, prior

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "margin": self.margin, "prior": self.prior}

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The deviation loss of the support's scores against their own reference."""
        mean, deviation = reference(outputs, labels, self.prior)
        return deviation_loss((outputs - mean) / deviation, labels, self.margin)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The deviation loss of the queries' deviations."""
        return deviation_loss(outputs, labels, self.margin)

    def judging(self, adapted: Mapping[str, Tensor], support: Samples, labels: Tensor) -> Mapping[str, Tensor]:
        """With a head that gives deviations: the reference's mean and deviation are taken into it."""
        scores = functional_call(self.network, dict(adapted), (support,))
        mean, deviation = reference(scores, labels, self.prior)
        weight, bias = adapted["head.weight"], adapted["head.bias"]
        return {
            **adapted,
            "head.weight": weight / deviation.unsqueeze(-1),
            "head.bias": (bias - mean) / deviation,
        }


def reference(scores: Tensor, labels: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reference scores, N(0, 1) counting as ``prior`` samples among them.

    Args:
        scores: ``(..., n)``.
        labels: ``(..., n)``; labelled anomalies are no reference.
        prior: above 0.

    Returns:
        ``(..., 1)`` each.
    """
    here = (labels != ANOMALOUS).to(scores.dtype)
    n = here.sum(-1, keepdim=True) + prior
    mean = (here * scores).sum(-1, keepdim=True) / n
    square = ((here * scores.square()).sum(-1, keepdim=True) + prior) / n
    return mean, (square - mean.square()).clamp_min(1e-12).sqrt()


def deviation_loss(deviations: Tensor, labels: Tensor, margin: float) -> Tensor:
    """``|dev|`` of what is not labelled anomalous, ``max(0, margin - dev)`` of what is; the mean over samples.

    Args:
        deviations: ``(..., n)``.
        labels: ``(..., n)``.
        margin: see :class:`DeviationNetwork`.

    Returns:
        ``(...)``.

    Example:
        >>> deviation_loss(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0, -1, 1]), 5.0)
        tensor(1.6667)
    """
    wanted = torch.relu(margin - deviations)
    return torch.where(labels == ANOMALOUS, wanted, deviations.abs()).mean(-1)

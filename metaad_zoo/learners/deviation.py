"""Deviation networks: scores as deviations from reference scores of mostly normal samples."""

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
    """Semi-supervised detection with a few labelled anomalies, by the deviation of scores from a reference.

    Source: Pang et al., "Deep Anomaly Detection with Deviation Networks" (DevNet), KDD 2019: with the z-score ``dev``
    of a sample's score against reference scores, the loss is ``|dev|`` for unlabelled and normal samples and ``max(0,
    margin - dev)`` for labelled anomalies. The paper's reference is a sample of N(0, 1); here each task has its own,
    the scores of the support's unlabelled and normal samples. N(0, 1) counts as ``prior`` further samples, because few
    samples give no reliable mean and deviation. The inner steps minimise the loss on the support, and the outer loop on
    the queries; a query's score is its deviation, in the same units for every task.

    Args:
        margin: target deviation of anomalies, in standard deviations; 5 in the paper.
        prior: weight of N(0, 1) in the reference, as a number of samples.
        kwargs: further arguments of ``maml``.
    """

    def __init__(self, *, margin: float = 5.0, prior: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if margin <= 0 or prior <= 0:
            raise ValueError(f"margin is {margin} and prior {prior}; expected both above 0")
        self.margin, self.prior = margin, prior

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "margin": self.margin, "prior": self.prior}

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Deviation loss of the support's scores relative to their own reference."""
        mean, deviation = reference(outputs, labels, self.prior)
        return deviation_loss((outputs - mean) / deviation, labels, self.margin)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Deviation loss of the queries' deviations."""
        return deviation_loss(outputs, labels, self.margin)

    def judging(self, adapted: Mapping[str, Tensor], support: Samples, labels: Tensor) -> Mapping[str, Tensor]:
        """Parameters whose head outputs deviations, by the reference's mean and standard deviation."""
        scores = functional_call(self.network, dict(adapted), (support,))
        mean, deviation = reference(scores, labels, self.prior)
        weight, bias = adapted["head.weight"], adapted["head.bias"]
        return {
            **adapted,
            "head.weight": weight / deviation.unsqueeze(-1),
            "head.bias": (bias - mean) / deviation,
        }


def reference(scores: Tensor, labels: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reference scores, including N(0, 1) as ``prior`` samples.

    Args:
        scores: ``(..., n)``.
        labels: ``(..., n)``; labelled anomalies are excluded.
        prior: weight of N(0, 1), above 0.

    Returns:
        ``(..., 1)`` each.
    """
    mask = (labels != ANOMALOUS).to(scores.dtype)
    n = mask.sum(-1, keepdim=True) + prior
    mean = (mask * scores).sum(-1, keepdim=True) / n
    square = ((mask * scores.square()).sum(-1, keepdim=True) + prior) / n
    return mean, (square - mean.square()).clamp_min(1e-12).sqrt()


def deviation_loss(deviations: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over samples of ``max(0, margin - dev)`` for labelled anomalies and ``|dev|`` for all other samples.

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
    shortfall = torch.relu(margin - deviations)
    return torch.where(labels == ANOMALOUS, shortfall, deviations.abs()).mean(-1)

"""One-class prototypical networks: scores by distance to the support's prototypes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.network import masked_mean
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.registry import unknown_name

Distance = Literal["euclidean", "cosine", "mahalanobis"]
LLOYD_STEPS = 5


@register_learner("protonet")
class PrototypicalNetwork(EmbeddingLearner):
    """Distance to the nearest prototype of the normal support samples, relative to a learned radius.

    Source: Snell et al., "Prototypical Networks for Few-shot Learning", NeurIPS 2017; for one class Kruspe, "One-Way
    Prototypical Networks", 2019. With ``D`` the distance to the nearest prototype and ``R`` a radius, the logit is
    ``scale (D - R)``. ``R`` is a learned multiple of the support's spread, which is shrunk towards a learned typical
    spread by ``k`` virtual samples, ``(n spread + k typical) / (n + k)``. Labelled anomalies move the boundary: ``R``
    becomes a soft minimum of the radius and the distances to them. Unlabelled samples count as normal.

    Of several modalities, with the backbone's option ``parts``, each modality and their joint embedding have a
    prototype, a radius and a scale of their own. The logit is the weighted mean over those that support and query
    share. The loss is that of each part alone, so that any of them may be all that is shared.

    Args:
        distance: ``"euclidean"`` (squared, the mean over features), ``"cosine"`` (1 - cosine) or ``"mahalanobis"``:
            squared, by the covariance ``(S + m diag(v)) / (n + m)`` of the support's scatter ``S`` and learned prior
            variances ``v`` with the weight of ``m`` samples, for any number of shots.
        prototypes: number of prototypes, which are k-means centres of the support.
        joint_weight: weight of the joint embedding beside 1 for each modality, with ``parts``. It matters where
            anomalies show in no modality alone; where each judges well, a high one overfits to the training classes.
        kwargs: further arguments of :class:`EmbeddingLearner`.
    """

    reads_parts = True
    weights: Tensor

    def __init__(
        self, *, distance: Distance = "euclidean", prototypes: int = 1, joint_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if distance not in get_args(Distance):
            raise unknown_name("distance", distance, get_args(Distance))
        if prototypes < 1:
            raise ValueError(f"prototypes is {prototypes}; expected 1 or more")
        if joint_weight <= 0:
            raise ValueError(f"joint_weight is {joint_weight}; expected a number above 0")
        self._arguments |= {"distance": distance, "prototypes": prototypes, "joint_weight": joint_weight}
        self.distance: Distance = distance
        self.prototypes = prototypes
        self.n_parts = self.network.backbone.n_parts
        each = () if self.n_parts == 1 else (self.n_parts,)
        weights = torch.tensor([1.0] * (self.n_parts - 1) + [joint_weight])
        self.register_buffer("weights", weights.unsqueeze(-1), persistent=False)
        self.log_scale = nn.Parameter(torch.full(each, 2.0))
        self.radius = nn.Parameter(torch.full(each, 0.5))
        self.typical_spread = nn.Parameter(torch.zeros(each))
        self.spread_weight = nn.Parameter(torch.ones(each))
        if distance == "mahalanobis":
            self.prior_weight = nn.Parameter(torch.full(each, 2.0))
            # One value for all columns if their number is unknown.
            columns = max(self.network.backbone.embedding_dim // self.n_parts, 1)
            self.log_variance = nn.Parameter(torch.zeros(*each, columns))

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """Prototypes, radius, labelled anomalies and the whitening matrix of the distance; by part if several."""
        if self.n_parts == 1:
            return self._read(embeddings, labels != ANOMALOUS, labels == ANOMALOUS)
        embeddings, present = self._by_part(embeddings)
        normal = (labels != ANOMALOUS).unsqueeze(-2) & present
        return {**self._read(embeddings, normal, ~normal & present), "readable": normal.any(-1)}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """``scale (D - R)``, with labelled anomalies ``scale (D - softmin(R, their distances))``; of parts the mean."""
        if self.n_parts == 1:
            return self._compare(reading, embeddings)
        logits, weights = self._compare_parts(reading, embeddings)
        return (weights * logits).sum(-2) / weights.sum(-2)  # NaN where nothing is shared

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy of the logits; with parts the weighted mean of that of each."""
        if self.n_parts == 1:
            return super().task_loss(reading, embeddings, labels)
        logits, weights = self._compare_parts(reading, embeddings)
        targets = (labels == ANOMALOUS).to(logits.dtype).unsqueeze(-2).expand_as(logits)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (weights * losses).sum((-2, -1)) / weights.sum((-2, -1))

    def _compare_parts(self, reading: Reading, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(..., parts, m)`` and weights of the parts; 0 for those that support and query do not share."""
        blocks, present = self._by_part(embeddings)
        shared = present & reading["readable"].unsqueeze(-1)
        return self._compare(reading, blocks), torch.where(shared, self.weights, 0)

    def _by_part(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., n, parts * d)`` to ``(..., parts, n, d)``, 0 for absent parts, and their mask ``(..., parts, n)``."""
        blocks = embeddings.unflatten(-1, (self.n_parts, -1)).transpose(-3, -2)
        present = ~blocks.isnan().any(-1)
        return torch.where(present.unsqueeze(-1), blocks, 0), present

    def _read(self, embeddings: Tensor, normal: Tensor, anomalous: Tensor) -> Reading:
        if self.distance == "cosine":
            embeddings = F.normalize(embeddings, dim=-1)
        centres, nearest = clusters(embeddings, normal, self.prototypes)
        weight = normal.unsqueeze(-1).to(embeddings.dtype)
        residual = (embeddings - nearest) * weight
        n = weight.sum(-2)
        reading: dict[str, Tensor] = {"prototypes": centres}
        if self.distance == "mahalanobis":
            reading["whitening"] = self._whitening(residual, n)
        spread = (self._distance(reading, embeddings, nearest.unsqueeze(-2)).squeeze(-1) * normal).sum(-1)
        reading["radius"] = self._radius(spread, n.squeeze(-1))
        if bool(anomalous.any()):
            reading["anomalies"] = embeddings
            reading["is_anomaly"] = anomalous
        return reading

    def _compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits of one part, or of each with a leading axis of parts."""
        if self.distance == "cosine":
            embeddings = F.normalize(embeddings, dim=-1)
        scale = self.log_scale.exp().unsqueeze(-1)
        nearest = self._distance(reading, embeddings, reading["prototypes"].unsqueeze(-3)).amin(-1)
        radius = reading["radius"].unsqueeze(-1).expand_as(nearest)
        if "anomalies" in reading:
            to_anomalies = -scale.unsqueeze(-1) * self._distance(
                reading, embeddings, reading["anomalies"].unsqueeze(-3)
            )
            # After the scale, whose gradient would be 0 times infinity.
            to_anomalies = to_anomalies.masked_fill(~reading["is_anomaly"].unsqueeze(-2), -torch.inf)
            radius = -torch.cat([(-scale * radius).unsqueeze(-1), to_anomalies], -1).logsumexp(-1) / scale
        return scale * (nearest - radius)

    def _distance(self, reading: Reading, x: Tensor, centres: Tensor) -> Tensor:
        """``(..., m, d)`` and ``(..., m or 1, p, d)`` to ``(..., m, p)``."""
        difference = x.unsqueeze(-2) - centres
        if self.distance == "mahalanobis":
            flat = difference.flatten(-3, -2)  # (..., m * p, d)
            white = flat @ reading["whitening"].transpose(-1, -2)
            return white.unflatten(-2, difference.shape[-3:-1]).square().mean(-1)
        if self.distance == "cosine":
            return 1 - (x.unsqueeze(-2) * F.normalize(centres, dim=-1)).sum(-1)
        return difference.square().mean(-1)

    def _whitening(self, residual: Tensor, n: Tensor) -> Tensor:
        """Inverse Cholesky factor of the covariance ``(..., d, d)``."""
        m = F.softplus(self.prior_weight).unsqueeze(-1)
        variances = self.log_variance.exp().expand(*self.log_variance.shape[:-1], residual.shape[-1])
        prior = torch.diag_embed(m * variances)
        covariance = (residual.transpose(-1, -2) @ residual + prior) / (n + m).unsqueeze(-1)
        factor = torch.linalg.cholesky(covariance)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)

    def _radius(self, spread: Tensor, n: Tensor) -> Tensor:
        """Radius ``(...)`` from the sum of the support's distances ``spread`` and the learned typical spread."""
        k = F.softplus(self.spread_weight)
        return F.softplus(self.radius) * (spread + k * F.softplus(self.typical_spread)) / (n + k)


def clusters(x: Tensor, chosen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Centres of ``k`` clusters of the chosen samples (Lloyd's algorithm), differentiable by the samples.

    The initial centres are samples, each the farthest from the previous ones, so the result is deterministic.

    Args:
        x: ``(..., n, d)``.
        chosen: ``(..., n)`` booleans of the samples to cluster.
        k: number of clusters; with fewer samples, some coincide.

    Returns:
        Centres ``(..., k, d)`` and the nearest centre of each sample ``(..., n, d)``.
    """
    weight = chosen.unsqueeze(-1).to(x.dtype)
    mean = masked_mean(x, weight).unsqueeze(-2)
    if k == 1:
        return mean, mean.expand_as(x)
    with torch.no_grad():
        centres = mean
        for i in range(k):
            distances = _squared(x, centres).amin(-1).masked_fill(~chosen, -1)
            farthest = x.gather(-2, distances.argmax(-1)[..., None, None].expand(*x.shape[:-2], 1, x.shape[-1]))
            centres = farthest if i == 0 else torch.cat([centres, farthest], -2)
        for _ in range(LLOYD_STEPS):
            centres = _means(x, weight, _membership(x, centres), centres)
        member = _membership(x, centres)
    centres = _means(x, weight, member, centres)
    return centres, member.to(x.dtype) @ centres


def _squared(x: Tensor, centres: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - centres.unsqueeze(-3)).square().sum(-1)


def _membership(x: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre, one-hot ``(..., n, k)``."""
    return F.one_hot(_squared(x, centres).argmin(-1), centres.shape[-2])


def _means(x: Tensor, weight: Tensor, member: Tensor, before: Tensor) -> Tensor:
    """Mean of each cluster's samples; an empty cluster keeps its centre."""
    share = member.to(x.dtype) * weight
    size = share.sum(-2).unsqueeze(-1)
    return torch.where(size > 0, share.transpose(-1, -2) @ x / size.clamp_min(1), before)

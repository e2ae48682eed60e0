"""A patch memory with a learned metric, for domains whose siblings have labelled defects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones import ImageBackbone, replace_pretrained, statistics_from_first
from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch, Samples
from metaad_zoo.learners.base import OptimizerCallable, Schedule
from metaad_zoo.learners.network import reads_statistics, scaled, usable
from metaad_zoo.learners.patch_memory import PatchMemory
from metaad_zoo.learners.patches import nearest
from metaad_zoo.learners.registry import register_learner

GAIN = 4.0
"""Ratio of ``C`` to the trained parameter, so that learning rates of networks suit it."""
CACHE_BYTES = 2**30
"""Largest size of the features that a training keeps, so that each image goes through the backbone once."""


@register_learner("patch_metric")
class PatchMetric(PatchMemory):
    """A patch memory whose distance between patches is learned on sibling domains with labelled anomalies.

    The distance of patches ``x`` and ``y`` is ``|(x - y) (I + C)|`` with a learned matrix ``C``, which is 0 before
    training: then it is the patch memory. The outer loss of a task compares each anomalous query image with each normal
    one: it is the mean of ``log(1 + (normal score / anomalous score)^(1 / temperature))``, plus ``penalty |C|^2``. It
    does not depend on the unit of the scores, which differs between domains. The backbone is constant.

    Source: Burges et al., "Learning to Rank using Gradient Descent", ICML 2005 (the loss); Weinberger and Saul,
    "Distance Metric Learning for Large Margin Nearest Neighbor Classification", JMLR 2009 (a linear map for nearest
    neighbours).

    Args:
        penalty: weight of the squared Frobenius norm of ``C``, which holds the metric near that of the memory.
        temperature: relative difference of two scores that counts as clear.
        optimizer: function that builds the outer optimiser.
        schedule: schedule of the outer learning rate, ``"constant"`` or ``"cosine"``.
        kwargs: arguments of :class:`PatchMemory`.

    Raises:
        ValueError: as for :class:`PatchMemory`, or ``penalty`` or ``temperature`` is out of range.
    """

    trains = True
    may_stay = True

    def __init__(
        self,
        *,
        penalty: float = 0.003,
        temperature: float = 0.1,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        schedule: Schedule = "cosine",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if penalty < 0 or temperature <= 0:
            raise ValueError(f"penalty is {penalty} and temperature {temperature}; expected 0 or more and above 0")
        self._arguments |= {"penalty": penalty, "temperature": temperature}
        self.penalty, self.temperature = penalty, temperature
        self.set_optimizer(optimizer, schedule)
        width = self._width(self._arguments["input_shapes"][self.mapped])
        self.change = nn.Parameter(torch.zeros(width, width))
        self._cache: dict[bytes, Tensor] = {}

    @classmethod
    def on(cls, memory: PatchMemory, **settings: Any) -> PatchMetric:
        """The learner that starts as a patch memory.

        Args:
            memory: patch memory with any settings; not changed.
            settings: further arguments of the class.

        Example:
            >>> memory = PatchMemory(backbone="conv4", input_shapes={"image": (1, 28, 28)}, layers=[1])
            >>> PatchMetric.on(memory).change.shape
            torch.Size([64, 64])
        """
        with replace_pretrained(False):  # the memory's weights follow
            built = cls(**memory.arguments(), **settings)
        built.network = deepcopy(memory.network)
        return built.to(memory.device)

    def patches(self, images: Tensor, support: Samples) -> Tensor:
        """Features of patches ``(n, H, W, d)``, between which the Euclidean distance is the learned one."""
        return self._mapped(super().patches(images, support))

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """The matrix ``C``, in units of :data:`GAIN`."""
        return [{"params": [self.change]}]

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:  # type: ignore[override]
        """Mean ranking loss of the tasks, with the penalty."""
        with torch.autocast(self.device.type, enabled=False):
            losses = [self.ranking_loss(*task[:4]) for task in batch]
            return torch.stack(losses).mean() + self.penalty * (GAIN * self.change).square().sum()

    def ranking_loss(self, support: Samples, support_labels: Tensor, query: Samples, query_labels: Tensor) -> Tensor:
        """Ranking loss ``()`` of one task; 0 if all its query images are of one kind."""
        scores = self._mapped(self._farthest(support, support_labels, query)).norm(dim=-1).mean(1)
        logs = scores.clamp_min(torch.finfo(scores.dtype).tiny).log() / self.temperature
        anomalous = query_labels == ANOMALOUS
        ahead = logs[anomalous].unsqueeze(1) - logs[~anomalous]
        return F.softplus(-ahead).mean() if ahead.numel() else logs.sum() * 0

    @torch.no_grad()
    def _width(self, shape: Sequence[int]) -> int:
        """Length of the features of a patch, for images of a shape ``(C, H, W)``."""
        backbone = self.network.backbone
        assert isinstance(backbone, ImageBackbone)
        with statistics_from_first(1):
            maps = backbone.feature_maps(torch.zeros(1, *shape))
        return sum(maps[i].shape[1] for i in self.layers)

    def _mapped(self, features: Tensor) -> Tensor:
        return features + GAIN * (features @ self.change)

    @torch.no_grad()
    def _farthest(self, support: Samples, support_labels: Tensor, query: Samples) -> Tensor:
        """Differences ``(n, share, d)`` of the query images' farthest patches to the nearest ones of the support.

        They are differences of the backbone's features; which ones is decided by the present metric.
        """
        raw = usable(support, self.change)
        scalings = self.network.scalings(raw)
        inputs, queries = (scaled(x, scalings, self.change.dtype) for x in (raw, usable(query, self.change)))
        normal = (support_labels != ANOMALOUS).to(self.device)
        memory = self._features(inputs[self.mapped][normal], inputs).flatten(0, 2)
        patches = self._features(queries[self.mapped], inputs).flatten(1, 2)
        distances, places = nearest(self._mapped(patches.flatten(0, 1)), self._mapped(memory))
        share = max(1, round(self.top * patches.shape[1]))
        far = distances.view(patches.shape[:2]).topk(share, dim=1).indices
        rows = places.view(patches.shape[:2]).gather(1, far)
        return patches.take_along_dim(far.unsqueeze(-1), 1) - memory[rows]

    def _features(self, images: Tensor, support: Samples) -> Tensor:
        """The backbone's features of patches, from the cache where they do not depend on the support."""
        if reads_statistics(self.network):
            return super().patches(images, support)
        keys = [hashlib.sha256(image.cpu().numpy().tobytes()).digest() for image in images]
        new = {key: i for i, key in enumerate(keys) if key not in self._cache}
        computed = {}
        if new:
            computed = dict(zip(new, super().patches(images[list(new.values())], support), strict=True))
        features = torch.stack([self._cache[key] if key in self._cache else computed[key] for key in keys])
        room = CACHE_BYTES // features[0].nbytes - len(self._cache)
        self._cache |= {key: x.clone() for key, x in list(computed.items())[: max(room, 0)]}
        return features

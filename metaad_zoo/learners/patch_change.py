"""Change detection on patches: a decoder, meta-trained on synthetic defects, on the memory of a support's patches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones import ImageBackbone, statistics_from_first
from metaad_zoo.data.synthetic import draw_defect, require_defects
from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch, Samples
from metaad_zoo.learners.base import OptimizerCallable, Schedule
from metaad_zoo.learners.network import anomaly_loss
from metaad_zoo.learners.patch_memory import AdaptedMemory, PatchMemory
from metaad_zoo.learners.patches import farness
from metaad_zoo.learners.registry import register_learner

LEAST = 1e-6
"""Least spread of a memory, that of one patch alone."""
COVERED = 0.1
"""A patch is a target of the mask if a defect covers more than this share of its pixels."""


class ChangeDecoder(nn.Module):
    """Mask of the patches that changed against their nearest neighbours in a memory.

    A patch is described by the mean over its neighbours of a layer on their differences, and by their distances; three
    convolutions turn this into a logit, to which the distance to the nearest neighbour is added. The last convolution
    starts at zero, so an untrained decoder ranks patches by this distance, as the memory does.

    Args:
        dim: length of a patch's features.
        width: channels of the convolutions.

    Shape:
        Differences ``(n, H, W, neighbours, dim)``, the nearest neighbour first, and the memory's spread ``()``, to
        logits ``(n, H, W)``.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.compare = nn.Linear(dim, width)
        self.first = nn.Conv2d(width + 3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        self.gain = nn.Parameter(torch.full((), 4.0))
        self.offset = nn.Parameter(torch.full((), 1.0))
        for weights in self.last.parameters():
            nn.init.zeros_(weights)

    def forward(self, differences: Tensor, spread: Tensor) -> Tensor:
        distances = differences.norm(dim=-1)
        nearest = distances[..., 0]
        absolute = differences.abs() * differences.shape[-1] ** 0.5
        compared = F.relu(self.compare(absolute)).mean(-2)
        levels = torch.stack([nearest, distances.mean(-1), nearest / spread], -1)
        x = torch.cat([compared, levels], -1).permute(0, 3, 1, 2)
        x = F.relu(self.second(F.relu(self.first(x))))
        mask: Tensor = self.gain * (nearest - self.offset) + self.last(x).squeeze(1)
        return mask


@register_learner("patch_change")
class PatchChange(PatchMemory):
    """Mask of what changed against the support, by a decoder on the distances to the memory of its patches.

    The backbone stays as it is; the decoder is meta-trained. In each task of the training, half of the normal queries
    get a synthetic defect with a mask (:func:`metaad_zoo.data.synthetic.draw_defect`), and the decoder learns these
    masks, and each query's label by its score. Anomalies of the data have a label and no mask.

    Source: the comparison is that of PatchCore (:class:`PatchMemory`); a decoder of change masks between a query and
    normal prompts over frozen features, trained on synthetic pairs, is that of Gao, "MetaUAS: Universal Anomaly
    Segmentation with One-Prompt Meta-Learning", NeurIPS 2024; synthetic defects with masks as training set of a
    decoder are those of DRÆM (ICCV 2021).

    Args:
        width: channels of the decoder.
        compared: number of nearest patches that each patch is compared with.
        defects: kinds of synthetic defects, as :func:`metaad_zoo.data.synthetic.list_defects` lists them; None: all.
        by_image: weight of the loss on whole images, beside that on masks.
        subspace: 0, because the decoder compares with the memory alone.
        optimizer: function that builds the outer optimiser.
        schedule: schedule of the outer learning rate, ``"constant"`` or ``"cosine"``.
        kwargs: further arguments of :class:`PatchMemory`.

    Raises:
        ValueError: a setting is out of range, or a defect is unknown.
    """

    trains = True

    def __init__(
        self,
        *,
        width: int = 48,
        compared: int = 3,
        defects: list[str] | None = None,
        by_image: float = 0.3,
        subspace: float = 0.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=1e-3),
        schedule: Schedule = "cosine",
        **kwargs: Any,
    ) -> None:
        super().__init__(subspace=subspace, **kwargs)
        if width < 1 or compared < 1 or by_image < 0:
            raise ValueError(
                f"width is {width}, compared {compared} and by_image {by_image}; expected at least 1, 1 and 0"
            )
        if self.top == 0:
            raise ValueError("top=0 weights a distance by the memory, and a mask has no distances: set a share above 0")
        if self.score_unit != "feature" or self.subspace:
            raise ValueError(
                f"score_unit is {self.score_unit!r} and subspace {self.subspace}, but these are for distances, and a "
                "mask has none: leave them out"
            )
        self.set_optimizer(optimizer, schedule)
        self._arguments |= {"width": width, "compared": compared, "defects": defects, "by_image": by_image}
        self.defects = require_defects(defects)
        self.compared, self.by_image = compared, by_image
        self.decoder = ChangeDecoder(self._patch_dim(), width)

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Parameters of the decoder."""
        return [{"params": list(self.decoder.parameters())}]

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:  # type: ignore[override]
        """Mean loss ``()`` of masks and scores over the batch's tasks, on newly drawn defects."""
        return torch.stack([self._task_loss(*task[:4]) for task in batch]).mean()

    def adapt(self, support: Samples, support_labels: Tensor) -> AdaptedChange:
        """Store the patches of a support set; see :meth:`PatchMemory.adapt`."""
        stored = super().adapt(support, support_labels)
        return AdaptedChange(**vars(stored))

    def _task_loss(self, support: Samples, support_labels: Tensor, query: Samples, query_labels: Tensor) -> Tensor:
        adapted = self.adapt(support, support_labels)
        real = query_labels.to(self.device) == ANOMALOUS
        images, changed = self._with_defects(query[self.mapped], real)
        logits = adapted.mask_logits(adapted.units({self.mapped: images}))
        grid = (logits.shape[1], logits.shape[2])
        covered = F.adaptive_avg_pool2d(changed.to(logits.dtype).unsqueeze(1), grid).squeeze(1) > COVERED
        anomalous = real | changed.flatten(1).any(1)
        by_image = anomaly_loss(top_share(logits, self.top), anomalous.long())
        return mask_loss(logits[~real], covered[~real]) + self.by_image * by_image

    def _with_defects(self, images: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Images of which every second normal one has a defect ``(n, C, H, W)``, and the masks ``(n, H, W)``.

        The defects follow from torch's generator, whose state a resumed training has too.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        images, masks = images.clone(), torch.zeros_like(images[:, 0], dtype=torch.bool)
        for i in (~real).nonzero().flatten()[::2].tolist():
            image, mask = draw_defect(images[i].cpu(), rng, self.defects)
            images[i], masks[i] = image.to(images), mask.to(masks.device)
        return images, masks

    @torch.no_grad()
    def _patch_dim(self) -> int:
        """Length of a patch's features."""
        backbone = self.network.backbone
        assert isinstance(backbone, ImageBackbone)
        like = next(self.network.parameters())
        images = torch.zeros(1, *self._arguments["input_shapes"][self.mapped], dtype=like.dtype, device=like.device)
        with statistics_from_first(1):
            maps = backbone.feature_maps(images)
        return sum(maps[i].shape[1] for i in self.layers)


@dataclass(frozen=True)
class AdaptedChange(AdaptedMemory):
    """A change decoder over the memory of a support set's patches."""

    learner: PatchChange

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the network's :meth:`units`: softplus of the mean logit of the top share."""
        logits = self.learner.inside(self.mask_logits(samples).unsqueeze(-1))
        return F.softplus(top_share(logits, self.learner.top))

    def mask_logits(self, samples: Samples) -> Tensor:
        """Logits ``(n, H, W)`` of patches, for samples in the network's :meth:`units`."""
        patches = self.learner.patches(samples[self.mapped], self.support)
        logits: Tensor = self.learner.decoder(*compared(patches, self.memory, self.learner.compared))
        return logits

    @torch.no_grad()
    def heat_map(self, samples: Samples) -> Tensor:
        """Softplus of the mask logits ``(n, H, W)`` at the image's resolution: at least 0, in the scores' unit."""
        return self.learner.to_pixels(F.softplus(self.mask_logits(samples)), samples[self.mapped].shape[-2:])


def compared(patches: Tensor, memory: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Input of a :class:`ChangeDecoder`.

    Args:
        patches: features of patches ``(n, H, W, d)``.
        memory: features of the support's patches ``(m, d)``.
        neighbours: number of nearest patches in the memory.

    Returns:
        Differences to the nearest patches ``(n, H, W, min(neighbours, m), d)``, the nearest first; and the memory's
        spread ``()``, the root of its total variance.
    """
    flat = patches.flatten(0, 2)
    with torch.no_grad():
        places = farness(flat, memory).topk(min(neighbours, len(memory)), dim=1, largest=False).indices
    spread = (memory - memory.mean(0)).square().sum(1).mean().sqrt().clamp_min(LEAST)
    return (flat.unsqueeze(1) - memory[places]).view(*patches.shape[:3], places.shape[1], -1), spread


def top_share(logits: Tensor, share: float) -> Tensor:
    """Mean ``(n,)`` of the highest logits of each image ``(n, H, W)``, at least one.

    Example:
        >>> top_share(torch.tensor([[[1.0, 3.0], [0.0, 2.0]]]), 0.5)
        tensor([2.5000])
    """
    flat = logits.flatten(1)
    return flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.mean(1)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of patches ``()``; 0 without any image.

    Args:
        logits: ``(n, H, W)``.
        targets: ``(n, H, W)`` booleans.
    """
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))

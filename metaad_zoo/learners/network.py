"""Backbone and head, called on an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones import BatchNormPolicy, create_backbone, episodic_batch_norm, statistics_from_first
from metaad_zoo.episodes import ANOMALOUS, Samples, count


class EpisodeNetwork(nn.Module):
    """A backbone with a linear head that gives each sample one logit: the higher, the more anomalous.

    Args:
        backbone: its registered name.
        backbone_options: for the backbone's builder.
        input_shapes: shape of one sample by modality, such as ``{"image": (1, 28, 28)}``; gives an image backbone its
            ``in_channels`` and ``image_size`` where the options do not.
        batch_norm: where batch normalisation takes its statistics from.

    Raises:
        ValueError: the backbone is unknown, refuses an option, or reads a modality that the data does not have.
    """

    def __init__(
        self,
        backbone: str,
        backbone_options: Mapping[str, Any],
        input_shapes: Mapping[str, Sequence[int]],
        batch_norm: BatchNormPolicy,
    ) -> None:
        super().__init__()
        options = dict(backbone_options)
        if "image" in input_shapes:
            channels, height, width = input_shapes["image"]
            options.setdefault("in_channels", channels)
            if height != width:
                raise ValueError(f"backbones read square images, saw {height} x {width} pixels: set data.image_size")
            options.setdefault("image_size", height)
        self.backbone = create_backbone(backbone, **options)
        self.modality = self.backbone.modality
        if self.modality not in input_shapes:
            raise ValueError(
                f"backbone {backbone!r} reads the modality {self.modality!r} but the data has {sorted(input_shapes)}: "
                "choose another backbone (`metaad list --backbones`) or other data"
            )
        episodic_batch_norm(self.backbone, batch_norm)
        self.head = nn.Linear(self.backbone.embedding_dim, 1)

    def forward(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Logits ``(n,)`` of the query, or without one of the support.

        The support always comes along, because batch normalisation may take its statistics from it.
        """
        rows = count(support)
        x = support[self.modality]
        if query is not None:
            x = torch.cat([x, query[self.modality]])
        with statistics_from_first(rows):
            logits: Tensor = self.head(self.backbone(x)).squeeze(1)
        return logits if query is None else logits[rows:]


def anomaly_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over samples; unlabelled samples (-1) count as normal, as most of them are.

    Args:
        logits: ``(n,)``.
        labels: ``(n,)`` of 0, 1 and -1.
    """
    return F.binary_cross_entropy_with_logits(logits, (labels == ANOMALOUS).to(logits.dtype))

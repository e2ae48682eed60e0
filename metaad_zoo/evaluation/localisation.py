"""Agreement of a method's heat maps with the masks of the defects in an episode."""

from __future__ import annotations

import torch
from torch import Tensor

from metaad_zoo.episodes import NORMAL, Adapted, Samples
from metaad_zoo.evaluation.explanation import Mapped, heat_maps
from metaad_zoo.evaluation.pixel_metrics import pixel_metrics


def localisation(adapted: Adapted, query: Samples, labels: Tensor, masks: Tensor) -> dict[str, float]:
    """Pixel metrics of the query's heat maps.

    Args:
        adapted: a method adapted to the episode's support.
        query: raw samples by modality ``(n, ...)``.
        labels: ``(n,)`` of 0 and 1.
        masks: ``(n, H, W)`` bool, at the size of the images. Anomalies whose mask is empty are left out.

    Returns:
        :func:`metaad_zoo.evaluation.pixel_metrics.pixel_metrics`; empty for a method without heat maps, and where no
        sample has a defect with a mask.
    """
    judged = (labels.cpu() == NORMAL) | masks.flatten(1).any(1)
    if not isinstance(adapted, Mapped) or not masks[judged].any() or masks[judged].all():
        return {}
    maps = heat_maps(adapted, adapted.units({name: x[judged.to(x.device)] for name, x in query.items()}))
    return pixel_metrics(maps.to(torch.float32).cpu().numpy(), masks[judged].numpy())

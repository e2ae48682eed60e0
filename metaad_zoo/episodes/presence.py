"""Samples that lack a modality: all of its values are NaN."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from metaad_zoo.episodes.episode import Samples


def present(x: Tensor) -> Tensor:
    """Which samples ``(n, ...)`` of a modality have at least one value: ``(n,)`` bool.

    Example:
        >>> present(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]))
        tensor([ True, False])
    """
    return ~x.isnan().flatten(1).all(1)


def only(samples: Samples, names: Collection[str]) -> dict[str, Tensor]:
    """Samples with NaN in all modalities but these.

    Example:
        >>> only({"image": torch.ones(1, 1, 1, 1), "tabular": torch.ones(1, 2)}, ["tabular"])
        {'image': tensor([[[[nan]]]]), 'tabular': tensor([[1., 1.]])}
    """
    return {name: x if name in names else torch.full_like(x, torch.nan) for name, x in samples.items()}

"""Modality dropout: training episodes that lack some of their modalities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import ChangedPool, Episode, EpisodeSpec, Samples, TaskPool, present


class ModalityDropout(ChangedPool):
    """The tasks of a pool, some of whose episodes keep only a part of their modalities.

    Support and query are compared in the modalities that both have, so what one side lacks is hidden on both. A sample
    that would be left without any value is kept as it is.

    Args:
        pool: the tasks.
        share: probability that an episode is reduced, in [0, 1]; each proper subset of its modalities is equally
            likely.

    Source: Neverova et al., "ModDrop: Adaptive Multi-Modal Gesture Recognition", TPAMI 2016, for whole episodes.
    """

    def __init__(self, pool: TaskPool, share: float) -> None:
        super().__init__(pool)
        self.share = share

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        episode = self.pool.draw(task, spec, rng)
        # Drawn last and always, so that the samples of an episode depend neither on the share nor on the modalities.
        reduced, chosen = rng.random() < self.share, rng.random()
        names = sorted(episode.support)
        if not reduced or len(names) < 2:
            return episode
        subset = 1 + int(chosen * (2 ** len(names) - 2))  # bit i: modality i stays
        lost = [name for i, name in enumerate(names) if not subset >> i & 1]
        return replace(episode, support=without(episode.support, lost), query=without(episode.query, lost))


def without(samples: Samples, lost: list[str]) -> dict[str, Tensor]:
    """Samples in which some modalities are NaN, except for samples that have no others.

    Args:
        samples: samples by modality ``(n, ...)``.
        lost: names of modalities.

    Example:
        >>> without({"image": torch.ones(1, 1, 1, 1), "tabular": torch.ones(1, 2)}, ["image"])
        {'image': tensor([[[[nan]]]]), 'tabular': tensor([[1., 1.]])}
    """
    hidden = torch.stack([present(x) for name, x in samples.items() if name not in lost]).any(0)
    return {
        name: x.masked_fill(hidden.view(-1, *(1,) * (x.ndim - 1)), torch.nan) if name in lost else x
        for name, x in samples.items()
    }

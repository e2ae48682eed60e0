"""A memory of one support set's patches, and what it says of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metaad_zoo.episodes import Samples, SupportScaling
from metaad_zoo.learners.embedding import reads_statistics
from metaad_zoo.learners.network import ScoresRaw
from metaad_zoo.learners.patches import farness, nearest, to_pixels

if TYPE_CHECKING:
    from metaad_zoo.learners.patch_memory import PatchMemory


@dataclass(frozen=True)
class AdaptedMemory(ScoresRaw):
    """A learner with the memory of one support set.

    Attributes:
        learner: tells the patches' features.
        memory: ``(patches, d)``.
        support: scaled; batch normalisation may take its statistics from it.
        scalings: what brings new samples to the support's units.
    """

    learner: PatchMemory
    memory: Tensor
    support: Samples
    scalings: Mapping[str, SupportScaling] = field(default_factory=dict)

    @property
    def mapped(self) -> str:
        """The modality whose pixels :meth:`heat_map` maps."""
        return self.learner.mapped

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the network's :meth:`units`, by which they can be differentiated."""
        patches = self.learner.patches(samples[self.mapped], self.support).flatten(1, 2)
        distances, places = (found.view(patches.shape[:2]) for found in nearest(patches.flatten(0, 1), self.memory))
        if self.learner.top > 0:
            share = max(1, round(self.learner.top * distances.shape[1]))
            return distances.topk(share, dim=1).values.mean(1)
        farthest = distances.argmax(1, keepdim=True)
        patch = patches.take_along_dim(farthest.unsqueeze(-1), 1).squeeze(1)
        return distances.gather(1, farthest).squeeze(1) * self._weight(patch, places.gather(1, farthest).squeeze(1))

    def _weight(self, patch: Tensor, place: Tensor) -> Tensor:
        """PatchCore's equation 7: higher where the nearest patch is itself a rare one."""
        b = min(self.learner.neighbours, len(self.memory))
        if b == 1:
            return torch.ones_like(patch[:, 0])
        around = farness(self.memory[place], self.memory).topk(b, dim=1, largest=False).indices
        to_around = (patch.unsqueeze(1) - self.memory[around]).norm(dim=2)
        own = (patch - self.memory[place]).norm(dim=1)
        return 1 - torch.exp(own - torch.logsumexp(to_around, 1))

    @torch.no_grad()
    def heat_map(self, samples: Samples) -> Tensor:
        """Each pixel's distance to the memory ``(n, H, W)``, of samples in the network's :meth:`units`."""
        patches = self.learner.patches(samples[self.mapped], self.support)
        distances, _ = nearest(patches.flatten(0, 2), self.memory)
        return to_pixels(distances.view(patches.shape[:3]), samples[self.mapped].shape[-2:])

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of whole images in the network's :meth:`units`; without any, of the
        support."""
        network = self.learner.network
        with torch.autocast(self.learner.device.type, enabled=False):
            if samples is not None and not reads_statistics(network):
                return network.embed(samples)
            return network.embed(self.support, samples)

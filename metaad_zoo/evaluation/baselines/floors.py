"""Trivial baselines, which learn nothing: the floors to compare figures with."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from metaad_zoo.episodes import Samples, count
from metaad_zoo.evaluation.baselines.registry import register_baseline


@register_baseline("flag_everything")
class FlagEverything:
    """Calls every sample anomalous: the floor of the F1 score."""

    fixed_threshold = -math.inf

    def adapt(self, support: Samples, support_labels: Tensor) -> FlagEverything:
        """Nothing to learn."""
        return self

    def score(self, samples: Samples) -> Tensor:
        """Zeros ``(n,)``: all samples get the same score."""
        return torch.zeros(count(samples))


@register_baseline("random")
class RandomScores:
    """Scores between 0 and 1 by a hash of the sample: performance by chance.

    The same sample has the same score in any batch, any episode and on any machine.

    Args:
        seed: seed of the hash.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def adapt(self, support: Samples, support_labels: Tensor) -> RandomScores:
        """Nothing to learn."""
        return self

    def score(self, samples: Samples) -> Tensor:
        """Uniform in [0, 1), ``(n,)``."""
        arrays = [samples[name].cpu().float().contiguous().numpy().astype("<f4") for name in sorted(samples)]
        scores = [self._uniform([x[i].tobytes() for x in arrays]) for i in range(count(samples))]
        return torch.tensor(scores, dtype=torch.float64)

    def _uniform(self, content: list[bytes]) -> float:
        digest = hashlib.sha256(b"".join([str(self.seed).encode(), *content])).digest()
        return (int.from_bytes(digest[:8], "little") >> 11) / 2**53

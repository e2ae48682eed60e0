"""Classical methods behind the same two calls, ``adapt`` and ``score``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, Samples, count


def flatten(samples: Samples) -> Tensor:
    """All modalities side by side as raw numbers ``(n, features)``, in the modalities' alphabetical order."""
    count(samples)
    return torch.cat([samples[name].flatten(1).double() for name in sorted(samples)], dim=1)


class NearestNeighbour:
    """Distance to the nearest support sample that is not known to be anomalous, on raw inputs.

    Source: Ramaswamy et al., "Efficient Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000, with k = 1.

    Args:
        standardise: bring each sample to mean 0 and standard deviation 1 over its own features first, which takes out
            brightness and contrast.
    """

    def __init__(self, standardise: bool = False) -> None:
        self.standardise = standardise

    def _features(self, samples: Samples) -> Tensor:
        x = flatten(samples)
        if self.standardise:
            spread, mean = torch.std_mean(x, dim=1, correction=0, keepdim=True)
            x = (x - mean) / spread.clamp_min(1e-12)
        return x

    def adapt(self, support: Samples, support_labels: Tensor) -> _NearestNeighbourScorer:
        """Keep the support samples whose label is 0 or -1.

        Raises:
            ValueError: there is none.
        """
        kept = self._features(support)[support_labels != ANOMALOUS]
        if len(kept) == 0:
            raise ValueError(
                "nearest neighbour needs a support sample that is normal or unlabelled, saw anomalies only"
            )
        return _NearestNeighbourScorer(self, kept)


class _NearestNeighbourScorer:
    def __init__(self, method: NearestNeighbour, kept: Tensor) -> None:
        self._method, self._kept = method, kept

    def score(self, samples: Samples) -> Tensor:
        """Euclidean distance to the nearest kept sample, ``(n,)``."""
        return torch.cdist(self._method._features(samples), self._kept).amin(1)


class FlagEverything:
    """Calls every sample anomalous: the floor that an F1 has to be read against."""

    fixed_threshold = -math.inf

    def adapt(self, support: Samples, support_labels: Tensor) -> FlagEverything:
        """Nothing to learn."""
        return self

    def score(self, samples: Samples) -> Tensor:
        """Zeros ``(n,)``: all samples are alike."""
        return torch.zeros(count(samples))

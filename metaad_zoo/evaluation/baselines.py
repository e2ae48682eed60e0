"""Classical methods behind the same two calls, ``adapt`` and ``score``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, USUAL_SCALING, Samples, SupportScaling, count


def flatten(samples: Samples) -> Tensor:
    """All modalities side by side as raw numbers ``(n, features)``, in the modalities' alphabetical order; NaN as 0."""
    count(samples)
    return torch.cat([samples[name].flatten(1).double().nan_to_num(0.0) for name in sorted(samples)], dim=1)


class NearestNeighbour:
    """Distance to the nearest support sample that is not known to be anomalous, on raw inputs.

    Source: Ramaswamy et al., "Efficient Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000, with k = 1.

    Args:
        standardise: ``"sample"``: bring each sample to mean 0 and standard deviation 1 over its own features first,
            which takes out brightness and contrast; ``"support"``: scale each column or channel as our own learners do
            (:class:`metaad_zoo.episodes.SupportScaling`), images by all support pixels together, and let each modality
            weigh the same; ``"none"``.

    Missing values count as the support's centre, or 0 where nothing is scaled.
    """

    def __init__(self, standardise: Literal["none", "sample", "support"] = "none") -> None:
        self.standardise = standardise

    def _features(self, samples: Samples, scalings: Mapping[str, SupportScaling]) -> Tensor:
        x = flatten({m: _equally_weighted(scalings[m].apply(x)) if m in scalings else x for m, x in samples.items()})
        if self.standardise == "sample":
            spread, mean = torch.std_mean(x, dim=1, correction=0, keepdim=True)
            x = (x - mean) / spread.clamp_min(1e-12)
        return x

    def adapt(self, support: Samples, support_labels: Tensor) -> _NearestNeighbourScorer:
        """Keep the support samples whose label is 0 or -1.

        Raises:
            ValueError: there is none.
        """
        scalings = {}
        if self.standardise == "support":
            scalings = {m: _scaling(m, x) for m, x in support.items()}
        kept = self._features(support, scalings)[support_labels != ANOMALOUS]
        if len(kept) == 0:
            raise ValueError(
                "nearest neighbour needs a support sample that is normal or unlabelled, saw anomalies only"
            )
        return _NearestNeighbourScorer(self, kept, scalings)


def _scaling(modality: str, support: Tensor) -> SupportScaling:
    if modality == "image":
        return SupportScaling.fit(support.flatten(1).unsqueeze(-1), "standard")
    return SupportScaling.fit(support, USUAL_SCALING[modality])


def _equally_weighted(x: Tensor) -> Tensor:
    """A modality of many numbers must not drown one of few."""
    return x / math.sqrt(x[0].numel())


class _NearestNeighbourScorer:
    def __init__(self, method: NearestNeighbour, kept: Tensor, scalings: Mapping[str, SupportScaling]) -> None:
        self._method, self._kept, self._scalings = method, kept, scalings

    def score(self, samples: Samples) -> Tensor:
        """Euclidean distance to the nearest kept sample, ``(n,)``."""
        return torch.cdist(self._method._features(samples, self._scalings), self._kept).amin(1)


class FlagEverything:
    """Calls every sample anomalous: the floor that an F1 has to be read against."""

    fixed_threshold = -math.inf

    def adapt(self, support: Samples, support_labels: Tensor) -> FlagEverything:
        """Nothing to learn."""
        return self

    def score(self, samples: Samples) -> Tensor:
        """Zeros ``(n,)``: all samples are alike."""
        return torch.zeros(count(samples))

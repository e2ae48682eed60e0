"""The two calls that every method of this package answers, meta-learned or classical."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from metaad_zoo.episodes.episode import Samples


class Adapted(Protocol):
    """A method after it has read a support set: a scorer for one domain."""

    def score(self, samples: Samples) -> Tensor:
        """Anomaly scores ``(n,)`` of samples with a leading axis n; higher is more anomalous."""
        ...


class Method(Protocol):
    """Anything that adapts to a support set: MAML, prototypes, an isolation forest."""

    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Adapt to ``support`` (leading axis n) with labels ``(n,)``: 0 normal, 1 anomalous, -1 unlabelled."""
        ...

"""Interface of every anomaly-detection method of this package, meta-learned or classical: ``adapt`` and ``score``."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from metaad_zoo.episodes.episode import Samples


class Adapted(Protocol):
    """A method adapted to a support set: it scores samples of one domain."""

    def score(self, samples: Samples) -> Tensor:
        """Anomaly scores ``(n,)`` of samples with a leading axis n; higher is more anomalous."""
        ...


class Method(Protocol):
    """Anything that adapts to a support set: MAML, prototypes, an isolation forest.

    A method whose class has the attribute ``reads_unlabelled = True`` weighs unlabelled support samples by how normal
    they look; any other takes them as normal. It may have a method ``expecting(contamination)``, which returns the
    method for a known share of anomalies among these samples.
    """

    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Adapt to ``support`` (leading axis n) with labels ``(n,)``: 0 normal, 1 anomalous, -1 unlabelled."""
        ...

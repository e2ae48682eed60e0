"""Realised rates of decisions: what share of normal samples is flagged, and of anomalies, at each rate aimed at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from metaad_zoo.evaluation.decisions import AcrossTasks, Calibrator, WithinTask
from metaad_zoo.evaluation.protocol import ROUNDING
from metaad_zoo.evaluation.scores import Scored

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


class RealisedRates:
    """Collects p-values, as a :data:`metaad_zoo.evaluation.scores.Record`, into the rates that decisions have.

    Args:
        alphas: false-alarm rates to aim at.
    """

    def __init__(self, alphas: tuple[float, ...] = ALPHAS) -> None:
        self.alphas = alphas
        self._found: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))

    def __call__(self, row: Scored) -> None:
        if row.p is None:
            return
        flagged = row.p.numpy()[:, None] <= np.array(self.alphas) + ROUNDING
        labels = row.labels.cpu().numpy()
        rates = np.stack([flagged[labels == label].mean(0) for label in (0, 1)])
        self._found[row.method][row.task].append(rates)

    def table(self, calibrators: Mapping[str, Calibrator], shots: int) -> dict[str, Any] | None:
        """The ``calibration`` part of ``results.json``.

        Args:
            calibrators: by method; methods whose calibrator promises nothing are left out, and so are the rates that
                one of the others can't promise.
            shots: normal support samples.

        Returns:
            ``alphas``, and by method ``fpr`` and ``power`` at each: means over tasks of the means over their episodes,
            of the share of normal and of anomalous queries that are flagged. None where nothing can be promised.
        """
        least = {name: promised for name, c in calibrators.items() if (promised := least_rate(c, shots)) is not None}
        kept = [i for i, alpha in enumerate(self.alphas) if least and alpha + ROUNDING >= max(least.values())]
        if not kept:
            return None
        lines = {}
        for name in least:
            fpr, power = np.mean([np.mean(rates, 0) for rates in self._found[name].values()], 0)
            lines[name] = {"fpr": fpr[kept].tolist(), "power": power[kept].tolist()}
        return {"alphas": [self.alphas[i] for i in kept], "methods": lines}


def least_rate(calibrator: Calibrator, shots: int) -> float | None:
    """The lowest false-alarm rate that a calibrator can promise: one over one more than its calibration scores.

    Args:
        calibrator: any; None is returned for one that promises nothing.
        shots: normal support samples, by which one within the task is calibrated.
    """
    if isinstance(calibrator, AcrossTasks):
        return 1 / (len(calibrator.normal) + 1)
    return 1 / (shots + 1) if isinstance(calibrator, WithinTask) else None

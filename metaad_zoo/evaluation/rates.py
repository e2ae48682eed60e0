"""Realised rates of decisions: shares of normal and of anomalous samples that are flagged, at each nominal rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from metaad_zoo.evaluation.calibration import ROUNDING, can_hold
from metaad_zoo.evaluation.decisions import AcrossTasks, Calibrator, WithinTask
from metaad_zoo.evaluation.scores import Scored

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


class RealisedRates:
    """A :data:`metaad_zoo.evaluation.scores.Record` that computes realised rates from p-values.

    Args:
        alphas: false-alarm rates to aim at.
    """

    def __init__(self, alphas: tuple[float, ...] = ALPHAS) -> None:
        self.alphas = alphas
        self._rates: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))

    def __call__(self, row: Scored) -> None:
        if row.p is None:
            return
        flagged = row.p.numpy()[:, None] <= np.array(self.alphas) + ROUNDING
        labels = row.labels.cpu().numpy()
        rates = np.stack([flagged[labels == label].mean(0) for label in (0, 1)])
        self._rates[row.method][row.task].append(rates)

    def table(self, calibrators: Mapping[str, Calibrator], shots: int) -> dict[str, Any] | None:
        """The ``calibration`` part of ``results.json``.

        Args:
            calibrators: calibrator of each method; methods whose calibrator has no guarantee are left out, and so are
                rates below what any of the remaining calibrators can hold.
            shots: number of normal support samples.

        Returns:
            ``alphas``, and by method ``fpr`` and ``power`` at each: share of normal and of anomalous queries that are
            flagged, the mean over tasks of the mean over episodes. None where no rate can be held.
        """
        sizes = {name: n for name, c in calibrators.items() if (n := calibration_size(c, shots)) is not None}
        indices = [i for i, alpha in enumerate(self.alphas) if sizes and can_hold(alpha, min(sizes.values()))]
        if not indices:
            return None
        lines = {}
        for name in sizes:
            fpr, power = np.mean([np.mean(rates, 0) for rates in self._rates[name].values()], 0)
            lines[name] = {"fpr": fpr[indices].tolist(), "power": power[indices].tolist()}
        return {"alphas": [self.alphas[i] for i in indices], "methods": lines}


def calibration_size(calibrator: Calibrator, shots: int) -> int | None:
    """Number of a calibrator's calibration scores; None if it has no guarantee.

    Args:
        calibrator: any calibrator.
        shots: number of normal support samples, the calibration scores within a task.
    """
    if isinstance(calibrator, AcrossTasks):
        return len(calibrator.normal)
    return shots if isinstance(calibrator, WithinTask) else None

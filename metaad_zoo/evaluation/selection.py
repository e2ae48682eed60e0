"""Selection of anomalies with a bound on the false discovery rate, by the Benjamini-Hochberg procedure on p-values.

The false discovery rate is the expected share of normal samples among those that are selected; a rate of false alarms
(``alpha``) is a share of all normal samples. Where few of many samples are anomalous, most alarms at ``alpha = 0.1``
are false, while at most a tenth of those selected at ``fdr = 0.1`` are, on average.

Conditions: the p-values of normal samples are valid, and they are positively dependent on each other (PRDS). Conformal
p-values that compare all samples with the same calibration scores, exchangeable with the normal samples, fulfil both
(Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 2023, theorem 2; Benjamini and
Yekutieli, Annals of Statistics 2001). What an inexact calibration loses, the selection loses too.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sized
from typing import Any

import numpy as np

from metaad_zoo.evaluation.calibration import ROUNDING, can_hold
from metaad_zoo.evaluation.decisions import Calibrate

__all__ = ["SelectsAnomalies", "require_selectable", "selected", "too_few_scores"]

USUAL_FDR = 0.1


def selected(p_values: np.ndarray, fdr: float) -> np.ndarray:
    """Samples that Benjamini-Hochberg selects: the ``k`` smallest p-values, with the largest ``k`` for which the
    ``k``-th is at most ``k * fdr / n``.

    Args:
        p_values: ``(n,)``, of all samples that are judged together.
        fdr: bound on the false discovery rate, in (0, 1).

    Returns:
        ``(n,)`` booleans.

    Example:
        >>> selected(np.array([0.01, 0.5, 0.04, 0.9]), 0.1)
        array([ True, False,  True, False])
    """
    if not len(p_values):
        return np.zeros(0, dtype=bool)
    from scipy.stats import false_discovery_control  # not for those who adapt and score alone

    adjusted: np.ndarray = false_discovery_control(p_values, method="bh")
    return adjusted <= fdr + ROUNDING


def require_selectable(fdr: float, scores: int) -> None:
    """Refuse a bound under which nothing can ever be selected.

    Args:
        fdr: bound on the false discovery rate.
        scores: number ``m`` of calibration scores; no p-value is below ``1 / (m + 1)``.

    Raises:
        ValueError: ``fdr`` is outside (0, 1) or below ``1 / (m + 1)``.
    """
    if not 0 < fdr < 1:
        raise ValueError(f"fdr is {fdr}; expected a share of false discoveries between 0 and 1, such as {USUAL_FDR}")
    if not can_hold(fdr, scores):
        raise ValueError(
            f"with {scores} calibration scores no p-value is below 1/{scores + 1}, and nothing can be selected at "
            f"fdr={fdr}: take fdr >= 1/{scores + 1}, or {math.ceil(1 / fdr - ROUNDING) - 1} calibration scores or more"
        )


def too_few_scores(p_values: np.ndarray, fdr: float, scores: int) -> str | None:
    """Why nothing is selected although some samples score above all ``scores`` calibration scores; else None.

    Example:
        >>> too_few_scores(np.array([0.1, 0.1, *[0.5] * 98]), 0.2, 9).partition(": ")[2]
        'with 9 calibration scores the smallest p-value is 1/10, which 50 of 100 samples would have to reach, and 2 do'
    """
    highest = int((p_values <= 1 / (scores + 1) + ROUNDING).sum())
    if not highest or selected(p_values, fdr).any():
        return None
    n = len(p_values)
    least = math.ceil(n / (fdr * (scores + 1)) - ROUNDING)
    return (
        f"nothing is selected at fdr={fdr}: with {scores} calibration scores the smallest p-value is 1/{scores + 1}, "
        f"which {least} of {n} samples would have to reach, and {highest} do"
    )


class SelectsAnomalies(ABC):
    """Selection of anomalies by a detector that gives p-values."""

    @abstractmethod
    def p_value(
        self, samples: Any, calibrate: Calibrate | None = None, contamination: float | None = None
    ) -> np.ndarray:
        """Conformal p-values ``(n,)``."""

    @abstractmethod
    def normal_scores(self, calibrate: Calibrate | None = None, contamination: float | None = None) -> Sized:
        """Calibration scores ``(m,)``."""

    def select(
        self,
        samples: Any,
        fdr: float = USUAL_FDR,
        calibrate: Calibrate | None = None,
        contamination: float | None = None,
    ) -> np.ndarray:
        """Selected samples ``(n,)``: 1, selected as anomalous, else 0, by Benjamini-Hochberg on the p-values.

        Among the selected samples, the expected share of normal ones is at most ``fdr`` where the p-values are valid
        and positively dependent (PRDS). Conformal p-values of samples that are exchangeable with one set of calibration
        scores are both (Bates et al., Annals of Statistics 2023). ``"across"`` fulfils this only on average over
        tasks, ``"within"`` approximately, and ``"contamination"`` not at all; see :meth:`p_value`.

        All samples are judged together, so that a sample may be selected among some samples and not among others. With
        ``m`` calibration scores no p-value is below ``1 / (m + 1)``: at least ``n / (fdr * (m + 1))`` samples must
        score above all of these before any is selected. A warning says where this prevents a selection.

        Args:
            samples: samples, in any of the forms that :meth:`metaad_zoo.Detector.fit` reads.
            fdr: bound on the false discovery rate, in (0, 1).
            calibrate: see :meth:`p_value`.
            contamination: see :meth:`p_value`.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: ``fdr`` is outside (0, 1) or below ``1 / (m + 1)``; see :meth:`p_value`.
        """
        scores = len(self.normal_scores(calibrate, contamination))
        require_selectable(fdr, scores)
        p = self.p_value(samples, calibrate, contamination)
        if reason := too_few_scores(p, fdr, scores):
            warnings.warn(reason, UserWarning, stacklevel=2)
        return selected(p, fdr).astype(np.int64)

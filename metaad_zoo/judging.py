"""From a detector's scores to p-values and decisions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.evaluation.calibration import threshold
from metaad_zoo.evaluation.decisions import ROUNDING, USUAL_ALPHA, Calibrate, SupportDecisions


class Judge(ABC):
    """What scores samples of a domain and knows how normal samples score."""

    @abstractmethod
    def score(self, samples: Any, leave_one_out: bool = False) -> np.ndarray:
        """Anomaly scores ``(n,)`` float64: high: anomalous; ``leave_one_out``: of support samples as of new ones."""

    @abstractmethod
    def _as_fitted(self) -> Judge:
        """This as it is fitted now; a later fit, by whatever thread, does not change it."""

    @abstractmethod
    def _decisions(self) -> SupportDecisions:
        """Of the support set."""

    @property
    @abstractmethod
    def calibration(self) -> Tensor:
        """Scores of normal samples of the validation tasks with supports of this size, ``(m,)``, ascending."""

    def p_value(self, samples: Any, calibrate: Calibrate = "across", contamination: float | None = None) -> np.ndarray:
        """Conformal p-values ``(n,)``: small is anomalous.

        Args:
            samples: what to judge.
            calibrate: which scores stand for normal ones. ``"across"``: those of the validation tasks, which hold on
                average over tasks like these and for supports of the sizes calibrated for; ``"within"``: the support's
                own, each left out once, never below ``1 / (K + 1)``; ``"contamination"``: the support's own, left out
                in turn, without the highest share; support samples among ``samples`` are then judged by these scores.
                Where each promise ends: :mod:`metaad_zoo.evaluation.decisions`.
            contamination: that share, expected to be anomalous; for ``"contamination"`` alone.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: samples can't be used, or the way to calibrate does not suit the support set.
        """
        fit = self._as_fitted()
        way = fit._decisions()
        way.compared_with(calibrate, contamination)
        scores = fit.score(samples, calibrate == "contamination")
        return way.p_values(torch.as_tensor(scores), calibrate, contamination).numpy()

    def predict(
        self,
        samples: Any,
        alpha: float | None = None,
        calibrate: Calibrate = "across",
        contamination: float | None = None,
    ) -> np.ndarray:
        """Decisions ``(n,)`` of 0 and 1, 1 for an anomaly: where the p-value is at most ``alpha``.

        Args:
            samples: what to judge.
            alpha: false-alarm rate to hold, see :meth:`p_value`; None: 0.1, but for ``"contamination"`` what lies above
                the support's scores without the highest share is flagged, as in PyOD.
            calibrate: see :meth:`p_value`.
            contamination: see :meth:`p_value`.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: alpha is out of (0, 1) or below what the calibration scores can promise; see :meth:`p_value`.
        """
        return self.judge(samples, alpha, calibrate, contamination)[2]

    def judge(
        self,
        samples: Any,
        alpha: float | None = None,
        calibrate: Calibrate = "across",
        contamination: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, p-values and decisions in one pass; arguments and errors as for :meth:`predict`."""
        fit = self._as_fitted()
        fit._decisions().rate_to_hold(alpha, calibrate, contamination)
        scores = fit.score(samples, calibrate == "contamination")
        return scores, *fit.decide(scores, alpha, calibrate, contamination)

    def decide(
        self,
        scores: np.ndarray,
        alpha: float | None = None,
        calibrate: Calibrate = "across",
        contamination: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """p-values and decisions of scores ``(n,)`` that :meth:`score` gave; the rest as for :meth:`predict`."""
        way = self._decisions()
        rate = way.rate_to_hold(alpha, calibrate, contamination)
        p = way.p_values(torch.as_tensor(scores), calibrate, contamination).numpy()
        return p, (p <= rate + ROUNDING).astype(np.int64)

    def normal_scores(self, calibrate: Calibrate = "across", contamination: float | None = None) -> Tensor:
        """The scores ``(m,)``, ascending, that :meth:`p_value` compares with; arguments and errors as there."""
        return self._decisions().compared_with(calibrate, contamination)

    def threshold(self, alpha: float = USUAL_ALPHA, calibrate: Calibrate = "across") -> float:
        """The score above which :meth:`predict` calls a sample anomalous.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: as for :meth:`predict`.
        """
        compared = self.normal_scores(calibrate)
        n, limit = len(compared), threshold(compared, alpha)
        if math.isinf(limit):
            raise ValueError(f"{n} calibration scores can't promise {alpha} false alarms: take alpha >= 1/{n + 1}")
        return limit

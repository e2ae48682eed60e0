"""Decisions on the scores of series in the order of time, by a fixed threshold or one that follows the series."""

from __future__ import annotations

import numpy as np

from metaad_zoo.detector import Detector
from metaad_zoo.evaluation.adaptive import AdaptiveDecisions, AdaptiveThreshold
from metaad_zoo.evaluation.calibration import threshold
from metaad_zoo.evaluation.decisions import Calibrate


class SeriesDecisions:
    """Decides on the scores of series, each from its start.

    Args:
        detector: fitted detector.
        alpha: false-alarm rate; None: as for :meth:`metaad_zoo.Detector.predict`.
        calibrate: calibration scores, see :meth:`metaad_zoo.Detector.p_value`.
        contamination: expected share of anomalies in the support.
        adaptive: whether the threshold follows the series
            (:class:`metaad_zoo.evaluation.adaptive.AdaptiveThreshold`), starting from the calibration scores.
        points: whether scores are those of points; else of whole windows, one behind the other.

    Raises:
        RuntimeError, ValueError: the detector can't decide; see :meth:`metaad_zoo.Detector.predict`.
    """

    def __init__(
        self,
        detector: Detector,
        alpha: float | None,
        calibrate: Calibrate | None,
        contamination: float | None,
        adaptive: bool,
        points: bool,
    ) -> None:
        self.adaptive, self._points = adaptive, points
        rate, self.way = detector.way_to_decide(alpha, calibrate, contamination)
        self._detector, self._how = detector, (rate, self.way, contamination)
        self._normal = detector.normal_scores(self.way, contamination)
        self._series: str | None = None
        self._threshold = threshold(self._normal, rate)

    @property
    def alpha(self) -> float:
        """The false-alarm rate that is aimed at."""
        return self._how[0]

    def decide(self, series: str, scores: np.ndarray) -> AdaptiveDecisions:
        """Decisions of the next scores ``(n,)`` of a series; NaN is not flagged.

        Args:
            series: name of the series; another name than before begins another one.
            scores: its next scores.
        """
        if self.adaptive:
            if series != self._series:
                start = AdaptiveThreshold if self._points else AdaptiveThreshold.of_windows
                self._series, self._following = series, start(self._normal.numpy(), self.alpha)
            return self._following.decide(scores)
        valued = ~np.isnan(scores)
        p, flagged = np.full(len(scores), np.nan), np.zeros(len(scores), bool)
        p[valued], flagged[valued] = self._detector.decide(scores[valued], *self._how)
        return AdaptiveDecisions(p, flagged, np.full(len(scores), self._threshold))

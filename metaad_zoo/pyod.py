"""PyOD interface: a meta-trained model as a PyOD detector; PyOD itself is not needed."""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import numpy as np
from scipy.special import erf
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from metaad_zoo.detector import Detector
from metaad_zoo.episodes import UNLABELLED
from metaad_zoo.registry import unknown_name
from metaad_zoo.sklearn import FewShotOutlierDetector, support_labels

__all__ = ["FewShotDetector"]

METHODS = ("linear", "unify")


class FewShotDetector(BaseEstimator):
    """Adapts a meta-trained model to the samples it is fitted on; has the interface of PyOD's ``BaseDetector``.

    High scores are abnormal, labels are 0 for inliers and 1 for outliers, and ``contamination`` of the training samples
    lie above the threshold.

    Source: Zhao et al., "PyOD: A Python Toolbox for Scalable Outlier Detection", JMLR 2019.

    Args:
        checkpoint: see :class:`metaad_zoo.sklearn.FewShotOutlierDetector`, which this class wraps.
        contamination: share of anomalies among the training samples, in (0, 0.5].
        precision: ``"float64"`` or ``"float32"``.
        device: torch device, such as ``"cpu"`` or ``"cuda"``.

    Attributes:
        decision_scores_: leave-one-out scores ``(n,)`` of the training samples; known anomalies are scored as new ones.
        threshold_: ``1 - contamination`` quantile of ``decision_scores_``, or of those of the unlabelled samples.
        labels_: decisions ``(n,)`` of 0 and 1 for the training samples.

    Example:
        >>> from metaad_zoo.learners import GradientLearner
        >>> from metaad_zoo.zoo import Checkpoint
        >>> learner = GradientLearner("columns", {"width": 8}, {"tabular": (-1,)})
        >>> rows = np.random.default_rng(0).normal(size=(20, 3))
        >>> int(FewShotDetector(Detector(Checkpoint(learner, [], {})), contamination=0.1).fit(rows).labels_.sum())
        2
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | Detector | None = None,
        contamination: float = 0.1,
        *,
        precision: Literal["float32", "float64"] = "float64",
        device: str = "cpu",
    ) -> None:
        self.checkpoint = checkpoint
        self.contamination = contamination
        self.precision = precision
        self.device = device

    def fit(self, X: Any, y: Any = None) -> FewShotDetector:  # noqa: N803
        """Adapt to samples.

        Args:
            X: training samples.
            y: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled, where both normal and unlabelled samples are among
                them: ``contamination`` is then that of the unlabelled samples. Any other ``y`` is ignored, as in PyOD.

        Raises:
            ValueError: a parameter or the samples can't be used.
        """
        if self.contamination == "auto":
            raise ValueError("contamination is 'auto'; PyOD's face expects a share in (0, 0.5]")
        self.detector_ = FewShotOutlierDetector(
            self.checkpoint, contamination=self.contamination, precision=self.precision, device=self.device
        ).fit(X, y)
        self.decision_scores_ = self.decision_function(X)
        labels = support_labels(y, len(self.decision_scores_))
        unlabelled = self.decision_scores_ if labels is None else self.decision_scores_[labels == UNLABELLED]
        self.threshold_ = float(np.percentile(unlabelled, 100 * (1 - self.contamination)))
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Anomaly scores ``(n,)``: the higher, the more abnormal."""
        check_is_fitted(self, "detector_")
        return -self.detector_.score_samples(X)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """1 for outliers, 0 for inliers, ``(n,)``: where the score is above ``threshold_``."""
        return (self.decision_function(X) > self.threshold_).astype(int)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: N803
        """Fit and return ``labels_``."""
        return self.fit(X, y).labels_

    def predict_proba(self, X: Any, method: Literal["linear", "unify"] = "linear") -> np.ndarray:  # noqa: N803
        """Scores scaled to [0, 1], ``(n, 2)``: normal, abnormal.

        These are not calibrated probabilities: for guaranteed rates see :meth:`metaad_zoo.Detector.p_value`.

        Args:
            X: samples.
            method: ``"linear"``: from the smallest to the largest training score; ``"unify"``: the error function of
                the standardised score (Kriegel et al., "Interpreting and Unifying Outlier Scores", SDM 2011).

        Raises:
            ValueError: the method is unknown.
        """
        if method not in METHODS:
            raise unknown_name("method of predict_proba:", method, METHODS)
        scores, training_scores = self.decision_function(X), self.decision_scores_
        if method == "linear":
            low, high = training_scores.min(), training_scores.max()
            abnormal = (scores - low) / (high - low if high > low else 1.0)
        else:
            spread = training_scores.std()
            abnormal = erf((scores - training_scores.mean()) / ((spread if spread > 0 else 1.0) * math.sqrt(2)))
        abnormal = abnormal.clip(0, 1)
        return np.stack([1 - abnormal, abnormal], 1)

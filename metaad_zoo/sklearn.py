"""scikit-learn interface: a meta-trained model as an outlier detector."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from metaad_zoo.backbones import ANY
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED
from metaad_zoo.modality import TabularModality, get_modality

__all__ = ["FewShotOutlierDetector"]

Contamination = float | Literal["auto"]
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


class FewShotOutlierDetector(OutlierMixin, BaseEstimator):
    """Adapts a meta-trained model to the samples it is fitted on; works in ``Pipeline`` and ``GridSearchCV``.

    As everywhere in scikit-learn, and unlike in the rest of this package, low scores are abnormal and a prediction is
    +1 for an inlier, -1 for an outlier.

    Args:
        checkpoint: name or folder for :func:`metaad_zoo.load_detector`, or a loaded :class:`metaad_zoo.Detector`, which
            is copied. Models of several modalities are refused. None: the default detector of tables.
        contamination: expected share of anomalies in (0, 0.5]: the training samples are unlabelled, and this share of
            them lies below the threshold. A training sample, also in later calls, has its leave-one-out score.
            ``"auto"``: the training samples, or those that :meth:`fit` is told to be, are known to be normal, and the
            threshold is the model's conformal one for ``alpha``.
        alpha: false-alarm rate to hold with ``contamination="auto"``; see :meth:`metaad_zoo.Detector.predict`.
        precision: ``"float64"``, in which rounding does not make a score depend on the rest of its batch, or
            ``"float32"``, which is faster.
        device: torch device, such as ``"cpu"`` or ``"cuda"``.

    Attributes:
        detector_: the adapted :class:`metaad_zoo.Detector`.
        offset_: ``decision_function = score_samples - offset_``.
        n_features_in_: length of the input's second axis.
        feature_names_in_: names of the columns, if the input has any.

    Input:
        Tables ``(n, D)``, NaN where a value is missing. For models of images and sequences arrays with the model's own
        axes, as :meth:`metaad_zoo.Detector.fit` takes them, or flattened to ``(n, features)`` in C order, which is what
        scikit-learn's own steps hand on; images without NaN.

    Example:
        >>> from metaad_zoo.learners import GradientLearner
        >>> from metaad_zoo.zoo import Checkpoint
        >>> learner = GradientLearner("columns", {"width": 8}, {"tabular": (-1,)})
        >>> model = Detector(Checkpoint(learner, [], {}))
        >>> rows = np.random.default_rng(0).normal(size=(20, 3))
        >>> FewShotOutlierDetector(model).fit_predict(rows).tolist().count(-1)
        2
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | Detector | None = None,
        *,
        contamination: Contamination = 0.1,
        alpha: float = 0.1,
        precision: Literal["float32", "float64"] = "float64",
        device: str = "cpu",
    ) -> None:
        self.checkpoint = checkpoint
        self.contamination = contamination
        self.alpha = alpha
        self.precision = precision
        self.device = device

    def fit(self, X: Any, y: Any = None) -> FewShotOutlierDetector:  # noqa: N803
        """Adapt to samples.

        Args:
            X: training samples, see the class.
            y: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled, where both normal and unlabelled samples are among
                them: ``contamination`` is then the share of anomalies among the unlabelled samples, which sets the
                threshold and is not told to the method. Any other ``y`` is ignored, as outlier detectors do: 1 and -1
                alone are scikit-learn's true classes, and 0 and 1 alone may be those of any classifier; for known
                anomalies without unlabelled samples use :meth:`metaad_zoo.Detector.fit`.

        Raises:
            ValueError: a parameter or the samples can't be used.
            CheckpointError: the checkpoint can't be read.
            RuntimeError: ``contamination="auto"``, but the checkpoint is calibrated for larger supports alone.
        """
        self._check_parameters()
        detector = self._model()
        samples = self._samples(X, detector.input_shapes, reset=True)
        labels = support_labels(y, len(samples))
        if labels is None:
            detector.fit(samples, np.full(len(samples), NORMAL if self.contamination == "auto" else UNLABELLED))
            unlabelled = samples
        else:
            known, unlabelled = samples[labels != UNLABELLED], samples[labels == UNLABELLED]
            detector.fit(known, labels[labels != UNLABELLED], unlabelled)
        if self.contamination == "auto":
            offset = -detector.threshold(self.alpha)
        elif labels is None:  # all samples have leave-one-out scores, and no other scores are needed
            own_scores = detector.normal_scores("contamination", 0.0).numpy()
            offset = float(np.percentile(-own_scores, 100 * self.contamination))
        else:
            offset = float(np.percentile(-detector.score(unlabelled, leave_one_out=True), 100 * self.contamination))
        self.detector_, self.offset_, self._leave_one_out = detector, offset, self.contamination != "auto"
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:  # noqa: N803
        """Fit, and return the predictions for the training samples; arguments and errors as for :meth:`fit`."""
        return self.fit(X, y).predict(X)

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Negated anomaly scores ``(n,)``: lower is more abnormal; for training samples see ``contamination``."""
        check_is_fitted(self)
        samples = self._samples(X, self.detector_.input_shapes, reset=False)
        return -self.detector_.score(samples, self._leave_one_out)

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Scores ``(n,)`` relative to the threshold: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """+1 for inliers, -1 for outliers, ``(n,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _check_parameters(self) -> None:
        share = self.contamination
        if share != "auto" and not (isinstance(share, Real) and 0 < share <= 0.5):
            raise ValueError(f"contamination is {share!r}; expected 'auto' or a share in (0, 0.5]")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")

    def _model(self) -> Detector:
        if isinstance(self.checkpoint, Detector):
            model = copy.deepcopy(self.checkpoint)
        else:
            model = load_detector(TabularModality.name if self.checkpoint is None else os.fspath(self.checkpoint))
        if len(model.input_shapes) > 1:
            raise ValueError(
                f"this checkpoint reads {sorted(model.input_shapes)}, which one array can't hold: use "
                "metaad_zoo.load_detector and Detector.fit"
            )
        return model.to(self.device).to(PRECISIONS[self.precision])

    def _samples(self, x: Any, input_shapes: dict[str, Sequence[int]], reset: bool) -> np.ndarray:
        ((name, shape),) = input_shapes.items()
        modality, several_axes = get_modality(name), len(shape) > 1
        array: np.ndarray = validate_data(
            self,
            x,
            reset=reset,
            dtype=np.float32 if modality.value_range is None else "numeric",  # whole numbers are scaled into the range
            ensure_all_finite="allow-nan" if modality.missing else True,
            allow_nd=several_axes,
        )
        flat = array.ndim == 2 and several_axes
        return array.reshape(len(array), *unflattened(array.shape[1], shape)) if flat else array

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def support_labels(y: Any, n: int) -> np.ndarray | None:
    """Labels ``(n,)`` of 0 normal, 1 anomalous and -1 unlabelled out of ``y``; None if it is something else, such as
    true classes, which an outlier detector ignores.

    Raises:
        ValueError: there are not ``n`` labels.

    Example:
        >>> support_labels([0, 0, -1, 1], 4), support_labels([1, 1, -1], 3)
        (array([ 0,  0, -1,  1]), None)
    """
    array = None if y is None else np.asarray(y)
    if array is None or array.ndim != 1 or array.dtype.kind not in "iuf":
        return None
    kinds = set(array.tolist())
    if not {NORMAL, UNLABELLED} <= kinds <= {NORMAL, ANOMALOUS, UNLABELLED}:
        return None
    if len(array) != n:
        raise ValueError(f"y has {len(array)} labels for {n} samples: give one for each")
    return array.astype(np.int64)


def unflattened(features: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a sample that was flattened.

    Args:
        features: number of features of the flattened sample.
        shape: shape that the model reads; -1 for an axis of any length. Of several such axes the first has all
            features.

    Raises:
        ValueError: no such sample has this number of features.

    Example:
        >>> unflattened(784, (1, 28, 28)), unflattened(96, (32, -1)), unflattened(50, (-1, -1))
        ((1, 28, 28), (32, 3), (50, 1))
    """
    free = [i for i, size in enumerate(shape) if size == ANY]
    sizes = [1 if size == ANY else int(size) for size in shape]
    fixed = int(np.prod(sizes))
    if features % fixed or (not free and features != fixed):
        wanted = ", ".join("any" if size == ANY else str(size) for size in shape)
        raise ValueError(f"{features} features are no flattened sample of the model's shape ({wanted})")
    if free:
        sizes[free[0]] = features // fixed
    return tuple(sizes)

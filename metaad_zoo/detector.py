"""The face a user meets: load a model, fit it on a few samples, score."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import ColumnOptions, Schema
from metaad_zoo.data.read.rows import series_of
from metaad_zoo.data.windows import Pooling, score_series
from metaad_zoo.episodes import NORMAL, Adapted, count
from metaad_zoo.evaluation.decisions import SupportDecisions, shots_of
from metaad_zoo.evaluation.explanation import Explainer, Explanation
from metaad_zoo.judging import Judge
from metaad_zoo.modality import SCORING_CHUNK, get_modality
from metaad_zoo.modality.samples import Reading, as_labels, have_values, read_query, read_support
from metaad_zoo.zoo import (
    RATIO,
    Checkpoint,
    calibration_by_shots,
    check_detector_tensors,
    checkpoint_files,
    files_in_a_folder,
    load_checkpoint,
    locate,
    save_checkpoint,
    schema_tensors,
    schemas_of,
)


@dataclass(frozen=True)
class _State:
    """What a detector is at one time. It is replaced as a whole: a thread that scores sees one fit, old or new."""

    checkpoint: Checkpoint
    adapted: Adapted | None = None
    decisions: SupportDecisions | None = None

    def adapt(self) -> _State:
        """Adapted to the support set that the checkpoint holds."""
        learner, tensors = self.checkpoint.learner, self.checkpoint.tensors
        task = self.support(), tensors["support_labels"]
        decisions = SupportDecisions(learner, *task, calibration_by_shots(tensors))
        return _State(self.checkpoint, learner.adapt(*task), decisions)

    def support(self) -> dict[str, Tensor]:
        """The raw support samples by modality."""
        shapes = self.checkpoint.learner.arguments()["input_shapes"]
        return {name: self.checkpoint.tensors[f"support/{name}"] for name in shapes}


class Detector(Judge):
    """A meta-trained model that a few samples of a new domain turn into an anomaly detector.

    Any number of threads may use one detector, also while another one fits it: they see the old fit or the new one.

    Args:
        checkpoint: the model, as :func:`load_detector` reads it.

    Attributes:
        input_shapes: shape of one sample by modality.
        aspect: how images are brought to that shape; see :data:`metaad_zoo.data.read.pixels.Aspect`.
        account: what the last :meth:`fit` left out of the support's files, guessed and converted.

    Example:
        >>> from metaad_zoo.learners import GradientLearner
        >>> learner = GradientLearner("conv4", {"width": 4}, {"image": (1, 16, 16)})
        >>> detector = Detector(Checkpoint(learner, [], {"calibration": torch.arange(9.0)}))
        >>> images = np.random.default_rng(0).random((8, 16, 16), dtype=np.float32)
        >>> detector.fit(images[:5]).predict(images, alpha=0.1).shape
        (8,)
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._state = _State(checkpoint)
        self._changing = Lock()  # held by who fits or moves the detector, never to score
        self.input_shapes = checkpoint.learner.arguments()["input_shapes"]
        self.aspect = checkpoint.aspect
        self.account = Account()

    @property
    def _checkpoint(self) -> Checkpoint:
        return self._state.checkpoint

    @property
    def trained_on(self) -> list[str]:
        """Classes or domains that meta-training and validation have seen: a figure on these is not honest."""
        return self._checkpoint.trained_on

    def __repr__(self) -> str:
        learner = self._checkpoint.learner
        backbone = learner.arguments()["backbone"]
        return f"Detector({learner.registered_name}, {backbone}, {self.input_shapes}, fitted={self.is_fitted})"

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has been called, here or before the detector was saved."""
        return self._state.adapted is not None

    def to(self, place: str | torch.device | torch.dtype) -> Detector:
        """Move to a device or to another precision; a fitted detector adapts anew there."""
        with self._changing:
            # A copy is moved: other threads may be scoring with the learner where it is.
            learner = copy.deepcopy(self._checkpoint.learner).to(place)
            state = _State(replace(self._checkpoint, learner=learner))
            self._state = state.adapt() if self.is_fitted else state
        return self

    def fit(
        self,
        support: Any,
        labels: Any = None,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        time: str | None = None,
        ignore: Sequence[str] = (),
    ) -> Detector:
        """Adapt to a new domain.

        Args:
            support: a few samples: see :func:`metaad_zoo.modality.samples.read_samples` for the forms they may have.
            labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled; None: those of the column ``label``, else all are
                normal.
            columns: of a file or DataFrame, the columns to use as features; of an array, the names of its columns.
            label: column of labels of a file or DataFrame.
            time: column of times.
            ignore: columns to leave out.

        Returns:
            The detector itself; its :attr:`account` says what was left out or guessed.

        Raises:
            ValueError: samples or labels can't be used, no sample is normal or unlabelled, or labelled anomalies would
                count as normal.
            FloatingPointError: the inner loop diverged; the detector then stays as it was.
        """
        options = ColumnOptions(label, time, tuple(ignore), None if columns is None else tuple(columns))
        reading = read_support(support, self.input_shapes, options, **self.support_options)
        if labels is None and label is None:
            reading.require_normal(str(support) if isinstance(support, (str, Path)) else "the support")
        return self.fit_reading(reading, labels)

    def fit_reading(self, reading: Reading, labels: Any = None) -> Detector:
        """Adapt to a support set that was read already.

        Args:
            reading: as :func:`metaad_zoo.modality.samples.read_support` returns it.
            labels: as for :meth:`fit`; None takes the reading's own, else all are normal.

        Raises:
            ValueError: as for :meth:`fit`.
            FloatingPointError: likewise.
        """
        n = count(reading.samples)
        labels = reading.labels if labels is None else labels
        kinds = as_labels([NORMAL] * n if labels is None else labels, n)
        tensors = {"support_labels": kinds} | {f"support/{name}": x for name, x in reading.samples.items()}
        if reading.ratio is not None:
            tensors[RATIO] = torch.tensor([reading.ratio], dtype=torch.float64)
        tensors |= schema_tensors(reading.schemas)
        with self._changing:
            before = {name: x for name, x in self._checkpoint.tensors.items() if not name.startswith("support")}
            self._state = _State(replace(self._checkpoint, tensors=before | tensors)).adapt()
            self.account = reading.account
        return self

    @property
    def support_options(self) -> dict[str, Any]:
        """How the images of a support are read: as :attr:`image_options`, of any aspect ratio."""
        return self.image_options | {"usual_ratio": None}

    @property
    def image_options(self) -> dict[str, Any]:
        """How images are read: arguments of :class:`metaad_zoo.data.read.images.ImageReader`."""
        if not any(get_modality(name).reads_arrays for name in self.input_shapes):
            return {}
        ratio = self._checkpoint.tensors.get(RATIO)
        return {"aspect": self.aspect, "usual_ratio": None if ratio is None else float(ratio)}

    def _support(self) -> dict[str, Tensor]:
        return self._state.support()

    def score(self, samples: Any, leave_one_out: bool = False, *, left_out: bool | None = None) -> np.ndarray:
        """Anomaly scores ``(n,)`` float64, in the model's own units: higher is more anomalous.

        Args:
            samples: what to score.
            leave_one_out: score samples of the support set, recognised by their values, as new ones: by the model
                adapted to the others alone.
            left_out: former name of ``leave_one_out``.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples can't be used.
        """
        if left_out is not None:
            warnings.warn("Detector.score: left_out is now called leave_one_out", DeprecationWarning, stacklevel=2)
            leave_one_out = left_out
        fit = self._as_fitted()
        adapted, readable = fit._fitted(), fit._readable(samples)
        chunks = [
            adapted.score({name: x[i : i + SCORING_CHUNK] for name, x in readable.items()})
            for i in range(0, count(readable), SCORING_CHUNK)
        ]
        scores = torch.cat(chunks).double().cpu()
        return np.asarray(fit._decisions().without_themselves(readable, scores) if leave_one_out else scores)

    def _fitted(self) -> Adapted:
        adapted = self._state.adapted
        if adapted is None:
            raise RuntimeError("this detector is not fitted: call detector.fit(support) with a few samples first")
        return adapted

    def _as_fitted(self) -> Detector:
        fit = Detector.__new__(type(self))
        fit.__dict__.update(self.__dict__)
        return fit

    @property
    def support_labels(self) -> Tensor:
        """Labels ``(n,)`` of the support set.

        Raises:
            RuntimeError: the detector is not fitted.
        """
        self._fitted()
        return self._checkpoint.tensors["support_labels"]

    @property
    def schemas(self) -> dict[str, Schema]:
        """What the columns of the support are, by modality, where they have names: others are read likewise."""
        return schemas_of(self._checkpoint.tensors)

    @property
    def columns(self) -> list[str] | None:
        """Names of the support's columns or channels, where it had any."""
        schema = next(iter(self.schemas.values()), None)
        return None if schema is None else schema.features

    def check(self, samples: Any) -> None:
        """Refuse samples that :meth:`score` could not read.

        Raises:
            ValueError: tells why.
        """
        self._as_fitted()._readable(samples)

    def _readable(self, samples: Any) -> dict[str, Tensor]:
        return read_query(self._support(), samples, self.input_shapes, self.schemas, **self.image_options).samples

    def score_known(self, samples: dict[str, Tensor], leave_one_out: bool = False) -> np.ndarray:
        """As :meth:`score`, of tensors by modality, but NaN for samples without any value, which that refuses."""
        known = have_values(samples)
        scores = np.full(len(known), np.nan)
        if known.any():
            found = self.score({name: x[known] for name, x in samples.items()}, leave_one_out)
            scores[known.numpy()] = np.where(np.isnan(found), np.inf, found)  # what is no number counts as high
        return scores

    def score_series(self, series: Any, stride: int = 1, how: Pooling = "mean") -> np.ndarray:
        """Anomaly scores of every time point of a series, ``(T,)`` float64.

        A point's score is the mean (or the largest) of those of the windows that cover it.

        Args:
            series: ``(T,)`` or ``(T, C)``, a DataFrame or a file; NaN where a value is missing.
            stride: steps from one window to the next, at most the window.
            how: ``"mean"`` or ``"max"``.

        Returns:
            Scores; NaN where no window that covers the point has a value.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: the model reads no sequences, or the series is shorter than its window or can't be used.
        """
        fit = self._as_fitted()
        window = fit.window
        values, breaks = series_of(series, fit.schemas.get(fit._windowed))
        return score_series(fit.score_windows, values, window, stride, how, breaks)

    def score_windows(self, windows: Mapping[str, Tensor], leave_one_out: bool = False) -> np.ndarray:
        """As :meth:`score_known`, of windows ``(n, window, C)`` of a series, whatever the model calls its modality."""
        (values,) = windows.values()
        return self.score_known({self._windowed: values}, leave_one_out)

    @property
    def reads_windows(self) -> bool:
        """Whether a sample is a window of a series, whose time points can be scored (:meth:`score_series`)."""
        return len(self.input_shapes) == 1 and all(get_modality(name).windows for name in self.input_shapes)

    @property
    def _windowed(self) -> str:
        """The modality of a model that reads windows of series.

        Raises:
            ValueError: it reads something else.
        """
        if not self.reads_windows:
            raise ValueError(f"score_series is for models of series; this one reads {sorted(self.input_shapes)}")
        return next(iter(self.input_shapes))

    @property
    def window(self) -> int:
        """Steps of the windows in which a series is scored: the model's, or where it reads any, the support's.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: the model reads no series.
        """
        name, fit = self._windowed, self._as_fitted()
        fit._fitted()
        return int(fit._support()[name].shape[1])

    def _decisions(self) -> SupportDecisions:
        self._fitted()
        decisions = self._state.decisions
        assert decisions is not None
        return decisions

    @property
    def calibration(self) -> Tensor:
        """Scores of normal samples of the validation tasks with supports of this size, ``(m,)``, ascending.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds none for supports as small.
        """
        return self._decisions().compared_with("across", None)

    @property
    def shots(self) -> int:
        """Normal samples of the support set; where there are none, unlabelled ones.

        Raises:
            RuntimeError: the detector is not fitted.
        """
        fit = self._as_fitted()
        fit._fitted()
        return shots_of(fit._checkpoint.tensors["support_labels"])

    @property
    def calibrated_for(self) -> list[int]:
        """Sizes of the support set that the checkpoint holds calibration scores for; others take the next smaller."""
        return list(calibration_by_shots(self._checkpoint.tensors))

    def explain(self, samples: Any, method: Explanation = "auto") -> np.ndarray | dict[str, np.ndarray]:
        """What in the samples made their scores: positive where a value raised it over that of the usual sample.

        The usual sample is the support's mean image, each channel's mean or each column's median.

        Args:
            samples: what to explain.
            method: ``"integrated_gradients"``, ``"occlusion"``, ``"nearest"`` (the difference to the nearest support
                sample), ``"patches"`` (the heat map of ``patch_memory``) or ``"auto"``; see
                :meth:`metaad_zoo.evaluation.explanation.Explainer.attribute`.

        Returns:
            float32 in the samples' own shape ``(n, ...)``, NaN where they have NaN; of several modalities a dict.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples can't be used, or the method is unknown or does not suit the model.
        """
        fit = self._as_fitted()
        explainer, here = fit._explainer(), fit._readable(samples)
        found = {name: x.float().cpu().numpy() for name, x in explainer.attribute(here, method).items()}
        return found if len(found) > 1 else next(iter(found.values()))

    def nearest_support(self, samples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Which support sample is nearest in the embedding: indices ``(n,)`` into the support set, and distances.

        Known anomalies of the support set do not count.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples can't be used.
        """
        fit = self._as_fitted()
        explainer, here = fit._explainer(), fit._readable(samples)
        found = explainer.nearest(explainer.units(here))
        return found.indices.cpu().numpy(), found.distances.double().cpu().numpy()

    def _explainer(self) -> Explainer:
        fit = self._as_fitted()
        return Explainer(fit._fitted(), fit._support(), fit._checkpoint.tensors["support_labels"])

    def save(self, folder: str | Path) -> None:
        """Keep the detector, with its support set if it is fitted, in a folder for :func:`load_detector`."""
        save_checkpoint(Path(folder), self._checkpoint)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles go the way of save and load: adapted weights are computed, not kept.
        checkpoint = self._checkpoint
        reference = next(checkpoint.learner.parameters(), torch.zeros(()))
        return _from_files, (checkpoint_files(checkpoint), reference.dtype, reference.device)


def _from_files(files: dict[str, bytes], dtype: torch.dtype, device: torch.device) -> Detector:
    with files_in_a_folder(files) as folder:
        return load_detector(folder).to(dtype).to(device)


def load_detector(name: str | Path) -> Detector:
    """A detector by a published name, from a folder, an address or a Hugging Face repository; always verified.

    Args:
        name: a published name, as in :func:`metaad_zoo.list_checkpoints`; a finished run, a run's ``model`` folder, or
            what :meth:`Detector.save` wrote; a ``file://`` or ``https://`` address of such a folder
            (``#sha256=...`` pins its manifest) or of an index (``.../index.json#NAME``); or ``hf://owner/repository``.

    Raises:
        CheckpointError: there is no such checkpoint, it can't be fetched, or its files are damaged; a fitted detector
            comes back fitted.
    """
    folder = locate(name)
    checkpoint = load_checkpoint(folder)
    check_detector_tensors(folder, checkpoint)
    detector = Detector(checkpoint)
    if "support_labels" in checkpoint.tensors:
        detector._state = detector._state.adapt()
    return detector

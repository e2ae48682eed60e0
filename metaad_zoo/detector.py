"""Detector: load a model, fit it on a few samples, score and decide."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions
from metaad_zoo.data.read.rows import is_paths
from metaad_zoo.episodes import Adapted, count
from metaad_zoo.evaluation.calibration import ROUNDING, threshold
from metaad_zoo.evaluation.decisions import USUAL_ALPHA, Calibrate, SupportDecisions
from metaad_zoo.evaluation.explanation import Explainer, ExplainsScores
from metaad_zoo.evaluation.live_series import StreamsSeries
from metaad_zoo.evaluation.selection import SelectsAnomalies
from metaad_zoo.learners.registry import BASELINE_PREFIX
from metaad_zoo.modality import get_modality, scoring_chunk
from metaad_zoo.modality.samples import Reading, have_values, read_query, read_support, require_size
from metaad_zoo.modality.unlabelled import read_unlabelled
from metaad_zoo.zoo import Checkpoint, checkpoint_files, files_in_a_folder, open_checkpoint, save_checkpoint
from metaad_zoo.zoo.detector_state import DetectorState
from metaad_zoo.zoo.detector_tensors import RATIO, support_tensors
from metaad_zoo.zoo.reading import CheckpointError
from metaad_zoo.zoo.support_facts import DescribesSupport
from metaad_zoo.zoo.support_update import FurtherSupport, SupportChange
from metaad_zoo.zoo.unlabelled import note_taken_as_normal

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork: with several, the first large operation in the child would wait for ever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class Detector(DescribesSupport, StreamsSeries, ExplainsScores, SelectsAnomalies):
    """A meta-trained model that a few samples of a new domain turn into an anomaly detector.

    Any number of threads may use one detector, also while another one fits it: they see the old fit or the new one.
    So may processes, forked ones with one thread of torch each.

    Args:
        checkpoint: model with its metadata, as :func:`load_detector` reads it.

    Attributes:
        aspect: how images are resized to that shape; see :data:`metaad_zoo.data.read.pixels.Aspect`.
        account: notes on what the last :meth:`fit` or :meth:`update` left out, guessed or changed.
        change: what the last :meth:`update` changed; None without any.

    Example:
        >>> from metaad_zoo.learners import GradientLearner
        >>> learner = GradientLearner("conv4", {"width": 4}, {"image": (1, 16, 16)})
        >>> detector = Detector(Checkpoint(learner, [], {"calibration": torch.arange(9.0)}))
        >>> images = np.random.default_rng(0).random((8, 16, 16), dtype=np.float32)
        >>> detector.fit(images[:5]).predict(images, alpha=0.1).shape
        (8,)
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._state = DetectorState(checkpoint)
        self._changing = Lock()  # held while fitting or moving, never while scoring
        self.aspect = checkpoint.aspect
        self.account = Account()
        self.change: SupportChange | None = None

    @property
    def _checkpoint(self) -> Checkpoint:
        return self._state.checkpoint

    @property
    def usual_shapes(self) -> dict[str, Sequence[int]]:
        """Shape of one sample by modality, where the support does not decide it."""
        shapes: dict[str, Sequence[int]] = self._checkpoint.learner.arguments()["input_shapes"]
        return shapes

    @property
    def input_shapes(self) -> dict[str, Sequence[int]]:
        """Shape of one sample by modality; with ``aspect="keep"`` that of the support's images, once it is fitted."""
        return self._sized_as(self._support()) if self.is_fitted else self.usual_shapes

    def _sized_as(self, support: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
        """Shape of one sample by modality; with ``aspect="keep"`` images have the size of a support's."""
        images = {n: list(x.shape[1:]) for n, x in support.items() if get_modality(n).reads_arrays}
        return {**self.usual_shapes, **(images if self.aspect == "keep" else {})}

    @property
    def method(self) -> str:
        """Name of the learner or baseline."""
        return self._checkpoint.learner.registered_name.removeprefix(BASELINE_PREFIX)

    @property
    def trained_on(self) -> list[str]:
        """Classes or domains of meta-training and validation: evaluating on these leaks."""
        return self._checkpoint.trained_on

    def __repr__(self) -> str:
        backbone = self._checkpoint.learner.arguments().get("backbone")
        return (
            f"Detector({self.method}, {f'{backbone}, ' * bool(backbone)}{self.input_shapes}, fitted={self.is_fitted})"
        )

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has been called, here or before the detector was saved."""
        return self._state.adapted is not None

    def to(self, place: str | torch.device | torch.dtype) -> Detector:
        """Move to a device or to another precision; a fitted detector adapts again there."""
        with self._changing:
            # A copy is moved: other threads may be scoring with the learner where it is.
            learner = copy.deepcopy(self._checkpoint.learner).to(place)
            state = DetectorState(replace(self._checkpoint, learner=learner))
            self._state = state.adapt() if self.is_fitted else state
        return self

    def fit(
        self,
        support: Any,
        labels: Any = None,
        unlabelled: Any = None,
        contamination: float | None = None,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        time: str | None = None,
        ignore: Sequence[str] = (),
        roi: Any = None,
    ) -> Detector:
        """Adapt to a new domain.

        Args:
            support: a few samples: see :func:`metaad_zoo.modality.samples.read_samples` for the forms they may have.
            labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled; None: the column ``label``, else all normal.
            unlabelled: further samples of the domain that nobody has labelled, in any of these forms and with the
                columns of the support; see :func:`metaad_zoo.modality.unlabelled.read_unlabelled`. A method whose
                ``reads_unlabelled`` is True weighs them by how normal they look, any other takes them as normal.
            contamination: share of anomalies among the unlabelled samples in [0, 1); None: not known.
            columns: columns of a file or DataFrame to use as features; for an array, the names of its columns.
            label: column of labels of a file or DataFrame.
            time: column of time stamps of a file or DataFrame.
            ignore: columns of a file or DataFrame to leave out.
            roi: region of interest of all images: image file or array ``(H, W)``, white inside.

        Returns:
            The detector itself; its :attr:`account` says what was left out or guessed.

        Raises:
            ValueError: samples or labels can't be used, no sample is normal or unlabelled, known anomalies would count
                as normal, or the method has no use for ``contamination``.
            FloatingPointError: the inner loop diverged; the detector then stays as it was.
        """
        options = ColumnOptions(label, time, tuple(ignore), None if columns is None else tuple(columns))
        reading = read_support(support, self.usual_shapes, options, **self.support_options)
        if labels is None and label is None:
            reading.require_normal(str(support) if isinstance(support, (str, Path)) else "the support")
        return self.fit_reading(reading, labels, roi, unlabelled, contamination, options)

    def fit_reading(
        self,
        reading: Reading,
        labels: Any = None,
        roi: Any = None,
        unlabelled: Any = None,
        contamination: float | None = None,
        options: ColumnOptions = USUAL_OPTIONS,
    ) -> Detector:
        """Adapt to a support set that is already read.

        Args:
            reading: support set as :func:`metaad_zoo.modality.samples.read_support` returns it.
            labels: ``(n,)`` as for :meth:`fit`; None: the reading's labels, or all normal without them.
            roi: as for :meth:`fit`.
            unlabelled: as for :meth:`fit`.
            contamination: as for :meth:`fit`.
            options: what the user says of the columns.

        Raises:
            ValueError, FloatingPointError: as for :meth:`fit`.
        """
        pile = None if unlabelled is None else self._read_unlabelled(unlabelled, reading, options)
        tensors = support_tensors(reading, labels, roi, self.aspect, pile, contamination)
        learner = self._checkpoint.learner
        require_size(reading.samples, self.usual_shapes, learner.any_size, learner.registered_name)
        with self._changing:
            before = {name: x for name, x in self._checkpoint.tensors.items() if not name.startswith("support")}
            self._state = DetectorState(replace(self._checkpoint, tensors=before | tensors)).adapt()
            self._state.note_method(reading.account)
            if pile is not None:
                reading.account.join(pile.account)
            note_taken_as_normal(reading.account, learner, tensors["support_labels"])
            self.account = reading.account
        return self

    def update(
        self,
        more_normals: Any,
        labels: Any = None,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        time: str | None = None,
        ignore: Sequence[str] = (),
        decimal: str | None = None,
    ) -> Detector:
        """Add samples to the support set, keep those that it has, and adapt and calibrate anew.

        Args:
            more_normals: further normal samples, in any of the forms that :meth:`fit` reads; columns are taken by the
                roles that they have in the support set. Samples that it holds already do not join again.
            labels: ``(n,)`` as for :meth:`fit`; None: the column ``label``, else all normal.
            columns: as for :meth:`fit`.
            label: as for :meth:`fit`.
            time: as for :meth:`fit`.
            ignore: as for :meth:`fit`.
            decimal: decimal separator in CSV files, ``","`` or ``"."``; None: inferred.

        Returns:
            The detector itself; its :attr:`change` and :attr:`account` say what changed.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples or labels can't be used, or known anomalies would count as normal.
            FloatingPointError: the inner loop diverged; the detector then stays as it was.
        """
        options = ColumnOptions(label, time, tuple(ignore), None if columns is None else tuple(columns), decimal)
        with self._changing:
            earlier = self._as_fitted()
            reading = earlier._read_further(more_normals, options, joins=True)
            if labels is None and label is None:
                reading.require_normal(str(more_normals) if is_paths(more_normals) else "the update")
            further = FurtherSupport.out_of(reading, labels, earlier._support())
            if count(further.samples):
                checkpoint = replace(earlier._checkpoint, tensors=further.joined_to(earlier._checkpoint.tensors))
                self._state = DetectorState(checkpoint).adapt()
                self._state.note_method(reading.account)
            self.change = SupportChange.between(earlier, self._as_fitted(), further)
            self.change.note(reading.account)
            self.account = reading.account
        return self

    def _read_further(self, samples: Any, options: ColumnOptions = USUAL_OPTIONS, joins: bool = False) -> Reading:
        """Samples in the shapes of the support set."""
        support, shapes = self._fitted_support(), self.input_shapes
        return read_query(support, samples, shapes, self.schemas, options, joins, **self.image_options)

    def _read_unlabelled(self, data: Any, support: Reading, options: ColumnOptions) -> Reading:
        """Unlabelled samples in the shapes of a support set that was just read."""
        image_options = self._image_options(support.ratio)
        if self.aspect == "keep" and image_options:
            image_options["aspect"] = "squash"  # to the size of the support's images
        shapes = self._sized_as(support.samples)
        return read_unlabelled(data, support, shapes, options, **image_options)

    @property
    def support_options(self) -> dict[str, Any]:
        """Options for reading a support in :attr:`usual_shapes`: its own images decide the aspect ratio."""
        return self._image_options(None)

    @property
    def image_options(self) -> dict[str, Any]:
        """Options for reading images in :attr:`input_shapes`: arguments of
        :class:`metaad_zoo.data.read.images.ImageReader`."""
        ratio = self._checkpoint.tensors.get(RATIO)
        options = self._image_options(None if ratio is None else float(ratio))
        return options | {"aspect": "squash"} if self.aspect == "keep" and self.is_fitted else options

    def _image_options(self, ratio: float | None) -> dict[str, Any]:
        reads_arrays = any(get_modality(name).reads_arrays for name in self.usual_shapes)
        return {"aspect": self.aspect, "usual_ratio": ratio} if reads_arrays else {}

    def _support(self) -> dict[str, Tensor]:
        return self._state.support()

    def _fitted_support(self) -> dict[str, Tensor]:
        self._fitted()
        return self._support()

    def score(self, samples: Any, leave_one_out: bool = False, *, left_out: bool | None = None) -> np.ndarray:
        """Anomaly scores ``(n,)`` float64, in the model's own units: higher is more anomalous.

        Args:
            samples: samples, in any of the forms that :meth:`fit` reads.
            leave_one_out: give samples of the support set, recognised by their values, their leave-one-out score.
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
        size = scoring_chunk(readable)
        starts = range(0, count(readable), size)
        chunks = [adapted.score({name: x[i : i + size] for name, x in readable.items()}) for i in starts]
        scores = torch.cat(chunks).double().cpu()
        return np.asarray(fit._decisions().without_themselves(readable, scores) if leave_one_out else scores)

    def _fitted(self) -> Adapted:
        adapted = self._state.adapted
        if adapted is not None:
            return adapted
        raise RuntimeError("this detector is not fitted: call detector.fit(support) with a few samples first")

    def _as_fitted(self) -> Detector:
        fit = Detector.__new__(type(self))
        fit.__dict__.update(self.__dict__)
        return fit

    def check(self, samples: Any) -> None:
        """Refuse samples that :meth:`score` could not read.

        Raises:
            ValueError: samples can't be used.
        """
        self._as_fitted()._readable(samples)

    def _readable(self, samples: Any) -> dict[str, Tensor]:
        return self._read_further(samples).samples

    def score_known(self, samples: dict[str, Tensor], leave_one_out: bool = False) -> np.ndarray:
        """As :meth:`score`, for tensors by modality; samples without any value get NaN instead of an error."""
        readable = have_values(samples)
        scores = np.full(len(readable), np.nan)
        if readable.any():
            values = self.score({name: x[readable] for name, x in samples.items()}, leave_one_out)
            scores[readable.numpy()] = np.where(np.isnan(values), np.inf, values)  # a score that is NaN counts as high
        return scores

    def _decisions(self) -> SupportDecisions:
        self._fitted()
        assert self._state.decisions is not None
        return self._state.decisions

    def p_value(
        self, samples: Any, calibrate: Calibrate | None = None, contamination: float | None = None
    ) -> np.ndarray:
        """Conformal p-values ``(n,)``: small is anomalous.

        Args:
            samples: samples, in any of the forms that :meth:`fit` reads.
            calibrate: calibration scores; :mod:`metaad_zoo.evaluation.decisions` states their guarantees. ``"across"``:
                those of the validation tasks, which hold the rate on average over similar tasks and for the calibrated
                sizes of the support; ``"within"``: leave-one-out scores of the support, with p-values of at least
                ``1 / (K + 1)``; ``"contamination"``: leave-one-out scores of the support without the top
                ``contamination`` share, which also score support samples among ``samples``. None: ``"across"`` if the
                checkpoint is calibrated, else ``"within"``. A sample that lacks one of several modalities is compared
                with normal samples that are scored without it too.
            contamination: expected share of anomalies in the support, for ``calibrate="contamination"``, which is then
                the default.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: samples can't be used, or the way to calibrate does not suit the support set.
        """
        fit = self._as_fitted()
        decisions = fit._decisions()
        decisions.compared_with(calibrate, contamination)
        readable = fit._readable(samples)
        scores = torch.as_tensor(fit.score(readable, contamination is not None))
        return decisions.p_values(scores, calibrate, contamination, decisions.compared_in(readable)).numpy()

    def predict(
        self,
        samples: Any,
        alpha: float | None = None,
        calibrate: Calibrate | None = None,
        contamination: float | None = None,
    ) -> np.ndarray:
        """Decisions ``(n,)``: 1, anomalous, where the p-value is at most ``alpha``, else 0.

        Args:
            samples: samples, in any of the forms that :meth:`fit` reads.
            alpha: false-alarm rate to hold, see :meth:`p_value`; None: 0.1, or with ``"contamination"`` the rate that
                flags every score above the remaining support scores, as in PyOD.
            calibrate: see :meth:`p_value`.
            contamination: see :meth:`p_value`.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: ``alpha`` is outside (0, 1) or below what the calibration scores can hold; see :meth:`p_value`.
        """
        return self.judge(samples, alpha, calibrate, contamination)[2]

    def judge(
        self,
        samples: Any,
        alpha: float | None = None,
        calibrate: Calibrate | None = None,
        contamination: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, p-values and decisions in one pass; arguments and errors as for :meth:`predict`."""
        fit = self._as_fitted()
        fit._decisions().rate_to_hold(alpha, calibrate, contamination)
        readable = fit._readable(samples)
        scores = fit.score(readable, contamination is not None)
        return scores, *fit.decide(scores, alpha, calibrate, contamination, readable)

    def decide(
        self,
        scores: np.ndarray,
        alpha: float | None = None,
        calibrate: Calibrate | None = None,
        contamination: float | None = None,
        samples: dict[str, Tensor] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """p-values and decisions of scores ``(n,)`` of :meth:`score`; the rest as for :meth:`predict`. ``samples`` are
        those of the scores, by modality, some of which may lack one; None: none does."""
        decisions = self._decisions()
        rate = decisions.rate_to_hold(alpha, calibrate, contamination)
        shared = None if samples is None else decisions.compared_in(samples)
        p = decisions.p_values(torch.as_tensor(scores), calibrate, contamination, shared).numpy()
        return p, (p <= rate + ROUNDING).astype(np.int64)

    def way_to_decide(
        self, alpha: float | None = None, calibrate: Calibrate | None = None, contamination: float | None = None
    ) -> tuple[float, Calibrate]:
        """The false-alarm rate and the way to calibrate of :meth:`predict`; arguments and errors as there.

        Without ``alpha``, the rate is the lowest that the calibration scores can hold where that is above 0.1.
        """
        return self._decisions().way_to_decide(alpha, calibrate, contamination)

    def normal_scores(
        self,
        calibrate: Calibrate | None = None,
        contamination: float | None = None,
        shown: tuple[str, ...] | None = None,
    ) -> Tensor:
        """Calibration scores ``(m,)``, ascending, of :meth:`p_value`; arguments and errors as there. ``shown``: sorted
        modalities by which samples are compared (:meth:`compared_in`); None: all."""
        return self._decisions().compared_with(calibrate, contamination, shown)

    def threshold(self, alpha: float = USUAL_ALPHA, calibrate: Calibrate | None = None) -> float:
        """Score above which :meth:`predict` flags a sample.

        Raises:
            RuntimeError: the detector is not fitted, or its checkpoint holds no calibration.
            ValueError: as for :meth:`predict`.
        """
        rate = self._decisions().rate_to_hold(alpha, calibrate, None)
        return threshold(self.normal_scores(calibrate), rate)

    def with_point_stride(self, stride: int) -> Detector:
        """This fit, deciding on points scored by windows ``stride`` steps apart; without it, a quarter window apart."""
        fit = self._as_fitted()
        fit._state = replace(fit._state, decisions=fit._decisions().at_stride(stride))
        return fit

    def explainer(self) -> Explainer:
        """The attributions behind :meth:`explain`; raises RuntimeError if the detector is not fitted."""
        return Explainer(self._fitted(), self._support(), self._checkpoint.tensors["support_labels"])

    def save(self, folder: str | Path) -> None:
        """Write the detector, with its support set if it is fitted, to a folder for :func:`load_detector`."""
        save_checkpoint(Path(folder), self._checkpoint)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles use save and load: adapted weights are recomputed, not stored.
        checkpoint = self._checkpoint
        reference = next(checkpoint.learner.parameters(), torch.zeros(()))
        return _from_files, (checkpoint_files(checkpoint), reference.dtype, reference.device)


def _from_files(files: dict[str, bytes], dtype: torch.dtype, device: torch.device) -> Detector:
    with files_in_a_folder(files) as folder:
        return load_detector(folder).to(dtype).to(device)


def load_detector(name: str | Path, **options: Any) -> Detector:
    """Load a detector from a published name, folder, address or Hugging Face repository; always verified.

    Args:
        name: modality (``"image"``, ``"series"``, ``"table"``, ...) for its default detector; published name; folder of
            a finished run or of :meth:`Detector.save`; ``file://`` or ``https://`` address of one (``#sha256=...`` pins
            its manifest) or of an index (``index.json#NAME``); ``hf://owner/repository``; a baseline, such as
            ``"knn"``; or a learner that trains nothing, such as ``"patch_memory"``.
        options: options of :func:`metaad_zoo.zoo.open_checkpoint`, such as ``weights``, or ``k=3`` of a baseline.

    Raises:
        CheckpointError: there is no such checkpoint, it can't be downloaded, or its files are damaged.
    """
    detector = Detector(open_checkpoint(name, **options))
    if "support_labels" in detector._checkpoint.tensors:
        try:
            detector._state = detector._state.adapt()
        except (FloatingPointError, RuntimeError, ValueError) as error:  # it could when it was saved
            raise CheckpointError(f"{name} can't adapt to the support set that it holds ({error}): damaged") from error
    return detector

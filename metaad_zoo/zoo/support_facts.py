"""Facts about the support set of a fitted detector: numbers of samples, columns, region and novelty."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from metaad_zoo.data.read.roles import Schema
from metaad_zoo.episodes import UNLABELLED
from metaad_zoo.evaluation.blocks import has_long_history
from metaad_zoo.evaluation.decisions import shots_of
from metaad_zoo.evaluation.novelty import Novelty
from metaad_zoo.zoo.checkpoint import CONTAMINATION, SUPPORT_LABELS, Checkpoint, support_counts
from metaad_zoo.zoo.detector_tensors import PLACES, ROI, calibration_by_shots, schemas_of, training_tasks_of


class DescribesSupport(ABC):
    """Facts about the support set that a detector is fitted to."""

    @property
    @abstractmethod
    def _checkpoint(self) -> Checkpoint:
        """The model, with the support set among its tensors."""

    @abstractmethod
    def _fitted_support(self) -> Mapping[str, Tensor]:
        """The support's samples by modality; RuntimeError before the detector is fitted."""

    @property
    def support_labels(self) -> Tensor:
        """Labels ``(n,)`` of the support set.

        Raises:
            RuntimeError: the detector is not fitted.
        """
        self._fitted_support()
        return self._checkpoint.tensors[SUPPORT_LABELS]

    @property
    def novelty(self) -> Novelty | None:
        """Distance of the support set from the checkpoint's training tasks; None if the checkpoint has no statistics.

        Raises:
            RuntimeError: the detector is not fitted.
        """
        tasks = training_tasks_of(self._checkpoint.tensors)
        return None if tasks is None else tasks.novelty(self._fitted_support(), self.support_labels)

    @property
    def region(self) -> Tensor | None:
        """Region of interest ``(H, W)`` bool at the size of the images; None: they count as a whole."""
        return self._checkpoint.tensors.get(ROI)

    @property
    def schemas(self) -> dict[str, Schema]:
        """Roles of the support's named columns, by modality; samples to score are read by the same roles."""
        return schemas_of(self._checkpoint.tensors)

    @property
    def columns(self) -> list[str] | None:
        """Names of the support's columns or channels, where it had any."""
        schema = next(iter(self.schemas.values()), None)
        return None if schema is None else schema.features

    @property
    def shots(self) -> int:
        """Number of normal samples in the support set; if there are none, of unlabelled samples.

        Raises:
            RuntimeError: the detector is not fitted.
        """
        return shots_of(self.support_labels)

    @property
    def has_history(self) -> bool:
        """Whether at least 20 normal windows of the support set have a place in a series, because they come from files.

        Raises:
            RuntimeError: the detector is not fitted.
        """
        return has_long_history(self.support_labels, self._checkpoint.tensors.get(PLACES))

    @property
    def unlabelled(self) -> int:
        """Number of unlabelled samples in the support set; RuntimeError if the detector is not fitted."""
        return int((self.support_labels == UNLABELLED).sum())

    @property
    def contamination(self) -> float | None:
        """Share of anomalies among the unlabelled samples that :meth:`fit` was told; None without any."""
        share = self._checkpoint.tensors.get(CONTAMINATION)
        return None if share is None else float(share)

    @property
    def support_counts(self) -> dict[str, float]:
        """Numbers of ``normal``, ``anomalous`` and ``unlabelled`` samples in the support set, and the stated
        ``contamination`` of the unlabelled ones, if any; RuntimeError if the detector is not fitted."""
        self._fitted_support()
        return support_counts(self._checkpoint.tensors)

    @property
    def calibrated_for(self) -> list[int]:
        """Sizes of the support set with calibration scores in the checkpoint; other sizes use the next smaller."""
        return list(calibration_by_shots(self._checkpoint.tensors))

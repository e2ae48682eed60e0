"""State of a detector: a checkpoint and, once there is a support set, the adapted method and its calibration."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.episodes import ANOMALOUS, Adapted, present
from metaad_zoo.evaluation.decisions import SupportDecisions
from metaad_zoo.modality import get_modality
from metaad_zoo.zoo.checkpoint import CONTAMINATION, SUPPORT_LABELS, Checkpoint
from metaad_zoo.zoo.detector_tensors import PLACES, ROI, calibration_by_shots


@dataclass(frozen=True)
class DetectorState:
    """Immutable state of a detector. It is replaced as a whole: a thread that scores sees one fit, old or new."""

    checkpoint: Checkpoint
    adapted: Adapted | None = None
    decisions: SupportDecisions | None = None

    def adapt(self) -> DetectorState:
        """Adapted to the support set that the checkpoint holds."""
        learner, tensors = self.checkpoint.learner, self.checkpoint.tensors
        if ROI in tensors:
            learner = learner.within(tensors[ROI])
        if CONTAMINATION in tensors:
            learner = learner.expecting(float(tensors[CONTAMINATION]))
        task = self.support(), tensors[SUPPORT_LABELS]
        is_calibrated = learner.is_calibrated_for(task[1])
        across = calibration_by_shots(tensors) if is_calibrated else {}
        decisions = SupportDecisions(learner, *task, across, tensors.get(PLACES))
        return DetectorState(self.checkpoint, learner.adapt(*task), decisions)

    def note_method(self, account: Account) -> None:
        """Add what the adapted method says about its support set to an account, and which samples do not vary."""
        usable = self.checkpoint.tensors[SUPPORT_LABELS] != ANOMALOUS
        for name, x in self.support().items():
            modality, normal = get_modality(name), x[usable & present(x)]
            if len(normal) and not bool(modality.feature_scaling(normal).varies.any()):
                account.add(
                    "guessed",
                    "the support set",
                    f"its {modality.title} do not vary, so units can't be taken from them: methods that scale by the "
                    "support see whether a value differs, not by how much; give normal samples that vary",
                )
        for sentence in getattr(self.adapted, "notes", ()):
            account.add("changed", "the support set", sentence)

    def support(self) -> dict[str, Tensor]:
        """The raw support samples by modality."""
        shapes = self.checkpoint.learner.arguments()["input_shapes"]
        return {name: self.checkpoint.tensors[f"support/{name}"] for name in shapes}

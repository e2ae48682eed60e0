"""State of a detector: a checkpoint and, once there is a support set, the adapted method and its calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.episodes import ANOMALOUS, Adapted, count, present
from metaad_zoo.evaluation.decisions import SupportDecisions
from metaad_zoo.modality import get_modality
from metaad_zoo.zoo.checkpoint import CONTAMINATION, SUPPORT_LABELS, Checkpoint
from metaad_zoo.zoo.detector_tensors import PLACES, ROI, calibration_by_shots, shown_calibration

FEW = 8
"""Number of support samples whose scores are compared after a fit."""


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
        shown = shown_calibration(tensors) if is_calibrated else {}
        decisions = SupportDecisions(learner, *task, across, tensors.get(PLACES), across_shown=shown)
        return DetectorState(self.checkpoint, learner.adapt(*task), decisions)

    def note_method(self, account: Account) -> None:
        """Add what the adapted method says about its support set to an account, and what does not vary in it."""
        usable = self.checkpoint.tensors[SUPPORT_LABELS] != ANOMALOUS
        samples = {name: x[usable & present(x)] for name, x in self.support().items()}
        reasons = {get_modality(name).title: _does_not_vary(name, x) for name, x in samples.items() if len(x)}
        if not any(reasons.values()) and self._gives_equal_scores():
            reasons["scores"] = "the adapted network is constant: take a lower inner_loop.lr, or give other samples"
        for title, reason in reasons.items():
            if reason:
                account.add("guessed", "the support set", f"its {title} do not vary, {reason}")
        for sentence in getattr(self.adapted, "notes", ()):
            account.add("changed", "the support set", sentence)

    def _gives_equal_scores(self) -> bool:
        """Whether a meta-trained method scores the first samples of the support alike."""
        assert self.adapted is not None
        first = {name: x[:FEW] for name, x in self.support().items()}
        return self.checkpoint.learner.trains and count(first) > 1 and len(self.adapted.score(first).unique()) == 1

    def support(self) -> dict[str, Tensor]:
        """The raw support samples by modality."""
        shapes = self.checkpoint.learner.arguments()["input_shapes"]
        return {name: self.checkpoint.tensors[f"support/{name}"] for name in shapes}


def _does_not_vary(name: str, normal: Tensor) -> str | None:
    """In what the normal samples ``(n, ...)`` of a modality do not vary, and what follows; None if they vary."""
    if not bool(get_modality(name).feature_scaling(normal).varies.any()):
        return (
            "so units can't be taken from them: methods that scale by the support see whether a value differs, not by "
            "how much; give normal samples that vary"
        )
    if len(normal) > 1 and torch.equal(normal.nan_to_num(), normal[:1].nan_to_num().expand_as(normal)):
        return "they are all the same: methods that learn how samples differ see nothing; give ones that differ"
    return None

"""A fitted detector as a module from raw samples to decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metaad_zoo.backbones import EpisodicBatchNorm
from metaad_zoo.detector import Detector
from metaad_zoo.episodes import Adapted, present
from metaad_zoo.evaluation.decisions import Calibrate
from metaad_zoo.evaluation.explanation import SharesModalities, Transparent
from metaad_zoo.export.files import ExportError


class DetectorGraph(nn.Module):
    """From raw samples to scores, p-values and decisions, in a form that torch.export traces.

    Args:
        detector: fitted detector on the CPU; its adapted state is changed, so pass a copy.
        alpha: false-alarm rate of the decisions; None: scores only.
        calibrate: calibration scores, as for :meth:`metaad_zoo.Detector.predict`.

    Shape:
        Input: one tensor ``(n, ...)`` for each of ``names``. Output: one tensor ``(n,)`` for each of ``outputs``.
    """

    calibration: Tensor

    def __init__(self, detector: Detector, alpha: float | None, calibrate: Calibrate | None = None) -> None:
        super().__init__()
        self.names = list(detector._support())
        self.threshold = None if alpha is None else detector.threshold(alpha, calibrate)
        self.outputs = ["score"] if alpha is None else ["score", "p_value", "anomaly"]
        if alpha is not None:
            self.register_buffer("calibration", detector.normal_scores(calibrate).float())
        self._score = scorer(require_traceable(detector._fitted(), detector.method))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        score = self._score(dict(zip(self.names, inputs, strict=True)))
        # The detector refuses a sample without any value; a graph can't raise, so it returns NaN.
        nothing = ~torch.stack([present(x) for x in inputs]).any(0)
        score = torch.where(nothing, torch.nan, score)
        if self.threshold is None:
            return (score.float(),)
        as_high = (self.calibration >= score.unsqueeze(1)).sum(1)
        p = (1 + as_high).to(score.dtype) / (len(self.calibration) + 1)
        # As in the detector, NaN counts as a high score.
        return score.float(), torch.where(nothing, torch.nan, p).float(), (~(score <= self.threshold) & ~nothing).long()


def require_traceable(adapted: Adapted, method: str) -> Transparent:
    """Adapted method as one whose scores can be traced.

    Args:
        adapted: adapted method.
        method: its name, for the error.

    Raises:
        ExportError: the method computes its scores outside of torch.
    """
    if not isinstance(adapted, Transparent):
        raise ExportError(
            f"{method} has no operations that can be traced: score with the detector itself, run `metaad serve`, or "
            "take another method"
        )
    return adapted


def scorer(adapted: Transparent) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Function from raw samples to scores, with the support's batch statistics stored in the layers.

    Args:
        adapted: adapted method; its batch normalisation is changed.

    Raises:
        ExportError: the scores depend on the other samples of a batch.
    """
    for part in adapted.separate() if isinstance(adapted, SharesModalities) else [adapted]:
        _hold_statistics(part)
    return lambda samples: adapted.logits(adapted.units(samples))


def _hold_statistics(adapted: Transparent) -> None:
    """Store the support's statistics in the batch normalisation layers."""
    modules = [m for part in vars(adapted).values() if isinstance(part, nn.Module) for m in part.modules()]
    layers = [m for m in modules if isinstance(m, EpisodicBatchNorm) and m.policy in ("support", "transductive")]
    if any(layer.policy == "transductive" for layer in layers):
        raise ExportError(
            "batch_norm='transductive' lets a score depend on the other samples of its batch: train with "
            "batch_norm='support' to export"
        )

    def hold(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, EpisodicBatchNorm)
        if layer.policy == "running":
            raise ExportError("a batch normalisation runs twice on a sample, each time with statistics of its own")
        layer.hold_statistics(args[0])

    hooks = [layer.register_forward_pre_hook(hold) for layer in layers]
    try:
        with torch.no_grad():
            adapted.embed()
    finally:
        for hook in hooks:
            hook.remove()

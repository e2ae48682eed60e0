"""From scores to p-values without a test label: across tasks, within one, or by expected contamination.

What each promises, and where its promise ends:

- :class:`AcrossTasks` holds a false-alarm rate on average over tasks that are exchangeable with the validation tasks.
  It does not hold for one task by itself; for domains unlike those of validation (other machines, real tables after
  generated ones); for supports of another size than the scores come from, because scores change with it; nor
  precisely where there were few validation tasks: their number counts, not that of the scores.
- :class:`WithinTask` holds it in the task itself, about, and never below ``1 / (K + 1)``.
- :class:`ExpectedContamination` promises nothing: it is a rank among the support's own scores, each by the method
  without it.

All take normal samples as exchangeable. Windows of a series with memory are not: neighbours resemble each other, and
what comes later drifts away from the support, so that the rate is off whenever the series has changed since.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Literal, Protocol

import torch
from torch import Tensor

from metaad_zoo.episodes import NORMAL, UNLABELLED, Adapted, Method, Samples
from metaad_zoo.evaluation.calibration import can_hold, p_values
from metaad_zoo.evaluation.leave_one_out import leave_one_out_scores, own_scores, sample_keys
from metaad_zoo.registry import unknown_name

Calibrate = Literal["across", "within", "contamination"]
WAYS: tuple[Calibrate, ...] = ("across", "within", "contamination")
USUAL_ALPHA = 0.1
ROUNDING = 1e-12
"""A p-value that equals alpha up to rounding counts as equal."""


class Calibrator(Protocol):
    """Says how unusual scores are for normal samples of a task."""

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """p-values ``(n,)`` of scores that ``adapted``, adapted to this support set, gave."""
        ...


@dataclass(frozen=True)
class AcrossTasks:
    """Conformal over the normal queries of other tasks.

    From as little as one support sample it can promise any rate down to ``1 / (m + 1)``, on average over tasks that are
    exchangeable with those the scores come from, and for supports of the same size.

    Args:
        normal: ``(m,)`` scores of normal samples, ascending (:func:`metaad_zoo.evaluation.calibration.normal_scores`).
    """

    normal: Tensor

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        return p_values(scores, self.normal)


@dataclass(frozen=True)
class WithinTask:
    """Leave-one-out conformal over the support set itself: it needs no other task.

    Each normal support sample is scored by the method adapted to all others. No p-value is below ``1 / (K + 1)``: of
    five normal samples no alarm rate under 17 % can be promised. The promise is approximate, because the scores of the
    left out come from one sample less than those of the query (jackknife; Vovk, "Cross-conformal predictors", 2015).

    Args:
        method: as it adapts.
    """

    method: Method

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`.

        Raises:
            ValueError: the support set is too small for it.
        """
        return p_values(scores, leave_one_out_scores(self.method, support, support_labels))


class Always:
    """p-values of 0: everything is flagged."""

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        return torch.zeros(len(scores), dtype=torch.float64)


@dataclass(frozen=True)
class ExpectedContamination:
    """Ranks among the support set's own scores, of which a share is expected to be anomalous (as in PyOD).

    For supports of unlabelled samples, each scored by the method adapted to the others
    (:func:`metaad_zoo.evaluation.leave_one_out.own_scores`). The highest share of these scores is left out,
    as that of the anomalies; the p-value of a score is its conformal one among the ``m`` others, so that at
    ``1 / (m + 1)`` what lies above all of them is flagged. There is no guarantee, because nobody has said which of them
    are normal.

    Args:
        method: as it adapts.
        contamination: share of anomalies that is expected in the support set, in [0, 1).

    Raises:
        ValueError: the share is out of range.
    """

    method: Method
    contamination: float

    def __post_init__(self) -> None:
        if not 0 <= self.contamination < 1:
            raise ValueError(f"contamination is {self.contamination}; expected a share in [0, 1)")

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        return p_values(scores, self.normal(own_scores(self.method, support, support_labels)[1]))

    def normal(self, own: Tensor) -> Tensor:
        """The support's own scores without the highest share, ascending."""
        return own.sort().values[: max(1, len(own) - round(self.contamination * len(own)))]


def scores_for_shots(by_shots: Mapping[int, Tensor], n: int) -> Tensor:
    """The calibration scores that fit a support set of ``n`` normal samples.

    Those of the largest size that is not larger: scores of normal samples fall as the support grows, so that between
    two sizes the smaller one errs to the side of fewer false alarms.

    Args:
        by_shots: ascending scores by the size of the support set.
        n: normal samples of the support set at hand; where it has none, unlabelled ones.

    Raises:
        RuntimeError: there are no scores, or only some of larger supports.

    Example:
        >>> scores_for_shots({5: torch.zeros(3), 10: torch.ones(3)}, 7)
        tensor([0., 0., 0.])
    """
    if not any(len(scores) for scores in by_shots.values()):
        raise RuntimeError(
            "this checkpoint holds no calibration scores: train it with a val split, take calibrate='within' "
            "(from ten normal support samples on), or use score()"
        )
    fitting = [size for size in by_shots if size <= n]
    if not fitting:
        raise RuntimeError(
            f"this checkpoint is calibrated for supports of {', '.join(map(str, sorted(by_shots)))} normal samples, "
            f"this one has {n}: give {min(by_shots)}, or use score()"
        )
    return by_shots[max(fitting)]


def shots_of(labels: Tensor) -> int:
    """Normal samples among a support set's labels; where there are none, unlabelled ones."""
    return int((labels == NORMAL).sum()) or int((labels == UNLABELLED).sum())


class SupportDecisions:
    """p-values and decisions of one adapted method, in any of the three ways.

    What a way compares with is computed when it is first asked for, by one thread, and kept: leaving one out adapts
    once a sample.

    Args:
        method: as it adapts.
        support: the support set.
        labels: its labels.
        across: ascending scores of normal samples in the validation tasks, by the size of the support set.
    """

    def __init__(self, method: Method, support: Samples, labels: Tensor, across: Mapping[int, Tensor]) -> None:
        self._method, self._support, self._labels = method, support, labels
        self._across = across
        self._kept: dict[tuple[str, float | None], Tensor] = {}
        self._own: tuple[list[bytes], Tensor] | None = None
        self._computing = RLock()

    def _leave_out(self) -> tuple[list[bytes], Tensor]:
        with self._computing:
            if self._own is None:
                self._own = own_scores(self._method, self._support, self._labels)
            return self._own

    def without_themselves(self, samples: Samples, scores: Tensor) -> Tensor:
        """Scores ``(n,)`` of samples, where those that are in the support set have that of the method without them.

        Raises:
            ValueError: of the support's samples fewer than three are no known anomalies.
        """
        keys, own = self._leave_out()
        known = dict(zip(keys, own.tolist(), strict=True))
        found = [known.get(key, score) for key, score in zip(sample_keys(samples), scores.tolist(), strict=True)]
        return torch.tensor(found, dtype=scores.dtype)

    def compared_with(self, calibrate: Calibrate, contamination: float | None) -> Tensor:
        """The ascending scores that stand for normal samples.

        Raises:
            ValueError: the way is unknown or does not fit ``contamination``, or the support set is too small for it.
            RuntimeError: there are no scores of validation tasks with supports as small as this one.
        """
        if calibrate not in WAYS:
            raise unknown_name("way to calibrate", calibrate, WAYS)
        if (contamination is None) == (calibrate == "contamination"):
            raise ValueError(
                f"calibrate={calibrate!r} with contamination={contamination}: give the share of anomalies that you "
                "expect in the support set together with calibrate='contamination', and with that alone"
            )
        if calibrate == "across":
            return scores_for_shots(self._across, shots_of(self._labels))
        way = (calibrate, contamination)
        with self._computing:
            if way not in self._kept:
                if contamination is None:
                    self._kept[way] = leave_one_out_scores(self._method, self._support, self._labels)
                else:
                    self._kept[way] = ExpectedContamination(self._method, contamination).normal(self._leave_out()[1])
            return self._kept[way]

    def p_values(self, scores: Tensor, calibrate: Calibrate, contamination: float | None) -> Tensor:
        """p-values ``(n,)``, float64; errors as in :meth:`compared_with`."""
        return p_values(scores, self.compared_with(calibrate, contamination))

    def rate_to_hold(self, alpha: float | None, calibrate: Calibrate, contamination: float | None) -> float:
        """The false-alarm rate to decide by; where none is named, 0.1, or for contamination the least that there is.

        Raises:
            ValueError: it is out of (0, 1), or lower than so few scores can promise; see also :meth:`compared_with`.
        """
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected a false-alarm rate between 0 and 1, such as 0.1")
        n = len(self.compared_with(calibrate, contamination))
        if alpha is None and calibrate == "contamination":
            return 1 / (n + 1)
        alpha = USUAL_ALPHA if alpha is None else alpha
        if not can_hold(alpha, n):
            needed = math.ceil(1 / alpha - 1e-9) - 1
            mends = {
                "across": "",
                "within": f", give {needed} normal support samples, or take calibrate='across'",
                "contamination": ", or leave alpha out to flag what is above all of these",
            }
            raise ValueError(
                f"{n} calibration scores can't promise {alpha} false alarms: take alpha >= 1/{n + 1}{mends[calibrate]}"
            )
        return alpha

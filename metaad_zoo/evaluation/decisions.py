"""From scores to p-values without a test label: across tasks, within one, or by expected contamination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, Adapted, Method, Samples, count
from metaad_zoo.evaluation.calibration import p_values


class Calibrator(Protocol):
    """Says how unusual scores are for normal samples of a task."""

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """p-values ``(n,)`` of scores that ``adapted``, adapted to this support set, gave."""
        ...


@dataclass(frozen=True)
class AcrossTasks:
    """Conformal over the normal queries of other tasks.

    From as little as one support sample it can promise any rate down to ``1 / (m + 1)``, on average over tasks that are
    exchangeable with those the scores come from.

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
            ValueError: there are fewer than two normal support samples.
        """
        return p_values(scores, leave_one_out_scores(self.method, support, support_labels))


class Always:
    """p-values of 0: everything is flagged."""

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        return torch.zeros(len(scores), dtype=torch.float64)


def leave_one_out_scores(method: Method, support: Samples, support_labels: Tensor) -> Tensor:
    """Score of each normal support sample by the method adapted to all others, ``(K,)`` float64, ascending.

    Raises:
        ValueError: there are fewer than two normal support samples.
    """
    normal = (support_labels == NORMAL).nonzero().flatten()
    if len(normal) < 2:
        raise ValueError(
            f"leave-one-out needs two normal support samples, saw {len(normal)}: give more, or calibrate across tasks"
        )
    scores = []
    for i in normal.tolist():
        others = torch.arange(count(support)) != i
        rest = {name: x[others.to(x.device)] for name, x in support.items()}
        one = {name: x[i : i + 1] for name, x in support.items()}
        scores.append(method.adapt(rest, support_labels[others.to(support_labels.device)]).score(one))
    return torch.cat(scores).double().cpu().sort().values


@dataclass(frozen=True)
class ExpectedContamination:
    """Ranks among the support set's own scores, of which a share is expected to be anomalous (as in PyOD).

    For supports of unlabelled samples. The p-value of a score is the share of support scores at or above it, divided by
    the share that is normal; flagging at ``alpha`` then flags what lies above the ``alpha`` highest normal ones. There
    is no guarantee: the method has seen the samples that it is measured by.

    Args:
        contamination: share of anomalies that is expected in the support set, in [0, 1).

    Raises:
        ValueError: the share is out of range.
    """

    contamination: float

    def __post_init__(self) -> None:
        if not 0 <= self.contamination < 1:
            raise ValueError(f"contamination is {self.contamination}; expected a share in [0, 1)")

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        here = (support_labels != ANOMALOUS).nonzero().flatten()
        own = adapted.score({name: x[here.to(x.device)] for name, x in support.items()}).double().cpu().sort().values
        kept = own[: max(1, len(own) - round(self.contamination * len(own)))]
        return p_values(scores, kept)

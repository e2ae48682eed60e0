"""Calibrators: from scores to p-values without test labels, across tasks, within a task, or by contamination.

Guarantees and their limits:

- :class:`AcrossTasks` holds a false-alarm rate on average over tasks that are exchangeable with the validation tasks.
  It does not hold for a single task; for domains unlike those of validation (different machines, real tables after
  generated ones); or for supports of another size than the scores come from, because scores depend on it. With few
  validation tasks it is imprecise: the number of tasks counts, not the number of scores.
- :class:`WithinTask` holds it approximately in the task itself, and never below ``1 / (K + 1)``. Windows of a series
  are left out in blocks (:mod:`metaad_zoo.evaluation.blocks`), and points compare with points by windows as far apart;
  ``K`` is then the number of windows that are scored for them, a quarter of a window apart or more, which overlap.
- :class:`ExpectedContamination` has no guarantee: its p-value is a rank among the support's leave-one-out scores.

All assume that normal samples are exchangeable. Later windows of a series drift away from the support, so that the rate
is off once the series has changed; :class:`metaad_zoo.evaluation.adaptive.AdaptiveThreshold` follows it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, Adapted, Method, Samples, present, stand_for_normal
from metaad_zoo.evaluation import blocks
from metaad_zoo.evaluation.calibration import ROUNDING, can_hold, p_values
from metaad_zoo.evaluation.leave_one_out import SupportTooSmallError, leave_one_out_scores, own_scores, sample_keys
from metaad_zoo.registry import unknown_name

Calibrate = Literal["across", "within", "contamination", "points"]
WAYS: tuple[Calibrate, ...] = ("across", "within", "contamination", "points")
USUAL_ALPHA = 0.1


class Calibrator(Protocol):
    """Turns the scores of a task into p-values under the hypothesis that a sample is normal."""

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """p-values ``(n,)`` of ``scores`` ``(n,)``, which ``adapted`` gave after adaptation to this support set."""
        ...


@dataclass(frozen=True)
class AcrossTasks:
    """Conformal calibration by the normal queries of other tasks.

    Even with one support sample it holds any rate down to ``1 / (m + 1)``, on average over tasks that are exchangeable
    with the calibration tasks, and for supports of the same size.

    Args:
        normal: ``(m,)`` scores of normal samples, ascending (:func:`metaad_zoo.evaluation.calibration.normal_scores`).
    """

    normal: Tensor

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        return p_values(scores, self.normal)


@dataclass(frozen=True)
class WithinTask:
    """Leave-one-out conformal calibration by the support set itself, without other tasks.

    Each normal support sample is scored by the method adapted to all others. No p-value is below ``1 / (K + 1)``: five
    normal samples can't hold a rate under 17 %. The rate is approximate, because a left-out sample is scored with one
    support sample less than the query (jackknife; Vovk, "Cross-conformal predictors", 2015). More than a hundred normal
    samples are left out in ten parts, each scored with a tenth less of the support, which errs to fewer false alarms.

    Args:
        method: the method, before adaptation.
    """

    method: Method

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`.

        Raises:
            ValueError: the support set is too small for leave-one-out.
        """
        return p_values(scores, leave_one_out_scores(self.method, support, support_labels))


class Always:
    """p-values of 0: everything is flagged."""

    def p_values(self, adapted: Adapted, support: Samples, support_labels: Tensor, scores: Tensor) -> Tensor:
        """See :class:`Calibrator`."""
        return torch.zeros(len(scores), dtype=torch.float64)


@dataclass(frozen=True)
class ExpectedContamination:
    """Ranks among the support set's leave-one-out scores, of which a share is expected to be anomalous (as in PyOD).

    For supports of unlabelled samples, each scored by the method adapted to the others
    (:func:`metaad_zoo.evaluation.leave_one_out.own_scores`). The top ``contamination`` share of these scores is removed
    as anomalous; the p-value of a score is its conformal one among the remaining ``m``, so that at ``1 / (m + 1)``
    every score above all of them is flagged. There is no guarantee, because it is unknown which samples are normal.

    Args:
        method: the method, before adaptation.
        contamination: expected share of anomalies in the support set, in [0, 1).

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

    def normal(self, scores: Tensor) -> Tensor:
        """The support's leave-one-out scores without the top ``contamination`` share, ascending."""
        return scores.sort().values[: max(1, len(scores) - round(self.contamination * len(scores)))]


def scores_for_shots(by_shots: Mapping[int, Tensor], n: int) -> Tensor:
    """The calibration scores that fit a support set of ``n`` normal samples.

    The largest calibrated size that is at most ``n`` is used: scores of normal samples fall as the support grows, so
    that the smaller of two sizes errs towards fewer false alarms.

    Args:
        by_shots: ascending scores ``(m,)`` by the size of the support set.
        n: number of normal samples in the support set; if there are none, of unlabelled samples.

    Raises:
        RuntimeError: there are no scores, or only those of larger supports.

    Example:
        >>> scores_for_shots({5: torch.zeros(3), 10: torch.ones(3)}, 7)
        tensor([0., 0., 0.])
    """
    if not any(len(scores) for scores in by_shots.values()):
        raise RuntimeError(
            "this checkpoint has no calibration scores: train it with a val split, use calibrate='within' "
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
    """Number of normal samples among a support set's labels; if there are none, of unlabelled samples."""
    return int(stand_for_normal(labels).sum())


class SupportDecisions:
    """p-values and decisions of one adapted method, by any of the ways to calibrate.

    The calibration scores of a way are computed at its first use, by one thread, and cached: leave-one-out adapts once
    a sample, and ten times to large supports (:mod:`metaad_zoo.evaluation.leave_one_out`).

    A sample that lacks some of several modalities is compared with normal samples that are scored without them too:
    those of the validation tasks, or where there are none, the support's own by leave-one-out.

    Args:
        method: the method, before adaptation.
        support: the support set.
        labels: its labels.
        across: ascending scores of normal samples in the validation tasks, by the size of the support set.
        places: ``(K, 2)``, where the support's windows lie in their series (:mod:`metaad_zoo.evaluation.blocks`); None
            for samples of other kinds.
        across_shown: as ``across``, of samples reduced to some of several modalities, by the sorted names of these.
    """

    def __init__(
        self,
        method: Method,
        support: Samples,
        labels: Tensor,
        across: Mapping[int, Tensor],
        places: Tensor | None = None,
        across_shown: Mapping[tuple[str, ...], Mapping[int, Tensor]] = MappingProxyType({}),
    ) -> None:
        self._method, self._support, self._labels = method, support, labels
        self._across, self._places, self._across_shown = across, places, across_shown
        self._point_stride: int | None = None
        usual = labels != ANOMALOUS
        names = [name for name, x in sorted(support.items()) if bool((present(x) & usual.to(x.device)).any())]
        self._modalities = tuple(names)
        self._by_way: dict[tuple[Any, ...], Tensor] = {}
        self._own_scores: tuple[list[bytes], Tensor] | None = None
        self._computing = RLock()

    def at_stride(self, stride: int) -> SupportDecisions:
        """These decisions for points that are scored by windows ``stride`` steps apart, with the same cache. A larger
        stride means fewer windows a point, whose mean varies more."""
        decisions = copy.copy(self)
        decisions._point_stride = stride
        return decisions

    def _leave_out(self) -> tuple[list[bytes], Tensor]:
        with self._computing:
            if self._own_scores is None:
                self._own_scores = own_scores(self._method, self._support, self._labels)
            return self._own_scores

    def without_themselves(self, samples: Samples, scores: Tensor) -> Tensor:
        """Scores ``(n,)`` in which samples of the support set have their leave-one-out score.

        Raises:
            ValueError: fewer than three support samples are not known anomalies.
        """
        keys, leave_one_out = self._leave_out()
        by_key = dict(zip(keys, leave_one_out.tolist(), strict=True))
        values = [by_key.get(key, score) for key, score in zip(sample_keys(samples), scores.tolist(), strict=True)]
        return torch.tensor(values, dtype=scores.dtype)

    def way(self, calibrate: Calibrate | None, contamination: float | None) -> Calibrate:
        """The way to calibrate, by default ``"across"`` if there are scores of validation tasks and no history of 20
        windows of a series, else ``"within"``; with a contamination ``"contamination"``."""
        if calibrate is not None:
            return calibrate
        if contamination is not None:
            return "contamination"
        if blocks.has_long_history(self._labels, self._places):
            return "within"
        return "across" if any(len(scores) for scores in self._across.values()) else "within"

    def way_to_decide(
        self, alpha: float | None, calibrate: Calibrate | None, contamination: float | None
    ) -> tuple[float, Calibrate]:
        """The false-alarm rate and the way to calibrate; without ``alpha``, the lowest rate from 0.1 on that the scores
        can hold. Errors as in :meth:`rate_to_hold`."""
        way, n = self.way(calibrate, contamination), self._samples(calibrate, contamination)
        if alpha is None and way != "contamination":
            alpha = max(USUAL_ALPHA, 1 / (n + 1))
        return self.rate_to_hold(alpha, calibrate, contamination), way

    def compared_in(self, samples: Samples) -> list[tuple[str, ...]] | None:
        """Sorted names of the modalities that each sample shares with the support; None if all share all of its."""
        masks = [present(samples[name]).tolist() for name in self._modalities]
        if len(masks) < 2 or all(map(all, masks)):
            return None
        rows = zip(*masks, strict=True)
        return [tuple(name for name, has in zip(self._modalities, row, strict=True) if has) for row in rows]

    def compared_with(
        self, calibrate: Calibrate | None, contamination: float | None, shown: tuple[str, ...] | None = None
    ) -> Tensor:
        """The ascending scores that stand for normal samples; ``calibrate`` as for :meth:`way`.

        Args:
            calibrate: as for :meth:`way`.
            contamination: expected share of anomalies in the support.
            shown: modalities by which a sample is scored, see :meth:`compared_in`; None: all that the support has.
                There may be no scores where few support samples have these.

        Raises:
            ValueError: ``calibrate`` is unknown or inconsistent with ``contamination``, or the support set is too
                small.
            RuntimeError: there are no scores of validation tasks with supports as small as this one.
        """
        calibrate = self.way(calibrate, contamination)
        if calibrate not in WAYS:
            raise unknown_name("way to calibrate", calibrate, WAYS)
        if (contamination is None) == (calibrate == "contamination"):
            raise ValueError(
                f"calibrate={calibrate!r} with contamination={contamination}: give the share of anomalies that you "
                "expect in the support set together with calibrate='contamination', and with that alone"
            )
        shown = shown or self._modalities
        if len(shown) == len(self._support):
            shown = None
        if calibrate == "across" and shown is None:
            return scores_for_shots(self._across, shots_of(self._labels))
        way = (calibrate, contamination, shown, self._point_stride if calibrate == "points" else None)
        with self._computing:
            if way not in self._by_way:
                if shown is not None:
                    self._by_way[way] = self._shown_alone(calibrate, contamination, shown)
                elif contamination is None:
                    self._by_way[way] = self._within(calibrate == "points")
                else:
                    self._by_way[way] = ExpectedContamination(self._method, contamination).normal(self._leave_out()[1])
            return self._by_way[way]

    def _shown_alone(self, calibrate: Calibrate, contamination: float | None, shown: tuple[str, ...]) -> Tensor:
        """Scores of normal samples by some of their modalities."""
        if calibrate == "across":
            some = torch.stack([present(self._support[name]).to(self._labels.device) for name in shown]).any(0)
            n = shots_of(self._labels[some])
            by_shots = self._across_shown.get(shown, {})
            if fitting := [size for size in by_shots if size <= n]:
                return by_shots[max(fitting)]
        try:
            if contamination is None:
                return leave_one_out_scores(self._method, self._support, self._labels, shown)
            scores = own_scores(self._method, self._support, self._labels, shown)[1]
        except SupportTooSmallError:
            return torch.zeros(0, dtype=torch.float64)
        return ExpectedContamination(self._method, contamination).normal(scores)

    @property
    def _places_of_blocks(self) -> Tensor | None:
        """Places of the support's windows, if enough of them have one to leave out blocks, and not fewer than have
        none: these are not known to be neighbours."""
        if self._places is None:
            return None
        normal = self._labels == NORMAL
        placed = int((normal & (self._places[:, 0] >= 0)).sum())
        return self._places if placed >= blocks.LEAST and 2 * placed >= int(normal.sum()) else None

    @property
    def _point_steps(self) -> tuple[int, int]:
        """Steps of a window, and from one window to the next for the scores of points."""
        length = next(iter(self._support.values())).shape[1]
        return length, self._point_stride or blocks.calibration_stride(length)

    def _samples(self, calibrate: Calibrate | None, contamination: float | None) -> int:
        """Number of samples that bound the rate: calibration scores, or of points the windows scored for them."""
        n = len(self.compared_with(calibrate, contamination))
        places = self._places_of_blocks
        if self.way(calibrate, contamination) != "points" or places is None:
            return n
        length, stride = self._point_steps
        return min(
            n, blocks.scored_windows(self._labels, places, length, max(stride, blocks.calibration_stride(length)))
        )

    def _within(self, points: bool) -> Tensor:
        """Leave-one-out scores of the normal support samples, by blocks of a series; the error names the other way
        where there is one."""
        if (places := self._places_of_blocks) is not None:
            stride = self._point_steps[1] if points else None
            return blocks.block_scores(self._method, self._support, self._labels, places, stride)
        try:
            return leave_one_out_scores(self._method, self._support, self._labels)
        except SupportTooSmallError as error:
            if any(len(scores) and n <= shots_of(self._labels) for n, scores in self._across.items()):
                raise SupportTooSmallError(f"{error}, or take calibrate='across' (--calibrate across)") from error
            raise

    def p_values(
        self,
        scores: Tensor,
        calibrate: Calibrate | None,
        contamination: float | None,
        compared_in: Sequence[tuple[str, ...]] | None = None,
    ) -> Tensor:
        """p-values ``(n,)``, float64, of samples with all modalities or those of :meth:`compared_in`; errors as in
        :meth:`compared_with`."""
        if compared_in is None:
            return p_values(scores, self.compared_with(calibrate, contamination))
        p = torch.empty(len(scores), dtype=torch.float64)
        for shown in dict.fromkeys(compared_in):
            rows = torch.tensor([names == shown for names in compared_in])
            p[rows] = p_values(scores[rows], self.compared_with(calibrate, contamination, shown))
        return p

    def rate_to_hold(self, alpha: float | None, calibrate: Calibrate | None, contamination: float | None) -> float:
        """The false-alarm rate to decide by: ``alpha``, by default 0.1, or ``1 / (n + 1)`` with contamination.

        Raises:
            ValueError: ``alpha`` is outside (0, 1), or below what ``n`` scores can hold, of points what the windows
                can that are scored for them; see also :meth:`compared_with`.
        """
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected a false-alarm rate between 0 and 1, such as 0.1")
        calibrate, n = self.way(calibrate, contamination), self._samples(calibrate, contamination)
        if alpha is None and calibrate == "contamination":
            return 1 / (n + 1)
        alpha = USUAL_ALPHA if alpha is None else alpha
        if not can_hold(alpha, n):
            needed = math.ceil(1 / alpha - ROUNDING) - 1
            across = " or take calibrate='across'" if self.way(None, None) == "across" else ""
            mends = {
                "across": "",
                "within": f" or give {needed} normal support samples{across}",
                "points": " or give a longer history",
                "contamination": ", or leave alpha out to flag what is above all of these",
            }
            what = "windows behind the calibration points" if calibrate == "points" else "calibration scores"
            raise ValueError(
                f"{n} {what} can't promise {alpha} false alarms: take alpha >= 1/{n + 1}{mends[calibrate]}"
            )
        return alpha

"""A threshold that follows a series while it is scored: adaptive conformal inference with a memory of normal scores.

    from metaad_zoo.evaluation.adaptive import AdaptiveThreshold

A fixed threshold holds its false-alarm rate as long as later scores are like the calibration scores. On a machine that
changes it flags nearly everything or nothing at all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaad_zoo.evaluation.calibration import ROUNDING

MEMORY = 500
STEP = 0.001
PATIENCE = 250
UNMISTAKABLE = 4.0
"""Distance of unmistakable scores from the memory's median, in distances of its highest score."""
HIGHEST = 0.5
"""Highest level: a threshold below the median of normal scores would call normal what it flags."""


@dataclass(frozen=True)
class AdaptiveDecisions:
    """Decisions of successive scores.

    Attributes:
        p: ``(n,)`` p-values among the memory at that time; NaN where the score is.
        flagged: ``(n,)`` booleans.
        thresholds: ``(n,)``: scores above this were flagged; infinity while nothing was.
    """

    p: np.ndarray
    flagged: np.ndarray
    thresholds: np.ndarray


class AdaptiveThreshold:
    """Adaptive conformal inference on a rolling memory of scores, point by point and in constant memory.

    A score is flagged if its conformal p-value among the memory is at most the level. The level falls by
    ``step * (1 - alpha)`` with each flagged score and rises by ``step * alpha`` with each other one, up to 0.5 (Gibbs
    and Candès, "Adaptive conformal inference under distribution shift", NeurIPS 2021). However the series changes, the
    flagged share of ``T`` scores is at most ``alpha + (alpha + step) / (step * T)``, because nothing is flagged at a
    level of 0 or less. The memory holds the latest scores, at first those of the calibration. An unmistakable score is
    flagged at any level and does not lower it: one that lies four times as far above the memory's median as its
    highest, among the first ``patience`` unusual ones in a row. The bound leaves these out.

    An incident does not become normal: scores whose p-value is at most ``alpha`` enter the memory at a rate of at most
    ``alpha``, the rate that normal series have such scores at. Where ``patience`` of them follow one another, they are
    taken for a new normal state, and enter.

    Args:
        calibration: scores of normal samples, at least one, in any order; ``memory`` evenly spaced ones of them, by
            rank, are used.
        alpha: rate of flagged scores to hold, in (0, 1).
        step: step of the level for each score.
        memory: number of scores in memory.
        patience: number of scores in a row with p-values of at most ``alpha`` that count as one incident.

    Raises:
        ValueError: a number is out of range, or there is no calibration score.

    Example:
        >>> threshold = AdaptiveThreshold(np.arange(100.0), alpha=0.05)
        >>> threshold.update(50.0), threshold.update(98.5)
        (False, True)
    """

    def __init__(
        self,
        calibration: Sequence[float] | np.ndarray,
        alpha: float,
        *,
        step: float = STEP,
        memory: int = MEMORY,
        patience: int = PATIENCE,
    ) -> None:
        scores = np.sort(np.asarray(calibration, np.float64))
        scores = scores[~np.isnan(scores)]
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected a false-alarm rate between 0 and 1, such as 0.01")
        if step <= 0 or memory < 1 or patience < 0:
            raise ValueError(
                f"step is {step}, memory {memory}, patience {patience}; expected a step above 0, a memory "
                "of at least 1 and a patience of at least 0"
            )
        if not len(scores):
            raise ValueError("an adaptive threshold starts from scores of normal samples, and there are none")
        if len(scores) > memory:
            scores = scores[np.linspace(0, len(scores) - 1, memory).round().astype(np.int64)]
        self.alpha, self.level = alpha, min(alpha, HIGHEST)
        self.step, self.memory, self.patience = step, memory, patience
        self._ascending: list[float] = scores.tolist()
        # The calibration scores leave in random order, so that those that stay are a sample of all.
        self._oldest_first = deque(np.random.default_rng(0).permutation(scores).tolist())
        self._unusual, self._credit = 0, 0.0

    @classmethod
    def of_windows(cls, calibration: Sequence[float] | np.ndarray, alpha: float) -> AdaptiveThreshold:
        """A threshold for scores of whole windows, one behind the other: there are far fewer of them than of points."""
        return cls(calibration, alpha, step=0.01, memory=100, patience=50)

    @property
    def threshold(self) -> float:
        """The next score is flagged if it is above this; infinity while nothing would be."""
        n = len(self._ascending)
        allowed = math.floor(self.level * (n + 1) + ROUNDING) - 1  # memorised scores at or above a flagged one
        if allowed >= 0:
            return self._ascending[n - 1 - allowed]
        return self._far if self._unusual < self.patience else math.inf

    @property
    def _far(self) -> float:
        """Score above which one is unmistakable."""
        middle = self._ascending[len(self._ascending) // 2]
        return middle + UNMISTAKABLE * (self._ascending[-1] - middle)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a score among the memory; NaN for NaN."""
        n = len(self._ascending)
        return math.nan if math.isnan(score) else (1 + n - bisect_left(self._ascending, score)) / (n + 1)

    def update(self, score: float) -> bool:
        """Decide on the next score and adapt; NaN, a score that is missing, is not flagged and changes nothing."""
        return self._take(score)[1]

    def decide(self, scores: np.ndarray) -> AdaptiveDecisions:
        """Decide on the next scores ``(n,)``, as :meth:`update` does one by one."""
        thresholds, p, flagged = [], [], []
        for score in np.asarray(scores, np.float64).tolist():
            thresholds.append(self.threshold)
            rank, flag = self._take(score)
            p.append(rank)
            flagged.append(flag)
        return AdaptiveDecisions(np.array(p, float), np.array(flagged, bool), np.array(thresholds, float))

    def _take(self, score: float) -> tuple[float, bool]:
        p = self.p_value(score)
        if math.isnan(p):
            return p, False
        unusual, unmistakable = p <= self.alpha + ROUNDING, self._unusual < self.patience and score > self._far
        self._unusual = self._unusual + 1 if unusual else 0
        flagged = unmistakable or p <= self.level + ROUNDING
        if not unmistakable:
            self.level = min(self.level + self.step * (self.alpha - flagged), HIGHEST)
        self._credit = min(self._credit + self.alpha, self.alpha * self.memory)
        if not unusual or self._unusual > self.patience:
            self._remember(score)
        elif self._credit >= 1:
            self._credit -= 1
            self._remember(score)
        return p, flagged

    def _remember(self, score: float) -> None:
        insort(self._ascending, score)
        self._oldest_first.append(score)
        if len(self._oldest_first) > self.memory:
            del self._ascending[bisect_left(self._ascending, self._oldest_first.popleft())]

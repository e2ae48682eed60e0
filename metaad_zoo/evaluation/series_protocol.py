"""Evaluation protocol of whole series point by point, with intervals over series."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import NORMAL, Adapted, Method, Samples
from metaad_zoo.evaluation.calibration import ROUNDING
from metaad_zoo.evaluation.decisions import Calibrator
from metaad_zoo.evaluation.metrics import DECISION_METRICS, RANK_METRICS, decision_metrics, rank_metrics
from metaad_zoo.evaluation.protocol import summarise, with_differences
from metaad_zoo.evaluation.scores import Record, Scored
from metaad_zoo.evaluation.series_metrics import range_precision, range_recall, vus_pr, vus_roc

POINT_METRICS = (*RANK_METRICS, "vus_pr", "vus_roc")
RANGE_METRICS = ("range_precision", "range_recall", "range_f1")


class PointSeries(Protocol):
    """A series whose test part is scored point by point."""

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """``(T,)`` of 0 and 1."""
        ...

    def draw_support(self, shots: int, rng: np.random.Generator) -> Samples:
        """Draw ``shots`` normal windows of the training part."""
        ...

    def score_points(self, scorer: Callable[[dict[str, Tensor]], Tensor]) -> np.ndarray:
        """Scores ``(T,)`` of all points by a scorer of windows."""
        ...


def evaluate_points(
    methods: Mapping[str, Method],
    series: Sequence[PointSeries],
    shots: int,
    draws: int,
    buffer: int,
    seed: int = 0,
    calibrators: Mapping[str, Calibrator] | None = None,
    alpha: float = 0.1,
    tick: Callable[[], None] = lambda: None,
    record: Record = lambda row: None,
) -> dict[str, Any]:
    """Adapt every method to the same windows of each series and score all points of its test part.

    Neither scores nor decisions are point-adjusted. Without ``calibrators`` there are no decisions, only rank metrics.

    Args:
        methods: methods by name.
        series: the tasks.
        shots: number of support windows of each series.
        draws: number of draws of the support; a series' figures are their means.
        buffer: longest buffer of the volumes (VUS), in points.
        seed: random seed of the draws; each draw is the same for all methods.
        calibrators: calibrator of each method; a point is flagged where its p-value is at most ``alpha``.
        alpha: false-alarm rate to aim at.
        tick: called after each draw of each series.
        record: called with every method's scores of every draw; episodes are numbered over all series.

    Returns:
        The ``methods`` part of ``results.json``, as :func:`metaad_zoo.evaluation.protocol.evaluate` gives it, with the
        figures of :data:`POINT_METRICS` and the difference to the first method in AUROC and in VUS-PR; with
        ``calibrators`` also those of decisions, point by point and range by range (:data:`RANGE_METRICS`).

    Raises:
        ValueError: there is no series, or a series has only one kind of label.
    """
    if not series or draws < 1:
        raise ValueError(f"expected series and at least one draw, saw {len(series)} series and {draws} draws")
    figures: dict[str, dict[str, list[dict[str, float]]]] = {name: defaultdict(list) for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for i, task in enumerate(series):
        for draw in range(draws):
            support = task.draw_support(shots, np.random.default_rng([seed, i, draw]))
            labels = torch.full((shots,), NORMAL)
            for name, method in methods.items():
                start = time.perf_counter()
                adapted = method.adapt(support, labels)
                scores = task.score_points(_scorer(adapted))
                seconds[name] += time.perf_counter() - start
                metric_values, p, flagged = point_metrics(scores, task.labels, buffer), None, None
                if calibrators is not None:
                    p = calibrators[name].p_values(adapted, support, labels, torch.as_tensor(scores))
                    flagged = p <= alpha + ROUNDING
                    metric_values |= decided_metrics(flagged.numpy(), task.labels)
                figures[name][task.name].append(metric_values)
                truth = torch.as_tensor(task.labels)
                record(Scored(name, task.name, i * draws + draw, truth, torch.as_tensor(scores), p, flagged))
            tick()
    metrics = POINT_METRICS if calibrators is None else (*POINT_METRICS, *DECISION_METRICS, *RANGE_METRICS)
    results = {
        name: summarise(by_task, metrics)
        | {"threshold": None, "seconds_per_task": seconds[name] / (len(series) * draws)}
        for name, by_task in figures.items()
    }
    return with_differences(results, ("auroc", "vus_pr"))


def _scorer(adapted: Adapted) -> Callable[[Samples], Tensor]:
    return lambda windows: adapted.score(windows).double().cpu()


def point_metrics(scores: np.ndarray, labels: np.ndarray, buffer: int) -> dict[str, float]:
    """Every figure of :data:`POINT_METRICS` for one series.

    Args:
        scores: ``(T,)`` anomaly scores.
        labels: ``(T,)`` of 0 and 1, both of them.
        buffer: longest buffer of the volumes, in points.
    """
    ours, truth = torch.as_tensor(scores), torch.as_tensor(labels)
    return {
        **rank_metrics(ours, truth),
        "vus_pr": vus_pr(scores, labels, buffer),
        "vus_roc": vus_roc(scores, labels, buffer),
    }


def decided_metrics(flagged: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Figures of one series' decisions: point by point, and range by range with flat bias (Tatbul et al. 2018).

    Args:
        flagged: ``(T,)`` booleans.
        labels: ``(T,)`` of 0 and 1, both of them.
    """
    precision, recall = range_precision(flagged, labels), range_recall(flagged, labels)
    return {
        **decision_metrics(torch.as_tensor(flagged), torch.as_tensor(labels)),
        "range_precision": precision,
        "range_recall": recall,
        "range_f1": 2 * precision * recall / max(precision + recall, 1e-12),
    }

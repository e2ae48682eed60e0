"""Several trainings of one setting on the same test tasks: means, and intervals over trainings and tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metaad_zoo.evaluation.protocol import BOOTSTRAP_RESAMPLES, CONFIDENCE, LEAST_TASKS, interval

INTERVALS = (
    "95 % bootstrap over trainings and over tasks: a resample draws trainings, and the same tasks for all of them; of "
    "n trainings or tasks it draws n - 1, so that the variance is unbiased for few of them"
)
"""How :func:`interval_over_trainings` is computed, for a protocol."""


def interval_over_trainings(values: np.ndarray, second: np.ndarray | None = None) -> list[float] | None:
    """95 % interval of a mean over trainings and tasks, or of the difference of two such means.

    All trainings are tested on the same tasks, so a resample draws trainings, then tasks that all of them share (the
    pigeonhole bootstrap, Owen, Annals of Applied Statistics 2007). Of n it draws n - 1 with replacement, which makes
    the variance of the mean unbiased (Rao and Wu, JASA 1988): with three trainings, draws of three give two thirds of
    it. A single training is not resampled.

    Args:
        values: ``(n_trainings, n_tasks)``.
        second: ``(m_trainings, n_tasks)`` of a second method on the same tasks; the interval is then that of the
            first method's mean minus the second's.

    Returns:
        ``[low, high]``; None for fewer tasks than :data:`LEAST_TASKS`.
    """
    n_tasks = values.shape[1]
    if n_tasks < LEAST_TASKS:
        return None
    if len(values) == 1 and (second is None or len(second) == 1):  # over tasks alone, as for a single training
        return interval(values[0] if second is None else values[0] - second[0])
    rng = np.random.default_rng(0)
    by_task = _draws(rng, len(values)) @ values
    if second is not None:
        by_task = by_task - _draws(rng, len(second)) @ second
    means = (by_task * _draws(rng, n_tasks)).sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(low), float(high)]


def _draws(rng: np.random.Generator, n: int) -> np.ndarray:
    """Weights ``(resamples, n)`` of a mean over n - 1 draws with replacement; 1 of a single item."""
    if n == 1:
        return np.ones((BOOTSTRAP_RESAMPLES, 1))
    return rng.multinomial(n - 1, np.full(n, 1 / n), size=BOOTSTRAP_RESAMPLES) / (n - 1)


def join_trainings(trainings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One method's results over several trainings.

    Args:
        trainings: a method's part of ``results.json`` (``mean`` and ``tasks``), by the name of each training.

    Returns:
        ``mean`` and ``ci95`` over trainings and tasks, ``tasks`` with means over trainings, ``trainings`` with the
        ``mean`` of each, and ``seconds_per_task``. A metric that is lacking, or infinite, in some of them is left out.

    Raises:
        ValueError: they are not of the same tasks.
    """
    results = list(trainings.values())
    names = [task["task"] for task in results[0]["tasks"]]
    for training, result in trainings.items():
        if [task["task"] for task in result["tasks"]] != names:
            raise ValueError(f"{training} and {next(iter(trainings))} have different tasks: only the same are joined")
    metrics = [m for m in results[0]["mean"] if all(_is_number(r["mean"].get(m)) for r in results)]
    joined = [dict(task) for task in results[0]["tasks"]]
    figures: dict[str, Any] = {"mean": {}, "ci95": {}, "tasks": joined}
    for m in metrics:
        values, positions = _values(results, m)
        figures["mean"][m] = float(values.mean())
        figures["ci95"][m] = interval_over_trainings(values)
        for position, mean in zip(positions, values.mean(0), strict=True):
            joined[position][m] = float(mean)
    seconds = [result["seconds_per_task"] for result in results if "seconds_per_task" in result]
    figures["threshold"] = None
    figures |= {"seconds_per_task": float(np.mean(seconds))} if seconds else {}
    return figures | {"trainings": {name: {"mean": dict(r["mean"])} for name, r in trainings.items()}}


def difference_over_trainings(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]], metric: str = "auroc"
) -> dict[str, Any]:
    """Mean of a metric of the first method minus that of the second on the same tasks, over their trainings.

    Args:
        first: results of the first method by the name of each training, each with ``tasks``.
        second: those of the second method. Trainings of the same names, such as seeds, are compared pair by pair;
            others are independent of one another.
        metric: name of the figure.

    Returns:
        ``mean`` and ``ci95``.
    """
    (minuend, _), (subtrahend, _) = (_values(list(method.values()), metric) for method in (first, second))
    difference = float(minuend.mean() - subtrahend.mean())
    if list(first) == list(second):
        return {"mean": difference, "ci95": interval_over_trainings(minuend - subtrahend)}
    return {"mean": difference, "ci95": interval_over_trainings(minuend, subtrahend)}


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _values(results: Sequence[Mapping[str, Any]], metric: str) -> tuple[np.ndarray, list[int]]:
    """A metric ``(n_trainings, n_tasks)``, and the positions of these tasks: those that have it in all trainings."""
    columns = list(zip(*(result["tasks"] for result in results), strict=True))
    positions = [i for i, column in enumerate(columns) if all(_is_number(task.get(metric)) for task in column)]
    return np.array([[result["tasks"][i][metric] for i in positions] for result in results], float), positions

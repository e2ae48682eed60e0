"""Run any number of methods on the same episodes and say what came out, with intervals over tasks."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from scipy import stats

from metaad_zoo.episodes import Episode, Method
from metaad_zoo.evaluation.calibration import normal_scores, threshold
from metaad_zoo.evaluation.metrics import METRICS, all_metrics

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 9999


def calibrated_thresholds(
    methods: Mapping[str, Method],
    episodes: Sequence[Episode],
    alpha: float,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """A threshold for each method, chosen alike for all: by the normal queries of tasks that are not tested.

    Args:
        methods: by name; one with a ``fixed_threshold`` keeps it.
        episodes: of the meta-validation tasks.
        alpha: false-alarm rate to aim at.
        tick: called after each method.
    """
    thresholds = {}
    for name, method in methods.items():
        fixed = getattr(method, "fixed_threshold", None)
        thresholds[name] = threshold(normal_scores(method, episodes), alpha) if fixed is None else float(fixed)
        tick()
    return thresholds


def evaluate(
    methods: Mapping[str, Method],
    episodes: Iterable[Episode],
    thresholds: Mapping[str, float],
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score the same episodes by every method.

    Args:
        methods: by name.
        episodes: the test episodes; each is drawn once and given to all methods.
        thresholds: by method; a sample is flagged where its score is above.
        tick: called after each episode.

    Returns:
        The ``methods`` part of ``results.json``: for each method the mean over tasks, a 95 % interval over tasks
        (bootstrap), the threshold, each task's figures (means over its episodes), the seconds one task takes, and by
        how much its AUROC is behind that of the first method, task by task.
    """
    figures: dict[str, dict[str, list[dict[str, float]]]] = {name: defaultdict(list) for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    n_episodes = 0
    for episode in episodes:
        n_episodes += 1
        for name, method in methods.items():
            start = time.perf_counter()
            scores = method.adapt(episode.support, episode.support_labels).score(episode.query).double().cpu()
            seconds[name] += time.perf_counter() - start
            flagged = scores > thresholds[name]
            figures[name][episode.task].append(all_metrics(scores, episode.query_labels, flagged))
        tick()
    if not n_episodes:
        raise ValueError("expected at least one episode to evaluate on, saw none")
    results = {
        name: summarise(by_task) | {"threshold": thresholds[name], "seconds_per_task": seconds[name] / n_episodes}
        for name, by_task in figures.items()
    }
    first = next(iter(results.values()))
    for result in results.values():
        result["auroc_behind_first"] = paired_difference(first["tasks"], result["tasks"])
    return results


def summarise(by_task: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Means and intervals over tasks.

    Args:
        by_task: for each task the figures of its episodes.
    """
    tasks: list[dict[str, Any]] = [
        {
            "task": task,
            "episodes": len(rows),
            **{m: float(np.mean([row[m] for row in rows])) for m in METRICS},
        }
        for task, rows in sorted(by_task.items())
    ]
    columns = {m: np.array([t[m] for t in tasks]) for m in METRICS}
    return {
        "mean": {m: float(x.mean()) for m, x in columns.items()},
        "ci95": {m: interval(x) for m, x in columns.items()},
        "tasks": tasks,
    }


def paired_difference(first: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean AUROC of one method minus that of another over the same tasks, with a paired 95 % interval."""
    differences = np.array([a["auroc"] - b["auroc"] for a, b in zip(first, other, strict=True)])
    return {"mean": float(differences.mean()), "ci95": interval(differences)}


def interval(values: np.ndarray) -> list[float] | None:
    """95 % interval of a mean over tasks: BCa bootstrap (Efron, JASA 1987), 9,999 resamples, seeded.

    Returns:
        ``[low, high]``; both the mean where all values agree; None for a single task, which tells nothing of others.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return [float(values[0]), float(values[0])]
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=BOOTSTRAP_RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(found.low), float(found.high)]


def environment(device: str) -> dict[str, str]:
    """Versions and device, for a results file.

    Args:
        device: where the methods ran, as torch names it.
    """
    packages = ("metaad_zoo", "torch", "torchvision", "lightning", "timm", "higher", "numpy", "scikit-learn")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device} ({platform.machine()})"
    return {"python": platform.python_version(), "device": name, **{p: version(p) for p in packages}}

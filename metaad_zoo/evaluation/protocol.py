"""Evaluation protocol: any number of methods on the same episodes, with intervals over tasks."""

from __future__ import annotations

import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from metaad_zoo.episodes import Episode, Method
from metaad_zoo.evaluation.calibration import ROUNDING, normal_scores, threshold
from metaad_zoo.evaluation.decisions import AcrossTasks, Always, Calibrator, WithinTask
from metaad_zoo.evaluation.localisation import localisation
from metaad_zoo.evaluation.metrics import METRICS, all_metrics
from metaad_zoo.evaluation.pixel_metrics import PIXEL_METRICS
from metaad_zoo.evaluation.scores import Record, Scored

CONFIDENCE = 0.95
BOOTSTRAP_RESAMPLES = 9999
LEAST_TASKS = 5
"""Minimum number of tasks for an interval: a bootstrap over fewer draws the same few repeatedly."""


def across_tasks(
    methods: Mapping[str, Method], episodes: Sequence[Episode], tick: Callable[[], None] = lambda: None
) -> dict[str, Calibrator]:
    """A calibrator for each method by the normal queries of the same validation tasks.

    Args:
        methods: methods by name; a method that flags everything gets :class:`Always`.
        episodes: episodes of the meta-validation tasks.
        tick: called after each method.
    """
    calibrators: dict[str, Calibrator] = {}
    for name, method in methods.items():
        calibrators[name] = Always() if flags_everything(method) else AcrossTasks(normal_scores(method, episodes))
        tick()
    return calibrators


def within_tasks(methods: Mapping[str, Method]) -> dict[str, Calibrator]:
    """A calibrator for each method by leave-one-out over each support set; see :func:`across_tasks`."""
    return {name: Always() if flags_everything(m) else WithinTask(m) for name, m in methods.items()}


def flags_everything(method: Method) -> bool:
    """Whether a method flags every sample, regardless of its score."""
    return getattr(method, "fixed_threshold", None) == -math.inf


def evaluate(
    methods: Mapping[str, Method],
    episodes: Iterable[Episode],
    calibrators: Mapping[str, Calibrator],
    alpha: float,
    tick: Callable[[], None] = lambda: None,
    record: Record = lambda row: None,
    masks_of: Callable[[Episode], Tensor | None] = lambda episode: None,
) -> dict[str, Any]:
    """Score the same episodes by every method.

    Args:
        methods: methods by name.
        episodes: the test episodes; each is drawn once and given to all methods.
        calibrators: calibrator of each method; a sample is flagged where its p-value is at most ``alpha``.
        alpha: false-alarm rate to aim at.
        tick: called after each episode.
        record: called with every method's scores of every episode.
        masks_of: masks ``(n_query, H, W)`` of an episode's query, or None; see
            :meth:`metaad_zoo.data.EpisodeDataModule.query_masks`.

    Returns:
        The ``methods`` part of ``results.json``: for each method the mean over tasks, a 95 % interval over tasks
        (bootstrap; over draws of the support if there are fewer than :data:`LEAST_TASKS` tasks, see
        :func:`over_draws`), the threshold if it is the same for all tasks, each task's figures (means over its
        episodes), the seconds per task, and the paired difference in AUROC to the first method. Methods with heat maps
        also have
        :data:`metaad_zoo.evaluation.pixel_metrics.PIXEL_METRICS`, over the tasks with masks.
    """
    pixels: dict[str, dict[str, list[dict[str, float]]]] = {name: defaultdict(list) for name in methods}
    figures: dict[str, dict[str, list[dict[str, float]]]] = {name: defaultdict(list) for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    n_episodes = 0
    for episode in episodes:
        masks = masks_of(episode)
        for name, method in methods.items():
            start = time.perf_counter()
            adapted = method.adapt(episode.support, episode.support_labels)
            scores = adapted.score(episode.query).double().cpu()
            seconds[name] += time.perf_counter() - start
            p = calibrators[name].p_values(adapted, episode.support, episode.support_labels, scores)
            flagged = p <= alpha + ROUNDING
            figures[name][episode.task].append(all_metrics(scores, episode.query_labels, flagged))
            record(Scored(name, episode.task, n_episodes, episode.query_labels, scores, p, flagged))
            if masks is not None and (by_pixel := localisation(adapted, episode.query, episode.query_labels, masks)):
                pixels[name][episode.task].append(by_pixel)
        n_episodes += 1
        tick()
    if not n_episodes:
        raise ValueError("expected at least one episode to evaluate on, saw none")
    results = {
        name: summarise(by_task)
        | {
            "threshold": threshold_of(calibrators[name], alpha),
            "seconds_per_task": seconds[name] / n_episodes,
        }
        for name, by_task in figures.items()
    }
    if len({*next(iter(figures.values()))}) < LEAST_TASKS:
        results = {name: over_draws(result, figures[name]) for name, result in results.items()}
    for name, by_task_with_masks in pixels.items():
        if by_task_with_masks:
            results[name] = merged(results[name], summarise(by_task_with_masks, PIXEL_METRICS))
    return with_differences(results)


def over_draws(result: dict[str, Any], by_task: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """A method's results with intervals over draws of the support, which say nothing about other tasks.

    Args:
        result: as :func:`summarise` gives it.
        by_task: figures of each task's episodes; equally many of each task, or as many as all tasks have.
    """
    n = min(map(len, by_task.values()))
    draws = [{m: float(np.mean([rows[i][m] for rows in by_task.values()])) for m in METRICS} for i in range(n)]
    intervals = {m: interval(np.array([draw[m] for draw in draws])) for m in METRICS}
    return result | {"ci95": intervals, "draws": draws}


def merged(results: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A method's results with further figures, of all tasks or of some, as :func:`summarise` gives them."""
    further = {task["task"]: task for task in more["tasks"]}
    tasks = [{**further.get(task["task"], {}), **task} for task in results["tasks"]]
    return results | {"tasks": tasks} | {key: results[key] | more[key] for key in ("mean", "ci95")}


def threshold_of(calibrator: Calibrator, alpha: float) -> float | None:
    """The score above which samples are flagged, if it is the same for all tasks, else None."""
    if isinstance(calibrator, Always):
        return -math.inf
    return threshold(calibrator.normal, alpha) if isinstance(calibrator, AcrossTasks) else None


def with_differences(results: dict[str, Any], metrics: Sequence[str] = ("auroc",)) -> dict[str, Any]:
    """Add to each method's results by how much each of ``metrics`` is behind that of the first method, paired by task,
    or by draw where there are too few tasks."""
    first = next(iter(results.values()))
    for result in results.values():
        for m in metrics:
            unit = "draws" if "draws" in result else "tasks"
            result[f"{m}_behind_first"] = paired_difference(first[unit], result[unit], m)
    return results


def summarise(by_task: Mapping[str, Sequence[Mapping[str, float]]], metrics: Sequence[str] = METRICS) -> dict[str, Any]:
    """Means and intervals over tasks.

    Args:
        by_task: figures of each task's episodes.
        metrics: names of the figures.
    """
    tasks: list[dict[str, Any]] = [
        {
            "task": task,
            "episodes": len(rows),
            **{m: float(np.mean([row[m] for row in rows])) for m in metrics},
        }
        for task, rows in sorted(by_task.items())
    ]
    columns = {m: np.array([t[m] for t in tasks]) for m in metrics}
    return {
        "mean": {m: float(x.mean()) for m, x in columns.items()},
        "ci95": {m: interval(x) for m, x in columns.items()},
        "tasks": tasks,
    }


def paired_difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], metric: str = "auroc"
) -> dict[str, Any]:
    """Mean of a metric over tasks of the first method minus that of the second on the same tasks.

    Returns:
        ``mean``, ``ci95`` (paired, over tasks) and ``wilcoxon_p``, the p-value of the two-sided signed-rank test
        (Wilcoxon, 1945); None if all differences are 0 or there is a single task.
    """
    differences = np.array([a[metric] - b[metric] for a, b in zip(first, second, strict=True)])
    tellable = len(differences) > 1 and bool(np.any(differences != 0))
    p = signed_rank_p(differences) if tellable else None
    return {"mean": float(differences.mean()), "ci95": interval(differences), "wilcoxon_p": p}


def signed_rank_p(differences: np.ndarray) -> float:
    """p-value of the two-sided signed-rank test, as :func:`scipy.stats.wilcoxon` computes it.

    With zeros or ties among at most 13 differences, SciPy calls Python for each of up to 8,192 choices of signs, which
    takes seconds; here they are the rows of one matrix.

    Args:
        differences: paired differences ``(n,)``, not all 0.
    """
    nonzero = differences[differences != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    distinct = len(nonzero) == len(differences) == len(np.unique(ranks))
    if distinct or len(differences) > 13 or not np.isfinite(differences).all():
        return float(stats.wilcoxon(differences).pvalue)
    signs = np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero)) & 1
    sums, observed = signs @ ranks, ranks[nonzero > 0].sum()  # multiples of 1/2, so exact
    return float(min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean())))


def interval(values: np.ndarray) -> list[float] | None:
    """95 % interval of a mean over tasks: BCa bootstrap (Efron, JASA 1987), 9,999 resamples, seeded.

    Returns:
        ``[low, high]``; both the mean if all values are equal; None for fewer tasks than :data:`LEAST_TASKS`.
    """
    if len(values) < LEAST_TASKS:
        return None
    if np.ptp(values) == 0:
        return [float(values[0]), float(values[0])]
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=BOOTSTRAP_RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(result.low), float(result.high)]


def environment(device: str) -> dict[str, str]:
    """Versions of packages and the device, for a results file.

    Args:
        device: where the methods ran, as torch names it.
    """
    packages = ("metaad_zoo", "torch", "torchvision", "lightning", "timm", "higher", "numpy", "scikit-learn")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{device} ({platform.machine()})"
    return {"python": platform.python_version(), "device": name, **{p: version(p) for p in packages}}

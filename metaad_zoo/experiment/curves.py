"""Curves of AUROC against the number of shots and of inner steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import Episode, Method
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import interval
from metaad_zoo.learners import GradientLearner, with_steps

CURVE_EPISODES = 200
"""Episodes per point of a curve; one for each task if there are more tasks."""
Curve = dict[str, Any]


def shots_curve(
    methods: Mapping[str, Method], data: EpisodeDataModule, shots: Iterable[int], tick: Callable[[], None]
) -> Curve:
    """Mean AUROC of each method by the number of normal support samples.

    Args:
        methods: methods by name.
        data: data whose test split is scored.
        shots: numbers of shots.
        tick: called after each number.
    """
    values = sorted(set(shots))
    spec = data.test_episode
    figures: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for k in values:
        data.test_episode = replace(spec, support_normal=k)
        episodes = _episodes(data)
        for name, method in methods.items():
            figures[name].append(auroc_by_task(method, episodes))
        tick()
    data.test_episode = spec
    return _curve(values, figures)


def inner_steps_curve(
    methods: Mapping[str, Method], data: EpisodeDataModule, steps: Iterable[int], tick: Callable[[], None]
) -> Curve:
    """Mean AUROC of each gradient learner by the number of inner steps that it takes on a support set.

    The weights stay as they were trained; see :func:`metaad_zoo.learners.with_steps` for learned rates of each step.

    Args:
        methods: methods by name; only gradient learners have inner steps, and a line.
        data: data whose test split is scored, on the same episodes for each number.
        steps: numbers of inner steps.
        tick: called after each number.
    """
    values = sorted(set(steps))
    learners = steppers(methods, values)
    episodes = _episodes(data)
    figures: dict[str, list[np.ndarray]] = {name: [] for name in learners}
    for n in values:
        for name, learner in learners.items():
            figures[name].append(auroc_by_task(with_steps(learner, n), episodes))
        tick()
    trained = {name: learner.inner_loop.config.steps for name, learner in learners.items()}
    return {**_curve(values, figures), "trained_with": trained}


def steppers(methods: Mapping[str, Method], steps: Iterable[int]) -> dict[str, GradientLearner]:
    """The gradient learners among some methods.

    Raises:
        ValueError: there is no gradient learner, or one of them can't take a number of steps.
    """
    learners = {name: m for name, m in methods.items() if isinstance(m, GradientLearner)}
    if not learners:
        raise ValueError(
            f"inner_steps (--inner-steps) is for models that adapt by gradient steps, none of {list(methods)} does: "
            "leave it out"
        )
    for name, learner in learners.items():
        for n in steps:
            try:
                with_steps(learner, n)
            except ValueError as error:
                raise ValueError(f"inner_steps (--inner-steps) {n} for {name}: {error}") from error
    return learners


def auroc_by_task(method: Method, episodes: Sequence[Episode]) -> np.ndarray:
    """AUROC of each task, the mean over its episodes."""
    by_task: dict[str, list[float]] = {}
    for e in episodes:
        scores = method.adapt(e.support, e.support_labels).score(e.query).cpu()
        by_task.setdefault(e.task, []).append(auroc(scores, e.query_labels))
    return np.array([np.mean(values) for values in by_task.values()])


def _episodes(data: EpisodeDataModule) -> list[Episode]:
    return list(data.episodes("test", max(CURVE_EPISODES, len(data.pools["test"]))))


def _curve(values: Sequence[int], figures: Mapping[str, Sequence[np.ndarray]]) -> Curve:
    lines = {
        name: {"mean": [float(tasks.mean()) for tasks in by_value], "ci95": [interval(tasks) for tasks in by_value]}
        for name, by_value in figures.items()
    }
    return {"values": list(values), "methods": lines}

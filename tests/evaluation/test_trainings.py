"""Intervals over trainings and tasks, and results joined over trainings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metaad_zoo.evaluation.protocol import interval
from metaad_zoo.evaluation.trainings import difference_over_trainings, interval_over_trainings, join_trainings


def effects(rng, n_trainings, n_tasks, training=0.04, task=0.06, rest=0.02):
    """Figures with effects of trainings and of tasks, around 0.8."""
    figures = 0.8 + training * rng.normal(size=(n_trainings, 1)) + task * rng.normal(size=(1, n_tasks))
    return figures + rest * rng.normal(size=(n_trainings, n_tasks))


@pytest.mark.parametrize(("training", "task"), [(0.05, 0.01), (0.01, 0.05), (0.05, 0.2)])
def test_the_width_is_that_of_both_variances(training, task):
    """Of additive effects, the variance of the mean is the sum of those over trainings and over tasks."""
    x = effects(np.random.default_rng(1), 40, 60, training, task, rest=0)
    variance = x.mean(1).var(ddof=1) / 40 + x.mean(0).var(ddof=1) / 60
    low, high = interval_over_trainings(x)
    half = stats.norm.ppf(0.975) * variance**0.5
    assert [low, high] == pytest.approx([x.mean() - half, x.mean() + half], abs=0.1 * half)


@pytest.mark.parametrize(("n_trainings", "n_tasks", "least"), [(5, 30, 0.85), (10, 10, 0.88)])
def test_intervals_cover_the_mean(n_trainings, n_tasks, least):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        low, high = interval_over_trainings(effects(rng, n_trainings, n_tasks))
        covered += low <= 0.8 <= high
    assert least < covered / 100 < 0.99


def test_intervals_over_tasks_alone_are_too_narrow_for_several_trainings():
    """What the second level is for: the same trainings, taken as fixed."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        low, high = interval(effects(rng, 5, 30, training=0.05, task=0.02).mean(0))
        covered += low <= 0.8 <= high
    assert covered / 100 < 0.6


def test_one_training_has_the_interval_over_tasks():
    x = effects(np.random.default_rng(2), 1, 20)
    assert interval_over_trainings(x) == interval(x[0])
    assert interval_over_trainings(x, x - 0.1) == pytest.approx([0.1, 0.1])


def test_few_tasks_have_no_interval():
    assert interval_over_trainings(np.ones((3, 4))) is None


def method(values, tasks="abcdef"):
    rows = [{"task": task, "auroc": float(v), "episodes": 2} for task, v in zip(tasks, values, strict=True)]
    return {"mean": {"auroc": float(np.mean(values))}, "tasks": rows, "seconds_per_task": 1.0}


def test_joined_results_are_means_over_trainings():
    x = effects(np.random.default_rng(3), 3, 6)
    joined = join_trainings({f"seed {i}": method(row) for i, row in enumerate(x)})
    assert joined["mean"]["auroc"] == pytest.approx(x.mean())
    assert [task["auroc"] for task in joined["tasks"]] == pytest.approx(x.mean(0))
    assert joined["ci95"]["auroc"] == interval_over_trainings(x)
    assert {name: t["mean"]["auroc"] for name, t in joined["trainings"].items()} == pytest.approx(
        {f"seed {i}": row.mean() for i, row in enumerate(x)}
    )


def test_trainings_of_other_tasks_are_not_joined():
    with pytest.raises(ValueError, match="seed 1 and seed 0 have different tasks"):
        join_trainings({"seed 0": method(np.ones(6)), "seed 1": method(np.ones(6), "abcdeg")})


def test_differences_are_paired_by_seed():
    """A constant gain of each seed is certain, whatever the seeds and tasks vary; without pairs it is not."""
    x = effects(np.random.default_rng(4), 4, 6)
    first = {f"seed {i}": method(row + 0.01) for i, row in enumerate(x)}
    second = {f"seed {i}": method(row) for i, row in enumerate(x)}
    difference = difference_over_trainings(first, second)
    assert [difference["mean"], *difference["ci95"]] == pytest.approx([0.01] * 3)
    unpaired = difference_over_trainings(first, {f"run {i}": method(row) for i, row in enumerate(x)})
    assert unpaired["mean"] == pytest.approx(0.01)
    assert unpaired["ci95"][0] < 0 < unpaired["ci95"][1]


def test_a_method_that_is_not_trained_has_no_variance_over_trainings():
    x = effects(np.random.default_rng(5), 3, 6)
    difference = difference_over_trainings(
        {f"seed {i}": method(row) for i, row in enumerate(x)}, {"all trainings": method(np.full(6, 0.5))}
    )
    assert difference["ci95"] == pytest.approx([x_ - 0.5 for x_ in interval_over_trainings(x)], abs=1e-12)

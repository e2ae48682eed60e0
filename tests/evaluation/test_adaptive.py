"""The adaptive threshold: rates on series that change, against a plain reference, and incidents that stay alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metaad_zoo.evaluation.adaptive import AdaptiveThreshold
from metaad_zoo.evaluation.calibration import p_values, threshold


def drifting(n: int) -> np.ndarray:
    """Autocorrelated scores whose mean and spread change by a multiple."""
    rng = np.random.default_rng(0)
    noise, x = rng.standard_normal(n), np.zeros(n)
    for i in range(1, n):
        x[i] = 0.9 * x[i - 1] + noise[i]
    time = np.linspace(0, 1, n)
    return (1 + 3 * time) * x + 40 * time + 10 * (time > 0.5)


def reference(calibration: np.ndarray, scores: np.ndarray, alpha: float, patience: int) -> list[bool]:
    """The rule as it is written in the docstring, with lists that are sorted anew each time."""
    memory = list(np.random.default_rng(0).permutation(np.sort(calibration)))
    level, unusual, flags, credit = alpha, 0, [], 0.0
    for score in scores:
        p = (1 + sum(m >= score for m in memory)) / (len(memory) + 1)
        middle = sorted(memory)[len(memory) // 2]
        far = score - middle > 4 * (max(memory) - middle) and unusual < patience
        flags.append(far or p <= level + 1e-9)
        level += 0.0 if far else min(0.001 * (alpha - flags[-1]), 0.5 - level)
        unusual = unusual + 1 if p <= alpha + 1e-9 else 0
        credit = min(credit + alpha, alpha * 500)
        enters = unusual == 0 or unusual > patience or credit >= 1
        credit -= 0 < unusual <= patience and enters
        if enters:
            memory = [*memory, score][-500:] if len(memory) == 500 else [*memory, score]
    return flags


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_rate_on_a_series_that_drifts(alpha):
    scores = drifting(30_000)
    fixed = (scores[500:] > np.quantile(scores[:500], 1 - alpha)).mean()
    adaptive = AdaptiveThreshold(scores[:500], alpha).decide(scores[500:]).flagged
    assert fixed > 0.5
    assert adaptive.mean() == pytest.approx(alpha, rel=0.25)
    assert adaptive[:10_000].mean() == pytest.approx(adaptive[-10_000:].mean(), rel=0.5)


@pytest.mark.parametrize("seed", range(5))
def test_share_is_bounded_whatever_comes(seed):
    rng, alpha = np.random.default_rng(seed), 0.01
    scores = np.cumsum(rng.standard_cauchy(2000)) + np.exp(rng.uniform(0, 10) * np.linspace(0, 1, 2000))
    flagged = AdaptiveThreshold(rng.standard_normal(300), alpha, patience=0).decide(scores).flagged.cumsum()
    assert (flagged <= alpha * np.arange(1, 2001) + (alpha + 0.001) / 0.001).all()


@pytest.mark.parametrize("patience", [0, 20])
def test_agrees_with_a_plain_reference(patience):
    scores = drifting(1500)
    adaptive = AdaptiveThreshold(scores[:300], 0.1, patience=patience)
    assert adaptive.decide(scores[300:]).flagged.tolist() == reference(scores[:300], scores[300:], 0.1, patience)


def test_first_decision_is_the_conformal_one():
    import torch

    calibration, alpha = np.random.default_rng(0).standard_normal(200), 0.05
    adaptive = AdaptiveThreshold(calibration, alpha)
    ascending = torch.as_tensor(np.sort(calibration))
    assert adaptive.threshold == threshold(ascending, alpha)
    assert adaptive.p_value(1.5) == float(p_values(torch.tensor([1.5], dtype=torch.float64), ascending))


def test_batch_is_point_by_point():
    scores = drifting(800)
    scores[[3, 400]] = np.nan
    one, batch = (AdaptiveThreshold(scores[10:200], 0.05) for _ in range(2))
    parts = [batch.decide(part) for part in np.split(scores, [100, 101, 500])]
    thresholds, flags = [], []
    for score in scores:
        thresholds.append(one.threshold)
        flags.append(one.update(score))
    assert np.concatenate([part.flagged for part in parts]).tolist() == flags
    assert np.concatenate([part.thresholds for part in parts]).tolist() == thresholds
    flagged = np.concatenate([part.flagged for part in parts])
    assert ((scores > thresholds) == flagged).all()
    assert math.isnan(np.concatenate([part.p for part in parts])[3])


@pytest.mark.parametrize("length", [100, 5000])
def test_an_incident_does_not_become_normal_before_patience_ends(length):
    rng = np.random.default_rng(1)
    adaptive = AdaptiveThreshold(rng.standard_normal(500), 0.05, patience=200)
    adaptive.decide(rng.standard_normal(1000))
    adaptive.decide(20 + rng.standard_normal(length))
    p = adaptive.p_value(20.0)
    assert p <= 0.06 if length < 200 else p > 0.2


def test_an_incident_soon_after_few_calibration_scores_does_not_become_normal():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        adaptive = AdaptiveThreshold(rng.standard_normal(20), 0.1)
        assert adaptive.decide(8 + rng.standard_normal(30)).flagged.sum() >= 15


def test_an_unmistakable_score_is_flagged_at_any_level_and_costs_nothing():
    rng = np.random.default_rng(2)
    normal = rng.standard_normal(3000)
    adaptive = AdaptiveThreshold(normal[:500], 0.01)
    adaptive.decide(normal[500:])
    adaptive.level = level = -0.001
    assert adaptive.threshold < 1000
    assert adaptive.update(1000.0)
    assert adaptive.level == level
    assert AdaptiveThreshold(normal[:500], 0.01, patience=5).decide(np.full(400, 1000.0)).flagged.sum() < 20


def test_memory_is_constant():
    adaptive = AdaptiveThreshold(np.arange(5000.0), 0.05)
    adaptive.decide(drifting(5000))
    assert len(adaptive._ascending) == len(adaptive._oldest_first) == 500
    assert adaptive._ascending == sorted(adaptive._oldest_first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 0.1, "step": 0.0}, "a step above 0"),
        ({"alpha": 0.1, "memory": 0}, "memory 0"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveThreshold([1.0, 2.0], **arguments)
    with pytest.raises(ValueError, match="there are none"):
        AdaptiveThreshold([math.nan], 0.1)

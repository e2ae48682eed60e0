"""Selection by Benjamini-Hochberg: against scipy and a count by hand, and the false discovery rate by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metaad_zoo as mz
from metaad_zoo.evaluation.calibration import p_values
from metaad_zoo.evaluation.selection import require_selectable, selected, too_few_scores


def by_definition(p: np.ndarray, fdr: float) -> np.ndarray:
    """The step-up procedure of Benjamini and Hochberg (1995), counted."""
    n, order = len(p), np.argsort(p, kind="stable")
    passing = [k for k in range(1, n + 1) if p[order[k - 1]] <= k * fdr / n + 1e-12]
    flags = np.zeros(n, dtype=bool)
    flags[order[: max(passing, default=0)]] = True
    return flags


@pytest.mark.parametrize("fdr", [0.05, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("levels", [None, 10, 100])
def test_a_selection_is_that_of_the_step_up_procedure(fdr, levels):
    """With ties too: conformal p-values are multiples of 1 / (m + 1)."""
    rng = np.random.default_rng(levels or 0)
    for n in (1, 2, 37, 200):
        p = rng.uniform(size=n) ** 2
        p = p if levels is None else np.ceil(p * levels) / levels
        assert np.array_equal(selected(p, fdr), by_definition(p, fdr))
    assert selected(np.zeros(0), fdr).tolist() == []


def test_a_p_value_equal_to_its_bound_is_selected_whatever_the_rounding():
    assert selected(np.full(100, 1 / 10), 0.1).all(), "all p-values at 1 / (m + 1) = fdr"
    assert selected(np.array([0.3 / 3, 0.9, 0.9]), 0.1 * 3).tolist() == [True, False, False]


@pytest.mark.parametrize(("share", "fdr"), [(0.0, 0.1), (0.1, 0.1), (0.1, 0.2), (0.5, 0.2)])
def test_the_false_discovery_rate_is_held(share, fdr):
    """Over 1,500 draws of calibration and test: the mean share of normal ones among the selected is at most ``fdr``
    times the share of normal samples, to three standard errors; a threshold at the same ``alpha`` is far above it."""
    rng, n, m = np.random.default_rng(0), 100, 499
    anomalous = np.arange(n) < share * n
    rates, recalls, of_threshold = [], [], []
    for _ in range(1500):
        calibration = torch.as_tensor(np.sort(rng.normal(size=m)))
        p = p_values(torch.as_tensor(rng.normal(size=n) + 4 * anomalous), calibration).numpy()
        flags = selected(p, fdr)
        rates.append((flags & ~anomalous).sum() / max(1, flags.sum()))
        recalls.append(flags[anomalous].mean() if share else 1.0)
        of_threshold.append(((p <= fdr) & ~anomalous).sum() / max(1, (p <= fdr).sum()))
    allowed = fdr * (1 - share)
    assert np.mean(rates) <= allowed + 3 * np.std(rates) / np.sqrt(len(rates))
    assert np.mean(recalls) > 0.8
    if share < 0.2:
        assert np.mean(of_threshold) > 3 * allowed


def test_bounds_under_which_nothing_can_be_selected_are_refused():
    require_selectable(0.1, 9)
    with pytest.raises(
        ValueError, match=r"with 8 calibration scores no p-value is below 1/9.*9 calibration scores or more"
    ):
        require_selectable(0.1, 8)
    for fdr in (0, 1, -0.1, 10):
        with pytest.raises(ValueError, match=f"fdr is {fdr}; expected a share"):
            require_selectable(fdr, 1000)


def test_too_few_calibration_scores_are_said_only_where_they_prevent_a_selection():
    highest = np.array([0.01] * 3 + [0.5] * 97)
    assert "which 10 of 100 samples would have to reach, and 3 do" in too_few_scores(highest, 0.1, 99)
    assert too_few_scores(np.full(100, 0.5), 0.1, 99) is None, "no sample is above all calibration scores"
    assert too_few_scores(np.array([0.01] * 10 + [0.5] * 90), 0.1, 99) is None, "they are selected"


def test_a_detector_selects_by_its_p_values():
    rng = np.random.default_rng(0)
    detector = mz.load_detector("knn").fit(rng.normal(size=(60, 3)))
    samples = np.concatenate([rng.normal(size=(40, 3)), 30 + rng.normal(size=(20, 3))])
    flags = detector.select(samples, fdr=0.1)
    assert flags.dtype == np.int64
    assert flags.tolist() == by_definition(detector.p_value(samples), 0.1).astype(int).tolist()
    assert flags[40:].all()
    assert 0 <= flags[:40].sum() <= 6
    with pytest.warns(UserWarning, match="nothing is selected at fdr=0.1: with 60 calibration scores"):
        assert not detector.select(samples[:41], fdr=0.1).any()
    with pytest.raises(ValueError, match="with 60 calibration scores no p-value is below 1/61"):
        detector.select(samples, fdr=0.01)
    with pytest.raises(RuntimeError, match="not fitted"):
        mz.load_detector("knn").select(samples)

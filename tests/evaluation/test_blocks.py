"""Calibration by blocks: against nearest neighbours by brute force, and the rate that it holds on a series."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaad_zoo.data.windows import score_series
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.blocks import BLOCKS, LEAST, LONG_HISTORY, block_scores, has_long_history, scored_windows
from metaad_zoo.evaluation.calibration import threshold
from metaad_zoo.evaluation.decisions import SupportDecisions
from metaad_zoo.evaluation.leave_one_out import SupportTooSmallError, leave_one_out_scores

WINDOW = 8


class Nearest:
    """Euclidean distance to the nearest support window."""

    def adapt(self, support, labels):
        fresh = Nearest()
        fresh.support = support["sequence"].flatten(1)
        return fresh

    def score(self, samples):
        return torch.cdist(samples["sequence"].flatten(1), self.support.to(samples["sequence"])).amin(1)


def autocorrelated(n: int, seed: int = 0) -> np.ndarray:
    noise, x = np.random.default_rng(seed).standard_normal((n, 2)), np.zeros((n, 2))
    for i in range(1, n):
        x[i] = 0.95 * x[i - 1] + noise[i]
    return x


def history(n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """``n`` consecutive windows as a support set, its labels and places."""
    windows = torch.as_tensor(autocorrelated(n * WINDOW)).view(n, WINDOW, 2)
    places = torch.stack([torch.zeros(n, dtype=torch.int64), WINDOW * torch.arange(n)], 1)
    return {"sequence": windows}, torch.zeros(n, dtype=torch.long), places


@pytest.mark.parametrize("n", [LEAST, 10, 37])
def test_windows_by_brute_force(n):
    support, labels, places = history(n)
    x, expected = support["sequence"].flatten(1), []
    for block in np.array_split(np.arange(n), min(BLOCKS, n)):
        others = [i for i in range(n) if i < block[0] - 1 or i > block[-1] + 1]
        expected += [min(float((x[i] - x[j]).norm()) for j in others) for i in block]
    scores = block_scores(Nearest(), support, labels, places)
    assert torch.allclose(scores, torch.tensor(expected, dtype=torch.float64).sort().values)


def test_points_are_scored_within_runs_of_adjoining_windows():
    support, labels, places = history(40)
    places[22:, 1] += 100  # a gap inside the sixth block, which holds windows 20 to 23
    expected = []
    for block in np.array_split(np.arange(40), BLOCKS):
        method = Nearest().adapt(
            {"sequence": support["sequence"][[i < block[0] - 1 or i > block[-1] + 1 for i in range(40)]]}, None
        )
        for run in [block[:2], block[2:]] if 22 in block else [block]:
            expected.append(score_series(method.score, support["sequence"][run].reshape(-1, 2).numpy(), WINDOW, 2))
    scores = block_scores(Nearest(), support, labels, places, stride=2)
    assert np.allclose(scores, np.sort(np.concatenate(expected)))


def test_labelled_anomalies_give_no_scores():
    support, labels, places = history(20)
    labels[7] = 1
    assert len(block_scores(Nearest(), support, labels, places)) == 19
    with pytest.raises(SupportTooSmallError, match="history of 5 windows or more"):
        block_scores(Nearest(), support, torch.ones(20, dtype=torch.long), places)


def test_the_rate_of_points_holds_on_a_series_that_does_not_drift():
    rates: dict[str, list[float]] = {"blocks": [], "one by one": []}
    for seed in range(10):
        series = autocorrelated(260 * WINDOW, seed)
        windows = torch.as_tensor(series[: 60 * WINDOW]).view(60, WINDOW, 2)
        places = torch.stack([torch.zeros(60, dtype=torch.int64), WINDOW * torch.arange(60)], 1)
        labels, support = torch.zeros(60, dtype=torch.long), {"sequence": windows}
        method = create_baseline("knn")
        scores = score_series(method.adapt(support, labels).score, series[60 * WINDOW :], WINDOW, 2)
        by_blocks = threshold(block_scores(method, support, labels, places, stride=2), 0.1)
        one_by_one = threshold(leave_one_out_scores(method, support, labels), 0.1)
        rates["blocks"].append(float((scores > by_blocks).mean()))
        rates["one by one"].append(float((scores > one_by_one).mean()))
    assert np.mean(rates["blocks"]) == pytest.approx(0.1, abs=0.05)
    assert abs(np.mean(rates["blocks"]) - 0.1) < abs(np.mean(rates["one by one"]) - 0.1)


def test_a_long_history_decides_by_default():
    support, labels, places = history(LONG_HISTORY)
    across = {5: torch.zeros(100)}
    with_places = SupportDecisions(Nearest(), support, labels, across, places)
    assert with_places.way(None, None) == "within"
    assert SupportDecisions(Nearest(), support, labels, across).way(None, None) == "across"
    assert torch.equal(with_places.compared_with("within", None), block_scores(Nearest(), support, labels, places))
    points = block_scores(Nearest(), support, labels, places, stride=WINDOW // 4)
    assert torch.equal(with_places.compared_with("points", None), points)


def test_windows_without_a_place_are_no_history():
    support, labels, places = history(LONG_HISTORY)
    assert has_long_history(labels, places)
    places[0] = -1
    assert not has_long_history(labels, places)
    assert SupportDecisions(Nearest(), support, labels, {5: torch.zeros(100)}, places).way(None, None) == "across"


@pytest.mark.parametrize("placed", [12, 11])
def test_windows_without_a_place_are_adapted_to_and_not_scored(placed):
    """Of windows that have mostly no place, none is known to be a neighbour: each is left out alone."""
    support, labels, places = history(24)
    places[placed:] = -1
    x, expected = support["sequence"].flatten(1), []
    for block in np.array_split(np.arange(12), BLOCKS):
        others = [i for i in range(24) if i < block[0] - 1 or i > block[-1] + 1]
        expected += [min(float((x[i] - x[j]).norm()) for j in others) for i in block]
    scores = SupportDecisions(Nearest(), support, labels, {}, places).compared_with("within", None)
    by_hand = torch.tensor(expected, dtype=torch.float64).sort().values
    assert torch.allclose(scores, by_hand if placed == 12 else leave_one_out_scores(Nearest(), support, labels))


@pytest.mark.parametrize("stride", [1, WINDOW])
def test_points_compare_with_points_of_the_same_stride(stride):
    support, labels, places = history(20)
    decisions = SupportDecisions(Nearest(), support, labels, {}, places)
    scores = decisions.at_stride(stride).compared_with("points", None)
    assert torch.equal(scores, block_scores(Nearest(), support, labels, places, stride=stride))
    assert not torch.equal(scores, decisions.compared_with("points", None))
    assert decisions.at_stride(stride).compared_with("within", None) is decisions.compared_with("within", None)
    bound = 50 if stride == 1 else 20  # finer windows overlap more and are no further evidence
    with pytest.raises(ValueError, match=f"{bound} windows behind the calibration points"):
        decisions.at_stride(stride).rate_to_hold(0.001, "points", None)


@pytest.mark.parametrize(("n", "expected"), [(5, 5), (20, 50), (68, 242)])
def test_as_many_windows_as_are_scored_for_the_points_bound_the_rate(n, expected, monkeypatch):
    support, labels, places = history(n)
    score, sizes = Nearest.score, []
    with monkeypatch.context() as patch:
        patch.setattr(Nearest, "score", lambda self, x: (sizes.append(len(x["sequence"])), score(self, x))[1])
        block_scores(Nearest(), support, labels, places, stride=WINDOW // 4)
    assert sum(sizes) == scored_windows(labels, places, WINDOW, WINDOW // 4) == expected
    decisions = SupportDecisions(Nearest(), support, labels, {}, places)
    assert decisions.rate_to_hold(1 / (expected + 1), "points", None) == 1 / (expected + 1)
    assert decisions.way_to_decide(None, "points", None)[0] == max(0.1, 1 / (expected + 1))
    with pytest.raises(ValueError, match=f"{expected} windows behind the calibration points can't promise 0.001"):
        decisions.rate_to_hold(0.001, "points", None)

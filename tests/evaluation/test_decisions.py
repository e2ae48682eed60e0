"""Decisions without test labels: coverage on exchangeable tasks, and each way against a case worked out by hand."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

from metaad_zoo.evaluation import leave_one_out
from metaad_zoo.evaluation.decisions import (
    AcrossTasks,
    Always,
    ExpectedContamination,
    SupportDecisions,
    WithinTask,
    scores_for_shots,
    shots_of,
)
from metaad_zoo.evaluation.leave_one_out import EXACT, leave_one_out_scores, own_scores


class DistanceToMean:
    """Adapts to the mean of the support's single column."""

    def adapt(self, support, labels):
        normal = support["tabular"][labels != 1]
        self.mean = normal.mean()
        return self

    def score(self, samples):
        return (samples["tabular"][:, 0] - self.mean).abs()


def task(rng, k=10, n=20):
    """A task of its own centre and scale: all normal."""
    centre, scale = rng.normal() * 5, rng.uniform(0.5, 2)
    rows = torch.as_tensor(centre + scale * rng.normal(size=(k + n, 1)))
    return {"tabular": rows[:k]}, torch.zeros(k, dtype=torch.long), {"tabular": rows[k:]}


def p_of(calibrator, method, support, labels, query):
    adapted = method.adapt(support, labels)
    return calibrator.p_values(adapted, support, labels, adapted.score(query).double())


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_the_false_alarm_rate_holds_across_exchangeable_tasks(alpha):
    rng, method = np.random.default_rng(0), DistanceToMean()
    normal = torch.cat([method.adapt(s, y).score(q) for s, y, q in (task(rng) for _ in range(400))])
    calibrator = AcrossTasks(normal.double().sort().values)
    alarms = torch.cat([p_of(calibrator, method, *task(rng)) <= alpha for _ in range(2000)])
    assert alarms.double().mean() == pytest.approx(alpha, abs=0.01)


def test_each_support_size_has_scores_of_its_own():
    """Scores of normal samples are wider of few shots; between two sizes the smaller one errs to fewer alarms."""
    rng, method, alpha = np.random.default_rng(0), DistanceToMean(), 0.1
    by_shots = {}
    for k in (1, 2, 10):
        normal = torch.cat([method.adapt(s, y).score(q) for s, y, q in (task(rng, k) for _ in range(1000))])
        by_shots[k] = normal.double().sort().values

    def rate(k, scores):
        return (
            torch.cat([p_of(AcrossTasks(scores), method, *task(rng, k)) <= alpha for _ in range(1000)]).double().mean()
        )

    for k in (1, 2, 10):
        assert rate(k, scores_for_shots(by_shots, k)) == pytest.approx(alpha, abs=0.015)
    assert rate(1, by_shots[10]) > 0.15, "what one size would do to another"
    assert rate(9, scores_for_shots(by_shots, 9)) < alpha
    with pytest.raises(RuntimeError, match=r"calibrated for supports of 5, 10 normal"):
        scores_for_shots({5: torch.zeros(3), 10: torch.zeros(3)}, 2)


def test_unlabelled_samples_count_where_none_is_normal():
    assert shots_of(torch.tensor([0, 0, -1, 1])) == 2
    assert shots_of(torch.tensor([-1, -1, -1, 1])) == 3


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_the_false_alarm_rate_holds_within_a_task(alpha):
    """Leave-one-out scores are a little larger than the query's own, so the rate is at most alpha."""
    rng, method = np.random.default_rng(0), DistanceToMean()
    alarms = torch.cat([p_of(WithinTask(method), method, *task(rng)) <= alpha for _ in range(2000)])
    assert alpha - 0.03 < alarms.double().mean() <= alpha + 0.005


def test_leave_one_out_by_hand():
    support, labels = {"tabular": torch.tensor([[0.0], [1.0], [5.0], [9.0]])}, torch.tensor([0, 0, 0, 1])
    scores = leave_one_out_scores(DistanceToMean(), support, labels)
    assert scores.tolist() == [1.5, 3.0, 4.5], "|1 - 2.5|, |0 - 3|, |5 - 0.5|"
    p = p_of(WithinTask(DistanceToMean()), DistanceToMean(), support, labels, {"tabular": torch.tensor([[90.0]])})
    assert p.item() == 1 / 4, "no p-value is below 1 / (K + 1)"
    with pytest.raises(ValueError, match="needs two normal support samples, saw 1"):
        leave_one_out_scores(DistanceToMean(), {"tabular": torch.zeros(2, 1)}, torch.tensor([0, -1]))


def test_expected_contamination_leaves_out_the_highest_share():
    support = {"tabular": torch.tensor([[-2.0], [-1.0], [1.0], [2.0], [10.0]])}
    labels = torch.full((5,), -1)
    method = DistanceToMean()  # without themselves: |-2 - 3|, |-1 - 2.75|, |1 - 2.25|, |2 - 2|, |10 - 0|; mean of all 2
    p = p_of(ExpectedContamination(method, 0.2), method, support, labels, {"tabular": torch.tensor([[7.5], [5.0]])})
    assert p.tolist() == [1 / 5, 3 / 5], "10 is left out; of 5, 3.75, 1.25, 0 none is at least 5.5, two at least 3"
    with pytest.raises(ValueError, match=r"contamination is 1.0; expected a share in \[0, 1\)"):
        ExpectedContamination(method, 1.0)


@pytest.mark.parametrize(("labels", "n"), [([0, 1], 1), ([-1, 1], 1), ([0, 0, 1], 2), ([0, -1, 1], 2), ([-1, -1], 2)])
@pytest.mark.parametrize("score", [leave_one_out_scores, own_scores])
def test_too_few_samples_to_leave_one_out_are_refused(score, labels, n):
    """Of two, each is scored by a model of one, which flags most normal samples; known anomalies do not count."""
    support = {"tabular": torch.arange(3.0)[: len(labels), None]}
    with pytest.raises(ValueError, match=rf"{n} sample.*give 3 or more$|normal support samples, saw [01]: give more$"):
        score(DistanceToMean(), support, torch.tensor(labels))


@pytest.mark.parametrize("size", [None, 2, 5])
def test_calibration_across_tasks_is_advised_only_where_it_has_scores_for_the_support(size):
    across = {} if size is None else {size: torch.arange(20.0)}
    decisions = SupportDecisions(DistanceToMean(), {"tabular": torch.zeros(2, 1)}, torch.tensor([0, 0]), across)
    advice = ", or take calibrate='across' (--calibrate across)" if size == 2 else ""
    with pytest.raises(ValueError, match=re.escape(f"give 3 or more{advice}") + "$"):
        decisions.compared_with("within", None)
    if advice:
        assert len(decisions.compared_with("across", None)) == 20


@pytest.mark.parametrize(
    ("labels", "normal"), [([0, 0, 0], [0.0, 1.5, 1.5]), ([0, 0, -1], [0.0, 1.5]), ([-1, -1, -1], None)]
)
def test_three_samples_are_enough_to_leave_one_out(labels, normal):
    """Each is judged against the mean of both others: |0 - 1.5|, |1 - 1|, |2 - 0.5|."""
    support, y = {"tabular": torch.arange(3.0)[:, None]}, torch.tensor(labels)
    assert own_scores(DistanceToMean(), support, y)[1].tolist() == [1.5, 0.0, 1.5]
    if normal is not None:
        assert leave_one_out_scores(DistanceToMean(), support, y).tolist() == normal


@pytest.mark.parametrize(("contamination", "n", "anomalous"), [(0.29, 100, 29), (0.18, 20, 4), (0.12, 20, 2)])
def test_the_expected_share_is_rounded_to_the_nearest_count(contamination, n, anomalous):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    normal = ExpectedContamination(DistanceToMean(), contamination).normal(torch.arange(n).flip(0).double())
    assert normal.tolist() == list(range(n - anomalous))


def test_many_samples_are_left_out_in_ten_parts_and_equal_ones_share_a_score():
    x = torch.arange(24.0).square().unsqueeze(1)
    x[12] = x[3]
    labels = torch.full((24,), -1)
    labels[23] = 1  # known, and so neither scored nor, by this method, read
    keys, scores = own_scores(DistanceToMean(), {"tabular": x}, labels)
    usual = x[:23, 0].numpy()
    expected = [abs(usual[i] - np.delete(usual, np.arange(i % 10, 23, 10)).mean()) for i in range(23)]
    expected[3] = expected[12] = (expected[3] + expected[12]) / 2
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)
    assert keys[3] == keys[12]
    assert len(set(keys)) == 22


class Counted(DistanceToMean):
    def __init__(self):
        self.adapted = []

    def adapt(self, support, labels):
        self.adapted.append(len(labels))
        return super().adapt(support, labels)


@pytest.mark.parametrize(("n", "sizes"), [(EXACT, [EXACT + 1] * EXACT), (EXACT + 1, [EXACT - 8] + [EXACT - 7] * 9)])
def test_large_supports_are_left_out_in_ten_parts_and_small_ones_one_by_one(n, sizes):
    """Beside the ``n`` normal samples an unlabelled one and a known anomaly, which are never left out."""
    method = Counted()
    x = torch.arange(n + 2.0).square()[:, None]
    labels = torch.zeros(n + 2, dtype=torch.long)
    labels[[0, 1]] = torch.tensor([-1, 1])
    scores = leave_one_out_scores(method, {"tabular": x}, labels)
    assert method.adapted == sizes
    parts, usual = len(sizes), np.delete(x[:, 0].numpy(), 1)
    expected = [
        abs(usual[i] - np.delete(usual, np.arange(1 + (i - 1) % parts, n + 1, parts)).mean()) for i in range(1, n + 1)
    ]
    np.testing.assert_allclose(scores.numpy(), np.sort(expected), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_the_false_alarm_rate_holds_within_a_task_of_many_samples(alpha):
    rng, method = np.random.default_rng(0), DistanceToMean()
    alarms = torch.cat([p_of(WithinTask(method), method, *task(rng, 150)) <= alpha for _ in range(500)])
    assert alarms.double().mean() == pytest.approx(alpha, abs=0.01)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_appears_on_a_terminal_when_it_takes_long(terminal, monkeypatch, capsys):
    monkeypatch.setattr(leave_one_out, "PATIENCE", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    leave_one_out_scores(DistanceToMean(), {"tabular": torch.arange(5.0)[:, None]}, torch.zeros(5))
    assert ("leave-one-out" in capsys.readouterr().err) == terminal


@pytest.mark.parametrize("score", [leave_one_out_scores, lambda *task: own_scores(*task)[1].sort().values])
def test_no_more_samples_are_scored_at_once_than_memory_allows(score, monkeypatch):
    class Largest(DistanceToMean):
        largest = 0

        def score(self, samples):
            self.largest = max(self.largest, len(samples["tabular"]))
            return super().score(samples)

    task = {"tabular": torch.arange(300.0).square()[:, None]}, torch.zeros(300)
    whole = score(Largest(), *task)
    monkeypatch.setattr(leave_one_out, "AT_ONCE", 7)
    method = Largest()
    assert torch.equal(score(method, *task), whole)
    assert method.largest == 7


def test_always_flags():
    assert Always().p_values(None, {}, torch.zeros(0), torch.zeros(3)).tolist() == [0, 0, 0]

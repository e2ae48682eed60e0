"""Range metrics against the authors' packages, against scikit-learn where they fall together, and by hand.

The constants come from the PyPI packages vus 0.0.6 and prts 1.0.0.3, run once in a folder of their own (neither is
installed here), on the cases of `seeded`, with 250 thresholds: `metricor().RangeAUC_volume_opt(y, x, window)` (what
`vus.metrics.get_metrics` calls) for "flagged"; for "all" the mean over windows 0..window of the first figure of
`metricor().RangeAUC(y, x, window, plot_ROC=True)` and of the steps under the curve that it returns,
`np.dot(np.diff(recall[:-1]), precision[1:])`. `ts_recall` and `ts_precision` of prts were given x > 1.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from metaad_zoo.evaluation import series_metrics as ours

SPANS = {
    "three": (0, 300, [(40, 60), (150, 155), (280, 300)], None),
    "near, tied": (1, 120, [(0, 4), (30, 33), (40, 45), (100, 101)], 1),
    "one, integers": (2, 80, [(20, 30)], 0),
}


def seeded(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels: normal noise, 1.5 higher in the ranges, rounded to some digits."""
    seed, n, spans, digits = SPANS[name]
    labels = np.zeros(n, int)
    for first, end in spans:
        labels[first:end] = 1
    scores = np.random.default_rng(seed).normal(size=n) + 1.5 * labels
    return (scores if digits is None else np.round(scores, digits)), labels


@pytest.mark.parametrize(
    ("name", "window", "positives", "pr", "roc"),
    [
        ("three", 12, "flagged", 0.5489839436368722, 0.8730376937971597),
        ("near, tied", 20, "flagged", 0.6896010938010811, 0.9341877241554322),
        ("one, integers", 7, "flagged", 0.45179196808437255, 0.7957690026232555),
        ("three", 12, "all", 0.5281865416685496, 0.8444241159777994),
        ("near, tied", 20, "all", 0.5922583408410047, 0.8556840378391946),
        ("one, integers", 7, "all", 0.4271446107760039, 0.7696468827487299),
    ],
)
def test_volumes_are_those_of_the_authors_package(name, window, positives, pr, roc):
    scores, labels = seeded(name)
    assert ours.vus_pr(scores, labels, window, 250, positives) == pytest.approx(pr, abs=1e-12)
    assert ours.vus_roc(scores, labels, window, 250, positives) == pytest.approx(roc, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "window", "pr"),
    [
        ("three", 12, 0.5227999972402269),
        ("near, tied", 20, 0.7407440200254403),
        ("one, integers", 7, 0.4191605314393445),
    ],
)
def test_range_auc_is_that_of_the_authors_package(name, window, pr):
    assert ours.range_auc_pr(*seeded(name), window, 250) == pytest.approx(pr, abs=1e-12)


@pytest.mark.parametrize("positives", ["all", "flagged"])
def test_without_a_window_one_range_gives_average_precision_and_auroc(positives):
    scores, labels = seeded("one, integers")
    pr = ours.range_auc_pr(scores, labels, 0, positives=positives)
    assert pr == pytest.approx(sk.average_precision_score(labels, scores))
    assert ours.vus_pr(scores, labels, 0, positives=positives) == pr
    assert ours.vus_roc(scores, labels, 0, positives=positives) == pytest.approx(sk.roc_auc_score(labels, scores))


def test_perfect_and_constant_scores_by_hand():
    """One range of 2 among 8, window 2: slopes sqrt(1/2) on both sides, so their weight is 2 + sqrt(2)."""
    labels = np.array([0, 0, 0, 1, 1, 0, 0, 0])
    weight, slope = 2 + np.sqrt(2), np.sqrt(0.5)
    np.testing.assert_allclose(ours.buffered(labels, 2), [0, 0, slope, 1, 1, slope, 0, 0])
    np.testing.assert_allclose(ours.buffered(np.array([1, 0, 0, 0, 1]), 4), [1, 0.75**0.5, 1, 0.75**0.5, 1])
    value = 2 / (2 + slope)
    assert ours.range_auc_pr(labels, labels, 2) == pytest.approx(value + (1 - value) * weight / 8)
    assert ours.range_auc_pr(labels, labels, 2, positives="flagged") == pytest.approx(1.0)
    assert ours.vus_pr(labels, labels, 1) == ours.vus_roc(labels, labels, 1) == 1.0, "window 1 has no slopes"
    constant = np.zeros(8)
    assert ours.range_auc_pr(constant, labels, 2) == pytest.approx(weight / 8)
    assert ours.vus_pr(constant, labels, 1) == pytest.approx(0.25)
    assert ours.vus_roc(constant, labels, 1) == pytest.approx(0.5)
    false_alarms = (8 - weight) / (8 - 2 - slope)
    assert ours.vus_roc(constant, labels, 2) == pytest.approx((0.5 + 0.5 + 1 - false_alarms / 2) / 3)


def test_recall_counts_ranges_found():
    """Two ranges of one point, the first alone on top: recall 1/2 of the points x 1/2 of the ranges, then 1."""
    labels, scores = np.array([0, 1, 0, 0, 0, 1, 0]), np.array([0.0, 9.0, 1.0, 2.0, 3.0, 0.5, 0.1])
    assert ours.range_auc_pr(scores, labels, 0) == pytest.approx(1 / 4 * 1 + 3 / 4 * 2 / 5)
    assert ours.range_auc_pr(scores, labels, 0) < sk.average_precision_score(labels, scores)


def test_random_scores_stay_near_the_share_of_anomalies_and_only_order_counts():
    """Point adjustment would lift these to the level of published methods."""
    labels = np.zeros(5000, int)
    labels[1000:1250] = labels[3000:3250] = 1
    scores = np.random.default_rng(0).normal(size=5000)
    assert ours.vus_pr(scores, labels, 0) == pytest.approx(0.1, abs=0.02)
    assert ours.vus_pr(scores, labels, 20) == pytest.approx(ours.vus_pr(np.exp(scores * 5), labels, 20))


@pytest.mark.parametrize(
    ("name", "recalls", "precisions"),
    [
        ("three", (0.2138888888888889, 0.4497222222222222, 0.7433333333333333), (0.22163120567375885,) * 2),
        ("near, tied", (0.3208333333333333, 0.44958333333333333, 0.5429166666666666), (0.45, 0.45)),
    ],
)
def test_range_precision_and_recall_are_those_of_prts(name, recalls, precisions):
    scores, labels = seeded(name)
    flagged = scores > 1
    settings = [(0.0, True), (0.3, True), (0.3, False)]
    assert [ours.range_recall(flagged, labels, *s) for s in settings] == pytest.approx(list(recalls), abs=1e-12)
    assert [ours.range_precision(flagged, labels, s) for s in (True, False)] == pytest.approx(
        list(precisions), abs=1e-12
    )


def test_range_precision_and_recall_at_their_edges():
    labels = np.array([0, 1, 1, 0, 1, 1])
    assert ours.range_recall(labels, labels) == ours.range_precision(labels, labels) == 1.0
    nothing, everything = np.zeros(6, bool), np.ones(6, bool)
    assert ours.range_recall(nothing, labels, existence=0.5) == ours.range_precision(nothing, labels) == 0.0
    assert ours.range_recall(everything, labels) == 1.0
    assert ours.range_precision(everything, labels) == pytest.approx(4 / 6 / 2), "touches two labelled ranges"


def test_a_long_series_takes_seconds():
    labels = np.zeros(25_000, int)
    for first in range(500, 25_000, 2000):
        labels[first : first + 40] = 1
    scores = np.random.default_rng(0).normal(size=25_000) + labels
    start = time.perf_counter()
    assert 0 < ours.vus_pr(scores, labels, 100, 250) < 1
    assert 0 < ours.vus_pr(scores, labels, 100) < 1
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda s, y: ours.vus_pr(s, y, -1), "window is -1; expected 0 or more"),
        (lambda s, y: ours.vus_pr(s, y, 3, thresholds=0), "thresholds is 0; expected 1 or more"),
        (lambda s, y: ours.vus_pr(s, y, 3, positives="some"), "positives is 'some'; expected 'all'"),
        (lambda s, y: ours.vus_pr(s, 0 * y, 3), r"both of them, saw \[0\]"),
        (lambda s, y: ours.vus_roc(s * np.nan, y, 3), "80 of 80 scores are NaN"),
        (lambda s, y: ours.range_recall(s > 1, y, existence=2), "existence is 2; expected a weight"),
        (lambda s, y: ours.range_precision(s, y), "expected True or False for each point"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call(*seeded("one, integers"))

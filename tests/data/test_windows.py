"""Windows of long series: cutting, labels, and scores of time points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaad_zoo.data.series import Series
from metaad_zoo.data.windows import WindowRule, cut, point_scores, score_series, window_starts


def series(length=200, **given):
    return Series("machine", np.arange(length, dtype=np.float32)[:, None], **given)


def test_windows_hold_the_steps_they_name():
    domain, _ = cut(series(), WindowRule(8, 3))
    read = domain.reader.read(np.array([0, 2, 5]), np.random.default_rng(0))["sequence"]
    assert read.shape == (3, 8, 1)
    assert read[:, :, 0].tolist() == [list(range(s, s + 8)) for s in domain.reader.starts[[0, 2, 5]]]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(30, 300),
    window=st.integers(1, 30),
    stride=st.integers(1, 40),
    least=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 999),
    until=st.one_of(st.none(), st.integers(0, 30)),
)
def test_labels_follow_the_rule_and_support_never_meets_query(length, window, stride, least, seed, until):
    labels = (np.random.default_rng(seed).random(length) < 0.05).astype(np.uint8)
    domain, left_out = cut(
        series(length, labels=labels, support_until=until), WindowRule(window, stride, least, support_share=0.4)
    )
    starts = domain.reader.starts
    points = [set(range(s, s + window)) for s in starts]
    border = round(0.4 * length) if until is None else until
    used = {"support": domain.support, "normal": domain.normal, "anomalous": domain.anomalous}
    for i, inside in enumerate(points):
        hits = sum(int(labels[p]) for p in inside)
        early = starts[i] < border
        kind = "normal" if hits == 0 else "anomalous" if hits >= least * window else None
        kind = ("support" if kind == "normal" else None) if early else kind
        assert [name for name, ids in used.items() if i in ids] == ([kind] if kind else [])
    support = set().union(*(points[i] for i in domain.support), set())
    query = set().union(*(points[i] for i in [*domain.normal, *domain.anomalous]), set())
    assert not support & query
    assert sum(left_out.values()) == len(starts) - sum(map(len, used.values()))


def test_mostly_missing_windows_are_left_out_and_the_others_keep_their_nan():
    values = np.ones((100, 2), np.float32)
    values[40:60] = np.nan
    values[:, 1] = np.nan
    domain, left_out = cut(Series("machine", values), WindowRule(10, 10, support_share=0.5))
    assert left_out == {"mostly without values": 2}
    assert len(domain.support) + len(domain.normal) == 8
    assert domain.reader.read(domain.normal)["sequence"][..., 1].isnan().all()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"window": 0}, "data.window is 0"),
        ({"stride": 0}, "data.stride is 0"),
        ({"min_anomalous": 1.1}, "data.min_anomalous is 1.1"),
        ({"support_share": 1.0}, "data.support_share is 1.0"),
        ({"window": 201}, "machine has 200 steps, fewer than a window of 201"),
    ],
)
def test_rules_that_cannot_work_are_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        cut(series(), WindowRule(**given))


@pytest.mark.parametrize(
    ("values", "labels", "complaint"),
    [
        (np.zeros((3, 2, 2)), None, r"expected numbers of shape \(T,\) or \(T, C\)"),
        (np.zeros((0, 2)), None, "at least one step"),
        (np.array(["a", "b"]), None, "expected numbers"),
        (np.array([1.0, np.inf]), None, "step 1, channel 0 is infinite"),
        (np.zeros(3), np.zeros(2), r"3 steps but labels of shape \(2,\)"),
        (np.zeros(3), np.array([0, 1, 2]), "expected labels 0 .* saw 2 at step 2"),
    ],
)
def test_bad_series_are_refused(values, labels, complaint):
    with pytest.raises(ValueError, match=f"machine: .*{complaint}"):
        Series("machine", values, labels)


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("unknown", [0, 1, 6])
@pytest.mark.parametrize(("length", "window", "stride"), [(20, 5, 2), (20, 5, 7), (9, 9, 1), (50, 1, 1)])
def test_point_scores_agree_with_a_loop(how, length, window, stride, unknown):
    starts = window_starts(length, window, stride)
    scores = np.random.default_rng(0).normal(size=len(starts))
    scores[1 : 1 + unknown] = np.nan
    expected = []
    for t in range(length):
        over = [x for x, s in zip(scores, starts, strict=True) if s <= t < s + window and not np.isnan(x)]
        expected.append((np.mean(over) if how == "mean" else np.max(over)) if over else np.nan)
    np.testing.assert_allclose(point_scores(scores, starts, window, length, how), expected)


@pytest.mark.parametrize(("length", "window", "stride"), [(20, 5, 2), (20, 5, 7), (9, 9, 1), (50, 1, 1)])
def test_causal_point_scores_agree_with_a_loop(length, window, stride):
    starts = window_starts(length, window, stride)
    scores = np.random.default_rng(0).normal(size=len(starts))
    scores[1:2] = np.nan
    expected = []
    for t in range(length):
        ended = [x for x, s in zip(scores, starts, strict=True) if s + window - 1 <= t]
        expected.append(ended[-1] if ended else np.nan)
    np.testing.assert_array_equal(point_scores(scores, starts, window, length, "last"), expected)


@pytest.mark.parametrize("stride", [1, 3])
def test_causal_scores_do_not_look_ahead(stride):
    values = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    later = values.copy()
    later[150:] += 5

    def scorer(samples):
        return samples["sequence"].square().mean((1, 2))

    causal, causal_later = (score_series(scorer, x, 8, stride, "last") for x in (values, later))
    np.testing.assert_array_equal(causal[:150], causal_later[:150])
    assert np.isnan(causal[:7]).all()
    assert (causal[150 + 8 :] < causal_later[150 + 8 :]).all()
    mean, mean_later = (score_series(scorer, x, 8, stride) for x in (values, later))
    assert (mean[150 - 7 + stride : 150] < mean_later[150 - 7 + stride : 150]).all(), "the mean looks ahead"


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_a_scored_series_has_no_gaps_and_finds_the_place(stride):
    values = np.zeros((701, 2), np.float32)
    values[433, 1] = 5

    def scorer(samples):
        assert len(samples["sequence"]) <= 256
        return samples["sequence"].abs().amax((1, 2))

    scores = score_series(scorer, values, 8, stride, "max")
    assert scores.shape == (701,)
    assert np.isfinite(scores).all()
    assert set(np.flatnonzero(scores)) <= set(range(433 - 7, 433 + 8))
    assert scores[433] == 5
    assert score_series(lambda s: torch.arange(len(s["sequence"])), np.zeros(8), 8).tolist() == [0] * 8


def test_scores_of_points_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="7 steps, fewer than the model's window of 8"):
        score_series(lambda s: s["sequence"], np.zeros(7), 8)
    with pytest.raises(ValueError, match="stride is 9; expected 1 to 8"):
        score_series(lambda s: s["sequence"], np.zeros(70), 8, 9)
    with pytest.raises(ValueError, match="beyond a series of 5 steps"):
        point_scores(np.zeros(1), np.array([3]), 4, 5)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        point_scores(np.zeros(1), np.array([0]), 4, 5, "men")

"""A live series scores as the whole does, from rows in any form, in constant memory."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
import torch

import metaad_zoo as mz
from metaad_zoo.cli import main
from metaad_zoo.evaluation.adaptive import AdaptiveThreshold
from metaad_zoo.evaluation.live_series import LiveSeries

WINDOW, CHANNELS = 32, 3


def waves(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sin(np.arange(n)[:, None] / [3.0, 5.0, 9.0]) + rng.normal(0, 0.1, (n, CHANNELS))


def frame(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["a", "b", "c"])


@pytest.fixture(scope="module")
def detector() -> mz.Detector:
    return mz.load_detector("mahalanobis", modality="sequence").fit(frame(waves(WINDOW * 30)))


@pytest.mark.parametrize("pushed", [1, 7, 400])
@pytest.mark.parametrize(("how", "stride"), [("last", 1), ("last", 5), ("mean", 1), ("mean", 5), ("max", 32)])
def test_a_live_series_scores_as_the_whole(detector, how, stride, pushed):
    series = waves(200, 1)
    series[100:104] = np.nan
    live = detector.stream(stride, how, decide=False)
    points = [live.push(series[i : i + pushed]) for i in range(0, len(series), pushed)]
    points.append(live.finish())
    scores = np.concatenate([p.scores for p in points])
    expected = detector.score_series(series, stride, how)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.cumsum([0, *map(len, points)])[:-1], [p.first for p in points])
    if how == "last":
        np.testing.assert_array_equal(detector.score_series(series, stride, causal=True), expected)
        assert [len(p) for p in points[:-1]] == [len(series[i : i + pushed]) for i in range(0, len(series), pushed)]


@pytest.mark.parametrize(("how", "stride"), [("last", 1), ("last", 8), ("mean", 1), ("mean", 8), ("max", 32)])
def test_the_delay_is_as_documented_and_reached(detector, how, stride):
    live, latest = detector.stream(stride, how, decide=False), []
    scored = 0
    for i, row in enumerate(waves(300)):
        scored += len(live.push(row))
        latest.append(i - scored)  # rows since the oldest point without a score
    assert live.delay == (0 if how == "last" else WINDOW + stride - 2)
    assert max(latest) + 1 == live.delay


def test_decisions_are_those_of_the_detector(detector):
    series = waves(300, 2)
    series[200:220] += 3
    live = detector.stream(alpha=0.05, adaptive=False)
    points = [live.push(row) for row in series]
    scores = detector.score_series(series, causal=True)[WINDOW - 1 :]
    p, decisions = detector.decide(scores, 0.05)
    np.testing.assert_allclose(np.concatenate([x.p_values for x in points])[WINDOW - 1 :], p)
    np.testing.assert_array_equal(np.concatenate([x.anomalous for x in points])[WINDOW - 1 :], decisions == 1)
    assert all(np.isnan(x.p_values).all() and not x.anomalous.any() for x in points[: WINDOW - 1])
    assert decisions[200 - WINDOW + 1 :].any()
    assert decisions.sum() < len(decisions) / 2


def test_an_adaptive_stream_decides_as_the_adaptive_threshold_does(detector):
    series = waves(600, 3) + np.linspace(0, 2, 600)[:, None]
    rate, way = detector.way_to_decide(0.05)
    threshold = AdaptiveThreshold(detector.normal_scores(way).numpy(), rate)
    expected = threshold.decide(detector.score_series(series, causal=True))
    for adaptive in (True, AdaptiveThreshold(detector.normal_scores(way).numpy(), rate)):
        live = detector.stream(alpha=0.05, adaptive=adaptive)
        points = [live.push(series[i : i + 7]) for i in range(0, 600, 7)]
        np.testing.assert_allclose(np.concatenate([x.p_values for x in points]), expected.p)
        np.testing.assert_array_equal(np.concatenate([x.anomalous for x in points]), expected.flagged)
    fixed = np.concatenate([x.anomalous for x in [detector.stream(alpha=0.05, adaptive=False).push(series)]])
    assert expected.flagged.sum() < fixed.sum() / 2, "the fixed threshold flags the drift"


def test_a_stated_way_to_calibrate_keeps_the_threshold_of_a_history_fixed(detector):
    series = waves(400, 3) + np.linspace(0, 2, 400)[:, None]
    decide = {
        name: detector.stream(alpha=0.05, **options).push(series).anomalous
        for name, options in [
            ("usual", {}),
            ("adaptive", {"adaptive": True}),
            ("stated", {"calibrate": "within"}),
            ("fixed", {"calibrate": "within", "adaptive": False}),
        ]
    }
    np.testing.assert_array_equal(decide["usual"], decide["adaptive"])
    np.testing.assert_array_equal(decide["stated"], decide["fixed"])
    assert (decide["stated"] != decide["usual"]).any()


def test_rows_come_in_any_form(detector):
    series = waves(80)
    expected = detector.score_series(series, causal=True)
    forms = {
        "arrays": list(series),
        "tensors": list(torch.tensor(series)),
        "dicts": frame(series).to_dict("records"),
        "dicts in another order": frame(series)[["c", "a", "b"]].assign(more=1.0).to_dict("records"),
        "lists": series.tolist(),
        "pandas Series": [row for _, row in frame(series)[["c", "a", "b"]].assign(more="x").iterrows()],
        "lists of dicts": [frame(series[i : i + 10]).to_dict("records") for i in range(0, 80, 10)],
        "dicts of as many values as channels": [dict(frame(series[i : i + 3]).items()) for i in range(0, 80, 3)],
        "dicts of lists": [frame(series[i : i + 10]).to_dict("list") for i in range(0, 80, 10)],
        "frames": [frame(series)[["b", "a", "c"]].iloc[i : i + 10] for i in range(0, 80, 10)],
    }
    for name, rows in forms.items():
        live = detector.stream(decide=False)
        scores = np.concatenate([live.push(row).scores for row in rows])
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_series_of_pandas_is_rows_of_one_channel_unless_its_index_names_it():
    one = waves(WINDOW * 30)[:, :1]
    detector = mz.load_detector("mahalanobis", modality="sequence").fit(pd.DataFrame(one, columns=["a"]))
    live = detector.stream(decide=False)
    assert len(live.push(pd.Series([0.1, 0.2, 0.3], name="a").to_numpy())) == 3
    assert len(live.push(pd.Series({"a": 0.1, "more": 2.0}))) == 1
    assert live.received == 4
    assert len(live.push({"a": [0.1, 0.2]})) == 2
    with pytest.raises(ValueError, match="expected rows of 1 channels"):
        live.push(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="row 7 is infinite"):
        live.push([0.0, np.inf])


@pytest.mark.parametrize(("how", "causal"), [("mean", False), ("last", True)])
@pytest.mark.parametrize("stride", [1, 3])
def test_rows_without_any_value_have_no_score(how, causal, stride, detector):
    series = waves(150)
    complete = detector.score_series(series, stride, causal=causal)
    empty = np.r_[60:64, 149]
    series[empty] = np.nan
    scores = detector.score_series(series, stride, causal=causal)
    assert np.isnan(scores[empty]).all()
    np.testing.assert_array_equal(np.isnan(np.delete(scores, empty)), np.isnan(np.delete(complete, empty)))
    live = detector.stream(stride, how, alpha=0.05, adaptive=False)
    points = [*(live.push(row) for row in series), live.finish()]
    np.testing.assert_allclose(np.concatenate([x.scores for x in points]), scores, rtol=1e-5, atol=1e-6)
    assert not np.concatenate([x.anomalous for x in points])[empty].any()


def test_no_window_reaches_across_a_gap(detector):
    series = waves(200)
    live = detector.stream(how="mean", decide=False)
    points = [live.push(series[:90]), live.finish(), live.push(series[90:100]), live.finish(), live.push(series[100:])]
    points.append(live.finish())
    parts = [detector.score_series(series[:90]), np.full(10, np.nan), detector.score_series(series[100:])]
    scores = np.concatenate([p.scores for p in points])
    np.testing.assert_allclose(scores, np.concatenate(parts), rtol=1e-5, atol=1e-6)
    assert points[4].first == 100
    assert live.received == 200


def test_gaps_in_the_times_of_a_frame_are_respected():
    times = pd.date_range("2024-01-01", periods=400, freq="min").to_series().reset_index(drop=True)
    later = times + pd.to_timedelta(np.where(times.index >= 250, 3, 0), unit="h")
    timed = frame(waves(400)).assign(time=times)
    detector = mz.load_detector("mahalanobis", modality="sequence").fit(timed)
    gap = timed.assign(time=later)
    points = detector.stream(decide=False).push(gap)
    assert np.flatnonzero(np.isnan(points.scores)).tolist() == [*range(31), *range(250, 281)]
    np.testing.assert_allclose(points.scores, detector.score_series(gap, causal=True), rtol=1e-5, atol=1e-6)


def test_decisions_continue_after_a_gap():
    times = pd.date_range("2024-01-01", periods=300, freq="min").to_series().reset_index(drop=True)
    timed = frame(waves(300)).assign(time=times)
    detector = mz.load_detector("mahalanobis", modality="sequence").fit(timed)
    gap = timed.assign(time=times + pd.to_timedelta(np.where(times.index >= 250, 3, 0), unit="h"))
    points = detector.stream(adaptive=False).push(gap)
    assert (points.first, len(points.scores), len(points.p_values), len(points.anomalous)) == (0, 300, 300, 300)
    valued = ~np.isnan(points.scores)
    assert valued[281:].all()
    np.testing.assert_array_equal(np.isnan(points.p_values), ~valued)
    assert not points.anomalous[~valued].any()


@pytest.mark.parametrize("pushed", [1, 50])
@pytest.mark.parametrize("how", ["last", "mean"])
def test_gaps_between_frames_are_respected(how, pushed):
    times = pd.date_range("2024-01-01", periods=400, freq="min").to_series().reset_index(drop=True)
    timed = frame(waves(400)).assign(time=times)
    detector = mz.load_detector("mahalanobis", modality="sequence").fit(timed)
    gap = timed.assign(time=times + pd.to_timedelta(np.where(times.index >= 250, 3, 0), unit="h"))
    live = detector.stream(how=how, decide=False)
    points = [live.push(gap.iloc[i : i + pushed]) for i in range(0, 400, pushed)]
    scores = np.concatenate([part.scores for part in [*points, live.finish()]])
    expected = detector.score_series(gap, how=how, causal=how == "last")
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    live.push(gap.iloc[100:200])
    with pytest.raises(ValueError, match="lies 1140 before the last row that was pushed"):
        live.push(gap.iloc[180:200])
    live.finish()
    live.push(gap.iloc[180:200])


def test_memory_does_not_grow():
    shapes = []

    def scorer(windows):
        shapes.append(windows["sequence"].shape)
        return windows["sequence"].mean((1, 2))

    for how in ("last", "mean"):
        live = LiveSeries(scorer, window=10, channels=2, stride=3, how=how)
        held = set()
        for row in np.zeros((500, 2)):
            live.push(row)
            held.add((len(live._part._rows), len(live._part._starts), len(live._part._scores)))
        rows, starts, scores = np.array(sorted(held)).max(0)
        assert rows <= 10 + 3
        assert starts == scores <= 10


def test_what_cannot_be_streamed_is_refused(detector):
    live = detector.stream()
    for rows, message in [
        (np.zeros(2), "expected rows of 3 channels"),
        (np.zeros((5, 2)), "expected rows of 3 channels"),
        ([0.0, np.inf, 0.0], "row 0 is infinite"),
        ({"a": 1.0, "b": 2.0}, r"lacks \['c'\]"),
        (["a", "b", "c"], "expected numbers"),
        ({"a": 1.0, "b": [2.0, 3.0], "c": 4.0}, r"'b': \(2,\)"),
        (dict.fromkeys("abc", np.zeros((2, 2))), r"'a': \(2, 2\)"),
        (pd.Series({"a": 1.0, "b": 2.0}), r"lacks \['c'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            live.push(rows)
    assert live.received == 0, "what is refused is not taken"
    with pytest.raises(ValueError, match="stride is 33; expected 1 to 32"):
        detector.stream(33)
    with pytest.raises(ValueError, match="unknown way from windows to points: 'median'"):
        detector.stream(how="median")
    with pytest.raises(ValueError, match="how is 'mean' with causal=True"):
        detector.score_series(waves(50), how="mean", causal=True)
    with pytest.raises(RuntimeError, match="not fitted"):
        mz.load_detector("mahalanobis", modality="sequence").stream()
    with pytest.raises(ValueError, match="for models of series"):
        mz.load_detector("knn", modality="tabular").fit(np.eye(3)).stream()
    with pytest.raises(ValueError, match="names"):
        mz.load_detector("knn", modality="sequence").fit(waves(320).reshape(10, 32, 3)).stream().push({"a": 1.0})


def test_a_stream_keeps_to_the_fit_that_it_began_with(detector):
    again = mz.load_detector("mahalanobis", modality="sequence").fit(frame(waves(WINDOW * 30)))
    live = again.stream(decide=False)
    again.fit(frame(waves(WINDOW * 30) * 5))
    series = waves(60, 4)
    np.testing.assert_allclose(live.push(series).scores, detector.score_series(series, causal=True), rtol=1e-5)


@pytest.mark.parametrize("more", [[], ["--causal"], ["--causal", "--stride", "4"]])
@pytest.mark.parametrize("adaptive", [None, False, True])
def test_a_stream_scores_and_decides_as_the_command_does(more, adaptive, tmp_path):
    history, series = frame(waves(WINDOW * 30)), frame(waves(150, 5))
    series.iloc[100:110] += 4
    history.to_csv(tmp_path / "history.csv", index=False)
    series.to_csv(tmp_path / "data.csv", index=False)
    mine = str(tmp_path / "mine")
    support = ["--modality", "sequence", "--support", str(tmp_path / "history.csv")]
    assert main(["adapt", "mahalanobis", *support, "--out", mine]) == 0
    command = ["score", mine, "--data", str(tmp_path / "data.csv"), "--out", str(tmp_path / "s.csv"), "--points"]
    flag = {None: [], False: ["--no-adaptive"], True: ["--adaptive"]}[adaptive]
    assert main([*command, *more, *flag]) == 0
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    how, stride = ("last", 4 if "--stride" in more else 1) if more else ("mean", 1)
    live = mz.load_detector(mine).stream(stride, how, adaptive=adaptive)
    points = [live.push(row) for row in series.to_numpy()]
    points.append(live.finish())
    for column, values in [("score", "scores"), ("p_value", "p_values"), ("anomaly", "anomalous")]:
        expected = np.array([float(row[column] or "nan") for row in rows])
        seen = np.concatenate([getattr(part, values) for part in points]).astype(float)
        seen = np.where(np.isnan(expected), np.nan, seen) if column == "anomaly" else seen
        np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-6, err_msg=column)
    assert sum(row["anomaly"] == "1" for row in rows) > 5


def test_the_command_writes_causal_scores(detector, tmp_path, capsys):
    series = frame(waves(150, 5))
    series.to_csv(tmp_path / "data.csv", index=False)
    detector.save(tmp_path / "mine")
    command = ["score", str(tmp_path / "mine"), "--data", str(tmp_path / "data.csv"), "--out", str(tmp_path / "s.csv")]
    assert main([*command, "--causal"]) == 1
    assert "--causal is only with --points" in capsys.readouterr().err
    assert main([*command, "--points", "--causal"]) == 0
    assert "are among the first 31 of a series" in capsys.readouterr().err
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["score"] == row["p_value"] == row["anomaly"] == "" for row in rows[:31])
    expected = detector.score_series(series, causal=True)[31:]
    assert [float(row["score"]) for row in rows[31:]] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)

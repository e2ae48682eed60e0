"""Alarms on series: events by hand, rates, drift warnings and pictures, and `metaad score` on a series from a file."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from metaad_zoo import load_detector
from metaad_zoo.cli import main
from metaad_zoo.experiment.series_curves import Envelope, SeriesCurves
from metaad_zoo.experiment.series_events import DriftMonitor, EventLog, Steps

WINDOW = 4


def steps_of(scores, flagged, labels=None, start=0, series="pump"):
    n = len(scores)
    times = np.datetime64("2026-01-01T00:00:00") + 3600 * np.arange(start, start + n)
    values = np.column_stack([np.arange(start, start + n), np.zeros(n)]).astype(float)
    p, flagged = np.full(n, 0.01), np.array(flagged, bool)
    labels = None if labels is None else np.array(labels)
    return Steps(series, start, values, np.array(scores, float), p, flagged, np.full(n, 2.0), times, labels)


def part(steps, a, b):
    arrays = {k: v[a:b] for k, v in vars(steps).items() if isinstance(v, np.ndarray)}
    return replace(steps, start=steps.start + a, **arrays)


def logged(path, *parts):
    seen = []

    def drops(window):
        seen.append(window[:, 0].tolist())
        return np.array([0.1, 2.0])

    with EventLog(path, WINDOW, drops, lambda: ["flow", "heat"]) as log:
        for steps in parts:
            log.add(steps)
    return log, list(csv.DictReader(path.read_text().splitlines())), seen


SCORES = [1, 3, 1, 1, 5, 4, 1, 1, 1, 1, 1, 1, 1, 3]
FLAGGED = [0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
LABELS = [0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, -1, 0]


@pytest.mark.parametrize("cuts", [[], [5], [2, 4, 9], list(range(1, 14))])
def test_events_by_hand_in_any_pieces(cuts, tmp_path):
    whole = steps_of(SCORES, FLAGGED, LABELS)
    pieces = [part(whole, a, b) for a, b in zip([0, *cuts], [*cuts, 14], strict=True)]
    log, rows, windows = logged(tmp_path / "events.csv", *pieces)
    # Steps 1, 4 and 5 lie less than a window of four apart; step 13 follows eight steps later.
    assert [(r["begin"], r["end"], r["peak"], r["flagged"]) for r in rows] == [
        ("1", "5", "4", "3"),
        ("13", "13", "13", "1"),
    ]
    assert rows[0]["begin_time"] == "2026-01-01T01:00:00"
    assert rows[0]["peak_time"] == "2026-01-01T04:00:00"
    assert (rows[0]["score"], rows[0]["p_value"], rows[0]["channels"]) == ("5.0", "0.01", "heat")
    assert windows == [[1.0, 2.0, 3.0, 4.0], [10.0, 11.0, 12.0, 13.0]]
    assert (log.events, log.steps, log.flagged, log.seconds) == (2, 14, 4, 13 * 3600)
    # Of two incidents, the one at 3 and 4 is hit and the one at 6 and 7 has step 5 beside it; 13 is far from both.
    assert (log.incidents, log.detected, log.detected_around, log.false_events) == (2, 1, 2, 1)
    assert (log.labelled_normal, log.flagged_normal) == (9, 3)
    rates = log.rates()
    assert rates["events_per_day"] == pytest.approx(2 * 24 / 13)
    assert rates["false_events_per_day"] == pytest.approx(24 / 13)
    assert rates["flagged_normal_share"] == pytest.approx(3 / 9)


def test_alarms_before_and_after_an_incident_count_as_near(tmp_path):
    for flagged, near in ((7, 0), (8, 1), (15, 1), (16, 0)):  # steps 11 and 12 are the incident, a window is 4
        flags, labels = np.zeros(30, int), np.zeros(30, int)
        flags[flagged], labels[[11, 12]] = 1, 1
        log, _, _ = logged(tmp_path / "events.csv", steps_of(np.ones(30), flags, labels))
        assert (log.detected, log.detected_around, log.false_events) == (0, near, 1 - near)


def test_series_and_gaps_are_kept_apart(tmp_path):
    first, second = (
        steps_of([1, 1, 1, 1, 9], [0, 0, 0, 0, 1]),
        steps_of([9, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], series="fan"),
    )
    log, rows, windows = logged(tmp_path / "events.csv", first, second)
    assert [(r["series"], r["begin"]) for r in rows] == [("pump", "4"), ("fan", "0")]
    assert windows[1] == [0.0, 1.0, 2.0, 3.0]  # the first window, where there are no steps before
    assert "events_per_day" in log.rates()
    timeless = replace(first, times=None)
    assert logged(tmp_path / "events.csv", timeless)[0].rates()["events_per_1000_steps"] == pytest.approx(200)


def test_a_gap_ends_events_and_incidents_and_is_no_realised_time(tmp_path):
    # The series is flagged and labelled on both sides of a gap of a day; positions run on.
    before = steps_of([1, 1, 1, 1, 9], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1])
    after = steps_of([9, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], start=5)
    after = replace(after, times=after.times + np.timedelta64(1, "D"), after_gap=True)
    log, rows, windows = logged(tmp_path / "events.csv", before, after)
    assert [(r["begin"], r["end"], r["channels"]) for r in rows] == [("4", "4", "heat"), ("5", "5", "heat")]
    assert windows == [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    assert (log.seconds, log.incidents, log.detected) == (8 * 3600, 2, 2)


@pytest.mark.parametrize("first", [2000.0, 1.7e9])
def test_numbers_are_no_clock_times(first, tmp_path):
    steps = replace(steps_of(SCORES, FLAGGED), times=first + np.arange(14))
    log, rows, _ = logged(tmp_path / "events.csv", steps)
    assert rows[0]["begin_time"] == f"{first + 1:.15g}"
    assert (log.seconds, "events_per_1000_steps" in log.rates()) == (0.0, True)
    curves = SeriesCurves()
    curves.add(steps)
    curves.draw(tmp_path / "curves.png", log.highest, None, "numbers")
    assert curves._envelope.low[:, 0].tolist() == (first + np.arange(14)).tolist()


def test_normal_steps_without_a_score_do_not_count(tmp_path):
    steps = steps_of([np.nan, np.nan, 1, 9], [0, 0, 0, 1], [0, 0, 0, 0])
    log, _, _ = logged(tmp_path / "events.csv", steps)
    assert (log.labelled_normal, log.rates()["flagged_normal_share"]) == (2, 0.5)


def test_drift_is_warned_of_once():
    monitor = DriftMonitor(0.01, 10, "points")
    assert not monitor.add(np.array([True] * 9))
    assert not DriftMonitor(0.2, 10, "points").add(np.array([True, False] * 10))
    assert not DriftMonitor(0.6, 10, "points").add(np.array([True, True, True, False, False] * 10)), "as aimed at"
    assert monitor.add(np.array([False]))
    assert monitor.warning is not None
    assert monitor.warning.startswith("the last 10 points look unlike the support: 90% flagged")
    assert not monitor.add(np.array([True] * 50))


def test_envelope_by_brute_force():
    rows = np.random.default_rng(0).standard_normal((1003, 2))
    rows[5:20] = np.nan
    envelope = Envelope(bins=10)
    for piece in np.split(rows, [1, 7, 500, 501]):
        envelope.add(piece)
    k = envelope.rows_per_bin
    assert 10 <= len(envelope.low) <= 21
    parts = [rows[i : i + k] for i in range(0, len(rows), k)]
    np.testing.assert_array_equal(envelope.low, [np.fmin.reduce(x) for x in parts])
    np.testing.assert_array_equal(envelope.high, [np.fmax.reduce(x) for x in parts])


@pytest.fixture(scope="module")
def pump(tmp_path_factory):
    """A detector with a history of 60 windows, a later recording with an incident, and one that has shifted."""
    folder, rng = tmp_path_factory.mktemp("pump"), np.random.default_rng(0)
    noise = rng.standard_normal((5000, 3))
    values = np.zeros((5000, 3))
    for i in range(1, 5000):
        values[i] = 0.7 * values[i - 1] + noise[i]
    frame = pd.DataFrame(values, columns=["flow", "heat", "speed"])
    frame.insert(0, "time", pd.date_range("2026-03-01", periods=5000, freq="10min"))
    frame[:1920].to_csv(folder / "history.csv", index=False)
    later = frame[1920:].reset_index(drop=True)
    later.loc[2000:2019, "heat"] += 40
    later["label"] = 0
    later.loc[2000:2019, "label"] = 1
    later.to_csv(folder / "later.csv", index=False)
    later.assign(flow=later.flow + 15).drop(columns="label").to_csv(folder / "shifted.csv", index=False)
    assert (
        main(
            [
                "adapt",
                "knn",
                "--modality",
                "sequence",
                "--support",
                str(folder / "history.csv"),
                "--out",
                str(folder / "mine"),
            ]
        )
        == 0
    )
    return folder


def scored(pump, out, capsys, data, *options):
    capsys.readouterr()
    command = [
        "score",
        str(pump / "mine"),
        "--data",
        str(pump / data),
        "--out",
        str(out / "scores.csv"),
        "--json",
        *options,
    ]
    assert main(command) == 0
    written = capsys.readouterr()
    return json.loads(written.out), written.err, list(csv.DictReader((out / "events.csv").read_text().splitlines()))


def test_points_follow_the_series_and_become_events(pump, tmp_path, capsys):
    points = ["--points", "--stride", "8", "--alpha", "0.05"]
    figures, notes, events = scored(pump, tmp_path, capsys, "later.csv", *points, "--plot")
    assert (figures["adaptive"], figures["calibrate"], figures["drift"]) == (True, "points", None)
    assert "the threshold follows the series" in notes
    result = figures["events"]
    assert 0.025 < result["flagged_normal_share"] < 0.1
    assert (result["incidents"], result["detected"]) == (1, 1)
    incident = max(events, key=lambda event: float(event["score"]))
    assert int(incident["begin"]) <= 2019
    assert int(incident["end"]) >= 2000
    assert incident["channels"].split("; ")[0] == "heat"
    assert incident["begin_time"].startswith("2026-03-28")
    assert result["events_per_day"] == pytest.approx(len(events) / (3079 / 144))
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert sum(row["anomaly"] == "1" for row in rows) == figures["anomalous"] == sum(int(e["flagged"]) for e in events)


@pytest.mark.parametrize("stride", ["4", "32"])
def test_a_fixed_threshold_holds_its_rate_at_any_stride(stride, pump, tmp_path, capsys):
    options = ["--points", "--no-adaptive", "--alpha", "0.1", "--stride", stride]
    figures, _, _ = scored(pump, tmp_path, capsys, "later.csv", *options)
    assert figures["calibrate"] == "points"
    assert 0.025 < figures["events"]["flagged_normal_share"] < 0.2


def test_a_shifted_series_is_warned_of_unless_the_threshold_follows(pump, tmp_path, capsys):
    points = ["--points", "--stride", "8", "--alpha", "0.05"]
    fixed, notes, _ = scored(pump, tmp_path, capsys, "shifted.csv", *points, "--no-adaptive")
    assert fixed["events"]["flagged_share"] > 0.5
    assert fixed["drift"] is not None
    assert notes.count("the last 500 points look unlike the support") == 1
    following, notes, _ = scored(pump, tmp_path, capsys, "shifted.csv", *points)
    assert following["events"]["flagged_share"] < 0.2
    assert following["drift"] is None
    assert "look unlike" not in notes


def test_windows_of_a_series_become_events_too(pump, tmp_path, capsys):
    figures, _, events = scored(pump, tmp_path, capsys, "later.csv", "--alpha", "0.05", "--no-adaptive")
    detector = load_detector(pump / "mine")
    assert figures["anomalous"] == detector.predict(pump / "later.csv", 0.05).sum()
    assert all(int(event["begin"]) % 32 == 0 and int(event["end"]) % 32 == 31 for event in events)
    assert figures["events"]["detected"] == 1
    start = pd.Timestamp(pd.read_csv(pump / "later.csv")["time"][0])
    for event in events:  # a step takes ten minutes
        for place in ("begin", "end", "peak"):
            assert pd.Timestamp(event[f"{place}_time"]) == start + pd.Timedelta(minutes=10 * int(event[place]))
    assert figures["events"]["events_per_day"] == pytest.approx(len(events) / ((96 * 32 - 1) / 144))


@pytest.mark.parametrize("points", [[], ["--points", "--stride", "8"]])
def test_a_gap_in_the_times_ends_an_event(points, pump, tmp_path, capsys):
    series = pd.read_csv(pump / "later.csv", parse_dates=["time"])[:2048]
    series.loc[1000:1080, "heat"] += 40
    series.loc[1024:, "time"] += pd.Timedelta(days=100)
    series.to_csv(tmp_path / "gap.csv", index=False)
    options = ["--alpha", "0.05", "--no-adaptive"]
    figures, _, events = scored(pump, tmp_path, capsys, tmp_path / "gap.csv", *points, *options)
    positions = [(int(event["begin"]), int(event["end"])) for event in events]
    assert any(end == 1023 for _, end in positions)
    assert any(begin == 1024 for begin, _ in positions)
    assert figures["events"]["events_per_day"] == pytest.approx(len(events) / (2046 / 144))


def test_parts_shorter_than_a_window_have_no_score(pump, tmp_path, capsys):
    series = pd.read_csv(pump / "later.csv", parse_dates=["time"])[:200]
    series.loc[10:, "time"] += pd.Timedelta(days=1)
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    series.to_csv(folder / "long.csv", index=False)
    series[50:70].to_csv(folder / "short.csv", index=False)
    figures, notes, _ = scored(pump, out, capsys, folder, "--points", "--stride", "8")
    notes = " ".join(notes.split())
    assert (figures["samples"], figures["without_value"]) == (220, 30)
    assert "long.csv: 10 steps have no score: they are in parts shorter than the window of 32" in notes
    assert "30 of 220 points have no score, because they have no value at all or are in no window with a score" in notes
    (folder / "long.csv").unlink()
    command = ["score", str(pump / "mine"), "--data", str(folder), "--out", str(out / "s.csv"), "--points"]
    assert main(command) == 1
    assert "short.csv (20 steps); give a longer one" in " ".join(capsys.readouterr().err.split())
    assert not (out / "s.csv").exists()


def test_options_that_do_not_fit_are_refused(pump, tmp_path, capsys):
    command = ["score", str(pump / "mine"), "--data", str(pump / "later.csv"), "--out", str(tmp_path / "s.csv")]
    assert main([*command, "--plot", "--fdr", "0.1"]) == 1
    assert "--plot draws series with a threshold" in capsys.readouterr().err
    assert main([*command, "--points", "--fdr", "0.1"]) == 1
    assert "neighbouring points share windows" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--adaptive", "--fdr", "0.1"]) == 1
    assert "leave out --fdr" in capsys.readouterr().err
    assert main([*command, "--fdr", "0.1"]) == 0
    assert "no events are written" in capsys.readouterr().err
    assert not list(tmp_path.glob("*events*"))
    (tmp_path / "s_events.csv").write_text("of an earlier run")
    assert main([*command, "--fdr", "0.1"]) == 0
    assert "s_events.csv is of an earlier run" in " ".join(capsys.readouterr().err.split())


def test_data_and_unrelated_files_are_not_replaced(pump, tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    data = [tmp_path / name for name in ("events.csv", "parts/events.csv")]
    text = (pump / "later.csv").read_text()
    for path in data:
        path.write_text(text)
    score, detect = ["score", str(pump / "mine")], ["detect", "--method", "knn", "--modality", "sequence"]
    detect += ["--support", str(pump / "history.csv")]
    for command, source, out in (
        (score, data[0], data[0]),
        (score, data[0], tmp_path / "scores.csv"),
        (score, data[1].parent, data[1].with_name("scores.csv")),
        (detect, data[0], tmp_path),
        (detect, data[1].parent, data[1].parent),
    ):
        assert main([*command, "--data", str(source), "--out", str(out)]) == 1
        message = " ".join(capsys.readouterr().err.split())
        assert f"{data[source.is_dir()]} would be written" in message
        assert "is the same file and is read: name another --out" in message
    data[0].write_text("day,party\n1,birthday\n")
    assert main([*score, "--data", str(pump / "later.csv"), "--out", str(tmp_path / "scores.csv")]) == 1
    assert "has other columns than a file of events" in " ".join(capsys.readouterr().err.split())
    assert data[0].read_text() == "day,party\n1,birthday\n"
    assert data[1].read_text() == text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["events.csv", "events.csv", "parts"]


def test_detect_on_a_series_writes_events_and_a_picture(pump, tmp_path, capsys):
    capsys.readouterr()
    command = ["detect", "--method", "knn", "--modality", "sequence", "--support", str(pump / "history.csv")]
    command += ["--data", str(pump / "later.csv"), "--out", str(tmp_path / "out"), "--top", "2", "--json"]
    assert main(command) == 0
    written = capsys.readouterr()
    result = json.loads(written.out)
    assert "the threshold follows the series" in written.err
    assert (result["series"]["adaptive"], result["threshold"]) == (True, None)
    assert result["series"]["events"]["detected"] == 1
    events = list(csv.DictReader((tmp_path / "out" / "events.csv").read_text().splitlines()))
    assert max(events, key=lambda event: float(event["score"]))["channels"].split("; ")[0] == "heat"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "series.png" in page
    assert (tmp_path / "out" / "series.png").stat().st_size > 10_000

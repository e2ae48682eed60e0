"""`metaad score` streams: what it writes is what the detector says of the whole."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metaad_zoo import load_detector
from metaad_zoo.cli import main
from metaad_zoo.data.read import table_sources
from metaad_zoo.evaluation.selection import selected
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.zoo import Checkpoint, save_checkpoint


def write_rows(path, n, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, 3))
    np.savetxt(path, rows, "%.4f", ",", header="a,b,c", comments="")
    return path


def detector_of(shapes, backbone, options, tmp_path, monkeypatch):
    monkeypatch.setattr(table_sources, "CSV_BYTES", 30_000)
    torch.manual_seed(0)
    learner = GradientLearner(backbone, options, shapes, InnerLoopConfig(steps=1, lr=0.1))
    save_checkpoint(tmp_path / "model", Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)}))
    support = write_rows(tmp_path / "support.csv", 64)
    mine = str(tmp_path / "mine")
    assert main(["adapt", str(tmp_path / "model"), "--support", str(support), "--out", mine]) == 0
    return mine


def written(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["sample", "score", "p_value", "anomaly"]
    return rows


@pytest.mark.parametrize(
    ("shapes", "backbone", "options"),
    [({"tabular": (-1,)}, "columns", {"width": 4}), ({"sequence": (8, 3)}, "gru", {"width": 4})],
)
def test_streamed_scores_are_those_of_the_whole(shapes, backbone, options, tmp_path, monkeypatch, capsys):
    mine = detector_of(shapes, backbone, options, tmp_path, monkeypatch)
    data, out = write_rows(tmp_path / "data.csv", 5003, 1), tmp_path / "scores.csv"
    capsys.readouterr()
    assert main(["score", mine, "--data", str(data), "--out", str(out), "--json"]) == 0
    figures, rows, detector = json.loads(capsys.readouterr().out), written(out), load_detector(mine)
    # Blocks of another size are summed in another order.
    assert [float(r["score"]) for r in rows] == pytest.approx(detector.score(data).tolist(), rel=1e-5, abs=1e-6)
    assert [float(r["p_value"]) for r in rows] == pytest.approx(detector.p_value(data).tolist(), rel=1e-3, abs=1e-5)
    assert [int(r["anomaly"]) for r in rows] == detector.predict(data).tolist()
    assert figures["samples"] == len(rows)
    assert figures["anomalous"] == sum(r["anomaly"] == "1" for r in rows)
    if "sequence" in shapes:
        assert main(["score", mine, "--data", str(data), "--out", str(out), "--points", "--stride", "3"]) == 0
        points = written(out)
        expected = detector.score_series(data, stride=3).tolist()
        assert [float(r["score"]) for r in points] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert points[-1]["sample"] == f"{data}:5002"


def test_a_file_that_breaks_off_leaves_earlier_scores_alone(tmp_path, monkeypatch, capsys):
    mine = detector_of({"tabular": (-1,)}, "columns", {"width": 4}, tmp_path, monkeypatch)
    data, out = write_rows(tmp_path / "data.csv", 5000), tmp_path / "scores.csv"
    out.write_text("earlier")
    with data.open("a") as file:
        file.write("1,2,three\n")
    assert main(["score", mine, "--data", str(data), "--out", str(out)]) == 1
    assert "three" in capsys.readouterr().err
    assert out.read_text() == "earlier"
    assert not list(tmp_path.glob("*.part*"))


def test_what_has_no_value_gets_no_score(tmp_path, monkeypatch, capsys):
    mine = detector_of({"tabular": (-1,)}, "columns", {"width": 4}, tmp_path, monkeypatch)
    data, out = write_rows(tmp_path / "data.csv", 9), tmp_path / "scores.csv"
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:4], ",,", *lines[5:]]))
    capsys.readouterr()
    assert main(["score", mine, "--data", str(data), "--out", str(out), "--json"]) == 0
    output, rows = capsys.readouterr(), written(out)
    assert json.loads(output.out)["without_value"] == 1
    assert "1 of 9 samples have no score, because they have no value at all: their cells are left empty" in output.err
    assert rows.pop(3) == {"sample": "4", "score": "", "p_value": "", "anomaly": ""}
    values = np.delete(np.genfromtxt(data, delimiter=",", skip_header=1), 3, 0)
    assert [float(r["score"]) for r in rows] == pytest.approx(load_detector(mine).score(values).tolist(), rel=1e-5)


@pytest.mark.parametrize("gap", [20, 700])
def test_a_dead_sensor_gets_no_score(gap, tmp_path, monkeypatch):
    mine = detector_of({"sequence": (8, 3)}, "gru", {"width": 4}, tmp_path, monkeypatch)
    data, out = write_rows(tmp_path / "data.csv", 1500), tmp_path / "scores.csv"
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:101], *[",,"] * gap, *lines[101 + gap :]]))
    assert main(["score", mine, "--data", str(data), "--out", str(out), "--points"]) == 0
    rows, scores = written(out), load_detector(mine).score_series(data)
    # Windows that reach beyond the gap have a score, the steps in it have none.
    assert np.flatnonzero(np.isnan(scores)).tolist() == list(range(100, 100 + gap))
    streamed = np.array([float(r["score"] or "nan") for r in rows])
    np.testing.assert_allclose(streamed, scores, rtol=1e-5, atol=1e-6)
    assert {r["anomaly"] for r in rows[100 : 100 + gap]} == {""}
    assert main(["score", mine, "--data", str(data), "--out", str(out)]) == 0
    empty = [i for i, r in enumerate(written(out)) if not r["score"]]
    assert empty == list(range(13, (100 + gap) // 8))


def test_a_category_in_the_mvtec_layout(tmp_path, capsys):
    learner = GradientLearner("conv4", {"width": 4}, {"image": (1, 16, 16)}, InnerLoopConfig(steps=1, lr=0.1))
    save_checkpoint(tmp_path / "model", Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)}))
    category = tmp_path / "mvtec" / "bolt"
    for i, place in enumerate(["train/good", "test/good", "test/hole", "ground_truth/hole"]):
        (category / place).mkdir(parents=True)
        for k in range(3):
            image = np.random.default_rng([i, k]).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(image).save(category / place / f"{k}.png")
    adapt = ["adapt", str(tmp_path / "model"), "--out", str(tmp_path / "mine"), "--support"]
    score = ["score", str(tmp_path / "mine"), "--out", str(tmp_path / "s.csv"), "--data"]
    assert main(["score", str(tmp_path / "model"), "--out", str(tmp_path / "s.csv"), "--data", str(category)]) == 1
    assert "is not adapted to any domain yet: metaad adapt" in capsys.readouterr().err
    assert main([*adapt, str(category)]) == 0
    by_folder = load_detector(tmp_path / "model").fit(category / "train" / "good")
    np.testing.assert_array_equal(
        load_detector(tmp_path / "model").fit(category).score(category / "test/good"),
        by_folder.score(category / "test/good"),
    )
    assert main([*score, str(category)]) == 0
    rows = written(tmp_path / "s.csv")
    assert [row["sample"] for row in rows] == [
        str(category / f"test/{kind}/{k}.png") for kind in ("good", "hole") for k in range(3)
    ]
    expected = [*by_folder.score(category / "test/good"), *by_folder.score(category / "test/hole")]
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-6)
    assert main([*score, str(category / "test")]) == 0
    assert written(tmp_path / "s.csv") == rows
    assert main([*score, str(tmp_path / "mvtec")]) == 1
    assert "holds the categories ['bolt'] of an inspection set: give one of them" in capsys.readouterr().err
    assert main([*adapt, str(category / "test")]) == 1, "classes together are no normal support"
    assert "one of these at a time" in capsys.readouterr().err


@pytest.fixture
def of_series(tmp_path, monkeypatch):
    return detector_of({"sequence": (8, 3)}, "gru", {"width": 4}, tmp_path, monkeypatch)


def series_csv(path, header, columns):
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize("points", [[], ["--points"]])
def test_channels_are_found_by_their_names(points, of_series, tmp_path, capsys):
    a, b, c = np.random.default_rng(1).normal(size=(3, 3000)).round(4).tolist()
    out, written_rows = tmp_path / "scores.csv", []
    minutes, hosts = (np.datetime64("2024-01-01T00:00") + np.arange(3000)).tolist(), ["web1"] * 3000
    for header, columns in (
        ("a,b,c", (a, b, c)),
        ("c,a,b", (c, a, b)),
        (",b,timestamp,host,a,c", (range(3000), b, range(3000), hosts, a, c)),
        ("when,b,a,c", (minutes, b, a, c)),
    ):
        data = series_csv(tmp_path / "data.csv", header, columns)
        capsys.readouterr()
        assert main(["score", of_series, "--data", data, "--out", str(out), *points]) == 0
        written_rows.append([{k: v for k, v in row.items() if k != "time"} for row in written(out)])
        errors = capsys.readouterr().err
        for name, sentence in (
            (",b,timestamp", "'' left out: an index"),
            ("timestamp", "'timestamp' left out: a time"),
            ("when", "'when' left out: a time"),
            ("host", "'host' left out: text; turn it into numbers if it matters"),
        ):
            assert (sentence in " ".join(errors.split())) == (name in header)
        detector = load_detector(of_series)
        scores = detector.score_series(data) if points else detector.score(data)
        assert [float(row["score"]) for row in written_rows[-1]] == pytest.approx(scores.tolist(), rel=1e-5, abs=1e-6)
    assert written_rows[0] == written_rows[1] == written_rows[2] == written_rows[3]
    for header, columns in (("a,b,d", (a, b, c)), ("a,b,c,d", (a, b, c, c)), ("a,b", (a, b))):
        data = series_csv(tmp_path / "data.csv", header, columns)
        assert main(["score", of_series, "--data", data, "--out", str(out), *points]) == 1
        assert "the columns are not those of the support set" in capsys.readouterr().err


def test_rows_out_of_time_order_are_refused(of_series, tmp_path, capsys):
    a, times = np.zeros(9000), np.arange(9000)
    times[8000] = 7
    data, out = series_csv(tmp_path / "data.csv", "t,a,b,c", (times, a, a, a)), tmp_path / "scores.csv"
    assert main(["score", of_series, "--data", data, "--out", str(out)]) == 1
    assert "row 8001: column 't' goes back" in " ".join(capsys.readouterr().err.split())


def test_a_stride_beyond_the_window_is_refused(of_series, tmp_path, capsys):
    data, out = str(write_rows(tmp_path / "data.csv", 99)), str(tmp_path / "scores.csv")
    for stride in (0, 1000):
        assert main(["score", of_series, "--data", data, "--out", out, "--points", "--stride", str(stride)]) == 1
        assert f"stride is {stride}; expected 1 to 8 (the window)" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(ValueError, match=f"stride is {stride}; expected 1 to 8"):
            load_detector(of_series).score_series(data, stride=stride)


def test_an_index_is_no_column_of_a_table(tmp_path, monkeypatch, capsys):
    mine = detector_of({"tabular": (-1,)}, "columns", {"width": 4}, tmp_path, monkeypatch)
    plain, indexed = tmp_path / "plain.csv", tmp_path / "indexed.csv"
    lines = write_rows(plain, 30).read_text().splitlines()
    indexed.write_text("\n".join([f",{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))]))
    for place in (["adapt", str(tmp_path / "model"), "--support"], ["score", mine, "--data"]):
        files = []
        for data in (plain, indexed):
            capsys.readouterr()
            files.append(tmp_path / f"{place[0]}-{data.stem}")
            assert main([*place, str(data), "--out", str(files[-1])]) == 0
        assert "'' left out: an index" in " ".join(capsys.readouterr().err.split())
    assert files[0].read_text() == files[1].read_text()
    assert load_detector(tmp_path / "adapt-indexed").columns == ["a", "b", "c"]
    np.testing.assert_array_equal(load_detector(mine).score(plain), load_detector(mine).score(indexed))


def test_times_and_identifiers_stay_with_the_scores(tmp_path):
    rng = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=12, freq="h")
    rows = pd.DataFrame(rng.normal(size=(12, 3)), columns=list("abc"))
    rows = rows.assign(customer_id=[f"C{i:03}" for i in range(12)], time=times)
    rows.to_csv(tmp_path / "good.csv", index=False)
    rows.assign(customer_id=[f"007{i}" for i in range(12)]).to_csv(tmp_path / "new.csv", index=False)
    assert main(["adapt", "knn", "--support", str(tmp_path / "good.csv"), "--out", str(tmp_path / "d")]) == 0
    arguments = ["score", str(tmp_path / "d"), "--data", str(tmp_path / "new.csv")]
    assert main([*arguments, "--out", str(tmp_path / "s.csv")]) == 0
    scores = pd.read_csv(tmp_path / "s.csv", dtype=str)
    assert list(scores) == ["sample", "score", "p_value", "anomaly", "customer_id", "time"]
    assert scores["customer_id"].tolist() == [f"007{i}" for i in range(12)], "as they are written, zeros included"
    assert scores["time"].tolist() == times.astype(str).tolist()


@pytest.mark.parametrize("points", [False, True])
def test_windows_and_points_keep_their_times(points, tmp_path):
    times = pd.date_range("2026-01-01", periods=320, freq="min")
    series = pd.DataFrame({"a": np.sin(np.arange(320) / 5), "time": times})
    series.to_csv(tmp_path / "w.csv", index=False)
    assert main(["adapt", "series", "--support", str(tmp_path / "w.csv"), "--out", str(tmp_path / "d")]) == 0
    arguments = ["score", str(tmp_path / "d"), "--data", str(tmp_path / "w.csv"), "--out", str(tmp_path / "s.csv")]
    assert main([*arguments, *["--points"] * points]) == 0
    expected = times if points else times[::32]
    assert pd.to_datetime(pd.read_csv(tmp_path / "s.csv")["time"]).tolist() == expected.tolist()


def test_a_bound_on_false_discoveries_selects_among_all_samples(tmp_path, monkeypatch, capsys):
    """Over several blocks of the file, with rows that have no value, and with figures of its labels."""
    monkeypatch.setattr(table_sources, "CSV_BYTES", 3_000)
    support, mine, out = write_rows(tmp_path / "support.csv", 64), str(tmp_path / "mine"), tmp_path / "scores.csv"
    assert main(["adapt", "knn", "--support", str(support), "--out", mine]) == 0
    rows = np.random.default_rng(1).normal(size=(500, 3))
    labels = (np.arange(500) % 7 == 0).astype(int)
    rows[labels == 1] += 1.5
    rows[[10, 400]] = np.nan
    data = tmp_path / "data.csv"
    pd.DataFrame(rows, columns=["a", "b", "c"]).assign(label=labels).to_csv(data, index=False)
    capsys.readouterr()
    assert main(["score", mine, "--data", str(data), "--out", str(out), "--fdr", "0.3", "--json"]) == 0
    printed, rows = json.loads(capsys.readouterr().out), written(out)
    judged = np.array([bool(row["score"]) for row in rows])
    assert np.flatnonzero(~judged).tolist() == [10, 400]
    assert {row["anomaly"] for row in rows if not row["score"]} == {""}
    p = np.array([float(row["p_value"]) for row in rows if row["score"]])
    expected = selected(p, 0.3)
    assert 0 < expected.sum() < (p <= 0.3).sum()
    assert [row["anomaly"] for row in rows if row["score"]] == expected.astype(int).astype(str).tolist()
    assert (printed["anomalous"], printed["fdr"], "alpha" in printed) == (expected.sum(), 0.3, False)
    assert printed["figures"]["recall"]["value"] == pytest.approx(expected[labels[judged] == 1].mean())
    assert not list(tmp_path.glob("*.part*"))


def test_bounds_that_can_not_select_are_refused_before_any_work(tmp_path, monkeypatch, capsys):
    mine = detector_of({"tabular": (-1,)}, "columns", {"width": 4}, tmp_path, monkeypatch)
    data, out = write_rows(tmp_path / "data.csv", 300), tmp_path / "scores.csv"
    for options, message in (
        (["--fdr", "0.1", "--alpha", "0.1"], "give one of them"),
        (["--fdr", "0.001"], "99 calibration scores"),
        (["--fdr", "1.5"], "expected a share of false discoveries"),
    ):
        assert main(["score", mine, "--data", str(data), "--out", str(out), *options]) == 1
        assert message in capsys.readouterr().err
    assert not out.exists()

"""`benchmarks/tsb_ad.py` and `benchmarks/live_series.py`: short runs."""

from __future__ import annotations

import csv
import importlib
import json
import sys

import numpy as np
import pytest
import torch

from metaad_zoo.data.read.tsb_ad import read_tsb_ad, write_tsb_ad
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.tsb_ad import METRICS, period, tsb_ad_metrics
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


def run(name, monkeypatch, *line):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    script = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, line)])
    threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    return script


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, start in enumerate((700, 900, 800)):
        values, labels = np.sin(np.arange(1000)[:, None] / [4.0, 7.0]) + rng.normal(0, 0.1, (1000, 2)), np.zeros(1000)
        values[start : start + 20] += 3
        labels[start : start + 20] = 1
        write_tsb_ad(folder, i + 1, "SMD", i + 1, "Facility", values, labels.astype(int))
    return folder


def test_tsb_ad_writes_the_table_of_the_leaderboard(files, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    chosen = tmp_path / "TSB-AD-M-Eva.csv"
    names = sorted(path.name for path in files.iterdir())
    chosen.write_text("\n".join(["file_name", *names[:2]]) + "\n")
    line = [files, "--out", out, "--methods", "knn", "random", "--json", tmp_path / "r.json"]
    script = run("tsb_ad", monkeypatch, *line, "--list", chosen)
    with (out / "knn.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "Time", *METRICS]
    assert [row["file"] for row in rows] == names[:2]
    series = read_tsb_ad(files / names[0])
    scores = script.scores_of(create_baseline("knn"), series, 32, 8)
    expected = tsb_ad_metrics(scores, series.labels, period(series.values))
    assert {name: float(rows[0][name]) for name in METRICS} == pytest.approx(expected)
    assert expected["VUS-PR"] > 0.5
    capsys.readouterr()
    run("tsb_ad", monkeypatch, *line)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("knn: ")]
    assert [line.split()[1] for line in lines] == names[2:], "files that are done are not scored again"
    result, published = json.loads((tmp_path / "r.json").read_text()), json.loads((RESULTS / "tsb_ad.json").read_text())
    assert result.keys() == published.keys()
    assert result["protocol"].keys() == published["protocol"].keys()
    assert result["measured"]["knn"].keys() == published["measured"]["knn"].keys()
    assert result["measured"]["knn"]["files"] == 3
    assert result["measured"]["knn"]["mean"]["VUS-PR"] > result["measured"]["random"]["mean"]["VUS-PR"]


def test_tsb_ad_takes_windows_of_the_training_part_alone(files, monkeypatch):
    script = run("tsb_ad", monkeypatch, files, "--out", files.parent / "out", "--methods", "random")
    series = read_tsb_ad(sorted(files.iterdir())[0])
    seen = []

    class Method:
        def adapt(self, support, labels):
            seen.append((support["sequence"], labels))
            return create_baseline("knn").adapt(support, labels)

    script.scores_of(Method(), series, 32, 8)
    windows, labels = seen[0]
    assert len(windows) == len(labels) <= script.SHOTS
    assert not labels.any()
    held = torch.from_numpy(series.values[: series.support_until]).unfold(0, 32, 1).movedim(2, 1)
    assert all((held == window).all((1, 2)).any() for window in windows)


def test_tsb_ad_names_what_is_missing(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("tsb_ad", monkeypatch, tmp_path, "--out", tmp_path / "out")
    assert "holds no files of the benchmark" in capsys.readouterr().err


def test_live_series_writes_all_figures(tmp_path, monkeypatch):
    out = tmp_path / "live.json"
    run("live_series", monkeypatch, "--rows", "200", "--methods", "mahalanobis", "--json", out)
    result, published = json.loads(out.read_text()), json.loads((RESULTS / "live_series.json").read_text())
    figures = result["measured"]["mahalanobis"]
    assert figures.keys() == published["measured"]["mahalanobis"].keys()
    assert figures["rows_per_cpu_second"].keys() == published["measured"]["mahalanobis"]["rows_per_cpu_second"].keys()
    assert figures["largest_relative_difference_to_the_whole"] < 1e-5
    assert figures["bytes_more_after_ten_times_the_rows"] < 20_000

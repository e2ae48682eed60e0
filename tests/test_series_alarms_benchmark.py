"""`benchmarks/series_alarms.py`: its figures by hand, and its rows out of scores that are known."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from metaad_zoo.data.series import Series
from metaad_zoo.evaluation.baselines import create_baseline
from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("series_alarms")


def test_rates_and_incidents_by_hand(benchmark):
    labels, flagged = np.zeros(800, np.int64), np.zeros(800, bool)
    labels[[*range(100, 110), *range(400, 410), *range(600, 610)]] = 1
    flagged[[105, 380, 700, 701]] = True
    figures = benchmark.figures(flagged, labels)
    assert figures["rate"] == pytest.approx(3 / 770)
    assert figures["detected"] == pytest.approx(1 / 3)
    assert figures["detected_around"] == pytest.approx(2 / 3)  # step 380 lies 20 steps before the second incident
    assert 0 < figures["chance"] < 1


def test_rows_out_of_known_scores(benchmark, monkeypatch):
    rng = np.random.default_rng(0)
    calm, drifting = rng.standard_normal(2000), 3 + rng.standard_normal(2000)
    history = np.sort(rng.standard_normal(2000))
    scores = [
        (
            "smd/a",
            "knn",
            {"test": calm, "labels": np.zeros(2000), "blocks": history, "loo": history, "n": np.array(50)},
        ),
        (
            "nab/b",
            "knn",
            {"test": drifting, "labels": np.zeros(2000), "blocks": history, "loo": history, "n": np.array(9)},
        ),
    ]
    monkeypatch.setattr(benchmark, "all_scores", lambda *arguments: iter(scores))
    monkeypatch.setattr(benchmark, "calibration_by_shots", lambda tensors: {})
    monkeypatch.setattr(benchmark, "load_checkpoint", lambda path: type("Checkpoint", (), {"tensors": {}}))
    rows = {(row["alpha"], row["way"]): row for row in benchmark.measure(["smd"], None, None, lambda text: None)}
    assert rows[0.05, "blocks"]["by_set"] == {"nab": 0.0, "smd": 1.0}
    assert rows[0.05, "blocks"]["above"] == 0.5
    assert rows[0.05, "adaptive"]["within_factor_2"] == 1
    assert rows[0.05, "oracle"]["within_factor_2"] == 1  # the second half is like the first
    assert rows[0.01, "blocks"]["detected"] is None


def test_scores_of_a_series_are_those_of_its_later_part(benchmark):
    values = np.random.default_rng(0).standard_normal((1000, 2))
    labels = np.zeros(1000)
    labels[40] = 1
    series = Series("pump", values, labels)
    scores = benchmark.scores_of(create_baseline("knn"), series)
    assert scores["n"] == 8  # nine windows in the first 300 steps, one of them with an anomaly
    assert len(scores["test"]) == len(scores["labels"]) == 700
    assert len(scores["loo"]) == 8
    assert len(scores["blocks"]) == 8 * 32
    kept = torch.as_tensor(np.sort(scores["blocks"]))
    assert torch.equal(kept, torch.as_tensor(scores["blocks"]))

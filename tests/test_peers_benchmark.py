"""`benchmarks/peers.py`: its table, its result files, and what its contests give to the peers."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tests.conftest import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    """A script of the folder as a module; scripts import what lies beside them."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module


def test_the_table_has_a_row_a_contestant_and_says_what_could_not_be_installed(script):
    measured = {
        "peer": "alike",
        "work": "ten tasks",
        "seconds_of": "a task",
        "contestants": {
            "metaad_zoo": {
                "auroc": {"mean": 0.9, "ci95": [0.85, 0.95]},
                "accuracy": {"mean": 0.8, "ci95": None},
                "seconds": 0.25,
                "over_first": 1.0,
                "memory_mib": 153.6,
            },
            "Alike, fast": {"auroc": {"mean": 0.5, "ci95": [0.4, 0.6]}, "seconds": 0.1234, "over_first": 0.4936},
        },
        "environment": {"alike": "1.2"},
    }
    rows = script("peers").table([measured, {"peer": "absent", "error": "no matching distribution"}])
    assert rows[2:] == [
        "| ten tasks; seconds of a task | metaad_zoo | 90.0 [85.0, 95.0] | 80.0 | 0.25 | 1.00 | 154 |",
        "|  | Alike, fast (alike 1.2) | 50.0 [40.0, 60.0] |  | 0.12 | 0.49 |  |",
        "| absent | could not be installed: no matching distribution | | | | | |",
    ]
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("peer", ["anomalib", "easyfsl", "learn2learn", "pyod"])
def test_result_files_hold_versions_and_ours_first(peer, script):
    assert peer in script("peers").PEERS
    result = json.loads((REPOSITORY / "benchmarks" / "results" / f"peer_{peer}.json").read_text(encoding="utf-8"))
    assert {"metaad_zoo", "torch", "python", "threads", peer} <= set(result["environment"])
    first, *peers = result["contestants"]
    assert first.startswith("metaad_zoo")
    assert any(not name.startswith("metaad_zoo") for name in peers)
    assert result["contestants"][first]["over_first"] == 1
    assert len({figures["auroc"]["tasks"] for figures in result["contestants"].values()}) == 1, "on the same tasks"


def test_maml_of_both_is_the_same_learning(script):
    """Two implementations of one algorithm, from the same weights on the same episodes."""
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "peer_learn2learn.json").read_text(encoding="utf-8"))
    higher, peer = (result["contestants"][name] for name in ("metaad_zoo, engine higher", "learn2learn"))
    assert higher["auroc"]["mean"] == pytest.approx(peer["auroc"]["mean"], abs=0.002)
    assert higher["accuracy"]["mean"] == pytest.approx(peer["accuracy"]["mean"], abs=0.005)


def test_a_detector_of_pyod_reads_rows_standardised_by_the_support(script):
    generator = np.random.default_rng(0)
    support, query = generator.normal(3, 5, (10, 4)), generator.normal(3, 5, (6, 4))
    support[:, 2] = query[:, 2] = 7  # a constant column
    mean, deviation = support.mean(0), np.where(support.std(0) > 0, support.std(0), 1)
    near = NearestNeighbors(n_neighbors=5).fit((support - mean) / deviation)
    expected = near.kneighbors((query - mean) / deviation)[0].max(1)
    assert script("peer_contests").pyod_scores("KNN", support, query) == pytest.approx(expected)

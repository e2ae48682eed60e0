"""`benchmarks/awkward_supports.py`: what it counts as a failure, and a slice of it."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from metaad_zoo.detector import Detector
from tests.conftest import REPOSITORY

SLICE = {
    "tabular": ["protonet/raw_columns", "maml/columns", "baseline/mahalanobis"],
    "sequence": ["in_context/window_statistics", "baseline/series_experts"],
    "image": ["protonet/conv4"],
    "multimodal": ["protonet/fusion_gated"],
}
NUMPY_LINALG = Path(inspect.getfile(inspect.unwrap(np.linalg.inv))).name
SLOW = ("thousands of samples", "thousands of unlabelled samples")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("awkward_supports")


@pytest.mark.parametrize("form", SLICE)
def test_every_kind_of_support_gives_finite_scores_or_a_named_error(benchmark, form):
    kinds = [kind for kind in benchmark.KINDS if kind not in SLOW]
    rows = list(benchmark.outcomes({form: SLICE[form]}, kinds))
    assert len(rows) == len(kinds) * len(SLICE[form])
    assert not [row for row in rows if not benchmark.accepted(row)]
    assert {row.outcome for row in rows} >= {"scores", "error"}


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda scores: scores * np.nan, "scores that are not finite"),
        (lambda scores: scores * 0, "equal scores"),
        (lambda scores: np.linalg.inv(np.zeros((2, 2))), f"an error of linalg/{NUMPY_LINALG}"),
        (lambda scores: np.sqrt(np.full(9, -1.0)), "a warning"),
    ],
)
def test_a_detector_that_breaks_is_a_failure(benchmark, monkeypatch, change, outcome):
    score = Detector.score
    monkeypatch.setattr(Detector, "score", lambda self, samples: change(score(self, samples)))
    (row,) = benchmark.outcomes({"tabular": ["baseline/knn"]}, ["float64"])
    assert row.outcome == outcome
    assert not benchmark.accepted(row)
    assert benchmark.summary([row])["float64"]["failed"] == 1


def test_what_failed_is_tried_again_and_counted_anew(benchmark):
    kinds = ["float64", "one infinity"]
    rows = list(benchmark.outcomes({"tabular": ["baseline/knn"]}, kinds))
    before = [replace(rows[0], outcome="equal scores"), rows[1]]
    result = {"detectors": {"tabular": 1}, "tried": 2, "kinds": benchmark.summary(before), "failures": []}
    result["failures"] = [asdict(before[0])]
    joined = benchmark.joined([result, result])
    assert (joined["tried"], joined["tried_again"], joined["failed"]) == (4, 2, 0)
    counts = {name: {k: v for k, v in row.items() if isinstance(v, int)} for name, row in joined["kinds"].items()}
    assert counts == {"float64": {"tried": 2, "scores": 2}, "one infinity": {"tried": 2, "error": 2}}

"""`benchmarks/parity.py`: published checkpoints score alike in all circumstances, and a difference would be seen."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

import metaad_zoo as mz
from metaad_zoo.detector import Detector
from tests.conftest import REPOSITORY

QUICK = ("image-conv4-maml-omniglot", "sequence-gru-maml-generated", "tabular-raw_columns-weighted_experts-unlabelled")
"""The rest takes seconds each: pytest -m slow tests/test_parity_benchmark.py"""
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in mz.list_checkpoints()]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("parity")


@pytest.mark.parametrize("name", [*NAMES, "table", "series"])
def test_scores_do_not_depend_on_batches_order_threads_or_the_engine(benchmark, name):
    row = benchmark.measure(name, 16, formats=())
    assert benchmark.missed(row) == {}
    assert {"batches of 1", "order of the support", "save and load", "2 threads"} <= row["differences"].keys()
    assert ("engine higher" in row["differences"]) == ("-maml-" in name)
    assert torch.get_num_threads() == 1


def test_a_score_that_depends_on_its_batch_is_seen(benchmark, monkeypatch):
    score = Detector.score
    monkeypatch.setattr(Detector, "score", lambda self, x: score(self, x) * (1 + 1e-5 * (len(x["tabular"]) == 2)))
    row = benchmark.measure("table", 8, formats=())
    assert list(benchmark.missed(row)) == ["batches of 2"]
    monkeypatch.setattr(Detector, "score", lambda self, x: score(self, x) * np.nan)
    assert benchmark.missed(benchmark.measure("table", 8, formats=()))

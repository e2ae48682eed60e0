"""`benchmarks/concurrency.py`: a slice of it, and that it sees a score that changes while others fit."""

from __future__ import annotations

import importlib
import multiprocessing
import os

import numpy as np
import pytest
import torch

import metaad_zoo as mz
from tests.conftest import REPOSITORY

SLICE = {"tabular": ["in_context/raw_columns", "baseline/knn"], "sequence": ["maml/gru", "baseline/series_experts"]}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("concurrency")


def test_threads_score_as_one_alone_while_others_fit(benchmark):
    rows = list(benchmark.rows_of(SLICE, None))
    assert [row["detector"] for row in rows] == [name for names in SLICE.values() for name in names]
    for row in rows:
        assert not benchmark.missed(row), row
        assert row["scores"]["8 threads"] == benchmark.THREADS * benchmark.REPEATS * benchmark.QUERY
        assert row["fits"]["8 threads"] > 0


def test_forked_processes_score_as_one_alone(benchmark):
    model, supports, query = benchmark.opened("protonet/conv4", "image")
    alone = model.fit(supports[0]).score(query)
    results = benchmark.by_forks(model, supports, query)
    assert len(results) == benchmark.PROCESSES
    for scores, fits in results:
        np.testing.assert_allclose(scores, np.broadcast_to(alone, scores.shape), rtol=1e-6)
        assert fits > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_scores_after_its_parent_has_used_several_threads():
    detector = mz.load_detector("image-conv4-protonet-omniglot")
    images = np.random.default_rng(0).random((64, 28, 28), dtype=np.float32)
    torch.set_num_threads(2)
    try:
        expected = detector.fit(images[:5]).score(images)
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=lambda: results.put(detector.score(images)))
        child.start()
        child.join(60)
        stuck = child.is_alive()
        child.kill()
        assert not stuck, "it waits for threads that only its parent has"
        np.testing.assert_allclose(results.get(), expected, rtol=1e-5)
    finally:
        torch.set_num_threads(1)


def test_a_detector_that_is_refitted_by_others_is_seen(benchmark, monkeypatch):
    _, supports, _ = benchmark.opened("baseline/knn", "tabular")
    # The detector that scores is fitted to another support, instead of a copy of it.
    monkeypatch.setattr(benchmark.copy, "deepcopy", lambda model: model.fit(supports[1]))
    monkeypatch.setattr(benchmark, "fit_until", lambda *_: 0)
    (row,) = benchmark.rows_of({"tabular": ["baseline/knn"]}, None)
    assert benchmark.missed(row)

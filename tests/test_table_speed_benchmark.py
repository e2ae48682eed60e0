"""`benchmarks/table_speed.py`: how it takes times, and a short run."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("table_speed")


def test_methods_take_turns_and_the_best_of_each_counts(benchmark, monkeypatch):
    clock = iter(np.cumsum([0, 5, 9, 2, 9, 3, 9, 7]).tolist())
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(benchmark.time, "process_time", lambda: 0.0)
    calls = []
    seconds = benchmark.best({"a": lambda x: calls.append("a"), "b": lambda x: calls.append("b")}, np.zeros(1), 2)
    assert calls == ["a", "b", "a", "b"]
    assert {name: taken["clock"] for name, taken in seconds.items()} == {"a": 3, "b": 2}


def test_a_short_run_writes_all_figures(benchmark, monkeypatch, tmp_path):
    out, threads = tmp_path / "speed.json", torch.get_num_threads()
    line = ["table_speed.py", "--rows", "300", "--fit", "30", "--repeats", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", line)
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    published = json.loads((REPOSITORY / "benchmarks" / "results" / "table_speed.json").read_text())
    assert result.keys() == published.keys()
    assert result["scoring"].keys() == published["scoring"].keys()
    assert result["fitting"]["30"].keys() == published["fitting"]["1000"].keys()

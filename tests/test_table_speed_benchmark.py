"""`benchmarks/table_speed.py`: its count of multiplications against torch's, and a short run."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metaad_zoo.learners import InContextDetector
from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("table_speed")


@pytest.mark.parametrize("options", [{}, {"width": 16, "units": ["raw", "standard"], "attention_heads": 2}])
def test_multiplications_of_a_row_are_those_that_torch_counts(benchmark, options):
    learner, rows = InContextDetector(input_shapes={"tabular": [-1]}, **options).eval(), torch.randn(64 + 10, 10)
    adapted = learner.adapt({"tabular": rows[:10]}, torch.zeros(10, dtype=torch.long))
    with FlopCounterMode(display=False) as counted:
        adapted.score({"tabular": rows[10:]})
    assert benchmark.multiply_adds(learner) == pytest.approx(counted.get_total_flops() / 2 / 64, rel=1e-3)


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
    monkeypatch.setattr(benchmark, "product_rate", lambda: 1e9)
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    published = json.loads((REPOSITORY / "benchmarks" / "results" / "table_speed.json").read_text())
    assert result.keys() == published.keys()
    assert result["scoring"].keys() == published["scoring"].keys()
    assert result["fitting"]["30"].keys() == published["fitting"]["1000"].keys()

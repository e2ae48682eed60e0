"""`benchmarks/adapt_and_score.py` and `benchmarks/many_devices.py`: what they count, and what their results promise."""

from __future__ import annotations

import importlib
import json
import socket
import sys

import pytest

from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


@pytest.fixture
def script(monkeypatch):
    """A script of the folder as a module; scripts import what lies beside them."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_ratios_are_of_the_same_round(script):
    module = script("adapt_and_score")
    ours, first = ([{"work": {"clock": x}} for x in values] for values in ((2, 30, 8), (1, 10, 8)))
    assert module.ratio(ours, first, "work", "clock") == 2
    assert module.median_of(ours, "work", "clock") == 8


def test_a_process_is_measured_apart_and_its_error_is_shown(script, tmp_path):
    module = script("adapt_and_score")
    code = "x = b'1' * 2**27; print(sum(range(10**6)))"
    taken, text = module.child([sys.executable, "-c", code], tmp_path)
    assert text.strip() == str(sum(range(10**6)))
    assert taken["peak_mib"] > 128
    assert taken["processor"] > 0
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        module.child([sys.executable, "-c", "1 / 0"], tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
def test_bytes_of_sockets_are_counted_by_the_kernel(script):
    module = script("many_devices")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            before = module.bytes_sent()
            client.sendall(bytes(1234))
            peer.sendall(bytes(66))
            assert module.bytes_sent() - before == 1300


def test_a_table_is_scored_within_half_the_time_of_torch_again():
    commands = result("adapt_and_score")["commands"]
    assert commands["metaad score, table"]["processor_over_import_torch"] <= 1.5
    assert commands["metaad score, series"]["processor_over_import_torch"] <= 1.5


def test_processes_exchange_the_meta_gradient_once_and_nothing_else_of_its_size():
    for case in result("many_devices")["cases"]:
        assert (case["reductions"], case["gradient"], case["buffers"]) == (1, case["parameters"], 0)
        assert case["theory"] == 2 * (case["processes"] - 1) / case["processes"] * case["parameters"]
        assert case["theory"] <= case["mean_sent"] <= 1.1 * case["theory"]

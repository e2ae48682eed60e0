"""How the soak judges memory: growth is seen, single peaks and the warm-up are not taken for growth."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("soak")


SECONDS = np.arange(0, 3600, 5.0)


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        (np.full(720, 500.0), True),
        (np.where(SECONDS < 600, SECONDS, 600.0), True),
        (500 + 400.0 * (np.arange(720) % 30 == 0), True),
        (500 + 10 * SECONDS / 3600, True),
        (500 + 20 * SECONDS / 3600, False),
        (500 - 20 * SECONDS / 3600, True),
        (500 + 11.0 * ((SECONDS > 1800) & (SECONDS < 2400)), False),
    ],
    ids=["constant", "warm-up", "peaks", "little growth", "growth", "decline", "plateau"],
)
def test_growth_after_the_warm_up_is_seen(soak, values, flat):
    judged = soak.judge(SECONDS, values, warm_up=600)
    assert judged["flat"] == flat
    assert len(judged["medians"]) == 10


def test_too_short_a_run_is_not_judged(soak):
    with pytest.raises(ValueError, match="take more --minutes"):
        soak.judge(SECONDS[:150], np.ones(150), warm_up=600)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_process(soak):
    code = "print(flush=True); input(); block = bytearray(b'x' * 50 * 2**20); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        before = soak.tree_memory(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        after = soak.tree_memory(child.pid)
        child.kill()
    assert before["processes"] == after["processes"] == 1
    for measure in ("resident", "anonymous"):
        assert 45 < after[measure] - before[measure] < 60

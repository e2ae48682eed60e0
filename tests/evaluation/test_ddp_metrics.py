"""Real processes under DDP: figures of episodes evaluated by two and gathered are those of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from metaad_zoo.evaluation.metrics import METRICS
from metaad_zoo.evaluation.protocol import evaluate, summarise
from tests.conftest import REPOSITORY
from tests.evaluation.ddp_metrics import EPISODES, THRESHOLD, data, model


def run_two(folder: Path) -> None:
    """Both at once: Lightning starts the second only when the first has imported all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(REPOSITORY / "tests" / "evaluation" / "ddp_metrics.py"), str(folder)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "LOCAL_RANK": str(rank), "NODE_RANK": "0"})
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


class Above:
    """Flags what scores above the threshold that the processes take."""

    def p_values(self, adapted, support, support_labels, scores):
        return (scores <= THRESHOLD).double()


def test_two_processes_give_the_figures_of_one(tmp_path):
    run_two(tmp_path)
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    assert first == second, "both hold all figures"
    dealt = first["by_process"]
    assert [len(rows) for rows in dealt] == [EPISODES // 2] * 2, "each evaluated its half"

    alone = evaluate({"maml": model()}, data().episodes("test", EPISODES), {"maml": Above()}, alpha=0.1)["maml"]
    by_task = defaultdict(list)
    for row in (row for pair in zip(*dealt, strict=True) for row in pair):
        by_task[row["task"]].append(row["figures"])
    together = summarise(by_task)
    assert [t["task"] for t in together["tasks"]] == [t["task"] for t in alone["tasks"]]
    for metric in METRICS:
        assert together["mean"][metric] == pytest.approx(alone["mean"][metric], abs=1e-9), metric
        assert together["ci95"][metric] == pytest.approx(alone["ci95"][metric], abs=1e-9), metric
    each = [row["figures"]["auroc"] for rows in dealt for row in rows]
    assert len(set(each)) > EPISODES // 2, "not a case where all agrees because all is alike"
    assert first["logged"] == pytest.approx(sum(each) / EPISODES, abs=1e-6), "what Lightning logs of both"

"""Real processes under DDP: figures of episodes evaluated by two and gathered are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict

import pytest

from metaad_zoo.evaluation.metrics import METRICS
from metaad_zoo.evaluation.protocol import evaluate, summarise
from tests.conftest import REPOSITORY
from tests.evaluation.ddp_metrics import EPISODES, THRESHOLD, data, model


def test_two_processes_give_the_figures_of_one(tmp_path):
    script = REPOSITORY / "tests" / "evaluation" / "ddp_metrics.py"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=environment, timeout=300)
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    assert first == second, "both hold all figures"
    dealt = first["by_process"]
    assert [len(rows) for rows in dealt] == [EPISODES // 2] * 2, "each evaluated its half"

    alone = evaluate({"maml": model()}, data().episodes("test", EPISODES), {"maml": THRESHOLD})["maml"]
    by_task = defaultdict(list)
    for row in (row for pair in zip(*dealt, strict=True) for row in pair):
        by_task[row["task"]].append(row["figures"])
    together = summarise(by_task)
    assert [t["task"] for t in together["tasks"]] == [t["task"] for t in alone["tasks"]]
    for metric in METRICS:
        assert together["mean"][metric] == pytest.approx(alone["mean"][metric], abs=1e-9), metric
        assert together["ci95"][metric] == pytest.approx(alone["ci95"][metric], abs=1e-9), metric
    each = [row["figures"]["auroc"] for rows in dealt for row in rows]
    assert 0.5 < sum(each) / EPISODES < 1.0, "not a case where all agrees by being perfect"
    assert first["logged"] == pytest.approx(sum(each) / EPISODES, abs=1e-6), "what Lightning logs of both"

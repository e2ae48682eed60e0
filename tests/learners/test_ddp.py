"""Real processes under DDP: the meta-gradient of two is that of one on the union of their tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.learners.ddp_gradient import batches
from tests.tiny import tiny_learner

ENGINES = ({"engine": "higher", "tasks_at_once": 1}, {"engine": "vectorized", "tasks_at_once": 9})


@pytest.mark.parametrize("order", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_give_the_meta_gradient_of_one(tmp_path, order):
    """Float64; three tasks here and two there, accumulated over two batches, reduced once; with either engine."""
    trainings = {str(tmp_path / engine["engine"]): {"order": order, **engine} for engine in ENGINES}
    script = REPOSITORY / "tests" / "learners" / "ddp_gradient.py"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), json.dumps(trainings)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    for folder, settings in trainings.items():
        ranks = [torch.load(Path(folder, f"rank{r}.pt"), weights_only=True) for r in range(2)]
        reductions = [json.loads(Path(folder, f"rank{r}.json").read_text()) for r in range(2)]

        learner = tiny_learner("maml", "conv4", **settings).double()
        for batch in batches():
            (learner.outer_loss(batch) / 2).backward()
        for name, p in learner.named_parameters():
            assert torch.equal(ranks[0][name], ranks[1][name]), "all processes hold the same gradient"
            torch.testing.assert_close(ranks[0][name], p.grad, rtol=1e-9, atol=1e-12)
        assert reductions == [1, 1], "no_sync: the first batch's gradient stays at home"

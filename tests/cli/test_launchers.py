"""Launched by torchrun and, as SLURM would, by one process a task with its variables: the same training."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.short import SHORT
from tests.conftest import REPOSITORY

CONFIGS = ["--config", "configs/quickstart.yaml", "--config"]
LEARNER = ["--model.init_args.inner_loop.engine=vectorized", "--data.init_args.tasks_per_batch=2"]
LEARNER += ["--data.init_args.calibration_shots=[2]", "--trainer.max_epochs=1"]
LEARNER += [f"--data.init_args.{kind}_episodes=4" for kind in ("val", "calibration")]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def by_torchrun(runs: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    config = [*CONFIGS, "configs/trainer/torchrun.yaml"]
    done = subprocess.run(
        [*command, "train.py", "fit", *config, *SHORT, *LEARNER, "--runs", str(runs)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def by_slurm(runs: Path) -> None:
    port, processes = free_port(), []
    config = [*CONFIGS, "configs/trainer/slurm.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    for rank in "01":
        variables = {
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank,
            "SLURM_NODEID": "0",
            "SLURM_NODELIST": "127.0.0.1",
            "SLURM_JOB_NODELIST": "127.0.0.1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = ["train.py", "fit", *config, "--trainer.num_nodes=1", *SHORT, *LEARNER, "--runs", str(runs)]
        processes.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=REPOSITORY,
                env=environment(**variables),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out[-3000:]


@pytest.mark.parametrize("launch", [by_torchrun, by_slurm])
def test_two_processes_train_one_model(launch, tmp_path):
    launch(tmp_path)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] > 0
    assert all(torch.isfinite(x).all() for x in state["state_dict"].values())

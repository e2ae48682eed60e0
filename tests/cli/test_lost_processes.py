"""Processes of a training that end before it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest

from metaad_zoo.cli.lost import lost_process
from metaad_zoo.learners.training import trainable
from tests.conftest import small_learner
from tests.learners.test_training import QUIET


class _Harm(pl.Callback):
    def __init__(self, harm):
        self.harm = harm

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        if trainer.global_step == 2:
            self.harm()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the loader process by Linux's /proc")
def test_a_loader_process_that_dies_is_named(digits):
    digits.num_workers = 1

    def kill():
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)

    trainer = pl.Trainer(**QUIET, max_steps=4, enable_checkpointing=False, limit_val_batches=0, callbacks=[_Harm(kill)])
    with pytest.raises(RuntimeError) as died:
        trainer.fit(trainable(small_learner(steps=1)), datamodule=digits)
    message = lost_process(died.value)
    assert message is not None
    assert "a loader process died" in message
    assert "num_workers=0" in message


def test_other_errors_are_not_taken_for_lost_processes():
    assert lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None

"""Checkpoints of a training that stay whole: written beside, synced and renamed, and at SIGTERM."""

from __future__ import annotations

import io
import math
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from metaad_zoo.atomic_write import replacing

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a training that was stopped by SIGTERM, as a shell has it."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a kill at any moment leaves the earlier file or the new one, never a part of one.

    Lightning writes to the system's temporary folder and moves the file. If that folder is on another file system, the
    move is a copy into the earlier file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it can't be written; the error names the file and a remedy, and the earlier file is still whole.
            TypeError: storage options are given.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for stale in path.parent.glob(f"{path.stem}.*.part{path.suffix}"):  # of a process that was killed
                stale.unlink(missing_ok=True)
            with replacing(path, sync=True) as beside:
                beside.write_bytes(content.getbuffer())
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint {path} can't be written ({error.strerror}); --ckpt_path last resumes from the last "
                "whole one",
            ) from error


class LastCheckpoint(ModelCheckpoint):
    """The newest state, for resuming: every so many steps, after each validation and epoch, and at SIGTERM.

    Between a validation and the batch before it nothing is written, since Lightning resumes such a state after the
    validation that it has not seen.

    Lightning's own answer to SIGTERM writes no checkpoint and exits with code 0. With several processes its handler
    starts a collective operation as soon as the signal arrives, while another process may wait in a different one. Here
    the handler only records the signal, and the processes agree by the reduction that each training step has anyway.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._requested = self._epoch_ends = False

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._catch_sigterm(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._catch_sigterm(pl_module)

    def _catch_sigterm(self, module: Any) -> None:
        """Replace Lightning's handler, which Lightning removes after the training together with this one."""

        def request(signum: int, frame: FrameType | None) -> None:
            self._requested = module.stop_requested = True

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, request)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        batches = batch_idx + 1
        ends = batches == trainer.num_training_batches
        validates = ends or batches % (trainer.val_check_batch or math.inf) == 0
        self._epoch_ends = ends
        steps = ends or batches % trainer.accumulate_grad_batches == 0  # waiting gradients are in no checkpoint
        if not validates:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._requested if trainer.world_size == 1 else pl_module.stop_agreed:
            if steps and not validates:
                self._save(trainer)
            if steps or validates:
                self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and not self._epoch_ends:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)  # after the best checkpoint, whose figure it holds

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._requested and trainer.world_size == 1:
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._save(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._requested:  # after the last step
            self._stop(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._last_global_step_saved = trainer.global_step
        trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)  # all of the state

    def _stop(self, trainer: pl.Trainer) -> None:
        raise SIGTERMException(TERMINATED if trainer.is_global_zero else 0)

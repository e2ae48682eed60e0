"""Run by test_training: one step under DDP on two CPU processes; each writes its tasks and its gradient."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeSpec
from tests.conftest import SPLITS, small_learner


class _Keep(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(batch.tasks))

    def on_before_optimizer_step(self, trainer, learner, optimizer):
        gradients = {name: p.grad for name, p in learner.named_parameters()}
        torch.save(gradients, self.folder / f"rank{trainer.global_rank}.pt")


def main(folder: Path, order: int) -> None:
    torch.manual_seed(0)
    learner = small_learner(order=order).double()
    data = ImageEpisodes(
        splits=SPLITS, image_size=16, episode=EpisodeSpec(3, query_normal=4, query_anomalous=4), tasks_per_batch=3
    )
    pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        precision="64-true",
        max_steps=1,
        limit_val_batches=0,
        callbacks=[_Keep(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(learner, datamodule=data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

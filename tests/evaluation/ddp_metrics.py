"""Run by test_ddp_metrics on each of two processes: the test episodes dealt among them, their figures gathered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation.metrics import all_metrics
from metaad_zoo.learners import GradientLearner
from metaad_zoo.learners.training import trainable
from tests.conftest import SPLITS, small_learner

EPISODES = 8
THRESHOLD = 0.0


def model() -> GradientLearner:
    """The same untrained learner in every process."""
    torch.manual_seed(0)
    return small_learner()


def data() -> ImageEpisodes:
    """Digits; queries of unlike numbers, so that means over pooled queries would differ from means over episodes."""
    return ImageEpisodes(
        splits=SPLITS,
        image_size=16,
        episode=EpisodeSpec(support_normal=3, query_normal=11, query_anomalous=5),
        val_episodes=4,
        test_episodes=EPISODES,
        tasks_per_batch=2,
    )


class Gather(pl.Callback):
    """Collects each process's figures of each episode, and what Lightning logs of all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def on_test_batch_end(self, trainer, learner, outputs, batch, batch_idx, dataloader_idx=0):
        for row in learner.predict_step(batch, batch_idx):
            scores = row["scores"].double()
            figures = all_metrics(scores, row["labels"], scores > THRESHOLD)
            self.rows.append({"task": row["task"], "figures": figures})

    def on_test_end(self, trainer, learner):
        assert dist.get_backend() == "gloo"
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, self.rows)
        content = {"by_process": gathered, "logged": float(trainer.callback_metrics["test/auroc"])}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(content))


def main(folder: Path) -> None:
    pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[Gather(folder)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
    ).test(trainable(model()), data(), verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

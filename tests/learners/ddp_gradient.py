"""Run by test_ddp on each of two processes: outer steps under DDP, each on shares of 2 x 5 tasks, unevenly dealt."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.learners.training import trainable
from tests.tiny import tiny_batch, tiny_learner

SHARES = {0: slice(0, 3), 1: slice(3, 5)}


def batches() -> list[EpisodeBatch]:
    """Two batches of five tasks, for two steps of accumulation."""
    ten = tiny_batch("conv4", tasks=10)
    ten.support = {name: x.double() for name, x in ten.support.items()}
    ten.query = {name: x.double() for name, x in ten.query.items()}
    return ten.parts(5)


class _Shares:
    """This process's tasks; the process group exists by the time they are asked for."""

    def __iter__(self):
        rank = torch.distributed.get_rank()
        for batch in batches():
            share = SHARES[rank]
            yield batch._map(lambda x, share=share: x[share], lambda tasks, share=share: tasks[share])

    def __len__(self) -> int:
        return 2


class _Keep(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer, learner):
        assert not trainer.model.will_sync_module_buffers(), "statistics that training does not change stay at home"
        self.calls = 0
        trainer.model.register_comm_hook(None, self._count)

    def _count(self, state, bucket):
        self.calls += 1  # a reduction over processes
        return torch.distributed.algorithms.ddp_comm_hooks.default_hooks.allreduce_hook(None, bucket)

    def on_before_optimizer_step(self, trainer, learner, optimizer):
        gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
        torch.save(gradients, self.folder / f"rank{trainer.global_rank}.pt")
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(self.calls))


def one_step(folder: Path, settings: dict) -> None:
    folder.mkdir(exist_ok=True)
    learner = tiny_learner("maml", "conv4", **settings).double()
    learner.diagnose_every = 0
    pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        precision="64-true",
        max_steps=1,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        callbacks=[_Keep(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(trainable(learner), train_dataloaders=_Shares())


if __name__ == "__main__":
    for place, settings in json.loads(sys.argv[1]).items():
        one_step(Path(place), settings)

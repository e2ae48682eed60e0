"""What every learner shares: the outer optimiser, the figures it logs, and the two calls ``adapt`` and ``score``."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from metaad_zoo.episodes import Adapted, EpisodeBatch, Samples
from metaad_zoo.evaluation.metrics import auroc

Schedule = Literal["constant", "cosine"]


@contextmanager
def explain_missing_derivative() -> Iterator[None]:
    """Say what to do where a layer has no second derivative.

    Raises:
        ValueError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        raise ValueError(
            f"a layer of this backbone has no second derivative ({str(error).splitlines()[0]}): set "
            "inner_loop.order=1, or take another backbone"
        ) from error


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a fine-tuned learner comes from.

    Attributes:
        name: as it was asked for.
        sha256: of its weights.
        trained_on: classes or domains that it has seen.
        trained: what of it the fine-tuning trains.
        learner: as it was, in eval mode.
    """

    name: str
    sha256: str
    trained_on: tuple[str, ...]
    trained: str
    learner: Learner

    def as_dict(self) -> dict[str, Any]:
        """What a protocol says of it."""
        return {"checkpoint": self.name, "sha256": self.sha256, "trained": self.trained}


class Learner(pl.LightningModule):
    """Meta-trained over many tasks, then adapted to one by its support set.

    A subclass says how it adapts and what it minimises, and returns from :meth:`arguments` what its constructor needs
    to build an equal one.

    Args:
        optimizer: builds the outer optimiser from parameter groups.
        schedule: of the outer learning rate: ``"constant"``, or ``"cosine"`` from its start down to 0 at the last step.
    """

    registered_name: ClassVar[str]
    trains: ClassVar[bool] = True
    """False for a learner that is used as it is built: ``train.py`` then goes straight to the test."""
    parent: Parent | None = None
    """Where it comes from, while it is fine-tuned."""

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        super().__init__()
        self.set_optimizer(optimizer, schedule)
        self._last_batch_end = 0.0
        self._planned_steps = 0
        self._rng_state: Tensor | None = None

    @abstractmethod
    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Adapt to a support set; see :class:`metaad_zoo.episodes.Method`. Leaves the learner as it is."""

    @abstractmethod
    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """The loss ``()`` whose gradient is the meta-gradient: a mean over the batch's tasks."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that JSON can hold, from which an equal learner (but for its weights) is built."""

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Parameter groups of the outer optimiser."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def set_optimizer(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        """Take another optimiser than the one it was built with.

        Args:
            optimizer: as for the class.
            schedule: likewise.

        Raises:
            ValueError: the schedule is unknown.
        """
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is {schedule!r}; expected 'constant' or 'cosine'")
        self._optimizer, self._schedule = optimizer, schedule

    def train_by(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        """Deprecated name of :meth:`set_optimizer`."""
        warnings.warn("Learner.train_by is deprecated: call set_optimizer", DeprecationWarning, stacklevel=2)
        self.set_optimizer(optimizer, schedule)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.zero_grad()  # also what a fine-tuning leaves out of the optimiser, whose gradients would pile up

    def loss_scale(self) -> float:
        """The trainer's scale of the loss under 16-mixed."""
        plugin = self._trainer.precision_plugin if self._trainer is not None else None
        scaler = getattr(plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.outer_parameters())
        if self._schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "schedule='cosine' needs an end: set trainer.max_epochs or max_steps, or schedule='constant'"
            )
        self._planned_steps = max(int(steps), 1)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self._planned_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self._last_batch_end = time.perf_counter()

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        loss = self.outer_loss(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the outer loss is {loss.item()} at step {self.global_step} on {', '.join(batch.tasks)}: lower the "
                "outer learning rate or inner_loop.lr, or set trainer.gradient_clip_val"
            )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss * self._share(len(batch)) * self._group_share(batch_idx)

    def _share(self, tasks: int) -> float:
        """This process's weight: DDP takes the mean over processes, where we want the mean over all their tasks."""
        if self.trainer.world_size == 1:
            return 1.0
        mine = torch.tensor(float(tasks), device=self.device)
        all_tasks = self.trainer.strategy.reduce(mine, reduce_op="sum")
        return tasks * self.trainer.world_size / float(all_tasks)

    def _group_share(self, batch_idx: int) -> float:
        """What makes a step the mean over its batches: Lightning divides each by ``accumulate_grad_batches``, also in
        the last group of an epoch, which may have fewer."""
        group = self.trainer.accumulate_grad_batches
        return group / min(group, self.trainer.num_training_batches - batch_idx // group * group)

    def on_train_batch_end(self, outputs: Any, batch: EpisodeBatch, batch_idx: int) -> None:
        episodes = len(batch) * self.trainer.world_size
        now = time.perf_counter()
        speed, self._last_batch_end = episodes / (now - self._last_batch_end), now
        self.log("episodes/s", speed, prog_bar=True, batch_size=len(batch))

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with explain_missing_derivative():
            super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self._log_auroc("val/auroc", batch)

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self._log_auroc("test/auroc", batch)

    def predict_step(self, batch: EpisodeBatch, batch_idx: int) -> list[dict[str, Any]]:
        """For each episode its task, the query's labels and scores."""
        return [
            {
                "task": task,
                "labels": labels.cpu(),
                "scores": self.adapt(support, support_labels).score(query).cpu(),
            }
            for support, support_labels, query, labels, task in batch
        ]

    def _log_auroc(self, name: str, batch: EpisodeBatch) -> None:
        values = [auroc(row["scores"], row["labels"]) for row in self.predict_step(batch, 0)]
        mean = torch.tensor(values, dtype=torch.float32, device=self.device).mean()
        self.log(name, mean, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Dropout draws from the global generator: without its state a resumed run would differ from a straight one.
        checkpoint["rng_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_state = checkpoint.get("rng_state")

    def on_train_start(self) -> None:
        for scheduler in self.trainer.lr_scheduler_configs:
            saved = getattr(scheduler.scheduler, "T_max", self._planned_steps)
            if saved != self._planned_steps:
                raise ValueError(
                    f"the checkpoint's cosine schedule ends at step {saved}, this run at {self._planned_steps}: resume "
                    "with the same length, or train longer with schedule='constant'"
                )
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state.cpu())
            self._rng_state = None

"""Training by Lightning: outer optimiser, logging, resumption, and diagnostics of the inner loop."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from metaad_zoo.backbones.layers import constant_statistics
from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.learners.base import Learner, explain_missing_derivative
from metaad_zoo.learners.divergence import REMEDY, explain_divergence, require_finite_weights
from metaad_zoo.learners.gradient import GradientLearner, look_inside, meta_gradient_norms


def trainable(learner: Learner) -> pl.LightningModule:
    """Make a learner a LightningModule for ``trainer.fit``, in place; the names of its weights do not change.

    Returns:
        The learner itself.

    Example:
        >>> from metaad_zoo.inner_loop import InnerLoopConfig
        >>> learner = GradientLearner("mlp", {}, {"tabular": [3]}, InnerLoopConfig(steps=1))
        >>> trainable(learner) is learner, isinstance(learner, pl.LightningModule)
        (True, True)
    """
    if not isinstance(learner, _Training):
        state = dict(learner.__dict__)
        learner.__class__ = _trainable_class(type(learner))  # type: ignore[arg-type]
        pl.LightningModule.__init__(learner)  # type: ignore[arg-type]
        learner.__dict__.update(state)
    return learner  # type: ignore[return-value]


@cache
def _trainable_class(learner: type[Learner]) -> type[Learner]:
    # A local class, so that command lines that name the learner without its module still mean only the learner.
    names = {"__module__": learner.__module__, "__qualname__": f"trainable.<locals>.{learner.__name__}"}
    return type(learner.__name__, (learner, _Training), {**names, "learner_class": learner})


def _unpickled(learner: type[Learner]) -> Learner:
    kind = _trainable_class(learner)  # type: ignore[arg-type]
    return kind.__new__(kind)


class _Training(Learner, pl.LightningModule):
    """Hooks of Lightning.

    Attributes:
        stop_requested: whether this process has been asked to end the training after the current step.
        stop_agreed: with several processes, whether any of them has been asked to; they agree on it at each step.
    """

    learner_class: type[Learner]
    stop_requested = stop_agreed = False
    _last_batch_end = 0.0
    _planned_steps = 0
    _rng_state: Tensor | None = None
    _unchecked: list[tuple[EpisodeBatch, Tensor]]

    def __reduce__(self) -> Any:
        return _unpickled, (self.learner_class,), self.__dict__

    def configure_callbacks(self) -> list[pl.Callback]:
        every = self.diagnose_every if isinstance(self, GradientLearner) else None
        return [InnerLoopDiagnostics(every)] if every else []

    def setup(self, stage: str) -> None:
        """Spare DDP the broadcast of constant buffers before each outer step; it reads this attribute."""
        constant = {"_place", "inner_loop.rates", *constant_statistics(self)}
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers() if name in constant]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_outer_step()

    def loss_scale(self) -> float:
        plugin = self._trainer.precision_plugin if self._trainer is not None else None
        scaler = getattr(plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.zero_grad()  # includes parameters outside the optimiser, whose gradients would accumulate in fine-tuning

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
        loss, diverged = None, None
        try:
            loss = self.outer_loss(batch)
        except FloatingPointError:
            diverged = explain_divergence(self, [batch], self.global_step)
        share = self._share(len(batch), diverged)
        assert loss is not None
        self._unchecked.append((batch, loss.detach()))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss * share * self._group_share(batch_idx)

    def _share(self, tasks: int, diverged: FloatingPointError | None) -> float:
        """Weight of this process, so that DDP's mean over processes becomes a mean over all tasks.

        Raises:
            FloatingPointError: a process diverged; all processes end together, instead of waiting for it.
        """
        all_tasks, share = float(tasks), 1.0
        if self.trainer.world_size > 1:
            sums = torch.tensor([tasks, self.stop_requested, diverged is not None], dtype=torch.float32)
            all_tasks, stops, errors = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum").tolist()
            self.stop_agreed, share = stops > 0, tasks * self.trainer.world_size / all_tasks
            if errors and diverged is None:
                diverged = FloatingPointError(f"at outer step {self.global_step}, another process diverged: see there")
        if diverged is not None:
            raise diverged
        return share

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Check losses and gradients before they change the weights; together, because each check waits for the GPU.

        Raises:
            FloatingPointError: one is not finite. Gradients that a scaler scales by more than 1 are not checked, as the
                scaler skips such a step and lowers its scale.
        """
        batches, losses = zip(*self._unchecked, strict=True)
        self._unchecked.clear()
        figures = [loss.float() for loss in losses]
        if self.loss_scale() <= 1:
            figures.append(get_total_norm([p.grad for p in self.parameters() if p.grad is not None]).float())
        if not torch.isfinite(torch.stack(figures)).all():
            with torch.enable_grad(), self.trainer.precision_plugin.train_step_context():
                raise explain_divergence(self, batches, self.global_step)

    def _group_share(self, batch_idx: int) -> float:
        """Correction for the last group of an epoch, which may have fewer than ``accumulate_grad_batches`` batches."""
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
        """Task, query labels and scores of each episode.

        Raises:
            FloatingPointError: a task's adaptation diverges, or a score is NaN.
        """
        rows = []
        for support, support_labels, query, labels, task in batch:
            at = f"{task}, after {self.global_step} outer steps"
            try:
                scores = self.adapt(support, support_labels).score(query).cpu()
            except FloatingPointError as error:
                raise FloatingPointError(f"{at}: {error}") from error
            if scores.isnan().any():
                raise FloatingPointError(f"{at}: {int(scores.isnan().sum())} of {len(scores)} scores are NaN: {REMEDY}")
            rows.append({"task": task, "labels": labels.cpu(), "scores": scores})
        return rows

    def _log_auroc(self, name: str, batch: EpisodeBatch) -> None:
        values = [auroc(row["scores"], row["labels"]) for row in self.predict_step(batch, 0)]
        mean = torch.tensor(values, dtype=torch.float32, device=self.device).mean()
        self.log(name, mean, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_finite_weights(self, self.global_step)
        # Dropout uses the global generator, so exact resumption needs its state.
        checkpoint["rng_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng_state = checkpoint.get("rng_state")

    def on_train_start(self) -> None:
        self._unchecked = []  # batches of the present outer step, and their losses
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


class InnerLoopDiagnostics(pl.Callback):
    """Logs diagnostics of the inner loop at regular outer steps:

    - ``inner/support_loss/<s>`` and ``inner/query_loss/<s>``: mean losses of the batch's tasks after ``s`` inner steps;
    - ``inner/one_class_cosine``: cosine between the gradients of the support loss and the query loss at the initial
      parameters. In the one-class setting the support has only normal samples, and meta-learning aligns both gradients
      (Frikha et al., "Few-Shot One-Class Classification via Meta-Learning", AAAI 2021);
    - ``meta_gradient/<block>``: norm of the meta-gradient of each block of layers, before clipping.

    Diagnostics change no weight, no statistic and no random number of the training.

    Args:
        every: number of outer steps between diagnostics.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: EpisodeBatch, batch_idx: int) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if first and trainer.global_step % self.every == 0:
            _log(trainer, look_inside(pl_module, batch))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        if trainer.global_step % self.every == 0:
            norms = meta_gradient_norms(pl_module)
            _log(trainer, {f"meta_gradient/{block}": norm for block, norm in norms.items()})


def _log(trainer: pl.Trainer, figures: dict[str, float]) -> None:
    """Log to the loggers directly, because Lightning repeats a module's metrics until the end of the epoch."""
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)

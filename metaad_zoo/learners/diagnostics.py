"""A look into the inner loop while training goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cosine_similarity

from metaad_zoo.episodes import EpisodeBatch, Samples
from metaad_zoo.learners.network import anomaly_loss

if TYPE_CHECKING:
    from metaad_zoo.learners.gradient import GradientLearner


class InnerLoopDiagnostics(pl.Callback):
    """Logs, every so many outer steps:

    - ``inner/support_loss/<s>`` and ``inner/query_loss/<s>``: mean losses of the batch's tasks after ``s`` inner steps;
    - ``inner/one_class_cosine``: cosine between the gradient of the support loss and that of the query loss at the
      start. In the one-class setting the first knows normal samples only; meta-learning one-class is bringing them
      together (Frikha et al., "Few-Shot One-Class Classification via Meta-Learning", AAAI 2021);
    - ``meta_gradient/<block>``: norm of the meta-gradient of each block of layers, before clipping.

    Looking changes nothing: no weight, no statistic, no random number of the training.

    Args:
        every: outer steps between two looks.
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
    """To the loggers themselves: what a module logs, Lightning repeats until the epoch's end."""
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)


def look_inside(learner: GradientLearner, batch: EpisodeBatch) -> dict[str, float]:
    """Losses by inner step and the cosine of one-class and balanced gradient, means over the batch's tasks.

    Args:
        learner: left as it is.
        batch: support and query of some tasks.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    devices = [learner.device] if learner.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(learner.device.type, enabled=False):
        for support, support_labels, query, query_labels, task in learner.network.scaled(batch):
            figures = _one_task(learner, support, support_labels, query, query_labels, task)
            for name, value in figures.items():
                sums[name] += value / len(batch)
    learner.forget_observed()
    return dict(sums)


def _one_task(
    learner: GradientLearner, support: Samples, support_labels: Tensor, query: Samples, query_labels: Tensor, task: str
) -> dict[str, float]:
    figures: dict[str, float] = {}
    start: dict[str, Tensor] = {}

    @torch.no_grad()
    def visit(step: int, parameters: Mapping[str, Tensor], loss: Tensor | None) -> None:
        at = {name: p.detach() for name, p in parameters.items()}
        if step == 0:
            start.update(at)
        if loss is None:
            loss = anomaly_loss(functional_call(learner.network, at, (support,)), support_labels)
        figures[f"inner/support_loss/{step}"] = float(loss)
        logits = functional_call(learner.network, at, (support, query))
        figures[f"inner/query_loss/{step}"] = float(anomaly_loss(logits, query_labels))

    learner._adapt_parameters(support, support_labels, [task], meta_gradient=False, visit=visit)
    adapted = [start[name].requires_grad_() for name in learner.inner_loop.names]
    losses = (
        anomaly_loss(functional_call(learner.network, start, (support,)), support_labels),
        anomaly_loss(functional_call(learner.network, start, (support, query)), query_labels),
    )
    one_class, balanced = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, adapted, materialize_grads=True)]) for loss in losses
    )
    figures["inner/one_class_cosine"] = float(cosine_similarity(one_class, balanced, dim=0))
    return figures


def meta_gradient_norms(learner: pl.LightningModule) -> dict[str, float]:
    """Norm of the meta-gradient by block: a parameter's name up to its third part, such as ``backbone.blocks.0``."""
    squares: defaultdict[str, list[Tensor]] = defaultdict(list)
    for name, p in learner.named_parameters():
        if p.grad is not None:
            block = ".".join(name.removeprefix("network.").split(".")[:-1][:3])
            squares[block].append(p.grad.detach().float().square().sum())
    return {block: float(torch.stack(parts).sum().sqrt()) for block, parts in squares.items()}

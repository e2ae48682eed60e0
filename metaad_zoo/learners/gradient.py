"""MAML: learners that adapt by gradient steps on the support set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cosine_similarity

from metaad_zoo.backbones import (
    EpisodicBatchNorm,
    TaskAxis,
    at_inner_step,
    differentiable_recurrence,
    prefers_sample_major,
    require_task_axis,
    task_axis,
)
from metaad_zoo.episodes import EpisodeBatch, Samples, Scaling, SupportScaling
from metaad_zoo.inner_loop import DivergenceError, InnerLoop, InnerLoopConfig, Order, Visit, adapt_parameters
from metaad_zoo.inner_loop.compiled import CompiledSteps, compilation_is_on
from metaad_zoo.inner_loop.precision import inner_precision
from metaad_zoo.learners.accumulation import loss_with_gradient, mean_part_by_part, sum_of_parts
from metaad_zoo.learners.base import Learner, OptimizerCallable, Schedule, without_folders
from metaad_zoo.learners.compiled_step import CompiledOuterStep
from metaad_zoo.learners.network import (
    AdaptedNetwork,
    AdaptedScorer,
    EpisodeNetwork,
    anomaly_loss,
    load_parameters,
    require_independent_tasks,
    scaled,
    usable,
    with_own_modules,
)
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.learners.shared_modalities import adapt_to_shared

Result = TypeVar("Result")


def multi_step_weights(steps: int, epoch: int, epochs: int) -> list[float]:
    """Weights of the query losses after each inner step (multi-step loss with annealing).

    Source: Antoniou et al., "How to train your MAML", ICLR 2019, section 4, with the schedule of the authors' code: all
    weights are equal at first; those before the last step decrease linearly to 0.03 of their initial value.

    Args:
        steps: number of inner steps.
        epoch: current epoch, from 0.
        epochs: length of the schedule in epochs.

    Example:
        >>> [multi_step_weights(2, epoch, epochs=2) for epoch in (0, 1)]
        [[0.5, 0.5], [0.25, 0.75]]
    """
    share = 1 / steps
    early = max(share - epoch * share / epochs, 0.03 * share)
    return [*[early] * (steps - 1), 1 - early * (steps - 1)]


@register_learner("maml")
class GradientLearner(Learner):
    """Model-agnostic meta-learning: an initialisation from which a few gradient steps yield a detector.

    Source: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017, algorithm 1.
    With only normal support samples and queries of both classes it is the one-class setting of Frikha et al., "Few-Shot
    One-Class Classification via Meta-Learning", AAAI 2021 (OC-MAML).

    Args:
        backbone: name of the backbone, as in :func:`metaad_zoo.list_backbones`.
        backbone_options: options of the backbone, such as ``{"width": 32}``.
        input_shapes: shape of one sample by modality, such as ``{"image": [1, 28, 28]}``; ``train.py`` takes it from
            the data.
        inner_loop: settings of the inner loop.
        scaling: ``none``, ``standard`` or ``robust`` by modality, see :class:`metaad_zoo.episodes.SupportScaling`;
            default: images none, sequences standard, tables robust.
        optimizer: function that builds the outer optimiser.
        schedule: schedule of the outer learning rate, ``"constant"`` or ``"cosine"``.
        multi_step_epochs: number of epochs in which the query loss after every inner step counts, with decreasing
            weight except for the last step (see :func:`multi_step_weights`); 0: only the last step.
        first_order_epochs: number of initial epochs at order 1 (Antoniou et al., "How to train your MAML", ICLR 2019,
            section 4, derivative-order annealing).
        diagnose_every: number of outer steps between diagnostics of the inner loop (:class:`InnerLoopDiagnostics`); 0:
            no diagnostics.

    Raises:
        ValueError: a name or a setting is unknown, the backbone does not fit the data, or the engine can't run it.
    """

    cost: ClassVar[str] = "a network takes gradient steps on the support and then computes each sample"
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Settings of the inner loop that define the learner."""
    network_type: ClassVar[type[EpisodeNetwork]] = EpisodeNetwork

    def __init__(
        self,
        backbone: str = "conv4",
        backbone_options: dict[str, Any] | None = None,
        input_shapes: dict[str, Sequence[int]] | None = None,
        inner_loop: InnerLoopConfig = InnerLoopConfig(),  # noqa: B008 - frozen
        scaling: dict[str, Scaling] | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        schedule: Schedule = "cosine",
        multi_step_epochs: int = 0,
        first_order_epochs: int = 0,
        diagnose_every: int = 100,
    ) -> None:
        super().__init__(optimizer, schedule)
        if not input_shapes:
            raise ValueError("input_shapes is missing: give each modality's shape, such as {'image': (1, 28, 28)}")
        inner_loop = self._with_fixed(inner_loop)
        self._arguments: dict[str, Any] = {
            "backbone": backbone,
            "backbone_options": dict(backbone_options or {}),
            "input_shapes": {name: list(shape) for name, shape in input_shapes.items()},
            "inner_loop": inner_loop,
            "scaling": dict(scaling or {}),
            "multi_step_epochs": multi_step_epochs,
            "first_order_epochs": first_order_epochs,
            "diagnose_every": diagnose_every,
        }
        if min(multi_step_epochs, first_order_epochs, diagnose_every) < 0:
            raise ValueError("multi_step_epochs, first_order_epochs and diagnose_every must be 0 or more")
        if inner_loop.order == "implicit" and (multi_step_epochs or first_order_epochs):
            raise ValueError("order='implicit' uses only the last step: set multi_step_epochs=0, first_order_epochs=0")
        if inner_loop.compile and multi_step_epochs:
            raise ValueError("inner_loop.compile needs one loss for all epochs: set multi_step_epochs=0")
        self.multi_step_epochs, self.first_order_epochs = multi_step_epochs, first_order_epochs
        self.diagnose_every = diagnose_every
        self.network = self.network_type(
            backbone, backbone_options or {}, input_shapes, inner_loop.batch_norm, inner_loop.steps, scaling
        )
        self.inner_loop = InnerLoop(inner_loop, self.network)
        self._tasks_are_independent = False  # not verified yet
        self.compiled = CompiledOuterStep(CompiledSteps())
        if inner_loop.engine == "vectorized":
            require_task_axis(self.network, self.inner_loop.names)

    @classmethod
    def _with_fixed(cls, config: InnerLoopConfig) -> InnerLoopConfig:
        """The inner loop with the settings of :attr:`fixed`.

        Raises:
            ValueError: the config has a conflicting value other than the default.
        """
        defaults = {f.name: f.default for f in fields(InnerLoopConfig)}
        for name, value in cls.fixed.items():
            if getattr(config, name) not in (defaults[name], value):
                raise ValueError(
                    f"{cls.registered_name} is inner_loop.{name}={value!r}, saw {getattr(config, name)!r}: leave it "
                    "out, or take the learner 'maml', which is free in it"
                )
        return replace(config, **cls.fixed)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments; a local file of pretrained weights is named without its folder."""
        return {**without_folders(self._arguments), "inner_loop": asdict(self.inner_loop.config)}

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Parameter groups of the network and of learned inner rates, the latter without weight decay."""
        groups: list[dict[str, Any]] = [{"params": [p for p in self.network.parameters() if p.requires_grad]}]
        rates = list(self.inner_loop.parameters())
        return [*groups, {"params": rates, "weight_decay": 0.0}] if rates else groups

    def after_outer_step(self) -> None:
        self.inner_loop.bound_rates()

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        parameters = [p for group in self.outer_parameters() for p in group["params"]]
        self.forget_observed()
        if self.inner_loop.config.compile and compilation_is_on():
            return self._compiled_outer_loss(batch, parameters)
        loss = mean_part_by_part(batch, self.tasks_at_once(len(batch)), self.task_losses, parameters, self.loss_scale())
        self.keep_observed()
        return loss

    def _compiled_outer_loss(self, batch: EpisodeBatch, parameters: list[Tensor]) -> Tensor:
        """Mean loss of the batch's tasks, with its gradient from a compiled step."""
        self._require_independent_tasks(batch)
        order = 1 if self.epoch < self.first_order_epochs else 2
        total, gradients = sum_of_parts(
            batch.parts(self.tasks_at_once(len(batch))),
            lambda part: self.compiled.differentiate(self, self.task_losses, part, parameters, order),
        )
        return loss_with_gradient(total / len(batch), parameters, [g / len(batch) for g in gradients if g is not None])

    def keep_observed(self) -> None:
        """Update the batch-norm averages of each inner step by the statistics of this training step."""
        for layer in self.network.modules():
            if isinstance(layer, EpisodicBatchNorm):
                layer.keep_observed()

    def forget_observed(self) -> None:
        """Drop batch-norm statistics that do not come from a training step, but from diagnostics or recomputation."""
        for layer in self.network.modules():
            if isinstance(layer, EpisodicBatchNorm):
                layer.observed.clear()

    def tasks_at_once(self, tasks: int) -> int:
        """Number of a batch's tasks whose graphs are in memory together."""
        config = self.inner_loop.config
        if config.tasks_at_once is not None:
            return config.tasks_at_once
        if config.engine == "higher":
            return 1
        return (self.network.backbone.cpu_tasks if self.device.type == "cpu" else None) or tasks

    def task_losses(self, batch: EpisodeBatch) -> Tensor:
        """Query loss of each task after adaptation ``(tasks,)``."""
        return torch.cat([losses.view(-1) for losses in self._by_engine(batch, self._query_loss)])

    def _by_engine(self, batch: EpisodeBatch, run: Callable[..., Result]) -> list[Result]:
        """Run one task after the other, or all at once with a task axis, depending on the engine."""
        batch = self.network.scaled(batch, next(self.parameters()).dtype)
        if self.inner_loop.config.engine == "higher":
            return [run(s, s_labels, q, q_labels, [task], None) for s, s_labels, q, q_labels, task in batch]
        self._require_independent_tasks(batch)
        axis = TaskAxis(len(batch), prefers_sample_major(self.network))
        with task_axis(axis):
            return [run(batch.support, batch.support_labels, batch.query, batch.query_labels, batch.tasks, axis)]

    def _require_independent_tasks(self, batch: EpisodeBatch) -> None:
        """Verify with the first batch that a task axis does not mix tasks."""
        if not self._tasks_are_independent:
            axis = TaskAxis(len(batch), prefers_sample_major(self.network))
            with inner_precision("full", self.device):
                require_independent_tasks(self.network, batch.support, axis, self.inner_loop.names)
            self._tasks_are_independent = True

    def _query_loss(
        self,
        support: Samples,
        support_labels: Tensor,
        query: Samples,
        query_labels: Tensor,
        tasks: list[str],
        axis: TaskAxis | None,
    ) -> Tensor:
        """Outer loss of a task: ``()``, or with a task axis ``(tasks,)``."""
        weights = self._step_weights()
        parameters_at: dict[int, Mapping[str, Tensor]] = {}

        def keep(step: int, parameters: Mapping[str, Tensor], loss: Tensor | None) -> None:
            if step in weights:
                parameters_at[step] = parameters

        self._adapt_parameters(support, support_labels, tasks, meta_gradient=True, axis=axis, visit=keep)
        losses = []
        for step, weight in weights.items():
            with at_inner_step(step), inner_precision(self.inner_loop.precision, self.device):
                judging = self.judging(parameters_at[step], support, support_labels)
                logits = functional_call(self.network, dict(judging), (support, query))
            losses.append(weight * self.query_loss(logits, query_labels))
        return torch.stack(losses).sum(0)

    def _step_weights(self) -> dict[int, float]:
        """Weight of the query loss by number of inner steps."""
        steps = self.inner_loop.config.steps
        if steps == 0 or self.epoch >= self.multi_step_epochs:
            return {steps: 1.0}
        return dict(enumerate(multi_step_weights(steps, self.epoch, self.multi_step_epochs), start=1))

    def adapt(self, support: Samples, support_labels: Tensor) -> AdaptedScorer:
        """Take the inner loop's steps on a support set; of several modalities, see :class:`SharedModalities`.

        Args:
            support: samples by modality ``(n, ...)``, on any device and of any type.
            support_labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled (treated as normal).

        Raises:
            FloatingPointError: a support loss or the adapted weights are not finite.
        """
        # Lightning validates in inference mode, whose tensors have no gradient.
        # Adaptation and scoring run in full precision even after mixed training, because rounded logits cause ties.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            reference = next(self.network.parameters())
            raw = usable(support, reference)
            labels = support_labels.to(self.device, copy=support_labels.is_inference())
            scalings = self.network.scalings(raw)
            inputs = scaled(raw, scalings, reference.dtype)
        return adapt_to_shared(partial(self._adapt_scaled, scalings), inputs, labels)

    def _adapt_scaled(self, scalings: Mapping[str, SupportScaling], inputs: Samples, labels: Tensor) -> AdaptedNetwork:
        """Take the inner loop's steps on a support set in the network's units."""
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            twin = self._with_own_network()  # adaptation swaps weights, while other threads may score or adapt
            adapted = twin._adapt_parameters(inputs, labels, ["this support set"], meta_gradient=False)
            with torch.no_grad():
                load_parameters(twin.network, twin.judging(adapted, inputs, labels))
            return AdaptedNetwork(twin.network, inputs, scalings)

    def _with_own_network(self) -> GradientLearner:
        """Copy of the learner whose network shares only tensors with the original."""
        twin = copy(self)
        twin.__dict__["_modules"] = {**self._modules, "network": with_own_modules(self.network)}
        return twin

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of the inner steps: ``()``, or for outputs with a task axis ``(tasks,)``."""
        return anomaly_loss(outputs, labels)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of the outer loop; shapes as for :meth:`support_loss`."""
        return anomaly_loss(outputs, labels)

    def judging(self, adapted: Mapping[str, Tensor], support: Samples, labels: Tensor) -> Mapping[str, Tensor]:
        """Parameters for scoring queries, given the adapted parameters; the same by default."""
        return adapted

    def _start(self, support: Samples, support_labels: Tensor, axis: TaskAxis | None) -> dict[str, Tensor]:
        """Initial parameters of a task that replace meta-learned ones, by name."""
        return {}

    def _initial_embeddings(self, support: Samples) -> Tensor:
        """Embeddings of the support before the first inner step."""
        with inner_precision(self.inner_loop.precision, self.device), at_inner_step(0):
            return self.network.embed(support)

    def _adapt_parameters(
        self,
        support: Samples,
        support_labels: Tensor,
        tasks: Sequence[str],
        *,
        meta_gradient: bool,
        axis: TaskAxis | None = None,
        visit: Visit | None = None,
    ) -> dict[str, Tensor]:
        annealing = self.epoch < self.first_order_epochs
        order: Order = 1 if annealing else self.inner_loop.config.order
        try:
            with differentiable_recurrence(self.network):
                return adapt_parameters(
                    self.network,
                    self.inner_loop,
                    lambda network: self.support_loss(network(support), support_labels),
                    meta_gradient=meta_gradient,
                    order=order,
                    start=self._start(support, support_labels, axis),
                    tasks=None if axis is None else axis.tasks,
                    at_step=at_inner_step,
                    visit=visit,
                )
        except DivergenceError as error:
            raise FloatingPointError(f"{', '.join(tasks[i] for i in error.tasks)}: {error}") from error


def look_inside(learner: GradientLearner, batch: EpisodeBatch) -> dict[str, float]:
    """Losses by inner step, and cosine between support and query gradient, as means over the batch's tasks.

    Args:
        learner: learner to diagnose; not changed.
        batch: batch of tasks.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    devices = [learner.device] if learner.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(learner.device.type, enabled=False):
        for support, support_labels, query, query_labels, task in learner.network.scaled(
            batch, next(learner.parameters()).dtype
        ):
            metrics = _look_inside_task(learner, support, support_labels, query, query_labels, task)
            for name, value in metrics.items():
                sums[name] += value / len(batch)
    learner.forget_observed()
    return dict(sums)


def _look_inside_task(
    learner: GradientLearner, support: Samples, support_labels: Tensor, query: Samples, query_labels: Tensor, task: str
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    start: dict[str, Tensor] = {}

    @torch.no_grad()
    def visit(step: int, parameters: Mapping[str, Tensor], loss: Tensor | None) -> None:
        at = {name: p.detach() for name, p in parameters.items()}
        if step == 0:
            start.update(at)
        if loss is None:
            loss = anomaly_loss(functional_call(learner.network, at, (support,)), support_labels)
        metrics[f"inner/support_loss/{step}"] = float(loss)
        logits = functional_call(learner.network, at, (support, query))
        metrics[f"inner/query_loss/{step}"] = float(anomaly_loss(logits, query_labels))

    learner._adapt_parameters(support, support_labels, [task], meta_gradient=False, visit=visit)
    adapted = [start[name].requires_grad_() for name in learner.inner_loop.names]
    losses = (
        anomaly_loss(functional_call(learner.network, start, (support,)), support_labels),
        anomaly_loss(functional_call(learner.network, start, (support, query)), query_labels),
    )
    one_class, balanced = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, adapted, materialize_grads=True)]) for loss in losses
    )
    metrics["inner/one_class_cosine"] = float(cosine_similarity(one_class, balanced, dim=0))
    return metrics


def meta_gradient_norms(learner: Learner) -> dict[str, float]:
    """Norm of the meta-gradient by block: a parameter's name up to its third part, such as ``backbone.blocks.0``."""
    squares: defaultdict[str, list[Tensor]] = defaultdict(list)
    for name, p in learner.named_parameters():
        if p.grad is not None:
            block = ".".join(name.removeprefix("network.").split(".")[:-1][:3])
            squares[block].append(p.grad.detach().float().square().sum())
    return {block: float(torch.stack(parts).sum().sqrt()) for block, parts in squares.items()}

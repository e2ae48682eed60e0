"""Batch normalisation for episodes, with a policy for the source of its statistics.

By default queries do not contribute to the statistics, because these would reveal the share of anomalies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from metaad_zoo.backbones.batch_normalisation import batch_normalisation
from metaad_zoo.backbones.task_axis import TaskAxis, current_task_axis

BatchNormPolicy = Literal["support", "transductive", "running", "per_step"]
BATCH_NORM_POLICIES: tuple[str, ...] = get_args(BatchNormPolicy)
MOMENTUM = 0.1
"""Share of the new statistics in a running average, as in ``torch.nn.BatchNorm2d``."""

_reference_rows: ContextVar[int | None] = ContextVar("reference_rows", default=None)
_inner_step: ContextVar[int] = ContextVar("inner_step", default=-1)


@contextmanager
def statistics_from_first(rows: int) -> Iterator[None]:
    """Context in which only the first ``rows`` samples of a batch, the support, contribute to the statistics."""
    token = _reference_rows.set(rows)
    try:
        yield
    finally:
        _reference_rows.reset(token)


@contextmanager
def at_inner_step(step: int) -> Iterator[None]:
    """Context in which weights are those before inner step ``step``; outside, those after the last step."""
    token = _inner_step.set(step)
    try:
        yield
    finally:
        _inner_step.reset(token)


class EpisodicBatchNorm(nn.Module):
    """Replacement for ``torch.nn.BatchNorm`` with a policy for the source of the statistics.

    It raises an error under ``torch.vmap``, where ``F.batch_norm`` with affine parameters has wrong second derivatives.

    Args:
        layer: layer to replace; its parameters, running statistics, eps and, for timm's layers, activation are used.
        policy: ``"support"``: statistics of the support set, also for queries (see :func:`statistics_from_first`);
            ``"transductive"``: statistics of the whole batch, so that a score depends on the other queries;
            ``"running"``: the layer's stored statistics, constant; ``"per_step"``: statistics of the support set in
            training, and their running average for each inner step in evaluation (Antoniou et al., "How to train your
            MAML", ICLR 2019, section 4, where the statistics of the whole batch are averaged).
        steps: number of inner steps, for ``"per_step"``: there is one average for each step, and one for the queries.

    Attributes:
        observed: the (step, mean, variance) since the last :meth:`keep_observed`, under ``"per_step"`` in training.

    Shape:
        ``(n, C, ...)`` to the same.
    """

    carries_task_axis = True
    needs_full_precision = True
    running_mean: Tensor
    running_var: Tensor
    step_mean: Tensor
    step_var: Tensor

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, policy: BatchNormPolicy, steps: int = 0) -> None:
        super().__init__()
        if policy == "running" and layer.running_mean is None:
            raise ValueError("batch_norm='running' needs stored statistics, but a layer of this backbone tracks none")
        self.policy, self.eps = policy, layer.eps
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("running_mean", layer.running_mean)
        self.register_buffer("running_var", layer.running_var)
        self.register_buffer("num_batches_tracked", layer.num_batches_tracked)
        self.activation = nn.Sequential(*(getattr(layer, part) for part in ("drop", "act") if hasattr(layer, part)))
        self.observed: list[tuple[int, Tensor, Tensor]] = []
        if policy == "per_step":
            self.register_buffer("step_mean", torch.zeros(steps + 1, layer.num_features))
            self.register_buffer("step_var", torch.ones(steps + 1, layer.num_features))

    def forward(self, x: Tensor) -> Tensor:
        axis = current_task_axis()
        if axis is not None:
            x = axis.to_channels(x)  # separate channels for each task
        scale, shift = self._affine(x, axis)
        shape = (-1,) + (1,) * (x.ndim - 2)
        stored, rows = self._stored(axis), self._rows(x)
        full_precision = x.dtype.itemsize > 2
        if stored is None:
            self._record(x[:rows], axis)
        if stored is None and full_precision and rows == len(x) and axis is None and x[:, 0].numel() > 1:
            _refuse_vmap(x)
            out = F.batch_norm(x, None, None, scale.expand(x.shape[1]), shift.expand(x.shape[1]), True, 0.0, self.eps)
        elif stored is None and full_precision and axis is not None:
            _refuse_vmap(x)
            out = batch_normalisation(x, rows, scale.expand(x.shape[1]), shift.expand(x.shape[1]), self.eps)
        elif stored is not None and axis is None and full_precision and not torch.is_grad_enabled():
            # One operation, also in an exported graph; its derivatives are slower than those of the sum below.
            variance, mean = (statistic.to(x.dtype) for statistic in stored)
            out = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        else:
            variance, mean = stored or _statistics(x[:rows])
            scale = torch.rsqrt(variance + self.eps) * scale
            out = torch.addcmul((shift - mean * scale).view(shape), x, scale.view(shape))
        out = out.to(x.dtype)
        activated: Tensor = self.activation(out if axis is None else axis.from_channels(out))
        return activated

    def _affine(self, x: Tensor, axis: TaskAxis | None) -> tuple[Tensor, Tensor]:
        """Factor and offset of each channel (of each task)."""
        if self.weight is None:
            return x.new_ones(1), x.new_zeros(1)
        if axis is None:
            return self.weight, self.bias
        return axis.per_task(self.weight, 1).flatten(), axis.per_task(self.bias, 1).flatten()

    def _stored(self, axis: TaskAxis | None) -> tuple[Tensor, Tensor] | None:
        """Stored variance and mean, or None if they come from the batch."""
        if self.policy == "running":
            variance, mean = self.running_var, self.running_mean
        elif self.policy == "per_step" and not self.training:
            variance, mean = self.step_var[_inner_step.get()], self.step_mean[_inner_step.get()]
        else:
            return None
        return (variance, mean) if axis is None else (variance.repeat(axis.tasks), mean.repeat(axis.tasks))

    def _rows(self, x: Tensor) -> int:
        """Number of leading rows that contribute to the statistics."""
        rows = _reference_rows.get()
        return len(x) if rows is None or self.policy == "transductive" else rows

    @torch.no_grad()
    def _record(self, x: Tensor, axis: TaskAxis | None) -> None:
        if self.policy == "per_step" and self.training:
            tasks = 1 if axis is None else axis.tasks
            variance, mean = (s.view(tasks, -1) for s in _statistics(x))
            self.observed.append((_inner_step.get(), mean, variance))

    @torch.no_grad()
    def hold_statistics(self, x: Tensor) -> None:
        """Fix the statistics to those of the support rows of ``x``.

        Args:
            x: input of this layer for a batch that starts with the support set.
        """
        variance, mean = _statistics(x[: self._rows(x)])
        self.running_var, self.running_mean, self.policy = variance, mean, "running"

    @torch.no_grad()
    def keep_observed(self) -> None:
        """Update each step's running average by the mean over the observed tasks, and clear ``observed``."""
        for step in {step for step, *_ in self.observed}:
            for average, i in ((self.step_mean, 1), (self.step_var, 2)):
                new = torch.cat([seen[i] for seen in self.observed if seen[0] == step]).mean(0)  # type: ignore[misc]
                average[step].lerp_(new.to(average.dtype), MOMENTUM)
        self.observed.clear()


def _refuse_vmap(x: Tensor) -> None:
    if is_batchedtensor(x):
        raise ValueError(
            "batch normalisation under torch.vmap has wrong second derivatives, without any error of torch's: run many "
            "tasks at once by inner_loop.engine=vectorized, which does without vmap"
        )


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each channel, at least in float32 for accuracy."""
    wide, axes = x.to(torch.promote_types(x.dtype, torch.float32)), [0, *range(2, x.ndim)]
    mean = wide.mean(axes, keepdim=True)
    return (wide - mean).square().mean(axes), mean.flatten()  # torch.var_mean is slow on a CPU


def episodic_batch_norm(module: nn.Module, policy: BatchNormPolicy, steps: int = 0) -> nn.Module:
    """Replace every batch normalisation in ``module`` by :class:`EpisodicBatchNorm`, in place.

    Args:
        module: network whose layers are replaced.
        policy: see :class:`EpisodicBatchNorm`.
        steps: number of inner steps, for ``"per_step"``.

    Raises:
        ValueError: the policy is unknown, or ``"running"`` applies to a layer without stored statistics.
    """
    if policy not in BATCH_NORM_POLICIES:
        raise ValueError(f"batch_norm is {policy!r}; expected one of {', '.join(BATCH_NORM_POLICIES)}")
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, EpisodicBatchNorm(child, policy, steps))
        else:
            episodic_batch_norm(child, policy, steps)
    return module


def constant_statistics(module: nn.Module) -> list[str]:
    """Names of the stored statistics of batch normalisation that training does not change, as in the state dict.

    Example:
        >>> constant_statistics(episodic_batch_norm(nn.Sequential(nn.BatchNorm2d(2)), "support"))
        ['0.running_mean', '0.running_var', '0.num_batches_tracked']
    """
    layers = ((name, x) for name, x in module.named_modules() if isinstance(x, EpisodicBatchNorm))
    return [name for at, layer in layers if layer.policy != "per_step" for name, _ in layer.named_buffers(at)]

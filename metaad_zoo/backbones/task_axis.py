"""Layers with a leading task axis, so that one call runs many tasks, each with its own weights.

An adapted weight has an additional leading axis, ``(tasks, *shape)``. Samples of all tasks are folded into the batch
axis, ``(tasks * n, ...)``, so that activations, pooling and attention need no change. A layer whose weights have no
task axis processes the folded batch as usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.convolution import grouped_convolution


@dataclass(frozen=True)
class TaskAxis:
    """Number of tasks in a batch, and their order along its first axis.

    Args:
        tasks: number of tasks.
        sample_major: True: sample 0 of all tasks, then sample 1, and so on, without copies for convolutions, which read
            tasks as groups of channels. False: task after task, without copies for matrix products.
    """

    tasks: int
    sample_major: bool

    def fold(self, x: Tensor) -> Tensor:
        """``(tasks, n, ...)`` to ``(tasks * n, ...)``."""
        return (x.transpose(0, 1) if self.sample_major else x).flatten(0, 1)

    def split(self, x: Tensor) -> Tensor:
        """``(tasks * n, ...)`` to ``(tasks, n, ...)``, the inverse of :meth:`fold`."""
        if self.sample_major:
            return x.unflatten(0, (-1, self.tasks)).transpose(0, 1)
        return x.unflatten(0, (self.tasks, -1))

    def to_channels(self, x: Tensor) -> Tensor:
        """``(tasks * n, C, ...)`` to ``(n, tasks * C, ...)``."""
        return self.split(x).transpose(0, 1).flatten(1, 2)

    def from_channels(self, x: Tensor) -> Tensor:
        """``(n, tasks * C, ...)`` to ``(tasks * n, C, ...)``."""
        return self.fold(x.unflatten(1, (self.tasks, -1)).transpose(0, 1))

    def per_task(self, weight: Tensor, rank: int) -> Tensor:
        """A weight with a task axis; a weight of ``rank`` is repeated for all tasks."""
        return weight if weight.ndim == rank + 1 else weight.expand(self.tasks, *weight.shape)


_current: ContextVar[TaskAxis | None] = ContextVar("task_axis", default=None)


@contextmanager
def task_axis(axis: TaskAxis) -> Iterator[None]:
    """Context in which batches are folded and adapted weights have a task axis."""
    token = _current.set(axis)
    try:
        yield
    finally:
        _current.reset(token)


def current_task_axis() -> TaskAxis | None:
    """The task axis of the current batch, or None."""
    return _current.get()


def carried_task_axis(*weights: tuple[Tensor | None, int]) -> TaskAxis | None:
    """The current task axis if one of the (weight, rank) pairs has a task axis, else None."""
    axis = _current.get()
    if axis is None or all(w is None or w.ndim == rank for w, rank in weights):
        return None
    return axis


class TaskLinear(nn.Linear):
    """``nn.Linear`` for weights ``(tasks, out, in)``: one batched matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        axis = carried_task_axis((self.weight, 2), (self.bias, 1))
        if axis is None:
            return super().forward(x)
        rows = axis.split(x)
        weight = axis.per_task(self.weight, 2).transpose(1, 2)
        flat = rows.flatten(1, -2)
        if self.bias is None:
            out = torch.bmm(flat, weight)
        else:
            out = torch.baddbmm(axis.per_task(self.bias, 1).unsqueeze(1), flat, weight)
        return axis.fold(out.view(*rows.shape[:-1], -1))


class _TaskConv(nn.modules.conv._ConvNd):
    """A convolution for weights ``(tasks, out, in, ...)``: one convolution with the tasks as groups of channels."""

    def forward(self, x: Tensor) -> Tensor:
        rank = 2 + len(self.kernel_size)
        axis = carried_task_axis((self.weight, rank), (self.bias, 1))
        if axis is None:
            return super().forward(x)
        weight = axis.per_task(self.weight, rank)
        padding = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = (0,) * len(self.kernel_size)
        bias = None if self.bias is None else axis.per_task(self.bias, 1)
        geometry = (self.stride, padding, self.dilation)
        if rank == 4 and self.in_channels == 1 and x.device.type == "cpu":
            return _one_channel_convolution(axis, x, weight, bias, *geometry)
        groups = axis.tasks * self.groups
        y = grouped_convolution(
            axis.to_channels(x), weight.flatten(0, 1), None if bias is None else bias.flatten(), *geometry, groups
        )
        return axis.from_channels(y)


def _one_channel_convolution(
    axis: TaskAxis,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Convolution of images with one channel as matrix products: on a CPU half the time of as many groups.

    Args:
        axis: task axis.
        x: ``(tasks * n, 1, H, W)``.
        weight: ``(tasks, out, 1, h, w)``.
        bias: ``(tasks, out)``; None: no bias.
        stride: stride along both axes.
        padding: number of zeros on both sides of both axes.
        dilation: spacing of kernel elements along both axes.
    """
    kernel = weight.shape[3:]
    places = F.unfold(x, kernel, tuple(dilation), tuple(padding), tuple(stride))  # (tasks * n, h * w, places)
    bias = x.new_zeros(axis.tasks, weight.shape[1]) if bias is None else bias
    samples = len(x) // axis.tasks
    weights, biases = (
        axis.fold(v.unsqueeze(1).expand(-1, samples, -1, -1)) for v in (weight.flatten(2), bias.unsqueeze(2))
    )
    height = (x.shape[2] + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    return torch.baddbmm(biases, weights, places).unflatten(2, (height, -1))


class TaskConv1d(_TaskConv, nn.Conv1d):
    """``nn.Conv1d`` for weights ``(tasks, out, in, k)``."""


class TaskConv2d(_TaskConv, nn.Conv2d):
    """``nn.Conv2d`` for weights ``(tasks, out, in, k, k)``."""


class TaskLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` for weights ``(tasks, *shape)``: normalises, then multiplies and adds.

    ``F.layer_norm`` runs without affine parameters, with which its second-order gradients are wrong under ``vmap``.
    """

    def forward(self, x: Tensor) -> Tensor:
        rank = len(self.normalized_shape)
        axis = carried_task_axis((self.weight, rank), (self.bias, rank))
        if axis is None:
            return super().forward(x)
        rows = axis.split(F.layer_norm(x, self.normalized_shape, None, None, self.eps))
        between = (1,) * (rows.ndim - 1 - rank)
        rows = rows * axis.per_task(self.weight, rank).view(axis.tasks, *between, *self.normalized_shape)
        if self.bias is not None:
            rows = rows + axis.per_task(self.bias, rank).view(axis.tasks, *between, *self.normalized_shape)
        return axis.fold(rows)


class TaskGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for weights ``(tasks, C)``: normalises, then multiplies and adds."""

    def forward(self, x: Tensor) -> Tensor:
        axis = carried_task_axis((self.weight, 1), (self.bias, 1))
        if axis is None:
            return super().forward(x)
        rows = axis.split(F.group_norm(x, self.num_groups, None, None, self.eps))
        shape = (axis.tasks, 1, -1, *(1 for _ in range(rows.ndim - 3)))
        weight, bias = axis.per_task(self.weight, 1), axis.per_task(self.bias, 1)
        return axis.fold(torch.addcmul(bias.view(shape), rows, weight.view(shape)))


TASK_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TaskLinear,
    nn.Conv1d: TaskConv1d,
    nn.Conv2d: TaskConv2d,
    nn.LayerNorm: TaskLayerNorm,
    nn.GroupNorm: TaskGroupNorm,
}
"""Layer with a task axis for each torch layer; task_recurrent.py adds the recurrent layers."""


def carry_task_axis(module: nn.Module) -> nn.Module:
    """Enable a task axis in every layer of :data:`TASK_LAYERS`, in place; weights and names do not change.

    Without a task axis each layer still runs torch's code.
    """
    for layer in module.modules():
        if type(layer) in TASK_LAYERS:
            layer.__class__ = TASK_LAYERS[type(layer)]
    return module


def prefers_sample_major(module: nn.Module) -> bool:
    """Whether sample-major order is faster, that is, convolutions outnumber matrix products."""
    layers = list(module.modules())
    return sum(isinstance(m, _TaskConv) for m in layers) > sum(isinstance(m, TaskLinear) for m in layers)


def require_task_axis(module: nn.Module, names: Iterable[str]) -> None:
    """Check that the layers of the adapted parameters support a task axis.

    Args:
        module: network after :func:`carry_task_axis`.
        names: names of the adapted parameters.

    Raises:
        ValueError: a layer does not support a task axis.
    """
    layers = dict(module.named_modules())
    owners = {name: layers[name.rpartition(".")[0]] for name in names}
    unable = [f"{name} ({type(layer).__name__})" for name, layer in owners.items() if not _carries(layer)]
    if unable:
        more = f" and {len(unable) - 5} more" if len(unable) > 5 else ""
        raise ValueError(
            f"inner_loop.engine='vectorized' can't adapt {', '.join(unable[:5])}{more}: these layers can't carry "
            "a task axis; set inner_loop.engine=higher, or leave them out of inner_loop.adapt"
        )


def _carries(layer: nn.Module) -> bool:
    return isinstance(layer, tuple(TASK_LAYERS.values())) or bool(getattr(layer, "carries_task_axis", False))

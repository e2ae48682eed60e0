"""Vectorised engine: the inner loops of all tasks of a batch at once.

Each adapted weight gets a leading task axis, and the layers of :mod:`metaad_zoo.backbones.task_axis` run all tasks in
one call of :func:`metaad_zoo.inner_loop.descent.descend`. The tasks are independent, so the gradient of the sum of
their losses gives each task's own gradient. It uses plain autograd instead of ``vmap``, under which norms with affine
parameters have wrong second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


def spread_over_tasks(
    network: nn.Module, names: Iterable[str], start: Mapping[str, Tensor], tasks: int
) -> dict[str, Tensor]:
    """Give adapted parameters a leading task axis.

    Args:
        network: network that defines the rank of each parameter.
        names: names of the adapted parameters.
        start: all parameters by name; those above their rank in the network have a task axis already.
        tasks: length of the task axis.

    Returns:
        All parameters, the adapted ones ``(tasks, *shape)``; the gradient of the shared start is the sum over tasks.
    """
    usual = dict(network.named_parameters())
    spread = {
        name: start[name].expand(tasks, *start[name].shape) for name in names if start[name].ndim == usual[name].ndim
    }
    return {**start, **spread}

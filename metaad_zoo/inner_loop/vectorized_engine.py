"""The fast engine: the inner loops of all tasks of a batch at once.

Each adapted weight gets a leading task axis, and the layers of :mod:`metaad_zoo.backbones.task_axis` run all tasks in
one call of :func:`metaad_zoo.inner_loop.descent.descend`. The tasks do not meet, so the gradient of the sum of their
losses is each task's own gradient: plain autograd, and no ``vmap``, under which norms with affine parameters have wrong
second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


def spread_over_tasks(
    network: nn.Module, names: Iterable[str], start: Mapping[str, Tensor], tasks: int
) -> dict[str, Tensor]:
    """Give adapted parameters a leading task axis.

    Args:
        network: tells a parameter's usual rank.
        names: the adapted ones.
        start: all parameters by name; those above their usual rank have their task axis already.
        tasks: length of the axis.

    Returns:
        All parameters, the adapted ones ``(tasks, *shape)``; the gradient of the shared start is the tasks' sum.
    """
    usual = dict(network.named_parameters())
    spread = {
        name: start[name].expand(tasks, *start[name].shape) for name in names if start[name].ndim == usual[name].ndim
    }
    return {**start, **spread}

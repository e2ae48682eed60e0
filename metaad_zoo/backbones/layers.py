"""Layers that know of a support set: batch normalisation whose statistics come from a stated place.

A network adapted to an episode must not look at the queries' own statistics: they tell how many anomalies there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
from torch import Tensor, nn

BatchNormPolicy = Literal["support", "transductive", "running"]
BATCH_NORM_POLICIES: tuple[str, ...] = get_args(BatchNormPolicy)

_reference_rows: ContextVar[int | None] = ContextVar("reference_rows", default=None)


@contextmanager
def statistics_from_first(rows: int) -> Iterator[None]:
    """Within this context, batches start with ``rows`` support samples, and these alone give the statistics."""
    token = _reference_rows.set(rows)
    try:
        yield
    finally:
        _reference_rows.reset(token)


class EpisodicBatchNorm(nn.Module):
    """Batch normalisation with statistics of a stated origin; takes the place of a ``torch.nn.BatchNorm``.

    It normalises first and then multiplies and adds: ``F.batch_norm`` with affine parameters gives wrong second-order
    gradients under ``vmap``.

    Args:
        layer: the layer to take over: its parameters, running statistics, eps and, for timm's layers, activation.
        policy: ``"support"``: statistics of the support set, also when queries are scored (see
            :func:`statistics_from_first`); ``"transductive"``: statistics of whatever batch passes, so that a score
            depends on the other queries; ``"running"``: the layer's stored statistics, never changed (pretrained).

    Shape:
        ``(n, C, ...)`` to the same.
    """

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, policy: BatchNormPolicy) -> None:
        super().__init__()
        if policy == "running" and layer.running_mean is None:
            raise ValueError("batch_norm='running' needs stored statistics, but a layer of this backbone tracks none")
        self.policy, self.eps = policy, layer.eps
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("running_mean", layer.running_mean)
        self.register_buffer("running_var", layer.running_var)
        self.register_buffer("num_batches_tracked", layer.num_batches_tracked)
        self.activation = nn.Sequential(*(getattr(layer, part) for part in ("drop", "act") if hasattr(layer, part)))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean of each channel, ``(C,)``."""
        if self.policy == "running":
            return self.running_var, self.running_mean  # type: ignore[return-value]
        rows = _reference_rows.get()
        reference = x if rows is None or self.policy == "transductive" else x[:rows]
        axes = [0, *range(2, x.ndim)]
        # In half precision the mean of many values loses its digits.
        wide = torch.promote_types(x.dtype, torch.float32)
        return torch.var_mean(reference.to(wide), axes, correction=0)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = self._statistics(x)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = (-1,) + (1,) * (x.ndim - 2)
        out: Tensor = self.activation((x * scale.view(shape) + shift.view(shape)).to(x.dtype))
        return out


def episodic_batch_norm(module: nn.Module, policy: BatchNormPolicy) -> nn.Module:
    """Replace, in place, every batch normalisation below ``module`` by one whose statistics follow ``policy``.

    Raises:
        ValueError: the policy is unknown, or ``"running"`` meets a layer without stored statistics.
    """
    if policy not in BATCH_NORM_POLICIES:
        raise ValueError(f"batch_norm is {policy!r}; expected one of {', '.join(BATCH_NORM_POLICIES)}")
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, EpisodicBatchNorm(child, policy))
        else:
            episodic_batch_norm(child, policy)
    return module

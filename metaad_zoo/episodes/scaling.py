"""Normalisation of features by statistics of the support set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["none", "standard", "robust"]
LIMIT = 10.0
"""Clipping limit of scaled values, in spreads: a column that hardly varies in the support set must not dominate."""

ROUNDING = 64
"""Machine epsilons within which values count as equal, for sums over a support set lose the last digits."""

QUARTILES_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class SupportScaling:
    """Centre and spread of each column or channel of a support set.

    Missing values (NaN) are ignored and stay missing. A column that is missing in the whole support set becomes missing
    in every sample. A column that does not vary in the support set is reduced to a sign: 0 for the support's value, 1
    above and -1 below it. So scaled values depend neither on units nor on offsets, up to floating-point rounding.

    All attributes broadcast over samples.

    Attributes:
        centre: mean or median.
        spread: standard deviation or quartile distance, above 0; 1 for columns that do not vary.
        rounding: largest difference from the centre that counts as 0.
        varies: whether the column varies in the support set.
    """

    centre: Tensor
    spread: Tensor
    rounding: Tensor
    varies: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, support: Tensor, kind: Scaling, axis: int = 0) -> SupportScaling:
        """Compute the statistics of a support set.

        Args:
            support: ``(n, ..., columns)``, or with leading task axes; time steps count as further samples.
            kind: ``"standard"``: mean and standard deviation; ``"robust"``: median and quartile distance, or the
                standard deviation where the distance is 0; ``"none"``: 0 and 1.
            axis: position of the sample axis.

        Example:
            >>> rows = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
            >>> SupportScaling.fit(rows, "standard").apply(torch.tensor([[3.0, 7.0]]))
            tensor([[2., 1.]])
        """
        if kind == "none":
            zero = support.new_zeros(())
            return cls(zero, zero + 1, zero, zero == 0)
        if support.ndim < axis + 2:
            raise ValueError(f"expected samples of columns to scale by, saw {tuple(support.shape)}")
        flat = support.flatten(axis, -2)  # (..., samples, columns)
        unit = _unit(flat, axis)
        flat = flat / unit
        present = ~flat.isnan()
        count = present.sum(axis, keepdim=True)
        mean = flat.nansum(axis, keepdim=True) / count  # NaN where all values are missing
        square = torch.where(present, flat - mean, 0).square().sum(axis, keepdim=True) / count.clamp_min(1)
        centre, spread = mean, square.sqrt()
        if kind == "robust":
            quartiles = flat.nanquantile(flat.new_tensor([0.25, 0.5, 0.75]), dim=axis, keepdim=True)
            centre, distance = quartiles[1], (quartiles[2] - quartiles[0]) / QUARTILES_OF_NORMAL
            spread = torch.where(distance > 0, distance, spread)
        centre, spread = centre * unit, spread * unit
        # A spread below the rounding error of the values counts as 0.
        rounding = ROUNDING * torch.finfo(flat.dtype).eps * centre.abs()
        varies = spread > rounding
        spread = torch.where(varies, spread, torch.ones_like(spread))
        between = (1,) * (support.ndim - flat.ndim)
        shape = (*centre.shape[: axis + 1], *between, centre.shape[-1])
        return cls(*(x.view(shape) for x in (centre, spread, rounding, varies)))

    def apply(self, x: Tensor, limit: float = LIMIT) -> Tensor:
        """``(x - centre) / spread``, clipped at a limit; the sign for columns that do not vary; NaN stays NaN."""
        if self.centre.ndim == 0:
            return x
        difference = x - self.centre
        scaled = (difference / self.spread).clamp(-limit, limit)
        side = torch.where(difference.abs() > self.rounding, difference.sign(), difference * 0)
        return torch.where(self.varies, scaled, side)


def _unit(x: Tensor, axis: int) -> Tensor:
    """Power of two near the largest magnitude of each column, where squares would overflow or vanish; else 1.

    Statistics in this unit are exact where it is 1, and finite where values are as large as floats can be.
    """
    largest = x.abs().nan_to_num(0.0).amax(axis, keepdim=True)
    finfo = torch.finfo(x.dtype)
    is_safe = (largest == 0) | ((largest > finfo.tiny**0.25) & (largest < finfo.max**0.25))
    exponent = torch.frexp(largest).exponent.to(x.dtype)
    unit = torch.exp2(exponent.clamp(math.log2(finfo.tiny), math.log2(finfo.max) - 1))
    return torch.where(is_safe, torch.ones_like(unit), unit)

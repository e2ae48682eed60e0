"""Normalisation by the support set alone: what a detector knows of a new domain's units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["none", "standard", "robust"]
LIMIT = 10.0
"""Scaled values are cut off here, in spreads: a column that hardly varies in five samples must not drown the others."""

ROUNDING = 64
"""Steps of the type's rounding within which values count as equal: sums over a support set blur the last digits."""

QUARTILES_OF_NORMAL = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class SupportScaling:
    """Centre and spread of each column or channel, taken from a support set.

    Missing values (NaN) are passed over and stay missing; a column that is missing in the whole support set stays
    missing in every sample, for nothing is known of it. A column that does not vary in the support set has no unit:
    of its values counts only whether they are the support's (0), above (1) or below it (-1). So scaled values depend
    neither on the units of columns nor on offsets, up to the rounding of the type in which the support is given.

    Attributes:
        centre: broadcasts over samples.
        spread: likewise, above 0; 1 for columns that do not vary.
        rounding: likewise; differences to the centre that are none.
        varies: likewise; whether the column varies in the support set.
    """

    centre: Tensor
    spread: Tensor
    rounding: Tensor
    varies: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, support: Tensor, kind: Scaling, axis: int = 0) -> SupportScaling:
        """Measure a support set.

        Args:
            support: ``(n, ..., columns)``; time steps between the axes count as further samples. With leading task
                axes, ``axis`` says where the samples are.
            kind: ``"standard"``: mean and standard deviation; ``"robust"``: median and quartile distance, the standard
                deviation where that is 0; ``"none"``: 0 and 1.
            axis: of the samples.

        Example:
            >>> rows = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
            >>> SupportScaling.fit(rows, "standard").apply(torch.tensor([[3.0, 7.0]]))
            tensor([[2., 1.]])
        """
        if kind == "none":
            nothing = support.new_zeros(())
            return cls(nothing, nothing + 1, nothing, nothing == 0)
        if support.ndim < axis + 2:
            raise ValueError(f"expected samples of columns to scale by, saw {tuple(support.shape)}")
        flat = support.flatten(axis, -2)  # (..., samples, columns)
        here = ~flat.isnan()
        count = here.sum(axis, keepdim=True)
        mean = flat.nansum(axis, keepdim=True) / count  # NaN where nothing is known
        square = torch.where(here, flat - mean, 0).square().sum(axis, keepdim=True) / count.clamp_min(1)
        centre, spread = mean, square.sqrt()
        if kind == "robust":
            quartiles = flat.nanquantile(flat.new_tensor([0.25, 0.5, 0.75]), dim=axis, keepdim=True)
            centre, distance = quartiles[1], (quartiles[2] - quartiles[0]) / QUARTILES_OF_NORMAL
            spread = torch.where(distance > 0, distance, spread)
        # Below the rounding of the values themselves, a spread is none.
        rounding = ROUNDING * torch.finfo(flat.dtype).eps * centre.abs()
        varies = spread > rounding
        spread = torch.where(varies, spread, torch.ones_like(spread))
        between = (1,) * (support.ndim - flat.ndim)
        shape = (*centre.shape[: axis + 1], *between, centre.shape[-1])
        return cls(*(x.view(shape) for x in (centre, spread, rounding, varies)))

    def apply(self, x: Tensor) -> Tensor:
        """``(x - centre) / spread``, cut off at :data:`LIMIT`; of columns that do not vary, the side; NaN stays NaN."""
        if self.centre.ndim == 0:
            return x
        difference = x - self.centre
        scaled = (difference / self.spread).clamp(-LIMIT, LIMIT)
        side = torch.where(difference.abs() > self.rounding, difference.sign(), difference * 0)
        return torch.where(self.varies, scaled, side)

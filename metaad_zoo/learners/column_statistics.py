"""Statistics of each column of a support table: scale, shape, granularity and correlation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaad_zoo.learners.set_attention import masked

LIMIT = 10.0
"""Clipping limit of standardised values, as in :class:`metaad_zoo.episodes.SupportScaling`."""
STATISTICS = 11
"""Length of a column's token, see :meth:`ColumnStatistics.tokens`."""
CELL_FEATURES = 6
"""Number of features of a cell, see :func:`cell_features`."""


def signed_log(x: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``: linear near 0, logarithmic far from it."""
    return x.sign() * x.abs().log1p()


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of a support set's columns, for any leading axes ``...``.

    Attributes:
        centre: ``(..., D)`` means; 0 for an absent column.
        spread: ``(..., D)`` standard deviations; 1 for a column that does not vary.
        varies: ``(..., D)`` booleans.
        present: ``(..., D)`` booleans: at least one observed cell.
        values: ``(..., n, D)`` support, with the centre in place of missing values.
        observed: ``(..., n, D)`` booleans: the cell has a value, and its row is included.
    """

    centre: Tensor
    spread: Tensor
    varies: Tensor
    present: Tensor
    values: Tensor
    observed: Tensor

    @classmethod
    def of(cls, x: Tensor, rows: Tensor) -> ColumnStatistics:
        """Compute the statistics of a support set.

        Args:
            x: ``(..., n, D)``, NaN for missing values.
            rows: ``(..., n)`` booleans of the rows to include.
        """
        observed = ~x.isnan() & rows.unsqueeze(-1)
        count = observed.sum(-2).clamp_min(1)
        centre = torch.where(observed, x, 0).sum(-2) / count
        values = torch.where(x.isnan(), centre.unsqueeze(-2), x)
        residual = torch.where(observed, values - centre.unsqueeze(-2), 0)
        variance = residual.square().sum(-2) / count
        varies = variance > (1e-5 * centre.abs()).square()  # above the rounding error of the values
        spread = torch.where(varies, variance, 1).sqrt()
        return cls(centre, spread, varies, observed.any(-2), values, observed)

    def deviations(self, x: Tensor) -> Tensor:
        """Values ``(..., m, D)`` minus the centre; 0 for missing values, and in columns absent from the support."""
        absent = x.isnan() | ~self.present.unsqueeze(-2)
        return torch.where(absent, 0, x - self.centre.unsqueeze(-2))

    def standardised(self, deviations: Tensor) -> Tensor:
        """:meth:`deviations` in spreads, clipped at :data:`LIMIT`."""
        return (deviations / self.spread.unsqueeze(-2)).clamp(-LIMIT, LIMIT)

    def clipped(self, deviations: Tensor) -> Tensor:
        """:meth:`deviations`, clipped at :data:`LIMIT` spreads."""
        limit = LIMIT * self.spread.unsqueeze(-2)
        return deviations.clamp(-limit, limit)

    def tokens(self) -> Tensor:
        """Description of each column, ``(..., D, STATISTICS)``; 0 for an absent column.

        It consists of the logarithm of the spread (absolute, relative to the other columns, relative to the mean), the
        signed logarithm of the mean, skewness, whether the column varies, the shares of distinct values, of zeros and
        of integers, whether there are negative values, and the correlation with the other columns.
        """
        n = self.observed.sum(-2).clamp_min(1)
        z = torch.where(self.observed, self.standardised(self.deviations(self.values)), 0)
        log_spread = self.spread.log()
        varying = (self.present & self.varies).to(z.dtype)
        mean_log_spread = (log_spread * varying).sum(-1, keepdim=True) / varying.sum(-1, keepdim=True).clamp_min(1)
        numbers = torch.stack(
            [
                log_spread.clamp(-8, 8) / 4,
                (log_spread - mean_log_spread).clamp(-8, 8) / 4,
                (self.centre.abs() + 1e-6).log().sub(log_spread).clamp(-8, 8) / 4,
                signed_log(self.centre).clamp(-8, 8) / 4,
                (z**3).sum(-2).div(n).clamp(-3, 3) / 2,
                self.varies.to(z.dtype),
                self._distinct() / n,
                self._share(self.values == 0),
                self._share(self.values == self.values.round()),
                (torch.where(self.observed, self.values, 0).amin(-2) < 0).to(z.dtype),
                self._correlation(z, varying),
            ],
            -1,
        )
        return torch.where(self.present.unsqueeze(-1), numbers, 0)

    def _share(self, cells: Tensor) -> Tensor:
        return (cells & self.observed).sum(-2) / self.observed.sum(-2).clamp_min(1)

    def _distinct(self) -> Tensor:
        """Number of distinct values, ``(..., D)``."""
        values = torch.where(self.observed, self.values, torch.inf).sort(-2).values
        new = (values[..., 1:, :] != values[..., :-1, :]) & values[..., 1:, :].isfinite()
        return self.observed.any(-2).to(values.dtype) + new.sum(-2)

    def _correlation(self, z: Tensor, varying: Tensor) -> Tensor:
        """Root mean square correlation with the other varying columns, in time linear in their number."""
        n = self.observed.sum(-2).clamp_min(1)
        squares = ((z @ z.transpose(-1, -2)) @ z * z).sum(-2) / n.square()
        count = (varying.sum(-1, keepdim=True) - 1).clamp_min(1)
        return ((squares - varying).clamp_min(0) / count).clamp_min(1e-8).sqrt() * varying


def plain_and_logs(x: Tensor, rows: Tensor) -> tuple[ColumnStatistics, ColumnStatistics]:
    """Statistics of a support set's values and of their signed logarithms; see :meth:`ColumnStatistics.of`."""
    return ColumnStatistics.of(x, rows), ColumnStatistics.of(signed_log(x), rows)


def deviations(plain: ColumnStatistics, logs: ColumnStatistics, x: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations ``(..., m, D)`` of values and of their signed logarithms; see :meth:`ColumnStatistics.deviations`."""
    return plain.deviations(x), logs.deviations(signed_log(x))


def cell_features(plain: ColumnStatistics, logs: ColumnStatistics, x: Tensor, x_log: Tensor) -> Tensor:
    """Features of a query's cells relative to the support, ``(..., m, D, CELL_FEATURES)``.

    They are the signed distance from the centre (bounded, linear and logarithmic), the distance to the nearest support
    value of the column, and the distances above and below the support's range.

    Args:
        plain: statistics of the support's values.
        logs: statistics of their signed logarithms.
        x: deviations ``(..., m, D)`` of the values, see :meth:`ColumnStatistics.deviations`.
        x_log: deviations of their signed logarithms.
    """
    z, rows = plain.standardised(x), plain.standardised(plain.deviations(plain.values))
    z_log = logs.standardised(x_log)
    rows_or_far = torch.where(plain.observed, rows, 4 * LIMIT)  # farther than any value is from another
    gap = (z.unsqueeze(-2) - rows_or_far.unsqueeze(-3)).abs().amin(-2)  # over (..., m, n, D)
    gap = torch.where(plain.observed.all(-2, keepdim=True), gap, gap.clamp_max(LIMIT))
    top = torch.where(plain.observed, rows, -LIMIT).amax(-2, keepdim=True)
    bottom = torch.where(plain.observed, rows, LIMIT).amin(-2, keepdim=True)
    # Float bounds: torch.onnx can't translate integers beside them.
    above, below = (z - top).clamp(0.0, LIMIT), (bottom - z).clamp(0.0, LIMIT)
    numbers = torch.stack([torch.tanh(z / 2), z / 4, signed_log(z_log), gap.log1p(), above.log1p(), below.log1p()], -1)
    return masked(numbers, plain.present.unsqueeze(-2).unsqueeze(-1), 0)

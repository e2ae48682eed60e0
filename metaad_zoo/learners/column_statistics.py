"""What a support set tells of each column of its table: units, shape, granularity and company."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 10.0
"""Values in a column's own spreads are cut off here, as in :class:`metaad_zoo.episodes.SupportScaling`."""
STATISTICS = 11
"""How many numbers :meth:`ColumnStatistics.tokens` gives for a column."""
CELL_FEATURES = 6
"""How many numbers :func:`cell_features` gives for a cell."""


def signed_log(x: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``: linear near 0, a logarithm far from it."""
    return x.sign() * x.abs().log1p()


@dataclass(frozen=True)
class ColumnStatistics:
    """A support set's columns, for any leading axes ``...``.

    Attributes:
        centre: ``(..., D)`` means; 0 for a column that is not there.
        spread: ``(..., D)`` standard deviations; 1 for a column that does not vary.
        varies: ``(..., D)`` booleans.
        there: ``(..., D)`` booleans: some row that counts has a value.
        values: ``(..., n, D)``: the support, with the centre for what is missing.
        known: ``(..., n, D)`` booleans: has a value and its row counts.
    """

    centre: Tensor
    spread: Tensor
    varies: Tensor
    there: Tensor
    values: Tensor
    known: Tensor

    @classmethod
    def of(cls, x: Tensor, rows: Tensor) -> ColumnStatistics:
        """Measure a support set.

        Args:
            x: ``(..., n, D)`` with NaN for what is missing.
            rows: ``(..., n)`` booleans: which rows count.
        """
        known = ~x.isnan() & rows.unsqueeze(-1)
        count = known.sum(-2).clamp_min(1)
        centre = torch.where(known, x, 0).sum(-2) / count
        values = torch.where(x.isnan(), centre.unsqueeze(-2), x)
        residual = torch.where(known, values - centre.unsqueeze(-2), 0)
        variance = residual.square().sum(-2) / count
        varies = variance > (1e-5 * centre.abs()).square()  # below the values' own rounding, a spread is none
        spread = torch.where(varies, variance, 1).sqrt()
        return cls(centre, spread, varies, known.any(-2), values, known)

    def fill(self, x: Tensor) -> Tensor:
        """``(..., m, D)`` with the centre for what is missing, and for columns that the support does not have."""
        absent = x.isnan() | ~self.there.unsqueeze(-2)
        return torch.where(absent, self.centre.unsqueeze(-2), x)

    def standardised(self, x: Tensor) -> Tensor:
        """Filled values in spreads from the centre, cut off at :data:`LIMIT`."""
        return ((x - self.centre.unsqueeze(-2)) / self.spread.unsqueeze(-2)).clamp(-LIMIT, LIMIT)

    def around(self, x: Tensor, clipped: bool) -> Tensor:
        """Filled values around the centre; clipped at :data:`LIMIT` spreads, or as they are."""
        x = x - self.centre.unsqueeze(-2)
        limit = LIMIT * self.spread.unsqueeze(-2)
        return x.clamp(-limit, limit) if clipped else x

    def tokens(self) -> Tensor:
        """Numbers that describe each column, ``(..., D, STATISTICS)``; 0 for a column that is not there.

        Its spread (absolute, beside the other columns', beside its mean), the mean's side and size, skewness, whether
        it varies, the shares of distinct values, of zeros and of whole numbers, whether it goes below 0, and how much
        it goes along with the other columns.
        """
        n = self.known.sum(-2).clamp_min(1)
        z = torch.where(self.known, self.standardised(self.values), 0)
        log_spread = self.spread.log()
        company = (self.there & self.varies).to(z.dtype)
        usual = (log_spread * company).sum(-1, keepdim=True) / company.sum(-1, keepdim=True).clamp_min(1)
        numbers = torch.stack(
            [
                log_spread.clamp(-8, 8) / 4,
                (log_spread - usual).clamp(-8, 8) / 4,
                (self.centre.abs() + 1e-6).log().sub(log_spread).clamp(-8, 8) / 4,
                signed_log(self.centre).clamp(-8, 8) / 4,
                (z**3).sum(-2).div(n).clamp(-3, 3) / 2,
                self.varies.to(z.dtype),
                self._distinct() / n,
                self._share(self.values == 0),
                self._share(self.values == self.values.round()),
                (torch.where(self.known, self.values, 0).amin(-2) < 0).to(z.dtype),
                self._company(z, company),
            ],
            -1,
        )
        return torch.where(self.there.unsqueeze(-1), numbers, 0)

    def _share(self, cells: Tensor) -> Tensor:
        return (cells & self.known).sum(-2) / self.known.sum(-2).clamp_min(1)

    def _distinct(self) -> Tensor:
        """Number of distinct values, ``(..., D)``."""
        equal = (self.values.unsqueeze(-2) == self.values.unsqueeze(-3)) & self.known.unsqueeze(-3)
        return torch.where(self.known, 1 / equal.sum(-2).clamp_min(1), 0).sum(-2)

    def _company(self, z: Tensor, company: Tensor) -> Tensor:
        """Root mean squared correlation with the columns that vary, itself left out; linear in their number."""
        n = self.known.sum(-2).clamp_min(1)
        squares = ((z @ z.transpose(-1, -2)) @ z * z).sum(-2) / n.square()
        others = (company.sum(-1, keepdim=True) - 1).clamp_min(1)
        return ((squares - company).clamp_min(0) / others).clamp_min(1e-8).sqrt() * company


def plain_and_logs(x: Tensor, rows: Tensor) -> tuple[ColumnStatistics, ColumnStatistics]:
    """Of a support set's values, and of their signed logarithms; shapes as for :meth:`ColumnStatistics.of`."""
    return ColumnStatistics.of(x, rows), ColumnStatistics.of(signed_log(x), rows)


def cell_features(plain: ColumnStatistics, logs: ColumnStatistics, x: Tensor) -> Tensor:
    """Numbers that describe a query's cells in the light of the support, ``(..., m, D, CELL_FEATURES)``.

    The side of the centre it is on and how far, plainly and as a logarithm; the distance to the nearest support value
    of its column; how far it is outside of their range, above and below.

    Args:
        plain: of the support's values.
        logs: of their signed logarithms.
        x: ``(..., m, D)`` with NaN for what is missing.
    """
    z, rows = plain.standardised(plain.fill(x)), plain.standardised(plain.values)
    z_log = logs.standardised(logs.fill(signed_log(x)))
    gap = (z.unsqueeze(-2) - rows.unsqueeze(-3)).abs()  # (..., m, n, D)
    gap = torch.where(plain.known.unsqueeze(-3), gap, LIMIT).amin(-2)
    top = torch.where(plain.known, rows, -LIMIT).amax(-2, keepdim=True)
    bottom = torch.where(plain.known, rows, LIMIT).amin(-2, keepdim=True)
    # Bounds of one type: torch.onnx can't translate a whole number beside another.
    above, below = (z - top).clamp(0.0, LIMIT), (bottom - z).clamp(0.0, LIMIT)
    there = plain.there.unsqueeze(-2).unsqueeze(-1)
    numbers = torch.stack([torch.tanh(z / 2), z / 4, signed_log(z_log), gap.log1p(), above.log1p(), below.log1p()], -1)
    return torch.where(there, numbers, 0)

"""Tables of the wide prior: columns of any marginal, columns of noise, and anomalies of one or several kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from metaad_zoo.data.wide_laws import WIDE_LAWS

REFERENCE_ROWS = 256
"""Rows by which columns are brought to common units before they get a marginal and units of their own."""

LIMIT = 12.0
"""Largest size of a value in common units: what is beyond is cut off, so that no exponential overflows."""

WIDE_ANOMALIES: Mapping[str, float] = {
    "clustered": 0.25,
    "cause": 0.25,
    "local": 0.2,
    "dependency": 0.1,
    "noise": 0.1,
    "global": 0.1,
}
"""Kinds of anomalies, and how often a table has each if all may occur. Anomalies of real tables are mostly a class of
their own: rows that resemble each other, so that a contaminated pile of unlabelled rows looks dense where they lie."""

Marginal = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From values ``(n, k)`` in common units and one random number in [0, 1) for each column to values of another law."""

CONTINUOUS: Sequence[Marginal] = (
    lambda z, u: z,
    lambda z, u: np.exp((0.3 + 1.2 * u) * np.minimum(z, 8)),  # log-normal
    lambda z, u: np.sinh((0.5 + u) * np.clip(z, -8, 8)),  # heavy tails
    lambda z, u: ndtr(z * (0.5 + u)),  # bounded
    lambda z, u: z + (1 + 2 * u) * np.tanh(4 * z),  # two humps
    lambda z, u: np.expm1(np.maximum(z + 1 - 2.5 * u, 0)),  # zero-inflated
    lambda z, u: np.clip(z, -0.5 - 2 * u, 2.5 - 2 * u),  # limits of a sensor
)
DISCRETE: Sequence[Marginal] = (
    lambda z, u: np.floor(np.exp(4 * u - 1 + 0.7 * np.minimum(z, 8))),  # counts
    lambda z, u: np.floor((2 + 8 * u) * ndtr(z)),  # levels
    lambda z, u: np.floor(7 * ndtr(z)) * np.floor(2 + 5 * u) % 7,  # codes in another order than the values
    lambda z, u: (z > 2.5 * u - 0.5).astype(z.dtype),  # binary, or nearly constant
    lambda z, u: np.floor(4 * ndtr(z)) == np.floor(4 * u),  # one of several indicators
    lambda z, u: np.round(z * (1 + 4 * u)),  # few digits
)
MARGINALS = (*CONTINUOUS, *DISCRETE)
"""Distributions of columns, each of random shape."""

COMMON = np.array([1.2, 1.2, 0.4, 0.4, 0.3, 0.6, 0.3, 0.5, 0.4, 0.4, 1.0, 0.4, 0.4])
"""Concentrations of the Dirichlet distribution from which a table's shares of these are drawn."""


class WideTable:
    """One random table of the wide prior.

    Args:
        columns: number of columns.
        laws: names out of :data:`WIDE_LAWS`.
        anomalies: names out of :data:`WIDE_ANOMALIES`.
        rng: draws the table.

    Attributes:
        kind: name of the law of the normal rows.
        anomaly: names of the kinds of anomalies, joined by ``+``.
    """

    def __init__(self, columns: int, laws: Sequence[str], anomalies: Sequence[str], rng: np.random.Generator) -> None:
        self.columns, self.kind = columns, str(rng.choice(laws))
        self._informative = max(2, columns - int(rng.uniform(0, 0.5) * columns * (rng.random() < 0.3)))
        self._law = WIDE_LAWS[self.kind](self._informative, rng)
        self._mean, self._spread = np.zeros(self._informative), np.ones(self._informative)
        reference = self._rows(self._causes(REFERENCE_ROWS, rng), rng)
        spread = reference.std(0)
        self._mean, self._spread = reference.mean(0), np.where(spread > 1e-6, spread, 1.0)
        self._draw_anomalies(anomalies, (reference - self._mean) / self._spread, rng)
        self._draw_columns(rng)

    def _draw_anomalies(self, anomalies: Sequence[str], reference: np.ndarray, rng: np.random.Generator) -> None:
        share = np.array([WIDE_ANOMALIES[name] for name in anomalies])
        n_kinds = min(len(anomalies), 1 + int(rng.random() < 0.3) + int(rng.random() < 0.1))
        self._kinds = [str(k) for k in rng.choice(anomalies, n_kinds, replace=False, p=share / share.sum())]
        self._shares = rng.dirichlet(np.full(n_kinds, 2.0))
        self.anomaly = "+".join(self._kinds)
        self._strength, self._tight = np.exp(rng.uniform(np.log(0.7), np.log(7.0))), rng.uniform(0.1, 1.2)
        self._touched = self._some(self._informative, rng)
        self._moved_causes = self._some(self._law.causes, rng)
        n_clusters = int(rng.integers(1, 4))
        self._anchors = reference[rng.integers(len(reference), size=n_clusters)]
        directions = self._touched * rng.standard_normal((n_clusters, self._informative))
        self._shifts = (
            self._strength * directions / np.sqrt((directions**2).sum(1, keepdims=True) / self._touched.sum())
        )
        self._cause_shift = 1.5 * self._strength * self._moved_causes * rng.choice([-1, 1], self._law.causes)
        self._middle, self._half = (reference.max(0) + reference.min(0)) / 2, np.ptp(reference, 0) / 2
        self._box = rng.uniform(0.5, 1.4)

    @staticmethod
    def _some(n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n,)`` booleans, any number of them true, at least one."""
        mask = rng.random(n) < rng.beta(0.8, 0.7)
        mask[rng.integers(n)] = True
        return mask

    def _draw_columns(self, rng: np.random.Generator) -> None:
        """Order, marginals and units of the columns."""
        style = rng.random()
        kinds = np.arange(len(MARGINALS))
        if style < 0.7:
            kinds = kinds[: len(CONTINUOUS)] if style < 0.4 else kinds[len(CONTINUOUS) :]
        often = rng.dirichlet(COMMON[kinds])
        self._marginals, self._shapes = rng.choice(kinds, self.columns, p=often), rng.random(self.columns)
        self._order = rng.permutation(self.columns)
        self._unit = rng.choice([-1, 1], self.columns) * 10 ** rng.uniform(-3, 3, self.columns)
        self._offset = rng.normal(0, 1, self.columns) * 10 ** rng.uniform(-1, 1, self.columns)

    def normal(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n, columns)`` float32 normal rows."""
        return self._in_units(self._rows(self._causes(n, rng), rng), rng)

    def anomalous(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n, columns)`` float32 anomalous rows."""
        rows, which = np.empty((n, self._informative)), rng.choice(len(self._kinds), n, p=self._shares)
        for i, kind in enumerate(self._kinds):
            rows[which == i] = getattr(self, f"_{kind}")(int((which == i).sum()), rng)
        return self._in_units(rows, rng)

    def _causes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((n, self._law.causes))

    def _rows(self, causes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Informative columns in common units."""
        return (self._law.rows(causes, rng) - self._mean) / self._spread

    def _in_units(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal((len(rows), self.columns - self._informative))
        z = np.clip(np.concatenate([rows, noise], 1), -LIMIT, LIMIT)[:, self._order]
        for kind in np.unique(self._marginals):
            mask = self._marginals == kind
            z[:, mask] = MARGINALS[kind](z[:, mask], self._shapes[mask])
        return ((z + self._offset) * self._unit).astype(np.float32)

    def _clustered(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """One to three clusters, tighter than the normal rows, in the touched columns."""
        rows, which = self._rows(self._causes(n, rng), rng), rng.integers(len(self._anchors), size=n)
        cluster = self._anchors[which] + self._tight * (rows - self._anchors[which]) + self._shifts[which]
        return np.where(self._touched, cluster, rows)

    def _cause(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Some causes lie elsewhere and vary less, which shows in all columns that depend on them."""
        causes = self._causes(n, rng)
        moved = self._tight * causes + self._cause_shift
        return self._rows(np.where(self._moved_causes, moved, causes), rng)

    def _local(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Some causes vary more."""
        return self._rows(self._causes(n, rng) * (1 + self._strength * self._moved_causes), rng)

    def _dependency(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """The touched columns are as in normal rows, but each is drawn for itself."""
        rows = self._rows(self._causes(2 * n + 64, rng), rng)
        rows[:, self._touched] = rng.permuted(rows[:, self._touched], axis=0)
        return rows[:n]

    def _noise(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Noise of heavy tails on some of the touched columns, others in each row."""
        rows = self._rows(self._causes(n, rng), rng)
        hit = self._touched & (rng.random(rows.shape) < 0.5)
        return rows + self._strength * hit * rng.standard_t(3, rows.shape)

    def _global(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """The touched columns are uniform over a box about as wide as the data."""
        rows = self._rows(self._causes(n, rng), rng)
        box = self._middle + self._box * self._half * rng.uniform(-1, 1, rows.shape)
        return np.where(self._touched, box, rows)

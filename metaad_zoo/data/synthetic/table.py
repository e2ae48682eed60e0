"""Anomalies of table rows ``(n, columns)`` in raw units; for meta-training only, never used in evaluation.

A missing value (NaN) stays missing and is neither lent nor moved. Where a row can't be changed in a kind's own way,
because all it could borrow equals what it has, it is changed as by ``outlier``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from metaad_zoo.data.synthetic.registry import register_synthetic
from metaad_zoo.data.synthetic.sizes import column_sizes, known_values, rounded

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""Rows ``(n, columns)`` and donors ``(m, columns)``, float64 with NaN for what is missing, to changed rows."""


def _register(name: str) -> Callable[[Change], Change]:
    """Register a change of float64 arrays, with ``outlier`` for rows that it leaves as they are."""

    def register(change: Change) -> Change:
        def corrupt(samples: Tensor, donors: Tensor, rng: np.random.Generator) -> Tensor:
            x, donor_rows = known_values(samples), known_values(donors)
            corrupted = rounded(change(x, donor_rows, rng), samples)
            same = ((corrupted == samples) | ~samples.isfinite()).all(1)
            if same.any():
                corrupted[same] = rounded(outlier(x[same.numpy()], donor_rows, rng), samples[same])
            return corrupted

        register_synthetic(name, modality="tabular", axes=1)(corrupt)
        return change

    return register


def _some(columns: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random share of some columns, at least one of them."""
    return rng.choice(columns, max(1, round(share * len(columns))), replace=False)


@_register("feature_swap")
def feature_swap(x: np.ndarray, donors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random tenth to half of a row's columns takes the values of one other normal row.

    Only columns in which the two rows differ are counted.

    Source: the corruption of Yoon et al., "VIME: Extending the Success of Self- and Semi-supervised Learning to Tabular
    Domain", NeurIPS 2020, with one donor for all columns of a row.
    """
    out = x.copy()
    for row, changed in zip(x, out, strict=True):
        for giver in rng.permutation(donors):
            different = np.flatnonzero((giver != row) & ~np.isnan(giver) & ~np.isnan(row))
            if len(different):
                columns = _some(different, rng.uniform(0.1, 0.5), rng)
                changed[columns] = giver[columns]
                break
    return out


@_register("copula")
def copula(x: np.ndarray, donors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each column is drawn independently from the normal rows: marginals stay, dependence between columns is gone.

    Drawn from are the donors and the row itself, so that a single donor gives a mixture and no copy.

    Source: dependency anomalies of Han et al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022.
    """
    out = x.copy()
    for column, changed in zip(donors.T, out.T, strict=True):
        observed = column[~np.isnan(column)]
        drawn = rng.integers(len(observed) + 1, size=len(changed))
        from_donors = ~np.isnan(changed) & (drawn < len(observed))
        changed[from_donors] = observed[drawn[from_donors]]
    return out


@_register("outlier")
def outlier(x: np.ndarray, donors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three columns of a row moved by 3 to 8 of the donors' standard deviations, up or down.

    Source: cf. global anomalies of Han et al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022.
    """
    out = x.copy()
    sizes = column_sizes(x, donors)
    for row in out:
        finite = np.flatnonzero(~np.isnan(row))
        columns = rng.choice(finite, min(len(finite), int(rng.integers(1, 4))), replace=False)
        row[columns] += sizes[columns] * rng.uniform(3, 8, len(columns)) * rng.choice([-1, 1], len(columns))
    return out


@_register("cluster")
def cluster(x: np.ndarray, donors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All corrupted rows of an episode are moved together, along one random direction by 2 to 4 deviations a column.

    Columns that do not vary in these rows and the donors stay, unless none varies.

    Source: clustered anomalies of Han et al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022.
    """
    both = np.concatenate([x, donors])
    varies = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in both.T])
    direction = rng.standard_normal(x.shape[1]) * (varies | ~varies.any())
    length = np.sqrt(np.mean(direction[direction != 0] ** 2))
    return x + rng.uniform(2, 4) * direction / length * column_sizes(x, donors)

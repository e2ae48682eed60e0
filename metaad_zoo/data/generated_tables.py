"""Generated tables: any number of tasks to meta-train on without files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import ndtr

from metaad_zoo.data.joined import ArrayReader
from metaad_zoo.data.wide_laws import WIDE_LAWS
from metaad_zoo.data.wide_tables import WIDE_ANOMALIES, WideTable
from metaad_zoo.episodes import SPLITS, Episode, EpisodeSpec, Split, TaskPool
from metaad_zoo.episodes.draw import assemble
from metaad_zoo.registry import unknown_name

REFERENCE_ROWS = 256
"""Rows by which a law's columns are brought to common units before they get their own."""

Law = Callable[[int, np.random.Generator, float], np.ndarray]
"""Draws ``(rows, columns)``; the last argument widens the noise that the rows come from (1: as it is)."""


def _mixture(columns: int, rng: np.random.Generator) -> Law:
    """One to four Gaussian clusters, each with a covariance of its own."""
    clusters = int(rng.integers(1, 5))
    weights = rng.dirichlet(np.full(clusters, 2.0))
    centres = rng.normal(0, rng.uniform(1, 4), (clusters, columns))
    scales = np.exp(rng.normal(0, 0.7, (clusters, columns, 1)))
    mixing = scales * rng.standard_normal((clusters, columns, columns)) / np.sqrt(columns)

    def draw(n: int, rng: np.random.Generator, spread: float) -> np.ndarray:
        which = rng.choice(clusters, n, p=weights)
        noise = spread * rng.standard_normal((n, columns))
        return centres[which] + np.einsum("nij,nj->ni", mixing[which], noise)

    return draw


_MARGINALS: Sequence[Callable[[np.ndarray], np.ndarray]] = (
    lambda z: z,
    lambda z: np.exp(0.8 * z),  # log-normal
    ndtr,  # uniform
    lambda z: -np.log1p(-np.minimum(ndtr(z), 1 - 1e-9)),  # exponential
    lambda z: np.sinh(1.2 * z),  # heavy tails
    lambda z: z + 2 * np.tanh(4 * z),  # two humps
    lambda z: np.floor(5 * ndtr(z)),  # levels
)
"""Increasing functions: each gives a standard normal variable another distribution."""


def _copula(columns: int, rng: np.random.Generator) -> Law:
    """Gaussian copula of a few factors, with another marginal in each column."""
    factors = int(rng.integers(1, max(2, columns // 2 + 1)))
    loadings = rng.standard_normal((factors, columns))
    specific = rng.uniform(0.1, 1.0, columns) * np.sqrt(factors)
    total = np.sqrt((loadings**2).sum(0) + specific**2)
    marginals = rng.integers(len(_MARGINALS), size=columns)

    def draw(n: int, rng: np.random.Generator, spread: float) -> np.ndarray:
        z = rng.standard_normal((n, factors)) @ loadings + specific * rng.standard_normal((n, columns))
        z = spread * z / total
        return np.stack([_MARGINALS[kind](z[:, i]) for i, kind in enumerate(marginals)], 1)

    return draw


_FUNCTIONS: Sequence[Callable[[np.ndarray], np.ndarray]] = (
    lambda x: x,
    np.tanh,
    np.sin,
    np.abs,
    lambda x: np.maximum(x, 0),
    lambda x: np.minimum(x**2, 9),
    lambda x: (x > 0).astype(x.dtype),
)


def _causal(columns: int, rng: np.random.Generator) -> Law:
    """Structural causal model: a random acyclic graph of nonlinear functions, of which some nodes are seen."""
    nodes = columns + int(rng.integers(0, columns + 1))
    parents = [rng.choice(i, min(i, int(rng.integers(1, 4))), replace=False) for i in range(nodes)]
    weights = [rng.normal(0, 1.5, len(p)) / np.sqrt(max(1, len(p))) for p in parents]
    functions = rng.integers(len(_FUNCTIONS), size=nodes)
    roots = rng.random(nodes) < 0.2
    roots[: max(1, columns // 4)] = True
    noise = np.where(roots, 1.0, np.exp(rng.uniform(np.log(0.05), np.log(0.5), nodes)))
    seen = rng.choice(nodes, columns, replace=False)

    def draw(n: int, rng: np.random.Generator, spread: float) -> np.ndarray:
        x = spread * noise * rng.standard_normal((n, nodes))
        for i in np.flatnonzero(~roots):
            x[:, i] += _FUNCTIONS[functions[i]](x[:, parents[i]] @ weights[i])
        return x[:, seen]

    return draw


LAWS: Mapping[str, Callable[[int, np.random.Generator], Law]] = {
    "mixture": _mixture,
    "copula": _copula,
    "causal": _causal,
}
ANOMALIES = ("local", "global", "dependency", "clustered")

Family = Literal["plain", "wide"]
FAMILIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plain": (tuple(LAWS), ANOMALIES),
    "wide": (tuple(WIDE_LAWS), tuple(WIDE_ANOMALIES)),
}
"""Laws and kinds of anomalies of each family of tables."""


@dataclass(frozen=True)
class TablePrior:
    """Distribution of generated tables.

    Args:
        tables: number of tables in each split.
        min_columns: smallest number of columns of a table.
        max_columns: largest number of columns of a table.
        laws: kinds of distributions of the normal rows, out of ``mixture``, ``copula`` and ``causal``; None: all of
            the family.
        anomalies: kinds of anomalies, out of ``local`` (wider noise around the same centres), ``global`` (uniform, in
            some columns, over a box wider than the data), ``dependency`` (each column as in normal rows, but drawn for
            itself) and ``clustered`` (normal rows, moved along one direction); None: all of the family.
        family: ``"plain"``, or ``"wide"``: tables as different as real ones (:class:`WideTable`): laws ``network``,
            ``graph``, ``mixture`` and ``copula``; columns of any marginal, also skewed, zero-inflated, discrete or
            nearly constant, and columns of noise; several kinds of anomalies in one table, beside the four also
            ``cause`` (a change of some causes, which shows wherever they act) and ``noise``. Meant for up to 40
            columns.

    Raises:
        ValueError: a number is out of range or a kind is unknown.
    """

    tables: int = 5000
    min_columns: int = 2
    max_columns: int = 16
    laws: tuple[str, ...] | None = None
    anomalies: tuple[str, ...] | None = None
    family: Family = "plain"

    def __post_init__(self) -> None:
        if self.tables < 1 or not 2 <= self.min_columns <= self.max_columns:
            raise ValueError(
                f"TablePrior has {self.tables} tables of {self.min_columns} to {self.max_columns} columns; expected at "
                "least one table and two columns, and min_columns no larger than max_columns"
            )
        if self.family not in FAMILIES:
            raise unknown_name("family of generated tables:", self.family, get_args(Family))
        laws, anomalies = FAMILIES[self.family]
        for kind, chosen, choices in (("law", self.law_names, laws), ("anomaly", self.anomaly_names, anomalies)):
            for name in chosen:
                if name not in choices:
                    raise unknown_name(f"{kind} of {self.family} generated tables:", name, choices)
            if not chosen:
                raise ValueError(f"TablePrior has no {kind}; expected some of {choices}")

    @property
    def law_names(self) -> tuple[str, ...]:
        """The laws, those of the family where none is named."""
        return FAMILIES[self.family][0] if self.laws is None else self.laws

    @property
    def anomaly_names(self) -> tuple[str, ...]:
        """The kinds of anomalies, those of the family where none is named."""
        return FAMILIES[self.family][1] if self.anomalies is None else self.anomalies

    def as_dict(self) -> dict[str, Any]:
        """Fields, for a results file; all laws and anomalies are named."""
        return {**asdict(self), "laws": self.law_names, "anomalies": self.anomaly_names}


class GeneratedTable:
    """One random table: a law of its normal rows and one kind of anomaly of random difficulty.

    Args:
        prior: distribution of the tables.
        rng: draws the law.
    """

    def __init__(self, prior: TablePrior, rng: np.random.Generator) -> None:
        self.columns = int(rng.integers(prior.min_columns, prior.max_columns + 1))
        self.kind, self.anomaly = str(rng.choice(prior.law_names)), str(rng.choice(prior.anomaly_names))
        self._law = LAWS[self.kind](self.columns, rng)
        reference = self._law(REFERENCE_ROWS, rng, 1.0)
        self._centre, spread = np.median(reference, 0), reference.std(0)
        self._spread = np.where(spread > 1e-6, spread, 1.0)
        reference = (reference - self._centre) / self._spread
        self._middle, self._half = (reference.max(0) + reference.min(0)) / 2, np.ptp(reference, 0) / 2
        self._touched = rng.random(self.columns) < rng.uniform(0.1, 0.7)
        self._touched[rng.integers(self.columns)] = True
        self._wider, self._box = rng.uniform(1.5, 4.0), rng.uniform(0.7, 1.5)
        direction = self._touched * rng.standard_normal(self.columns)
        self._shift = rng.uniform(1.0, 4.0) * direction / np.abs(direction).max()
        # Real tables hold counts and codes beside measurements, in units of any size.
        self._levels = np.where(rng.random(self.columns) < 0.2, rng.integers(1, 5, self.columns), 0)
        self._unit = rng.choice([-1, 1], self.columns) * 10 ** rng.uniform(-2, 3, self.columns)
        self._offset = rng.normal(0, 3, self.columns)

    def normal(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n, columns)`` float32 normal rows."""
        return self._in_units(self._draw(n, rng))

    def anomalous(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n, columns)`` float32 anomalous rows."""
        if self.anomaly == "local":
            return self._in_units(self._draw(n, rng, self._wider))
        if self.anomaly == "dependency":
            pool = self._draw(4 * n + 64, rng)
            return self._in_units(rng.permuted(pool, axis=0)[:n])
        rows = self._draw(n, rng)
        if self.anomaly == "clustered":
            return self._in_units(rows + self._shift)
        box = self._middle + self._box * self._half * rng.uniform(-1, 1, rows.shape)
        return self._in_units(np.where(self._touched, box, rows))

    def _draw(self, n: int, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
        return (self._law(n, rng, spread) - self._centre) / self._spread

    def _in_units(self, rows: np.ndarray) -> np.ndarray:
        levels = np.maximum(self._levels, 1)
        rows = np.where(self._levels > 0, np.round(rows * levels) / levels, rows)
        return ((rows + self._offset) * self._unit).astype(np.float32)


class GeneratedTables(TaskPool):
    """Tasks that are random tables; table ``i`` of a split is a pure function of ``(seed, split, i)``.

    The tables are of the prior's family: :class:`GeneratedTable` or :class:`WideTable`. Each episode draws new rows of
    its table. The tables of two splits are different draws from the same prior.

    Args:
        prior: distribution of the tables.
        split: ``"train"``, ``"val"`` or ``"test"``.
        seed: random seed of the tables.

    Source: structural causal models as a prior over tables: Hollmann et al., "TabPFN", ICLR 2023. The four kinds of
    anomalies: Han et al., "ADBench", NeurIPS 2022, section 3. A prior over tables with anomalies, from which a network
    learns to detect them in context: Shen et al., "FoMo-0D", 2024.

    Example:
        >>> pool = GeneratedTables(TablePrior(tables=100), "train", seed=0)
        >>> episode = pool.draw(7, EpisodeSpec(), np.random.default_rng(0))
        >>> episode.task, episode.query["tabular"].shape[0]
        ('generated/train/0007', 20)
    """

    def __init__(self, prior: TablePrior, split: Split, seed: int) -> None:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        self.prior, self.split, self.seed = prior, split, seed

    def table(self, task: int) -> GeneratedTable | WideTable:
        """The table at this position."""
        address = np.random.SeedSequence([self.seed, SPLITS.index(self.split)], spawn_key=(task, 0, 0))
        rng = np.random.default_rng(address)
        if self.prior.family == "plain":
            return GeneratedTable(self.prior, rng)
        columns = int(rng.integers(self.prior.min_columns, self.prior.max_columns + 1))
        return WideTable(columns, self.prior.law_names, self.prior.anomaly_names, rng)

    def __len__(self) -> int:
        return self.prior.tables

    def task_name(self, task: int) -> str:
        return f"generated/{self.split}/{task:04d}"

    @property
    def members(self) -> frozenset[str]:
        return frozenset(self.task_name(i) for i in range(len(self)))

    @property
    def recorded(self) -> frozenset[str]:
        return frozenset()

    def check(self, spec: EpisodeSpec) -> None:
        """Accept any episode: any number of rows can be generated."""

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        table, spec = self.table(task), spec.drawn(rng)
        normal, anomalous = spec.normal_needed, spec.anomalous_needed
        values = np.concatenate([table.normal(normal, rng), table.anomalous(anomalous, rng)])
        normals, anomalies = np.split(np.arange(normal + anomalous), [normal])
        return assemble(ArrayReader("tabular", values), self.task_name(task), spec, normals, anomalies, rng)

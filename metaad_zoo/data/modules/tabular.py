"""Table episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from metaad_zoo.backbones.missing import ANY
from metaad_zoo.data.big_tables import BigTable, memory_needed, read_big_table
from metaad_zoo.data.generated_tables import GeneratedTables, TablePrior
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.mixed_tables import MixedTables
from metaad_zoo.data.modules.base import EpisodeDataModule
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import ColumnOptions, Missing
from metaad_zoo.data.read.table import table_files
from metaad_zoo.data.splits import split_by_counts, split_by_patterns
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.data.tables import Table, read_table
from metaad_zoo.episodes import (
    SPLITS,
    Corruption,
    Domain,
    DomainTaskPool,
    Reader,
    Split,
    TaskPool,
    fingerprint,
    fingerprints_by_class,
)

GENERATED = "generated"


class TabularEpisodes(EpisodeDataModule):
    """Few-shot anomaly-detection tasks over rows of tables.

    A table with a label column (0 normal, 1 anomalous) is a domain, and a task. Of a table with classes, each class is
    normal in turn and the others of its split give the anomalies. Where nothing is said about splits, a model is
    trained on generated tables, chosen on other generated ones, and tested on all of the data.

    Args:
        dataset: a known name, as in ``metaad_zoo.list_datasets(modality="tabular")``; ``"own"`` for the files at
            ``root``; or ``"generated"``.
        root: your own files (``"own"``): a CSV, Parquet or npz (``X``, ``y``) file, a folder of them, or several of
            these; each file is a domain, named by its stem. For a known name: where its files lie (default
            ``METAAD_DATA``).
        splits: which domains or classes (``<table>/<class>``) go where: for each of ``train``, ``val``, ``test`` a list
            of fnmatch patterns, or ``[generated]``; or three counts or shares, drawn at random by ``seed``. None is
            ``{train: [generated], val: [generated], test: ["*"]}``.
        exclude: patterns of domains or classes to leave out of all splits.
        label: the label column of ``"own"`` CSV and Parquet files; None looks for a usual name
            (:data:`metaad_zoo.data.read.labels.LABEL_NAMES`).
        ignore: columns of ``"own"`` files that are left out.
        columns: the columns of data, where these alone are to be used; None takes all that are no label, time, counter
            or identifier.
        decimal: ``","`` where numbers have decimal commas, ``"."`` where commas separate thousands; None infers it
            from the numbers.
        missing: what to do about missing and infinite values: ``"refuse"``; ``"drop"`` the rows; ``"impute"``: hand
            them on as NaN, which networks read as the support's centre.
        anomalies: where there are classes: ``"pair"``: the anomalies of a task come from one other class; ``"rest"``:
            from all others of its table and split.
        max_columns: number of columns that each episode draws from a wider table, the same for support and query and
            for every method; None keeps all.
        synthetic: names of synthetic anomalies, made of normal rows, for the data's own training domains: in every
            episode of one without anomalies of its own, and in a share of the others'.
        synthetic_share: that share.
        generated_share: share of the training episodes that come from generated tables, where others train on the data.
        prior: what generated tables are like.
        memory_limit: MiB; larger files are read row by row out of a mapped copy on disk.
        cache: folder for these copies; None takes ``metaad_zoo/tables`` in the user's cache folder.
        kwargs: arguments of :class:`metaad_zoo.data.EpisodeDataModule`.

    Raises:
        ValueError: a name is unknown, files are missing or damaged, or a table is too small; before any training.

    Memory: tables up to ``memory_limit`` are held as float32, rows x columns; of larger ones nothing but an episode.
    """

    def __init__(
        self,
        dataset: str = GENERATED,
        root: str | list[str] | None = None,
        splits: dict[str, list[str]] | list[int] | list[float] | None = None,
        exclude: list[str] | None = None,
        label: str | None = None,
        ignore: list[str] | None = None,
        columns: list[str] | None = None,
        decimal: Literal[",", "."] | None = None,
        missing: Missing = "impute",
        anomalies: Literal["pair", "rest"] = "rest",
        max_columns: int | None = None,
        synthetic: list[str] | None = None,
        synthetic_share: float = 0.5,
        generated_share: float = 0.0,
        prior: TablePrior = TablePrior(),  # noqa: B008 - frozen
        memory_limit: float = 256.0,
        cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if max_columns is not None and max_columns < 1:
            raise ValueError(f"data.max_columns is {max_columns}; expected at least 1, or null for all columns")
        self.dataset, self.root, self.splits, self.exclude = dataset, root, splits, exclude or []
        chosen = None if columns is None else tuple(columns)
        self.options = ColumnOptions(label, None, tuple(ignore or ()), chosen, decimal, missing)
        self.anomalies, self.max_columns = anomalies, max_columns
        self.synthetic, self.synthetic_share = synthetic, synthetic_share
        self.generated_share = generated_share
        self.prior, self.memory_limit, self.cache = prior, memory_limit, cache

    @cached_property
    def tables(self) -> list[Table | BigTable]:
        """All tables of the data; none where all are generated."""
        if self.dataset == GENERATED:
            return []
        if self.dataset != "own":
            return list(read_dataset(self.dataset, "tabular", self.root, others=("generated", "own")))
        if not self.root:
            raise ValueError("data.dataset is 'own' but data.root names no files: set data.root=PATH")
        return [
            read_big_table(path, self.options, self.cache)
            if memory_needed(path) > self.memory_limit * 2**20
            else read_table(path, self.options)
            for path in table_files(self.root)
        ]

    @cached_property
    def domain_splits(self) -> dict[str, list[str]]:
        """Names of the domains or classes of each split; ``["generated"]`` where its tables are generated."""
        default = {"train": [GENERATED], "val": [GENERATED], "test": ["*"] if self.tables else [GENERATED]}
        splits = default if self.splits is None else self.splits
        names = [n for t in self.tables for n in _names(t)]
        for pattern in self.exclude:
            if not any(fnmatchcase(n, pattern) for n in names):
                raise ValueError(f"pattern {pattern!r} of data.exclude matches none of {names[:20]}")
        names = [n for n in names if not any(fnmatchcase(n, pattern) for pattern in self.exclude)]
        if not isinstance(splits, dict):
            return split_by_counts(names, splits, "class", self.seed, self._fixed_splits())
        generated = {s: [GENERATED] for s, patterns in splits.items() if list(patterns) == [GENERATED]}
        by_pattern = split_by_patterns(names, {s: p for s, p in splits.items() if s not in generated})
        return {**by_pattern, **{s: generated[s] for s in SPLITS if s in generated}}

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        prints: dict[str, str] = {}
        for table in self.tables:
            if isinstance(table, BigTable):
                prints[table.name] = table.fingerprint()
            elif table.class_names is not None and table.labels is not None:
                prints |= fingerprints_by_class(_names(table), table.labels, table.values)
            else:
                prints[table.name] = fingerprint(table.values, *([] if table.labels is None else [table.labels]))
        return prints

    @cached_property
    def pools(self) -> Mapping[str, TaskPool]:
        owned = self.domain_splits
        return {split: self._pool(split, owned[split]) for split in get_args(Split) if owned.get(split)}

    def _pool(self, split: Split, names: Sequence[str]) -> TaskPool:
        corrupt = create_synthetic(self.synthetic) if split == "train" and self.synthetic is not None else None
        if list(names) == [GENERATED]:
            if corrupt is not None:
                raise ValueError("data.synthetic is set, but generated training tables have anomalies of their own")
            return GeneratedTables(self.prior, split, self.seed)
        domains: list[Domain] = []
        for table in self.tables:
            owned = [n for n in _names(table) if n in names]
            reader: Reader = table
            if self.max_columns is not None and len(table.columns) > self.max_columns:
                reader = _SomeColumns(table, len(table.columns), self.max_columns)
            if isinstance(table, Table) and table.class_names is not None:
                domains += _class_domains(table, reader, owned, self.anomalies) if owned else []
            elif owned:
                if not table.labelled and corrupt is None:
                    raise ValueError(
                        f"{table.name} has no label column, and the {split} split needs to know its anomalies: set "
                        "data.label=COLUMN (0 normal, 1 anomalous), or train on it with data.synthetic"
                    )
                domains.append(Domain(table.name, reader, table.normal, table.anomalous))
        pool = _TablePool(domains, names, corrupt, self.synthetic_share if corrupt else 0.0)
        if split == "train" and self.generated_share:
            return MixedTables(pool, GeneratedTables(self.prior, split, self.seed), self.generated_share)
        return pool

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        widths: set[int] = set()
        for split in self.pools:
            names = self.domain_splits[split]
            if names == [GENERATED]:
                widths |= {self.prior.min_columns, self.prior.max_columns}
            column_counts = [len(t.columns) for t in self.tables if set(names) & set(_names(t))]
            widths |= {min(n, self.max_columns or n) for n in column_counts}
        if self.generated_share:
            widths |= {self.prior.min_columns, self.prior.max_columns}
        return {"tabular": (widths.pop() if len(widths) == 1 else ANY,)}

    @property
    def skipped(self) -> list[str]:
        account = Account()  # says once what is true of several tables
        for sentence in (sentence for table in self.tables for sentence in table.skipped):
            place, _, reason = sentence.partition(": ")
            account.add("changed", place, reason)
        return list(account)

    def description(self) -> dict[str, Any]:
        generated = [GENERATED] in self.domain_splits.values() or self.generated_share > 0
        return {
            "dataset": self.dataset,
            "splits": self.domain_splits,
            "columns": {t.name: len(t.columns) for t in self.tables},
            "anomalies": self.anomalies if any(t.class_names for t in self.tables) else "the data's own",
            "missing": self.options.missing,
            "max_columns": self.max_columns,
            "synthetic": self.synthetic,
            "synthetic_share": self.synthetic_share if self.synthetic else 0.0,
            "generated_share": self.generated_share,
            "prior": self.prior.as_dict() if generated else None,
            **self._episode_settings,
        }


def _names(table: Table | BigTable) -> list[str]:
    """Members of the splits: the table, or its classes."""
    return [table.name] if table.class_names is None else [f"{table.name}/{c}" for c in table.class_names]


class _TablePool(DomainTaskPool):
    """Domains that are tables or classes of tables; what a split owns is these, also where a task is a pair of them."""

    def __init__(self, domains: list[Domain], owned: Sequence[str], corrupt: Corruption | None, share: float) -> None:
        super().__init__(domains, corrupt, share)
        self._owned = frozenset(owned)

    @property
    def members(self) -> frozenset[str]:
        return self._owned


def _class_domains(table: Table, reader: Reader, names: Sequence[str], anomalies: str) -> list[Domain]:
    """Class-as-normal tasks out of those classes of a table that a split owns."""
    if len(names) < 2:
        raise ValueError(f"a split has {list(names)} alone of {table.name}: one class is normal, others are anomalous")
    if anomalies not in ("pair", "rest"):
        raise ValueError(f"data.anomalies is {anomalies!r}; expected 'pair' or 'rest'")
    rows = {n: np.flatnonzero(table.labels == i) for i, n in enumerate(_names(table)) if n in names}
    if anomalies == "rest":
        rest = {n: np.concatenate([ids for anomalous, ids in rows.items() if anomalous != n]) for n in rows}
        return [Domain(n, reader, ids, rest[n]) for n, ids in rows.items()]
    return [
        Domain(f"{n}-vs-{anomalous.removeprefix(table.name + '/')}", reader, ids, rows[anomalous])
        for n, ids in rows.items()
        for anomalous in rows
        if anomalous != n
    ]


class _SomeColumns:
    """A table of which each episode sees some columns, drawn by its generator."""

    def __init__(self, reader: Reader, width: int, columns: int) -> None:
        self._reader, self._width, self._columns = reader, width, columns

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = np.sort(rng.choice(self._width, self._columns, replace=False))
        return {"tabular": self._reader.read(ids, rng)["tabular"][:, chosen]}

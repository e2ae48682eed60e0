"""Tables held in memory, out of a user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions
from metaad_zoo.data.read.table import TableReader, compact


@dataclass
class Table:
    """Rows of one table.

    Attributes:
        name: readable and stable; a domain's name, or the first part of its classes' names.
        columns: names of the features.
        values: ``(rows, len(columns))`` float32, or float64 where that is too coarse; NaN where a value is missing.
        labels: ``(rows,)`` of 0 (normal) and 1 (anomalous); with ``class_names`` integers into these; None: unknown.
        class_names: names of the classes, where each class may serve as normal in turn.
        skipped: what was left out, and why.
    """

    name: str
    columns: list[str]
    values: np.ndarray
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    skipped: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        """Whether labels are known."""
        return self.labels is not None

    @property
    def normal(self) -> np.ndarray:
        """Positions of the normal rows: all, where labels are unknown."""
        return np.arange(len(self.values)) if self.labels is None else np.flatnonzero(self.labels == 0)

    @property
    def anomalous(self) -> np.ndarray:
        """Positions of the anomalous rows: none, where labels are unknown."""
        return np.zeros(0, np.int64) if self.labels is None else np.flatnonzero(self.labels == 1)

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The rows at ``ids`` as ``{"tabular": (n, D)}``."""
        return {"tabular": torch.from_numpy(self.values[ids])}


def read_table(path: Path, options: ColumnOptions = USUAL_OPTIONS) -> Table:
    """A table out of a CSV or Parquet file with a header, or an ``.npz`` of ``X`` and ``y`` (0 normal, 1 anomalous).

    Args:
        path: the file; its stem becomes the table's name.
        options: what the user says of its columns; see :mod:`metaad_zoo.data.read.roles`.

    Raises:
        ValueError: the file can't be used, no column varies, or a label is missing; file, row and column are named.
    """
    with TableReader(path, options) as reader:
        rows = reader.rows()
        require_variation(path, reader)
    labels = None if rows.labels is None else known_labels(path, rows.labels, rows.numbers)
    return Table(path.stem, reader.schema.features, compact(rows.values), labels, skipped=list(reader.account))


def require_variation(path: Path, reader: TableReader) -> None:
    """Refuse a table none of whose columns varies.

    Raises:
        ValueError: as said.
    """
    schema = reader.schema
    if not schema.categories and all(reader.facts[name].constant for name in schema.numbers):
        raise ValueError(f"{path}: all {len(schema.numbers)} columns are constant or empty; expected one that varies")


def known_labels(path: Path, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Labels of training rows as uint8.

    Args:
        path: file that errors name.
        labels: ``(rows,)`` of 0, 1 and -1 (the cell is empty).
        numbers: ``(rows,)`` row numbers in the file, for errors.

    Raises:
        ValueError: a label is missing.
    """
    empty = np.flatnonzero(labels < 0)
    if len(empty):
        raise ValueError(
            f"{path}, row {numbers[empty[0]]}: the label is missing ({len(empty)} such rows): fill it in, or "
            "remove the rows"
        )
    return labels.astype(np.uint8)


def number_names(n: int) -> list[str]:
    """Names for columns that have none: ``f0``, ``f1``, ..."""
    return [f"f{i}" for i in range(n)]


def check_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """``X`` and the labels out of an archive's arrays.

    Raises:
        ValueError: there is no ``X``, or a shape, type or label is not as :func:`read_table` says.
    """
    x, y = arrays.get("X", arrays.get("x")), arrays.get("y")
    if x is None or x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        seen = {name: f"{a.dtype} {a.shape}" for name, a in arrays.items()}
        raise ValueError(
            f"{path}: expected 'X' as numbers of shape (rows, columns), and 'y' where there are labels, saw {seen}"
        )
    if y is None:
        return x, None
    if y.shape != x.shape[:1] or not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{path}: expected 'y' as {len(x)} labels 0 (normal) and 1 (anomalous), saw {y.dtype} of shape {y.shape} "
            f"with values {np.unique(y)[:9]}"
        )
    return x, y.astype(np.uint8)


def varying(name: str, columns: Sequence[str], values: np.ndarray, labels: np.ndarray | None) -> Table:
    """A table of a published set, without the columns that do not vary in it.

    Raises:
        ValueError: none varies.
    """
    varies = np.fmin.reduce(values, 0) < np.fmax.reduce(values, 0)  # false for NaN
    if not varies.any():
        raise ValueError(f"{name}: all {len(columns)} columns are constant or empty; expected one that varies")
    constant = [c for c, v in zip(columns, varies, strict=True) if not v]
    skipped = [f"{name}: {len(constant)} constant or empty columns"] if constant else []
    return Table(
        name, [c for c, v in zip(columns, varies, strict=True) if v], values[:, varies], labels, skipped=skipped
    )

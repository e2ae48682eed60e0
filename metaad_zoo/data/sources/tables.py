"""Tables held in memory, out of a user's own files."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, Columns, Missing, read_columns, without_missing

TABLE_SUFFIXES = COLUMN_SUFFIXES | {".npz"}
MAX_CATEGORIES = 20
"""Categories of a column of text that get a column of their own; the rarer ones share one more, ``(other)``."""


@dataclass
class Table:
    """Rows of one table.

    Attributes:
        name: readable and stable; a domain's name, or the first part of its classes' names.
        columns: names of the columns that vary.
        values: ``(rows, len(columns))`` float32; NaN where a value is missing.
        labels: ``(rows,)`` of 0 (normal) and 1 (anomalous); with ``class_names`` integers into these; None: unknown.
        class_names: of a set in which each class may serve as normal in turn.
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
        """The rows at ``ids`` as ``{"tabular": (n, D)}`` float32."""
        return {"tabular": torch.from_numpy(self.values[ids])}


@dataclass(frozen=True)
class Vocabulary:
    """Categories of a column of text.

    Attributes:
        kept: those with a column of their own, the most frequent.
        other: whether there are more, which share a column.
    """

    kept: tuple[str, ...]
    other: bool

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Vocabulary | None:
        """The vocabulary for categories with these counts; None where there are so many that they name the rows.

        Example:
            >>> Vocabulary.of({"red": 3, "blue": 5, "": 1})
            Vocabulary(kept=('blue', 'red'), other=False)
        """
        filled = {category: n for category, n in counts.items() if category}
        if len(filled) > MAX_CATEGORIES and len(filled) > sum(filled.values()) / 2:
            return None
        by_frequency = sorted(filled, key=lambda c: (-filled[c], c))
        return cls(tuple(by_frequency[:MAX_CATEGORIES]), len(filled) > MAX_CATEGORIES)

    def columns(self, name: str) -> list[str]:
        """Names of the columns that the column ``name`` becomes."""
        return [f"{name}={c}" for c in (*self.kept, *(["(other)"] if self.other else []))]

    def encode(self, texts: np.ndarray) -> np.ndarray:
        """One-hot columns ``(rows, columns)`` float32; NaN where the text is missing."""
        out = np.zeros((len(texts), len(self.kept) + self.other), np.float32)
        for i, category in enumerate(self.kept):
            out[:, i] = texts == category
        if self.other:
            out[:, -1] = ~out.any(1)
        out[texts == ""] = np.nan
        return out


def identifies_rows(name: str, categories: int) -> str:
    """Why a column of text is left out."""
    return f"column {name!r}: {categories} texts, most of them once: an identifier or a time, left out"


def without_constant(
    where: str, columns: Sequence[str], low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Which columns vary, and what to say of those that don't.

    Args:
        where: the file, for messages.
        columns: their names.
        low: ``(columns,)`` smallest values; NaN where a column is empty.
        high: largest ones.

    Raises:
        ValueError: none varies.
    """
    varies = low < high  # false for NaN
    constant = [name for name, v in zip(columns, varies, strict=True) if not v]
    if not varies.any():
        raise ValueError(f"{where}: all {len(columns)} columns are constant or empty; expected one that varies")
    more = f", and {len(constant) - 10} more" if len(constant) > 10 else ""
    told = [f"{where}: constant or empty columns: {', '.join(constant[:10])}{more}"] if constant else []
    return varies, told


def read_table(path: Path, label: str | None = None, missing: Missing = "impute") -> Table:
    """A table out of a CSV or Parquet file with a header, or an ``.npz`` of ``X`` and ``y`` (0 normal, 1 anomalous).

    A column of text becomes one-hot columns by its own vocabulary: its :data:`MAX_CATEGORIES` most frequent categories,
    and one for all others. A column of text that names the rows (more than half of its values occur once) and columns
    that do not vary are left out.

    Args:
        path: the file; its stem becomes the table's name.
        label: the label column; None looks for the usual names; there may be none.
        missing: see :func:`metaad_zoo.data.sources.columns.read_columns`; holds for text too.

    Raises:
        ValueError: the file can't be used; file, row and column are named.
    """
    found = _read_npz(path) if path.suffix.lower() == ".npz" else read_columns(path, label, "impute")
    return finished(path.stem, _encoded(found, missing))


def table_files(root: str | Path | Sequence[str]) -> list[Path]:
    """The table files that ``root`` stands for: itself, those directly inside a folder, or those of several paths.

    Raises:
        ValueError: a path does not exist, a folder holds none, or two have one stem, which would be two domains of one
            name.
    """
    files: list[Path] = []
    for path in [Path(r).expanduser() for r in ([root] if isinstance(root, str | Path) else root)]:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and p.name[0] != ".")
        if not inside or not path.exists() or not all(p.suffix.lower() in TABLE_SUFFIXES for p in inside):
            what = "holds no tables" if path.is_dir() else "is no table" if path.exists() else "does not exist"
            raise ValueError(f"{path} {what}: expected files ending in {', '.join(sorted(TABLE_SUFFIXES))}")
        files += inside
    doubled = [stem for stem, n in Counter(p.stem for p in files).items() if n > 1]
    if doubled:
        raise ValueError(f"data.root has several files named {doubled}, which name the domains: rename them")
    return files


def _read_npz(path: Path) -> Columns:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} can't be read as a numpy archive ({type(error).__name__}: {error})") from error
    x, y = check_arrays(path, arrays)
    return Columns(path, number_names(x.shape[1]), x.astype(np.float32), y)


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


def _encoded(found: Columns, missing: Missing) -> Columns:
    """Columns of text turned into columns of numbers, and the policy for missing values applied to all."""
    names, parts, skipped = list(found.names), [found.values], []
    for name, texts in found.text.items():
        counts = Counter(texts.tolist())
        vocabulary = Vocabulary.of(counts)
        if vocabulary is None:
            skipped.append(f"{found.path.name}: {identifies_rows(name, len(counts))}")
        else:
            names += vocabulary.columns(name)
            parts.append(vocabulary.encode(texts))
    if not names:
        raise ValueError(f"{found.path} has no column to learn from: expected numbers, or text of few categories")
    together = without_missing(Columns(found.path, names, np.concatenate(parts, 1), found.labels), missing)
    together.skipped += skipped
    return together


def finished(name: str, found: Columns) -> Table:
    """A table out of columns of numbers, without those that don't vary.

    Raises:
        ValueError: none varies.
    """
    low, high = np.fmin.reduce(found.values, 0), np.fmax.reduce(found.values, 0)
    varies, told = without_constant(found.path.name, found.names, low, high)
    columns = [c for c, v in zip(found.names, varies, strict=True) if v]
    return Table(name, columns, found.values[:, varies], found.labels, skipped=found.skipped + told)

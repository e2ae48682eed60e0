"""Tables with named columns out of CSV and Parquet files, the form in which tables and series lie on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from metaad_zoo.registry import unknown_name

Missing = Literal["refuse", "drop", "impute"]
COLUMN_SUFFIXES = frozenset({".csv", ".parquet", ".pq"})
LABEL_NAMES = ("anomaly", "is_anomaly", "label", "is_outlier", "outlier", "attack")
"""Columns that are taken as labels where none is named, without regard to case."""

INDEX_NAMES = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas calls the column of an index that had no name, in CSV and Parquet: numbers of rows and no data."""

MOSTLY_NUMBERS = 0.5
"""A column of which at least this share are numbers is a column of numbers, in which text is a mistake."""
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*(\.\d{3})*,\d+([eE][+-]?\d+)?\s*")
_COMMAS_MENDED = (
    "write it anew, such as by pandas.read_csv(path, sep=';', decimal=',').to_csv(new_path, index=False) (sep=',' "
    "where commas tell the columns apart)"
)


@dataclass
class Columns:
    """Rows of a file.

    Attributes:
        path: of the file.
        names: of the columns of numbers.
        values: ``(rows, len(names))`` float32; NaN where a value is missing.
        labels: ``(rows,)`` uint8 of 0 and 1, or None where the file has no label column.
        text: columns of text by name, each ``(rows,)`` of str, ``""`` where missing: categories, times, paths.
        skipped: what was left out, and why.
        first_row: how many rows of the file lie before these.
    """

    path: Path
    names: list[str]
    values: np.ndarray
    labels: np.ndarray | None = None
    text: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    first_row: int = 0

    def row(self, position: int) -> int:
        """The number of a row in its file, from 1, for messages."""
        return self.first_row + int(position) + 1

    def part(self, start: int, stop: int) -> Columns:
        """The rows from ``start`` to before ``stop``."""
        labels = None if self.labels is None else self.labels[start:stop]
        text = {name: x[start:stop] for name, x in self.text.items()}
        first = self.first_row + start
        return Columns(self.path, self.names, self.values[start:stop], labels, text, [*self.skipped], first)


def read_columns(path: Path, label: str | None = None, missing: Missing = "impute") -> Columns:
    """Read a CSV or Parquet file with a header. An index that pandas wrote is left out.

    Args:
        path: the file.
        label: the label column's name; None looks for one of :data:`LABEL_NAMES`.
        missing: what to do about empty cells, NaN and infinities in columns of numbers: ``"refuse"``; ``"drop"`` the
            rows; ``"impute"``: keep them as NaN, which networks read as the support's centre.

    Raises:
        ValueError: the file is missing, empty, damaged or has no column of numbers; the label column is not there or
            holds something else than 0 and 1; there is text in a column of numbers; or a value is missing and was to be
            refused. File, row (from 1, below the header) and column are named.
    """
    if missing not in get_args(Missing):
        raise unknown_name("policy for missing values:", missing, get_args(Missing))
    table = _read(path)
    if table.num_rows == 0 or table.num_columns == 0:
        raise ValueError(f"{path} is empty: expected a header and at least one row")
    doubled = sorted({n for n in table.column_names if table.column_names.count(n) > 1})
    if doubled:
        raise ValueError(f"{path} has several columns named {doubled}: rename them")
    label = label_column(path, table.column_names, label)
    labels = None if label is None else parse_labels(path, label, table.column(label))
    numbers: dict[str, np.ndarray] = {}
    text: dict[str, np.ndarray] = {}
    for name in table.column_names:
        if name != label:
            found = parse_numbers(path, name, table.column(name))
            (text if found.dtype.kind == "U" else numbers)[name] = found
    index = [name for name in INDEX_NAMES if numbers.pop(name, None) is not None]
    values = np.stack(list(numbers.values()), 1) if numbers else np.zeros((table.num_rows, 0), np.float32)
    return without_missing(Columns(path, list(numbers), values, labels, text, without_index(path, index)), missing)


def without_index(path: Path, index: Sequence[str]) -> list[str]:
    """Sentences that say which columns of numbers are left out for being named as in :data:`INDEX_NAMES`."""
    return [f"{path.name}: column {name!r} is an index and is left out" for name in index]


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}: expected a .csv or .parquet file")
    if path.suffix.lower() not in COLUMN_SUFFIXES:
        raise ValueError(f"{path} ends in {path.suffix!r}: expected one of {', '.join(sorted(COLUMN_SUFFIXES))}")
    try:
        if path.suffix.lower() != ".csv":
            return parquet.read_table(path)
        try:
            return csv.read_csv(path)
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
            # A column changes its kind behind the first block: read it all as text, to say where.
            with csv.open_csv(path) as reader:
                names = reader.schema.names
            as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
            return csv.read_csv(path, convert_options=as_text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        empty = path.stat().st_size == 0
        why = "is empty" if empty else f"can't be read ({type(error).__name__}: {error})"
        expected = _semicolons(path) or "expected a header and rows of equal length, in UTF-8"
        raise ValueError(f"{path} {why}: {expected}") from error


def _semicolons(path: Path) -> str | None:
    """What to do about a file whose columns are told apart by semicolons; None where they are not."""
    if path.suffix.lower() != ".csv":
        return None
    with path.open("rb") as file:
        header = file.readline(1 << 16)
    if header.count(b";") <= header.count(b","):
        return None
    return f"its columns are told apart by semicolons, where commas are expected: {_COMMAS_MENDED}"


def label_column(path: Path, names: Sequence[str], label: str | None) -> str | None:
    """The label column's name: the one asked for, or one of :data:`LABEL_NAMES`, or None.

    Raises:
        ValueError: the one asked for is not there.
    """
    if label is not None and label not in names:
        raise unknown_name(f"label column of {path}:", label, names)
    if label is not None:
        return label
    by_lower = {n.lower(): n for n in names}
    return next((by_lower[n] for n in LABEL_NAMES if n in by_lower), None)


def parse_labels(path: Path, name: str, column: pa.ChunkedArray, first_row: int = 0) -> np.ndarray:
    """Labels ``(rows,)`` uint8 out of 0 and 1, as numbers, booleans or text.

    Raises:
        ValueError: there is something else; ``first_row`` is what the column's rows are counted from.
    """
    if _is_number(column.type):
        numbers = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        found = np.where(np.isin(numbers, (0, 1)), numbers, 2).astype(np.uint8)
    else:
        named = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
        found = np.array([named.get(str(v).strip().lower(), 2) for v in column.to_pylist()], np.uint8)
    wrong = np.flatnonzero(found == 2)
    if len(wrong):
        seen = column[int(wrong[0])].as_py()
        raise ValueError(
            f"{path}, column {name!r}: expected labels 0 (normal) and 1 (anomalous), saw {seen!r} in row "
            f"{first_row + wrong[0] + 1} ({len(wrong)} such rows): mend them, or name another label column"
        )
    return found


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )


def parse_numbers(path: Path, name: str, column: pa.ChunkedArray, first_row: int = 0) -> np.ndarray:
    """A column ``(rows,)`` as float32, or as str where it holds text (categories, times).

    Raises:
        ValueError: there is text between numbers; ``first_row`` is what the column's rows are counted from.
    """
    if _is_number(column.type):
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64).astype(np.float32)
    texts = np.array(["" if v is None else str(v) for v in column.to_pylist()], dtype=str)
    filled = np.flatnonzero(texts != "")
    parsed = np.full(len(texts), np.nan, np.float32)
    wrong = []
    for i in filled:
        try:
            parsed[i] = float(texts[i])
        except ValueError:
            wrong.append(i)
    if len(filled) and len(wrong) > (1 - MOSTLY_NUMBERS) * len(filled):
        commas = [i for i in wrong if _DECIMAL_COMMA.fullmatch(texts[i])]
        if len(commas) > MOSTLY_NUMBERS * len(filled):
            raise ValueError(
                f"{path}, column {name!r}: expected numbers with a decimal point, saw {str(texts[commas[0]])!r} in row "
                f"{first_row + commas[0] + 1} ({len(commas)} such rows): {_COMMAS_MENDED}"
            )
        return texts
    if wrong:
        raise ValueError(
            f"{path}, column {name!r}: expected numbers, saw {str(texts[wrong[0]])!r} in row "
            f"{first_row + wrong[0] + 1} ({len(wrong)} such rows): mend them, or leave the cells empty where the value "
            "is missing"
        )
    return parsed


def without_missing(columns: Columns, missing: Missing, first_row: int = 0) -> Columns:
    """Apply the policy of :func:`read_columns`; infinities count as missing; rows are counted from ``first_row``."""
    bad = ~np.isfinite(columns.values)
    if not bad.any():
        return columns
    rows, first = np.flatnonzero(bad.any(1)), np.argwhere(bad)[0]
    if missing == "refuse":
        raise ValueError(
            f"{columns.path}, row {first_row + first[0] + 1}, column {columns.names[first[1]]!r}: the value is missing "
            f"or infinite ({len(rows)} such rows): mend them, or set data.missing to drop or impute"
        )
    if missing == "impute":
        columns.values[bad] = np.nan
        columns.skipped.append(f"{columns.path.name}: {int(bad.sum())} values missing or infinite, imputed")
        return columns
    kept = ~bad.any(1)
    if not kept.any():
        raise ValueError(f"{columns.path}: every row has a missing value, nothing is left: set data.missing=impute")
    labels = None if columns.labels is None else columns.labels[kept]
    text = {name: x[kept] for name, x in columns.text.items()}
    reason = f"{columns.path.name}: {len(rows)} rows dropped for a missing or infinite value"
    return Columns(columns.path, columns.names, columns.values[kept], labels, text, [*columns.skipped, reason])

"""Table files of any length, block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from metaad_zoo.data.sources.columns import (
    INDEX_NAMES,
    Columns,
    Missing,
    label_column,
    parse_labels,
    parse_numbers,
    without_index,
    without_missing,
)
from metaad_zoo.data.sources.mapped import SAMPLES, map_arrays
from metaad_zoo.data.sources.tables import Vocabulary, check_arrays, identifies_rows, number_names

ROWS = 1 << 16
CSV_BYTES = 1 << 22
MOST_TEXTS = 100_000
"""A column with more different texts than this names its rows."""

Progress = Callable[[float], object]
Blocks = Iterator[tuple[pa.RecordBatch, float]]
"""Rows, and the share of the file that is read with them."""


@dataclass
class Survey:
    """What a first pass over a file finds.

    Attributes:
        columns: names of all columns of numbers that the table becomes.
        low: ``(columns,)`` smallest value of each; NaN where it is empty.
        high: largest ones.
        rows: kept ones.
        anomalous: how many of these are anomalies.
        skipped: what is left out, and why.
    """

    columns: list[str]
    low: np.ndarray
    high: np.ndarray
    rows: int = 0
    anomalous: int = 0
    skipped: list[str] = field(default_factory=list)


class TableStream:
    """A table file, read from start to end as often as is asked for.

    Args:
        path: CSV, Parquet or npz.
        label: the label column; None looks for the usual names.
        missing: what to do about missing values.
        scratch: folder for what has to be unpacked.
        as_text: columns of text, whatever the file begins with.

    Raises:
        ValueError: the file can't be used.
    """

    def __init__(
        self, path: Path, label: str | None, missing: Missing, scratch: Path, as_text: Sequence[str] = ()
    ) -> None:
        self.path, self.missing, self.scratch, self.as_text = path, missing, scratch, as_text
        self.vocabularies: dict[str, Vocabulary] = {}
        first = next(self._batches(), None)
        if first is None or first[0].num_rows == 0:
            raise ValueError(f"{path} is empty: expected a header and at least one row")
        names = first[0].schema.names
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"{path} has several columns named {doubled}: rename them")
        of_npz = path.suffix.lower() == ".npz"
        self.label = ("y" if "y" in names else None) if of_npz else label_column(path, names, label)
        kinds = {n: parse_numbers(path, n, first[0].column(n)).dtype.kind for n in names if n != self.label}
        index = [n for n in INDEX_NAMES if kinds.get(n, "U") != "U"]
        self.skipped = without_index(path, index)
        self.texts = [n for n, kind in kinds.items() if kind == "U" or n in as_text]
        self.numbers = [n for n in kinds if n not in (*self.texts, *index)]

    def survey(self, progress: Progress) -> Survey:
        """A first pass over the file, a second one where it holds text.

        Args:
            progress: is told the share done, from 0 to 1.
        """
        self._read_vocabularies(progress)
        encoded = [c for name, vocabulary in self.vocabularies.items() for c in vocabulary.columns(name)]
        names = self.numbers + encoded
        if not names:
            raise ValueError(f"{self.path} has no column to learn from: expected numbers, or text of few categories")
        nothing = np.full(len(names), np.nan, np.float32)
        found = Survey(names, nothing, nothing)
        for values, labels in self.blocks(progress):
            if len(values):
                found.low = np.fmin(found.low, np.fmin.reduce(values, 0))
                found.high = np.fmax(found.high, np.fmax.reduce(values, 0))
                found.rows += len(values)
                found.anomalous += 0 if labels is None else int(labels.sum())
        if not found.rows:
            raise ValueError(f"{self.path}: every row has a missing value, nothing is left: set data.missing=impute")
        found.skipped = list(self.skipped)
        return found

    def blocks(self, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Rows as they are kept, ``(rows, columns)`` float32 with NaN where a value is missing, and their labels.

        Raises:
            ValueError: a block holds something else than the first one; file, row and column are named.
        """
        row, cells, dropped = 0, 0, 0
        for batch, share in self._batches():
            parts = [self._numbers(name, batch.column(name), row)[:, None] for name in self.numbers]
            parts += [v.encode(_texts(batch.column(name))) for name, v in self.vocabularies.items()]
            values = np.concatenate(parts, 1)
            labels = None if self.label is None else parse_labels(self.path, self.label, batch.column(self.label), row)
            bad = ~np.isfinite(values)
            rows = bad.any(1)
            if rows.any() and self.missing == "refuse":
                names = self.numbers + [c for n, v in self.vocabularies.items() for c in v.columns(n)]
                without_missing(Columns(self.path, names, values), "refuse", row)
            values[bad] = np.nan
            cells, dropped, row = cells + int(bad.sum()), dropped + int(rows.sum()), row + batch.num_rows
            if self.missing == "drop":
                values, labels = values[~rows], None if labels is None else labels[~rows]
            progress(share)
            yield values, labels
        self._tell_missing(cells, dropped)

    def columns(self) -> Iterator[tuple[Columns, float]]:
        """Rows with their texts, and the share of the file that is read with them; infinities are missing values.

        Raises:
            ValueError: a block holds something else than the first one; file, row and column are named.
        """
        row = 0
        for batch, share in self._batches():
            parts = [self._numbers(name, batch.column(name), row) for name in self.numbers]
            values = np.stack(parts, 1) if parts else np.zeros((batch.num_rows, 0), np.float32)
            values[~np.isfinite(values)] = np.nan
            labels = None if self.label is None else parse_labels(self.path, self.label, batch.column(self.label), row)
            text = {name: _texts(batch.column(name)) for name in self.texts}
            yield Columns(self.path, self.numbers, values, labels, text, first_row=row), share
            row += batch.num_rows

    def _tell_missing(self, cells: int, dropped: int) -> None:
        told = f"{self.path.name}: {cells} values missing or infinite, imputed"
        if self.missing == "drop":
            told = f"{self.path.name}: {dropped} rows dropped for a missing or infinite value"
        if cells and told not in self.skipped:
            self.skipped.append(told)

    def _numbers(self, name: str, column: pa.Array, row: int) -> np.ndarray:
        found = parse_numbers(self.path, name, column, row)
        if found.dtype.kind == "U":
            raise ValueError(
                f"{self.path}, column {name!r}: numbers at the start, text from about row {row + 1} on: mend them, or "
                "leave the cells empty where the value is missing"
            )
        return found

    def _read_vocabularies(self, progress: Progress) -> None:
        counts: dict[str, Counter[str]] = {name: Counter() for name in self.texts}
        for batch, share in self._batches() if counts else ():
            for name, counter in counts.items():
                if len(counter) <= MOST_TEXTS:
                    counter.update(_texts(batch.column(name)).tolist())
            progress(share)
        for name, counter in counts.items():
            vocabulary = None if len(counter) > MOST_TEXTS else Vocabulary.of(counter)
            if vocabulary is None:
                self.skipped.append(f"{self.path.name}: {identifies_rows(name, len(counter))}")
            else:
                self.vocabularies[name] = vocabulary

    def _batches(self) -> Blocks:
        suffix = self.path.suffix.lower()
        kind: Callable[[], Blocks] = {".npz": self._npz, ".csv": self._csv}.get(suffix, self._parquet)
        try:
            yield from kind()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            why = "is empty" if self.path.stat().st_size == 0 else f"can't be read ({type(error).__name__}: {error})"
            raise ValueError(f"{self.path} {why}: expected a header and rows of equal length, in UTF-8") from error

    def _csv(self) -> Blocks:
        size = self.path.stat().st_size
        options = csv.ReadOptions(block_size=CSV_BYTES)
        with csv.open_csv(self.path, options) as reader:
            schema = reader.schema
        # The first block tells numbers from text; whole numbers may yet turn out to be fractions.
        kinds = {f.name: pa.float64() if _is_whole_or_empty(f.type) else f.type for f in schema}
        kinds = {n: k if pa.types.is_floating(k) or pa.types.is_boolean(k) else pa.string() for n, k in kinds.items()}
        kinds |= {n: pa.string() for n in self.as_text if n in kinds}
        with csv.open_csv(self.path, options, convert_options=csv.ConvertOptions(column_types=kinds)) as reader:
            for i, batch in enumerate(reader):
                yield batch, min(1.0, (i + 1) * CSV_BYTES / size)

    def _parquet(self) -> Blocks:
        # Without a buffer of its own, or over several row groups in one go, pyarrow keeps what it has read.
        with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            total, done = max(1, file.metadata.num_rows), 0
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], use_threads=False):
                    done += batch.num_rows
                    yield batch, done / total

    def _npz(self) -> Blocks:
        x, y = check_arrays(self.path, map_arrays(self.path, (*SAMPLES, "y"), self.scratch))
        for start in range(0, len(x), ROWS):
            stop = min(start + ROWS, len(x))
            columns = {n: pa.array(x[start:stop, i]) for i, n in enumerate(number_names(x.shape[1]))}
            if y is not None:
                columns["y"] = pa.array(y[start:stop])
            yield pa.RecordBatch.from_pydict(columns), stop / len(x)


def _is_whole_or_empty(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_null(kind))


def _texts(column: pa.Array) -> np.ndarray:
    return np.array(["" if v is None else str(v) for v in column.to_pylist()], dtype=str)

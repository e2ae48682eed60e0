"""Where rows of a table come from: CSV, Parquet, DataFrames and numpy archives, each as blocks of Arrow columns."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from csv import Error as CsvError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from metaad_zoo.data.read.archive import SAMPLE_ARRAYS, map_archive, sample_array
from metaad_zoo.data.read.csv_dialect import DELIMITERS, HEAD_BYTES, Dialect, read_dialect

COLUMN_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".pq"})
"""Endings of files with named columns."""

TABLE_SUFFIXES = COLUMN_SUFFIXES | {".npz"}
ROWS = 1 << 16
MOST_COLUMNS = 30_000
"""Each column is read, checked and given a role by itself."""
CSV_BYTES = 1 << 22
NULLS = ["", "NA", "N/A", "#N/A", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "Null", "None", "<NA>", "n/a"]
"""Cells that stand for a missing value, as in pandas."""


@dataclass
class TableSource:
    """A place where rows come from, which can be gone through again and again.

    Attributes:
        path: the file, or what stands for it in messages.
        named: whether columns have names of their own.
        labelled: whether a column ``y`` of an archive holds labels.
        notes: how the file is written, where that is not the usual way.
    """

    path: Path
    named: bool = True
    labelled: bool = False
    notes: tuple[str, ...] = field(default_factory=tuple)

    def batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        """Rows, and the share that is read with them."""
        raise NotImplementedError

    def header(self) -> list[str]:
        """Names of the columns."""
        return list(next(iter(self.batches()))[0].schema.names)

    def close(self) -> None:
        """Let go of the file."""


def open_table(source: Any, series: bool) -> TableSource:
    """Open a file, once, or take a DataFrame, or what is open already.

    Args:
        source: see :class:`metaad_zoo.data.read.table.TableReader`.
        series: an archive's array may be ``(rows,)``.

    Raises:
        ValueError: it is missing, of another kind, empty or damaged; files are named.
    """
    if isinstance(source, TableSource):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ValueError(f"{path} {what}: expected a file ending in {', '.join(sorted(TABLE_SUFFIXES))}")
        suffix = path.suffix.lower()
        if suffix not in TABLE_SUFFIXES:
            raise ValueError(f"{path} ends in {suffix!r}: expected one of {', '.join(sorted(TABLE_SUFFIXES))}")
        if suffix == ".npz":
            return _Archive(path, series)
        return CsvSource(path) if suffix in (".csv", ".tsv") else _Parquet(path)
    if hasattr(source, "iloc") or hasattr(source, "__arrow_c_stream__"):
        return _Frame(source)
    raise ValueError(f"expected a file or a DataFrame, saw {type(source).__name__}")


class SharedFile:
    """A file that is open once and read by any number of views, each at a position of its own.

    pyarrow reads ahead in threads that may outlive the reader that started them; on one shared position they would
    take bytes from the next reader.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._lock = path.open("rb"), Lock()

    def read_at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position on, all if it is negative; none once the file is closed."""
        with self._lock:
            if self._file.closed:
                return b""
            self._file.seek(position)
            return self._file.read(size)

    def size(self) -> int:
        """Size in bytes."""
        with self._lock:
            return self._file.seek(0, io.SEEK_END)

    def close(self) -> None:
        """Close the file for all views."""
        with self._lock:
            self._file.close()


class View(io.RawIOBase):
    """A shared file from its start, with a position of its own; closing it leaves the file open."""

    def __init__(self, file: SharedFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def read(self, size: int | None = -1) -> bytes:
        content = self._file.read_at(self._position, -1 if size is None else size)
        self._position += len(content)
        return content

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}
        self._position = offset + (start[whence] if whence in start else self._file.size())
        return self._position

    def tell(self) -> int:
        return self._position


class CsvSource(TableSource):
    """A CSV file; cells come as texts, empty ones as nulls."""

    def __init__(self, path: Path) -> None:
        self._file = SharedFile(path)
        try:
            head = self._file.read_at(0, HEAD_BYTES)
            line = head.partition(b"\n")[0]
            refuse_wide(path, max(line.count(delimiter.encode()) for delimiter in DELIMITERS) + 1)
            if len(line) == HEAD_BYTES and b"\r" not in line:
                raise ValueError(f"{path}: the first line is longer than {HEAD_BYTES:,} bytes: expected a header")
            self.dialect: Dialect = read_dialect(path, head)
        except ValueError:
            self._file.close()
            raise
        except CsvError as error:
            self._file.close()
            raise ValueError(f"{path} can't be read as CSV ({error}): expected a header and rows of cells") from error
        super().__init__(path, notes=self.dialect.notes)

    def batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        size = max(1, self.path.stat().st_size)
        try:
            names = self.header()
            # As text, so that all blocks are read in the same way, independently of the first one.
            kinds = csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=NULLS
            )
            reading, parsing = self._options()
            with csv.open_csv(View(self._file), reading, parsing, kinds) as reader:
                for i, batch in enumerate(reader):
                    yield batch, min(1.0, (i + 1) * CSV_BYTES / size)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeError) as error:
            raise ValueError(
                f"{self.path} can't be read ({type(error).__name__}: {error}): expected a header and rows of equal "
                f"length, in {self.dialect.encoding.upper()}; save it as CSV UTF-8"
            ) from error

    def _options(self) -> tuple[csv.ReadOptions, csv.ParseOptions]:
        names = None if self.dialect.names is None else list(self.dialect.names)
        reading = csv.ReadOptions(block_size=CSV_BYTES, encoding=self.dialect.encoding, column_names=names)
        return reading, csv.ParseOptions(delimiter=self.dialect.delimiter, newlines_in_values=True)

    def header(self) -> list[str]:
        with csv.open_csv(View(self._file), *self._options()) as reader:
            return list(reader.schema.names)

    def close(self) -> None:
        self._file.close()


class _Parquet(TableSource):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = SharedFile(path)

    def batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        try:
            # Without a buffer of its own, or over several row groups in one go, pyarrow keeps what it has read.
            reading = {"pre_buffer": False, "buffer_size": 1 << 20, "page_checksum_verification": True}
            with parquet.ParquetFile(View(self._file), **reading) as file:
                metadata, schema = file.metadata, file.schema_arrow
            # A text that stands in many rows is held once, as in the file.
            texts = [column.name for column in schema if column.type in (pa.string(), pa.large_string())]
            with parquet.ParquetFile(View(self._file), metadata=metadata, read_dictionary=texts, **reading) as file:
                total, done = max(1, file.metadata.num_rows), 0
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], use_threads=False):
                        batch.validate(full=True)  # text that is no UTF-8, places outside of a buffer
                        done += batch.num_rows
                        yield batch, done / total
        except (pa.ArrowException, OSError, UnicodeError, OverflowError) as error:
            raise ValueError(f"{self.path} can't be read as Parquet ({type(error).__name__}: {error})") from error

    def close(self) -> None:
        self._file.close()


def _text(column: str, value: Any) -> str:
    """A value of a column of objects as its text, as a CSV file holds it."""
    if isinstance(value, (list, tuple, dict, set, bytes, np.ndarray)):
        raise ValueError(f"the DataFrame, column {column!r}: expected numbers or text, saw {type(value).__name__}")
    return str(value)


def refuse_doubled(path: Path, names: list[str]) -> None:
    """Refuse two columns of one name.

    Raises:
        ValueError: as said.
    """
    doubled = sorted(name for name, n in Counter(names).items() if n > 1)
    if doubled:
        raise ValueError(f"{path} has several columns named {doubled[:10]}: rename them")


def refuse_wide(path: Path, columns: int) -> None:
    """Refuse more than :data:`MOST_COLUMNS` columns, which would take minutes.

    Args:
        path: the file.
        columns: number of columns, or of those in the part of the header that was read.

    Raises:
        ValueError: as said.
    """
    if columns > MOST_COLUMNS:
        raise ValueError(
            f"{path} has {columns:,} columns or more, expected at most {MOST_COLUMNS:,}: keep those that matter, or "
            "give arrays in Python"
        )


class _Frame(TableSource):
    def __init__(self, frame: Any) -> None:
        super().__init__(Path("the DataFrame"))
        try:
            if hasattr(frame, "to_frame"):  # a Series is a table of one column
                frame = frame.to_frame()
            if hasattr(frame, "iloc"):  # pandas: an index with values of its own is a column, as in its CSV
                names = [str(c) for c in frame.columns]
                refuse_doubled(self.path, names)
                frame = frame.set_axis(names, axis=1)
                mixed = [
                    c
                    for c, kind in zip(frame.columns, frame.dtypes, strict=True)
                    if kind.kind == "O" and not hasattr(kind, "na_value")
                ]
                texts = {c: frame[c].map(partial(_text, c), na_action="ignore") for c in mixed}
                self._table = pa.Table.from_pandas(frame.assign(**texts))
            else:
                self._table = pa.table(frame)
        except (pa.ArrowException, TypeError) as error:
            raise ValueError(
                f"the DataFrame holds columns that mix kinds of values ({error}): give each numbers or text alone"
            ) from error

    def batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        done, total = 0, max(1, self._table.num_rows)
        for batch in self._table.combine_chunks().to_batches():
            done += batch.num_rows
            yield batch, done / total


class _Archive(TableSource):
    def __init__(self, path: Path, series: bool) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        try:
            arrays = map_archive(path, (*SAMPLE_ARRAYS, "y"), Path(self._scratch.name))
            self._x, self._y = _two_axes(path, sample_array(path, arrays), series), arrays.get("y")
            if self._y is not None and not _are_labels(self._y, len(self._x)):
                raise ValueError(
                    f"{path}: expected 'y' as {len(self._x)} labels 0 (normal) and 1 (anomalous), saw {self._y.dtype} "
                    f"of shape {self._y.shape} with values {self._y.ravel()[:9]}"
                )
        except BaseException:
            self._scratch.cleanup()
            raise
        super().__init__(path, named=False, labelled=self._y is not None)

    def batches(self) -> Iterator[tuple[pa.RecordBatch, float]]:
        return _array_batches(self._x, self._y)

    def close(self) -> None:
        self._scratch.cleanup()


def _are_labels(y: np.ndarray, n: int) -> bool:
    return y.shape == (n,) and y.dtype.kind in "biuf" and bool(np.isin(y, (0, 1)).all())


def _two_axes(path: Path, x: np.ndarray, series: bool) -> np.ndarray:
    if series and x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2 or 0 in x.shape:
        expected = "a series of shape (T,) or (T, C)" if series else "table rows of shape (n, D)"
        raise ValueError(f"{path}: expected {expected}, saw {x.shape}")
    return x


def _array_batches(x: np.ndarray, y: np.ndarray | None) -> Iterator[tuple[pa.RecordBatch, float]]:
    for start in range(0, len(x), ROWS):
        stop = min(start + ROWS, len(x))
        columns = {f"f{i}": pa.array(np.asarray(x[start:stop, i], np.float64)) for i in range(x.shape[1])}
        if y is not None:
            columns["y"] = pa.array(np.asarray(y[start:stop], np.int64))
        yield pa.RecordBatch.from_pydict(columns), stop / len(x)

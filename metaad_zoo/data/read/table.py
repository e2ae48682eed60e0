"""The reader of tables: CSV, Parquet, DataFrames and numpy archives, in memory or block by block.

A file is opened once. Values are float64; a missing value is NaN. Which columns are features is decided by
:mod:`metaad_zoo.data.read.roles`; what is left out, guessed or changed stands in the reader's account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.cells import cell_texts, is_number_type, numbers_of, numbers_of_texts, seconds_of, texts_of
from metaad_zoo.data.read.csv_dialect import decimal_separator, is_number
from metaad_zoo.data.read.labels import is_label_name, parse_labels
from metaad_zoo.data.read.matching import carried_columns, column_order
from metaad_zoo.data.read.memory import refuse_large
from metaad_zoo.data.read.roles import (
    USUAL_OPTIONS,
    ColumnFacts,
    ColumnOptions,
    Schema,
    decide_roles,
    is_time_name,
)
from metaad_zoo.data.read.row_block import Rows, chosen_rows, joined_rows
from metaad_zoo.data.read.table_sources import TABLE_SUFFIXES, CsvSource, open_table, refuse_doubled, refuse_wide
from metaad_zoo.data.read.times import as_seconds

LARGEST = float(np.finfo(np.float32).max)
"""Larger numbers are seldom measured: they stand for an overflow or a missing value."""
MOSTLY_NUMBERS = 0.5
"""A column of which at least this share are numbers is a column of numbers, in which text is a mistake."""

Progress = Callable[[float], object]


@dataclass
class RawBlock:
    """Successive rows, by column: float64 for numbers and times (in seconds), texts otherwise.

    Attributes:
        columns: values of each column, by its name.
        first_row: how many rows of the source lie before these.
        done: share of the source that is read with these, from 0 to 1.
    """

    columns: dict[str, np.ndarray]
    first_row: int
    done: float

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


class TableReader:
    """Rows of one table.

    Args:
        source: a CSV, Parquet or ``.npz`` file (``X``, and ``y`` of 0 and 1), or a DataFrame (of pandas, or any with
            Arrow's interface).
        options: what the user says of the columns.
        schema: schema of the domain that the rows are brought to, not used for archives; None decides it from this
            source.
        series: rows are time steps: text is left out, and one channel may be ``(rows,)``.
        account: account to add to; None begins one.
        as_text: columns that are always read as text.
        special: columns whose meaning the caller knows; they are no features, and may be missing.
        carry: keep columns that are no features, such as times and identifiers, as texts; of data to be scored.

    Attributes:
        account: what is left out, guessed or changed; complete when all rows are read.
        named: whether columns have names of their own (files with a header, DataFrames).

    Raises:
        ValueError: the source is missing, empty or damaged, or two columns have one name; files are named.

    Example:
        >>> import pandas as pd
        >>> reader = TableReader(pd.DataFrame({"a": [1.5, 2.0, 0.5], "id": [7, 8, 9], "label": [0, 0, 0]}))
        >>> reader.rows().values.ravel(), list(reader.account)[1]
        (array([1.5, 2. , 0.5]), "the DataFrame: 'id' left out: an identifier")
    """

    def __init__(
        self,
        source: Any,
        options: ColumnOptions = USUAL_OPTIONS,
        schema: Schema | None = None,
        account: Account | None = None,
        *,
        series: bool = False,
        as_text: Sequence[str] = (),
        special: Sequence[str] = (),
        carry: bool = False,
    ) -> None:
        self.options, self.series, self.as_text, self.special = options, series, tuple(as_text), tuple(special)
        self.account = Account() if account is None else account
        self._facts: dict[str, ColumnFacts] = {}
        self._source = open_table(source, series)
        self.path, self.named = self._source.path, self._source.named
        if not self.named and options.named:
            self.close()
            raise ValueError(
                f"{self.path}: the columns of an archive have no names, saw options for {options.named}: leave these "
                "options out, or give a CSV or Parquet file"
            )
        self._schema = schema if self.named or schema is None else self._schema_of_archive()
        # Columns that are left out may hold cells that can't be read, as may labels of data to be scored.
        of_domain: tuple[str, ...] = ()
        if self._schema is not None:
            label = options.label or self._schema.label
            of_domain = tuple(name for name in self._schema.ignored if name != label)
            self.as_text += () if label is None else (label,)
        self._unread = {*options.ignore, *of_domain} - {*special}
        self._decimal = options.decimal
        self._labels_are_unreadable = False
        self._carry, self._carried = carry and schema is not None and not series, tuple[str, ...]()
        self._names: list[str] = []
        for note in self._source.notes:
            self.account.add("guessed" if "header" in note else "changed", self.path.name, note)

    def __enter__(self) -> TableReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    @property
    def schema(self) -> Schema:
        """Roles of the columns; decided by :meth:`rows` or :meth:`survey`, unless it was given.

        Raises:
            RuntimeError: neither was called.
        """
        if self._schema is None:
            raise RuntimeError("the columns are not read yet: call rows() or survey() first")
        return self._schema

    @property
    def time_column(self) -> str | None:
        """The column of times: the schema's, or where it is missing, another one that holds times."""
        schema = self.schema
        if self._facts or schema.time in self._kinds:
            return schema.time
        unread = self._kinds.keys() - {*schema.numbers, *schema.categories, *self._unread, *self.as_text}
        times = {n for n in unread if self._kinds[n] == "time" or (self._kinds[n] == "number" and is_time_name(n))}
        return next((n for n in self._kinds if n in times), None)

    @property
    def in_seconds(self) -> bool:
        """Whether times are dates, and so in seconds, instead of numbers in a unit of their own."""
        return self._kinds.get(self.time_column or "") == "time"

    @property
    def facts(self) -> dict[str, ColumnFacts]:
        """Facts about each column, if this reader decided the schema."""
        return self._facts

    def raw(self, progress: Progress = lambda _: None) -> Iterator[RawBlock]:
        """Blocks of all columns as they are, before any has a role.

        Raises:
            ValueError: a block can't be read, or holds text where the first one has numbers; file, row and column are
                named.
        """
        row = 0
        # A category such as 007 stays a text, even where a block holds no others.
        kinds = {} if self._schema is None else dict.fromkeys(self._schema.categories, "text")
        for batch, done in self._source.batches():
            names = [str(n) for n in batch.schema.names]
            if row == 0:
                self._check_names(names)
                self._choose_carried(names)
                self._choose_decimal(names, batch)
            columns = {}
            for name, column in zip(names, batch.columns, strict=True):
                values, kind = self._parse(name, column, row, kinds.get(name))
                kinds.setdefault(name, kind)
                columns[name] = values
            if row == 0:
                self._kinds = dict(kinds)
            yield RawBlock(columns, row, done)
            row += batch.num_rows
            progress(done)
        if row == 0:
            raise ValueError(f"{self.path} is empty: expected a header and at least one row")

    def _choose_carried(self, names: Sequence[str]) -> None:
        if self._carry:
            self._carried = carried_columns(names, self.schema, self.options)
            self.as_text += self._carried
            self._unread -= {*self._carried}

    def survey(self, progress: Progress = lambda _: None, to_hold: bool = False) -> Schema:
        """Decide the columns' roles in a pass over all rows, without holding them.

        Args:
            progress: called with the share of the rows that is read.
            to_hold: whether all rows will be held in memory, and so must not take more than the limit.

        Raises:
            ValueError: see :meth:`raw` and :func:`metaad_zoo.data.read.roles.decide_roles`; or the rows are too large.
        """
        size = 0
        for block in self.raw(progress):
            size += sum(values.nbytes for values in block.columns.values())
            if to_hold:
                refuse_large(str(self.path), size)
            self._note_facts(block)
        return self._decide()

    def rows(self) -> Rows:
        """All rows, in memory.

        Raises:
            ValueError: see :meth:`survey` and :meth:`blocks`.
        """
        blocks = []
        for block in self.raw():
            if self._schema is None:
                self._note_facts(block)
            blocks.append(block)
        if self._schema is None:
            self._decide()
        return joined_rows(list(self._encode(iter(blocks))))

    def blocks(self, progress: Progress = lambda _: None) -> Iterator[Rows]:
        """Blocks of rows by the schema, which must be there.

        Raises:
            ValueError: columns are not the schema's, a value can't be read, or is missing and was to be refused.
        """
        return self._encode(self.raw(progress))

    def _note_facts(self, block: RawBlock) -> None:
        for name, values in block.columns.items():
            fact = self._facts.setdefault(name, ColumnFacts(self._kinds[name]))  # type: ignore[arg-type]
            with np.errstate(over="ignore", invalid="ignore"):  # of numbers such as 1e308
                fact.update(values)

    def _decide(self) -> Schema:
        if self.named:
            facts = {name: fact for name, fact in self._facts.items() if name not in self.special}
            self._schema = decide_roles(
                self.path, facts, self.options, self.account, self.series, may_be_none=len(facts) < len(self._facts)
            )
        else:
            self._schema = self._schema_of_archive()
        return self._schema

    def _schema_of_archive(self) -> Schema:
        """All columns but labels are features; those of another domain are matched by position, as those of arrays."""
        label = "y" if self._source.labelled else None
        return Schema(tuple(n for n in self._source.header() if n != label), label=label)

    def _check_names(self, names: list[str]) -> None:
        refuse_doubled(self.path, names)
        if not names:
            raise ValueError(f"{self.path} has no columns: expected a header and at least one row")
        refuse_wide(self.path, len(names))
        self._names = names

    def _choose_decimal(self, names: list[str], batch: pa.RecordBatch) -> None:
        if self._decimal is not None or not isinstance(self._source, CsvSource):
            return
        cells = {
            name: np.array([v for v in column.to_pylist() if v], dtype=str)
            for name, column in zip(names, batch.columns, strict=True)
            if name not in {*self.as_text, *self._unread} and pc.any(pc.match_substring(column, ",")).as_py()
        }
        self._decimal = decimal_separator(self.path, self._source.dialect.delimiter, cells)
        if self._decimal is not None:
            how = "numbers have decimal commas" if self._decimal == "," else "commas separate thousands"
            self.account.add("guessed", self.path.name, f"{how} (--decimal says otherwise)")

    def _parse(self, name: str, column: pa.Array, row: int, kind: str | None) -> tuple[np.ndarray, str]:
        """Values of a column of a block, and its kind: number, text or time."""
        if name in self._unread:
            return np.full(len(column), np.nan), "number"
        if pa.types.is_dictionary(column.type):
            self._refuse_long(name, column.dictionary, len(column))
            column = column.cast(column.type.value_type)
        if name in self.as_text:
            return self._texts(name, column), "text"
        if pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type):
            return seconds_of(column), "time"
        if is_number_type(column.type):
            return self._finite(name, numbers_of(column.cast(pa.float64(), safe=False)))
        if pa.types.is_duration(column.type):
            return seconds_of(column), "number"
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            raise ValueError(
                f"{self.path}, column {name!r}: expected numbers or text, saw values of type {column.type}"
            )
        if kind == "text":
            return self._texts(name, column), kind
        if kind != "time" and self._decimal is None:  # the fast way, for columns of nothing but numbers
            try:
                numbers = pc.utf8_trim_whitespace(column.cast(pa.string())).cast(pa.float64())
                return self._finite(name, numbers_of(numbers))
            except pa.ArrowInvalid:
                pass
        return self._parse_text(name, self._texts(name, column), row, kind)

    def _texts(self, name: str, column: pa.Array) -> np.ndarray:
        self._refuse_long(name, column, len(column))
        return texts_of(column)

    def _refuse_long(self, name: str, texts: pa.Array, rows: int) -> None:
        """Refuse texts that take too much memory: each takes as much as the longest one."""
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            longest = pc.max(pc.binary_length(texts)).as_py() or 0
            refuse_large(f"{self.path}, column {name!r} with a text of {longest:,} bytes,", 4 * longest * rows)

    def _finite(self, name: str, values: np.ndarray) -> tuple[np.ndarray, str]:
        infinite = np.isinf(values)
        if infinite.any():
            values = np.where(infinite, np.nan, values)
            self.account.add("changed", self.path.name, "infinite values are read as missing", [name])
        if values.size and np.fmax.reduce(np.abs(values)) > LARGEST:
            reason = f"as it is, with values beyond {LARGEST:.1e}, which may stand for an overflow"
            self.account.add("guessed", self.path.name, reason, [name])
        return values, "number"

    def _parse_text(self, name: str, texts: np.ndarray, row: int, kind: str | None) -> tuple[np.ndarray, str]:
        filled = texts != ""
        cells = texts[filled].tolist()
        if kind in (None, "time") and cells:
            try:
                values = np.full(len(texts), np.nan)
                values[filled] = as_seconds(cells)
                return values, "time"
            except ValueError as error:
                if kind == "time":
                    raise ValueError(
                        f"{self.path}, column {name!r}, rows from {row + 1} on: expected times in ISO 8601, as in the "
                        f"rows before ({error}): mend them, or leave out the column by --ignore {name}"
                    ) from error
        numbers, wrong = numbers_of_texts(cells, self._decimal)
        otherwise = self._decimal is not None and any(is_number(cells[i]) for i in wrong)
        if len(wrong) > (1 - MOSTLY_NUMBERS) * len(cells) and kind is None and not otherwise:
            return texts, "text"
        if len(wrong):
            at = np.flatnonzero(filled)[wrong[0]]
            raise ValueError(
                f"{self.path}, column {name!r}, row {row + at + 1}: expected numbers"
                f"{f' with the decimal separator {self._decimal!r}' if otherwise else ''}, saw {str(texts[at])!r} "
                f"({len(wrong)} such rows): mend them, leave the cells empty where the value is missing, or leave out "
                f"the column by --ignore {name}"
            )
        values = np.full(len(texts), np.nan)
        values[filled] = numbers
        return self._finite(name, values)

    def _encode(self, blocks: Iterator[RawBlock]) -> Iterator[Rows]:
        schema, checked = self.schema, False
        cells, dropped, n_rows, unlabelled = 0, 0, 0, 0
        filled = np.zeros(len(schema.features), bool)
        for block in blocks:
            if not checked and self.named:
                self._check_columns(block, schema)
            checked = True
            rows = self._encoded(block, schema)
            bad = np.isnan(rows.values)
            incomplete = bad.any(1)
            if incomplete.any() and self.options.missing == "refuse":
                row, column = np.argwhere(bad)[0]
                raise ValueError(
                    f"{self.path}, row {block.first_row + row + 1}, column {schema.features[column]!r}: the value is "
                    f"missing or infinite ({int(incomplete.sum())} such rows near it): mend them, or set data.missing "
                    "to drop or impute"
                )
            if self.options.missing == "drop":
                dropped += int(incomplete.sum())
                rows = chosen_rows(rows, ~incomplete)
            cells, n_rows = cells + int(bad.sum()), n_rows + len(rows.values)
            filled |= ~bad.all(0)
            unlabelled += 0 if rows.labels is None or not self._facts else int((rows.labels < 0).sum())
            yield rows
        if not n_rows:
            raise ValueError(f"{self.path}: every row has a missing value, nothing is left: set data.missing=impute")
        if not self._facts and not filled.all():
            empty = [name for name, has_value in zip(schema.features, filled, strict=True) if not has_value]
            self.account.add("guessed", self.path.name, "as missing throughout, although the support has values", empty)
        if unlabelled:
            self.account.add("guessed", self.path.name, f"{unlabelled} rows have no label: they count as unlabelled")
        if dropped:
            self.account.add("left out", self.path.name, f"{dropped} rows with a missing or infinite value are dropped")
        elif cells:
            self.account.add("changed", self.path.name, f"{cells} values are missing or infinite; they are imputed")

    def _check_columns(self, block: RawBlock, schema: Schema) -> None:
        if self._facts:  # the schema is this source's own
            return
        skip = {*self.options.ignore, self.options.label, *self.special}
        kinds = {n: self._kinds[n] for n in block.columns if n not in skip}
        column_order(self.path, kinds, schema, self.account, self.series)
        texts = [n for n in schema.numbers if self._kinds[n] != "number"]
        if texts:
            raise ValueError(
                f"{self.path}: columns {texts[:10]} hold text or times, but held numbers in the support set: mend "
                "them, or leave cells empty where the value is missing"
            )

    def _encoded(self, block: RawBlock, schema: Schema) -> Rows:
        parts = [block.columns[name][:, None] for name in schema.numbers]
        for name, vocabulary in schema.categories.items():
            parts.append(vocabulary.encode(np.array(cell_texts(block.columns[name]), str)))
        n = len(block)
        values = np.concatenate(parts, 1) if parts else np.zeros((n, 0))
        labels = self._labels(block, schema)
        time = self.time_column
        times = None if time is None or time in self._carried else block.columns[time]
        if times is not None and times.dtype.kind != "f":
            raise ValueError(
                f"{self.path}, column {time!r}: expected times (ISO 8601, or numbers), saw {str(times[0])!r}"
            )
        numbers = block.first_row + 1 + np.arange(n)
        special = {name: block.columns[name] for name in self.special if name in block.columns}
        special |= {name: np.array(cell_texts(block.columns[name])) for name in self._carried}
        return Rows(values, labels, times, numbers, block.done, special)

    def _labels(self, block: RawBlock, schema: Schema) -> np.ndarray | None:
        """Labels of a block; of data to be scored, where they only serve figures, None if they can't be read."""
        label = self.options.label or schema.label
        if self._facts:
            texts = None if label is None else cell_texts(block.columns[label])
            return None if label is None or texts is None else parse_labels(self.path, label, texts, block.first_row)
        label_names = (n for n in block.columns if is_label_name(n) and not (self.series and n.lower() == "y"))
        names = [n for n in (label, *label_names) if n in block.columns and n not in schema.features]
        if not names or self._labels_are_unreadable:
            return None
        try:
            return parse_labels(self.path, names[0], cell_texts(block.columns[names[0]]), block.first_row)
        except ValueError:
            self._labels_are_unreadable = True
            reason = "no labels of 0 and 1, or words for them: scores are not compared with it"
            self.account.add("left out", self.path.name, reason, [names[0]])
            return None


def compact(values: np.ndarray) -> np.ndarray:
    """Values ``(rows, D)`` as float32, or as float64 where float32 would blur the spread of a column.

    Example:
        >>> compact(np.array([[0.5], [1.5]])).dtype, compact(np.array([[1e9], [1e9 + 1]])).dtype
        (dtype('float32'), dtype('float64'))
    """
    if values.dtype != np.float64:
        return values.astype(np.float32)
    low, high = np.fmin.reduce(values, 0), np.fmax.reduce(values, 0)
    return values if needs_float64(low, high) else values.astype(np.float32)


def needs_float64(low: np.ndarray, high: np.ndarray) -> bool:
    """Whether float32 is too coarse for columns with these smallest and largest values (NaN where one is empty)."""
    rounding = np.finfo(np.float32).eps * np.fmax(np.abs(low), np.abs(high))
    return bool((rounding > 1e-4 * (high - low))[high > low].any()) or bool((np.fmax(abs(low), abs(high)) > 3e38).any())


def table_files(root: str | Path | Sequence[str | Path]) -> list[Path]:
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
        raise ValueError(f"several files are named {doubled}, which name the domains: rename them")
    return files

"""The reader of series: a row a time step, a column a channel; pieces between gaps, in memory or block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions, Schema
from metaad_zoo.data.read.row_block import Rows, joined_rows
from metaad_zoo.data.read.table import TableReader
from metaad_zoo.data.read.table_sources import TABLE_SUFFIXES
from metaad_zoo.data.read.times import clock_times, gap_length, usual_step

RATE_FACTOR = 1.5
"""Steps that differ from the support's by more than this factor are reported."""


@dataclass
class Piece:
    """Successive steps of a series.

    Attributes:
        values: ``(steps, C)`` float64; NaN where a value is missing.
        labels: ``(steps,)`` of 0, 1 and -1, or None.
        times: ``(steps,)``, or None.
        start: position of the first step in the series, from 0.
        continues: whether it starts where the previous piece ended; else there is a gap between them.
        done: share of the series that is read with it, from 0 to 1.
        in_seconds: whether times are seconds since 1970 instead of numbers in a unit of their own.
    """

    values: np.ndarray
    labels: np.ndarray | None
    times: np.ndarray | None
    start: int
    continues: bool
    done: float
    in_seconds: bool = False


class SeriesReader:
    """One series out of a CSV, Parquet or ``.npz`` file or a DataFrame.

    Args:
        source: the series, as :class:`metaad_zoo.data.read.table.TableReader` takes it.
        options: what the user says of the columns.
        schema: schema of the domain that the series belongs to; None decides it from this source.
        account: account to add to; None begins one.

    Attributes:
        account: what is left out, guessed or changed, gaps and other steps than the domain's among it.

    Raises:
        ValueError: as for :class:`~metaad_zoo.data.read.table.TableReader`.
    """

    def __init__(
        self,
        source: Any,
        options: ColumnOptions = USUAL_OPTIONS,
        schema: Schema | None = None,
        account: Account | None = None,
    ) -> None:
        self._table = TableReader(source, options, schema, account, series=True)
        self.path, self.account = self._table.path, self._table.account
        self._given = schema
        self.step: float | None = None
        self._gap = np.inf
        self._last = -np.inf
        self._is_one_sample = False

    def __enter__(self) -> SeriesReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    @property
    def named(self) -> bool:
        """Whether channels have names of their own."""
        return self._table.named

    @property
    def schema(self) -> Schema:
        """Roles of the columns, and the usual step."""
        return replace(self._table.schema, step=self.step) if self._given is None else self._given

    def whole(self, one_sample: bool = False) -> tuple[Rows, list[int]]:
        """The series in memory, and the positions at which it continues after a gap.

        Args:
            one_sample: whether the series is read as one sample, across its gaps, instead of cut into windows; the
                account then says so.

        Raises:
            ValueError: rows are out of time order; see also :class:`~metaad_zoo.data.read.table.TableReader`.
        """
        self._is_one_sample = one_sample
        pieces = list(self.pieces())
        breaks = [p.start for p in pieces if not p.continues and p.start]
        rows = [Rows(p.values, p.labels, p.times, p.start + 1 + np.arange(len(p.values))) for p in pieces]
        return joined_rows(rows), breaks

    def pieces(self) -> Iterator[Piece]:
        """The series from start to end, cut where blocks of the file end and where there are gaps.

        Raises:
            ValueError: as for :meth:`whole`.
        """
        start = 0
        if self._given is None:
            self._table.survey(to_hold=True)
        for rows in self._table.blocks():
            breaks = self._follow(rows)
            for a, b in zip([0, *breaks], [*breaks, len(rows.values)], strict=True):
                if a == b:
                    continue
                labels = None if rows.labels is None else rows.labels[a:b]
                times = None if rows.times is None else rows.times[a:b]
                share = rows.done if b == len(rows.values) else 0.0
                goes_on, seconds = start > 0 and a not in breaks, self._table.in_seconds
                yield Piece(rows.values[a:b], labels, times, start + a, goes_on, share, seconds)
            start += len(rows.values)

    def _follow(self, rows: Rows) -> list[int]:
        """Positions in the block at which the series continues after a gap; refuses rows out of order."""
        if rows.times is None or not len(rows.times):
            return []
        times = rows.times
        if np.isnan(times).any():
            row = rows.numbers[np.flatnonzero(np.isnan(times))[0]]
            raise ValueError(
                f"{self.path}, row {row}, column {self._table.time_column!r}: the time is missing: fill it in, remove "
                f"the row, or leave out the column by --ignore {self._table.time_column!r}"
            )
        steps = np.diff(times, prepend=self._last)
        self._refuse_back(rows, steps)
        same = int((steps == 0).sum())
        if same:
            self.account.add("guessed", self.path.name, f"{same} rows have the time of the row before them")
        if self.step is None:
            self._learn_step(times)
        first = 0 if np.isfinite(self._last) else 1
        self._last = float(times[-1])
        gaps = [int(i) for i in np.flatnonzero(steps > self._gap) if i >= first]
        if gaps and self._is_one_sample:
            reason = "the times have gaps, which are read as single steps: each series is one sample"
            self.account.add("guessed", self.path.name, reason)
            return gaps
        for i in gaps:
            gap = f"windows across the gap of {self._readable(steps[i])} before row {rows.numbers[i]}"
            unit = " s" if self._table.in_seconds else ""
            self.account.add("left out", self.path.name, f"more than {self._gap:g}{unit} from row to row", [gap])
        return gaps

    def _readable(self, duration: float) -> str:
        return _readable(duration) if self._table.in_seconds else f"{duration:g}"

    def _learn_step(self, times: np.ndarray) -> None:
        step = usual_step(times)
        if np.isnan(step):
            return
        self.step, self._gap = step, gap_length(times)
        usual = None if self._given is None else self._given.step
        if usual and max(step / usual, usual / step) > RATE_FACTOR:
            self.account.add(
                "guessed",
                self.path.name,
                f"steps are {self._readable(step)} long, those of the support {self._readable(usual)}: scores may be "
                "wrong; resample the series to the support's steps, or adapt again",
            )

    def _refuse_back(self, rows: Rows, steps: np.ndarray) -> None:
        back = np.flatnonzero(steps < 0)
        if not len(back):
            return
        i, name = back[0], self._table.time_column
        clock = 1800 <= -steps[i] <= 7200 and self._table.in_seconds
        why = (
            "as when clocks are put back at the end of summer time: give times in UTC or with a zone (2024-10-27 "
            "02:00:00+01:00)"
            if clock
            else "but windows are cut in the order of the rows: sort the rows by time"
        )
        raise ValueError(
            f"{self.path}, row {rows.numbers[i]}: column {name!r} goes back by {self._readable(-steps[i])}, {why}, "
            f"or leave the column out by --ignore {name!r}"
        )


def _readable(seconds: float) -> str:
    """A length of time in words.

    Example:
        >>> _readable(60), _readable(345660), _readable(0.5)
        ('60 s', '345660 s (4.0 days)', '0.5 s')
    """
    if seconds < 7200:
        return f"{seconds:g} s"
    return (
        f"{seconds:.0f} s ({seconds / 3600:.1f} hours)"
        if seconds < 172800
        else (f"{seconds:.0f} s ({seconds / 86400:.1f} days)")
    )


def series_files(path: Path) -> list[Path]:
    """The series that a path stands for: itself, or the CSV, Parquet and ``.npz`` files directly inside a folder.

    Raises:
        ValueError: the path does not exist, or the folder holds none.
    """
    if path.is_file():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in TABLE_SUFFIXES) if path.is_dir() else []
    files = [f for f in files if not f.name.startswith(".")]
    if not files:
        what = "holds no series directly in it" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}: expected files ending in {', '.join(sorted(TABLE_SUFFIXES))}")
    return files


def cut_windows(series: np.ndarray, length: int, name: str = "the series") -> np.ndarray:
    """``(T, C)`` to ``(T // length, length, C)``: windows one behind the other; with length -1 the whole as one.

    Raises:
        ValueError: the series is shorter than a window.
    """
    if length == -1:
        return series[None]
    if len(series) < length:
        raise ValueError(f"{name} has {len(series)} steps, but this model reads windows of {length}: give a longer one")
    n = len(series) // length
    return series[: n * length].reshape(n, length, -1)


@dataclass
class Windows:
    """Windows of a series, one behind the other, between its gaps.

    Attributes:
        values: ``(n, length, C)`` float64.
        labels: ``(n,)``: 1 where a step is anomalous, else 0 (-1 where all are unknown); None without labels.
        starts: position of each window's first step in the series.
        times: ``(n, length)`` times of the steps, see :func:`metaad_zoo.data.read.times.clock_times`; None without
            times.
        after_gap: ``(n,)`` booleans: whether the series has a gap before the window; None where gaps are read across.
        done: share of the series that is read with them.
    """

    values: np.ndarray
    labels: np.ndarray | None
    starts: list[int]
    done: float
    times: np.ndarray | None = None
    after_gap: np.ndarray | None = None


def windows_of(reader: SeriesReader, length: int) -> Iterator[Windows]:
    """Cut a series into windows, in memory for a block at a time.

    Args:
        reader: reader of the series; its account records steps that fill no window.
        length: steps of a window; -1 takes the whole series as one.

    Raises:
        ValueError: no part of the series between gaps is as long as a window.
    """
    if length == -1:
        rows, _ = reader.whole(one_sample=True)
        yield Windows(rows.values[None], _window_labels(rows.labels, 1, len(rows.values)), [0], 1.0)
        return
    held: list[Piece] = []
    total = unused = cut = 0
    for piece in reader.pieces():
        total += len(piece.values)
        if not piece.continues:
            unused, held = unused + sum(len(p.values) for p in held), []
        held.append(piece)
        steps = sum(len(p.values) for p in held)
        if steps < length:
            continue
        values = np.concatenate([p.values for p in held])
        labels = None if piece.labels is None else np.concatenate([p.labels for p in held if p.labels is not None])
        times = None if piece.times is None else np.concatenate([p.times for p in held if p.times is not None])
        n, start = steps // length, held[0].start
        used = n * length
        cut += n
        yield Windows(
            cut_windows(values, length),
            _window_labels(labels, n, length),
            [start + k * length for k in range(n)],
            piece.done,
            None if times is None else clock_times(times[:used], piece.in_seconds).reshape(n, length),
            (np.arange(n) == 0) & (not held[0].continues and start > 0),
        )
        rest = None if labels is None else labels[used:]
        later = None if times is None else times[used:]
        held = [Piece(values[used:], rest, later, start + used, True, piece.done)] if used < steps else []
    unused += sum(len(p.values) for p in held)
    if not cut:
        gaps = " between gaps" if unused < total or any(not p.continues and p.start for p in held) else ""
        raise ValueError(
            f"{reader.path} has {total} steps{gaps}, but this model reads windows of {length}: give a longer series"
        )
    if unused:
        reader.account.add("left out", reader.path.name, f"{unused} steps fill no window of {length} and are not used")


def _window_labels(labels: np.ndarray | None, n: int, length: int) -> np.ndarray | None:
    """1 for windows with an anomalous step, -1 for those of which nothing is known, else 0."""
    if labels is None:
        return None
    steps = labels[: n * length].reshape(n, length)
    return np.where((steps == 1).any(1), 1, np.where((steps == -1).all(1), -1, 0))

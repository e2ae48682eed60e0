"""Table rows and windows of series as samples of a model's shape, chunk by chunk, out of files and DataFrames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.backbones import ANY
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.arrays import array_of
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions, Schema
from metaad_zoo.data.read.series import Piece, SeriesReader, series_files, windows_of
from metaad_zoo.data.read.table import TableReader, table_files
from metaad_zoo.data.read.times import time_texts


def is_paths(data: Any) -> bool:
    """Whether these are files: a path, or a list of paths."""
    several = isinstance(data, (list, tuple)) and bool(data)
    return isinstance(data, (str, Path)) or (several and all(isinstance(p, (str, Path)) for p in data))


def is_frame(data: Any) -> bool:
    """Whether this is a DataFrame or Series, of pandas or any with Arrow's interface, or a list of these."""
    if isinstance(data, (list, tuple)):
        return bool(data) and all(is_frame(x) for x in data)
    return hasattr(data, "iloc") or hasattr(data, "__arrow_c_stream__")


def _several(source: Any) -> list[Any]:
    return list(source) if isinstance(source, (list, tuple)) else [source]


class SampleSource(ABC):
    """Samples of a user's own, read block by block.

    Args:
        source: where they are: a path, a list of paths, or a DataFrame.
        shapes: shape of one sample by modality, -1 for any length.
        options: what the user says of the columns.
        schemas: schemas of the domain, by modality; a missing one is decided by the first file, and added.
        account: account to add to.
        below: whether a folder without samples stands for the folders below it.
        reading: further options of the kind of files, such as ``aspect`` of images.

    Attributes:
        files: that are read, in order.
        classes: names of the classes of samples that the source holds, where it says so.
        ratio: median width by height of images; None of other samples.
    """

    files: list[Any]
    classes: Sequence[str] = ()
    ratio: float | None = None

    def __init__(
        self,
        source: Any,
        shapes: Mapping[str, Sequence[int]],
        options: ColumnOptions = USUAL_OPTIONS,
        schemas: dict[str, Schema] | None = None,
        account: Account | None = None,
        below: bool = False,
        **reading: Any,
    ) -> None:
        self.shapes, self.options, self.below, self.reading = shapes, options, below, reading
        self.name = next(iter(shapes))
        self.carry = bool(self.reading.pop("carry", False))
        self.schemas = {} if schemas is None else schemas
        self.account = Account() if account is None else account
        self.files = self.find(source)

    @abstractmethod
    def find(self, source: Any) -> list[Any]:
        """The files that a source stands for.

        Raises:
            ValueError: there is nothing of the kind.
        """

    @abstractmethod
    def blocks(self) -> Iterator[Chunk]:
        """The samples, in blocks of any size.

        Raises:
            ValueError: a file can't be used; it is named.
        """

    def original(self, position: int) -> Tensor | None:
        """An image ``(C, H, W)`` uint8 as it is, before it is brought to the model's size; None for other samples."""
        return None

    @property
    def shape(self) -> Sequence[int]:
        """Of one sample, where there is one modality."""
        return self.shapes[self.name]


class RowSource(SampleSource):
    """Rows of tables: a table, a folder of tables, a list of these, or a DataFrame."""

    def find(self, source: Any) -> list[Any]:
        return list(table_files(source)) if is_paths(source) else _several(source)

    def blocks(self) -> Iterator[Chunk]:
        """Rows in blocks; names are their numbers, with the file's where there are several.

        Raises:
            ValueError: a file can't be used, or its number of columns is not the model's.
        """
        several = len(self.files) > 1
        for i, file in enumerate(self.files):
            schema = self.schemas.get(self.name)
            with TableReader(file, self.options, schema, self.account, carry=self.carry) as reader:
                if schema is None:
                    reader.survey(to_hold=True)
                for rows in reader.blocks():
                    if not len(rows.values):
                        continue
                    self._check_width(reader)
                    names = [
                        f"{reader.path if isinstance(file, Path) else i}:{n}" if several else str(n)
                        for n in rows.numbers
                    ]
                    samples = {self.name: torch.from_numpy(rows.values)}
                    yield Chunk(names, samples, (i + rows.done) / len(self.files), rows.labels, rows.special)
                if reader.named:
                    self.schemas[self.name] = reader.schema

    def _check_width(self, reader: TableReader) -> None:
        features = reader.schema.features
        if self.shape[0] not in (ANY, len(features)):
            raise ValueError(
                f"{reader.path} has {len(features)} columns of data ({', '.join(features[:10])}), but this model reads "
                f"{self.shape[0]}: name them by --columns, or take a model that reads any number (metaad info NAME)"
            )


class WindowSource(SampleSource):
    """Windows of series, one behind the other between gaps: a series, a folder of series, a list of these, or a
    DataFrame of one. Where the model reads windows of any length, each series is one sample."""

    def find(self, source: Any) -> list[Any]:
        if not is_paths(source):
            return _several(source)
        paths = [source] if isinstance(source, (str, Path)) else source
        return [f for path in paths for f in series_files(Path(path).expanduser())]

    def blocks(self) -> Iterator[Chunk]:
        """Windows in blocks; names are the file and the position of the first step.

        Raises:
            ValueError: a file can't be used, is shorter than a window, or its number of channels is not the model's.
        """
        channels = None
        for i, file in enumerate(self.files):
            with self._open(file) as reader:
                for windows in windows_of(reader, self.shape[0]):
                    self._check_channels(reader, windows.values.shape[2], channels)
                    channels = windows.values.shape[2]
                    names = [f"{reader.path}:{start}" for start in windows.starts]
                    samples = {self.name: torch.from_numpy(windows.values)}
                    times, done = windows.times, (i + windows.done) / len(self.files)
                    carried = {} if times is None or not self.carry else {"time": time_texts(times[:, 0])}
                    yield Chunk(names, samples, done, windows.labels, carried, times, windows.after_gap)
                self._keep_schema(reader)

    def series(self, file: Any) -> Iterator[tuple[Piece, float]]:
        """One of the files in pieces, and the share of all files that is read."""
        place = self.files.index(file)
        with self._open(file) as reader:
            for piece in reader.pieces():
                self._check_channels(reader, piece.values.shape[1], None)
                yield piece, (place + piece.done) / len(self.files)
            self._keep_schema(reader)

    def _open(self, file: Any) -> SeriesReader:
        return SeriesReader(file, self.options, self.schemas.get(self.name), self.account)

    def _keep_schema(self, reader: SeriesReader) -> None:
        if reader.named:
            self.schemas[self.name] = reader.schema

    def _check_channels(self, reader: SeriesReader, channels: int, before: int | None) -> None:
        if self.shape[1] not in (ANY, channels):
            raise ValueError(
                f"{reader.path} has {channels} columns of data ({', '.join(reader.schema.features[:10])}), but this "
                f"model reads series of {self.shape[1]}: name them by --columns, or take a model that reads any number "
                "(metaad info NAME)"
            )
        if before not in (None, channels):
            raise ValueError(
                f"{reader.path} has {channels} channels, the series before it {before}: give the same ones"
            )


def rows_of_array(data: Any, shape: Sequence[int]) -> Tensor:
    """Table rows ``(n, D)`` out of an array or a tensor; NaN is a missing value.

    Raises:
        ValueError: it holds no numbers, or another number of columns than ``shape``, ``(D,)``.
    """
    x = numbers_of(data)
    if x.ndim != 2 or shape[0] not in (ANY, x.shape[1]):
        columns = "D" if shape[0] == ANY else shape[0]
        raise ValueError(f"expected table rows of shape (n, {columns}), saw {tuple(x.shape)}")
    return torch.as_tensor(x)


def windows_of_array(data: Any, shape: Sequence[int]) -> Tensor:
    """Windows ``(n, T, C)`` out of an array or a tensor ``(n, T, C)``, or ``(n, T)`` for one channel.

    Raises:
        ValueError: it holds no numbers, or its shape is not the model's, ``(T, C)``.
    """
    length, channels = shape
    x = numbers_of(data)
    if x.ndim == 2 and length not in (ANY, x.shape[1]) and channels in (ANY, x.shape[1]):
        raise ValueError(
            f"saw one series of {x.shape[0]} steps and {x.shape[1]} channels, where this model reads windows of "
            f"{length} steps: cut them by metaad_zoo.data.read.series.cut_windows(series, {length}), or score each "
            "step of a fitted detector's series by detector.score_series(series)"
        )
    x = x[:, :, None] if x.ndim == 2 else x
    if x.ndim != 3 or length not in (ANY, x.shape[1]) or channels not in (ANY, x.shape[2]):
        wanted = ", ".join("any" if size == ANY else str(size) for size in shape)
        raise ValueError(f"expected windows of shape (n, {wanted}), saw {tuple(x.shape)}")
    return torch.as_tensor(x)


def series_of(data: Any, schema: Schema | None = None, account: Account | None = None) -> tuple[np.ndarray, list[int]]:
    """One series ``(T, C)``, and the positions at which it continues after a gap.

    Args:
        data: a file, a DataFrame or an array ``(T,)`` or ``(T, C)``.
        schema: schema of the domain that the series belongs to.
        account: account to add to.

    Raises:
        ValueError: it can't be read as one, its channels are not the domain's, or rows are out of time order.
    """
    if is_paths(data) or is_frame(data):
        with SeriesReader(data, schema=schema, account=account) as reader:
            rows, breaks = reader.whole()
            return rows.values, breaks
    x = numbers_of(data)
    if x.ndim not in (1, 2):
        raise ValueError(f"expected a series of shape (T,) or (T, C), saw {x.shape}")
    return x.reshape(len(x), -1), []


def numbers_of(data: Any) -> np.ndarray:
    """float32, or float64 where the data is, out of an array or a tensor, in memory of its own.

    Raises:
        ValueError: these are no numbers.
    """
    try:
        x = array_of(data)
        kind = np.float32 if x.dtype in (np.float16, np.float32, np.bool_, np.uint8, np.int8) else np.float64
        # A copy: a tensor must not share memory that the caller may change, nor read-only memory.
        return np.array(x, dtype=kind)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected numbers, saw {type(data).__name__} that can't be read as such ({error}): leave out columns of "
            "text, or turn them into numbers"
        ) from error

"""A user's own files as samples, a few hundred at a time: what lies at a path is never in memory as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.backbones import ANY
from metaad_zoo.data.channels import Channels
from metaad_zoo.data.chunks import Chunk, rebatched
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.images import ImageReader
from metaad_zoo.data.row_samples import as_rows, as_windows, cut_windows, in_order, series_files
from metaad_zoo.data.samples import as_samples, manifest_samples
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES
from metaad_zoo.data.sources.manifest import FILE_COLUMNS
from metaad_zoo.data.sources.mapped import archive_blocks
from metaad_zoo.data.sources.table_streams import ROWS, TableStream
from metaad_zoo.data.sources.tables import table_files

SCORING_CHUNK = 256
"""Samples that a model scores at once. Chunks of a stream are multiples of it: scores are then those of the whole."""
SIZES = {"image": SCORING_CHUNK, "sequence": 4 * SCORING_CHUNK, "tabular": 16 * SCORING_CHUNK}
"""Samples of a chunk; of several modalities as many as of images."""


class SampleStream:
    """What lies at a path, chunk by chunk, as often as it is gone through.

    Args:
        path: a folder of images or an image; a table, or a folder of tables; a series, or a folder of them; for
            several modalities a manifest (:func:`metaad_zoo.data.sources.manifest.read_manifest`).
        input_shapes: of the model.
        label: a table's, series' or manifest's column that is not data; None leaves out one with a usual name.
        columns: names of the support's columns or channels, into whose order a table or series is brought; None
            takes those of the first file.
        below: of a folder without images take those of the folders below, see
            :class:`~metaad_zoo.data.read.images.ImageReader`; for scoring, where no class counts as normal.
        image_options: of :class:`~metaad_zoo.data.read.images.ImageReader`, such as ``aspect``.

    Attributes:
        files: that are read, in order.
        columns: as given; else, from the first rows on, those of the first file that names them.
        left_out: sentences on what is not used; all of them are there when it has been gone through.
        account: likewise, of images.
        images: their reader, where the model reads images alone.

    Raises:
        ValueError: there is nothing of the kind.

    CSV, Parquet and manifests are read in blocks, images as they are needed, the arrays of an ``.npz`` out of an
    unpacked copy in the system's temporary folder. Held in memory as a whole is a series for a model that reads series
    of any length, each as one sample.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "rows.csv")
        ...     _ = path.write_text("a,b\\n" + "1,2\\n" * 5000)
        ...     [len(chunk.names) for chunk in SampleStream(path, {"tabular": (2,)})]
        [4096, 904]
    """

    def __init__(
        self,
        path: Path,
        input_shapes: Mapping[str, Sequence[int]],
        label: str | None = None,
        columns: Sequence[str] | None = None,
        below: bool = False,
        **image_options: Any,
    ) -> None:
        self.path, self.input_shapes, self.label, self.columns = path, dict(input_shapes), label, columns
        self._left_out: list[str] = []
        self.account = Account()
        self.images: ImageReader | None = None
        modality = "multimodal" if len(input_shapes) > 1 else next(iter(input_shapes))
        self._size = SIZES.get(modality, SCORING_CHUNK)
        if modality == "image":
            channels, height, width = input_shapes["image"]
            image_options = {"channels": channels, "height": height, "width": width, "below": below} | image_options
            self.images = ImageReader(path, **image_options)
            self.account, self.files = self.images.account, self.images.files
            self._blocks = partial(self.images.blocks, self._size)
            return
        kinds: dict[str, tuple[Callable[[Path], list[Path]], Callable[[], Iterator[Chunk]]]] = {
            "tabular": (table_files, self._rows),
            "sequence": (series_files, self._windows),
            "multimodal": (_manifest, self._samples),
        }
        files, blocks = kinds[modality]
        self._blocks = partial(blocks)
        self.files = files(path)
        if modality == "tabular":
            self._note_texts()

    def __iter__(self) -> Iterator[Chunk]:
        return rebatched(self._blocks(), self._size)

    @property
    def left_out(self) -> list[str]:
        return [*self._left_out, *self.account]

    def _leave_out(self, sentence: str) -> None:
        if sentence not in self._left_out:
            self._left_out.append(sentence)

    def _note_texts(self) -> None:
        for file in (f for f in self.files if f.suffix.lower() in COLUMN_SUFFIXES):
            with tempfile.TemporaryDirectory() as scratch:
                texts = TableStream(file, self.label, "impute", Path(scratch)).texts
            if texts:
                self._leave_out(
                    f"{file}: columns {texts} hold text and are left out; turn them into numbers if they matter"
                )

    def _rows(self) -> Iterator[Chunk]:
        shape, several = self.input_shapes["tabular"], len(self.files) > 1
        for file in self.files:
            row = 0
            for names, values, done in self._numbers(file):
                if not len(values):
                    continue
                self.columns = self.columns or names
                x = as_rows(in_order(torch.as_tensor(values), names, self.columns), shape)
                called = [f"{file}:{row + i + 1}" if several else str(row + i + 1) for i in range(len(x))]
                yield Chunk(called, as_samples(x, self.input_shapes), done)
                row += len(x)

    def _windows(self) -> Iterator[Chunk]:
        length, channels = shape = self.input_shapes["sequence"]
        for i, file in enumerate(self.files):
            if length == ANY:
                whole = np.concatenate([values for _, values, _ in self._numbers(file)])
                x = as_windows(whole[None], shape)
                names = [f"{file}:{k * x.shape[1]}" for k in range(len(x))]
                yield Chunk(names, as_samples(x, self.input_shapes), (i + 1) / len(self.files))
                continue
            step, rest = 0, None
            for _, values, done in self._numbers(file):
                if values.shape[1] != channels and channels != ANY:
                    raise ValueError(
                        f"{file} has {values.shape[1]} columns of numbers, but this model reads series of {channels}: "
                        "keep those columns alone, or take a model that reads any number (metaad info NAME)"
                    )
                values = values if rest is None else np.concatenate([rest, values])
                n = len(values) // length
                if n:
                    x = as_windows(cut_windows(values, length), shape)
                    names = [f"{file}:{step + k * length}" for k in range(n)]
                    yield Chunk(names, as_samples(x, self.input_shapes), done)
                step, rest = step + n * length, values[n * length :]
            if step == 0 and rest is not None:
                cut_windows(rest, length, str(file))  # says that the series is too short
            elif rest is not None and len(rest):
                self._leave_out(f"{file}: the last {len(rest)} steps fill no window of {length} and are not used")

    def series(self, file: Path) -> Iterator[tuple[np.ndarray, float]]:
        """A series, one of the files, in blocks ``(steps, C)``, and the share of all files that is read."""
        for _, values, done in self._numbers(file):
            yield values, done

    def _numbers(self, file: Path) -> Iterator[tuple[list[str] | None, np.ndarray, float]]:
        """Names and blocks of a file's columns of numbers, and the share of all files that is read."""
        share = [0.0]
        place, n = self.files.index(file), len(self.files)
        with tempfile.TemporaryDirectory() as scratch:
            if file.suffix.lower() not in COLUMN_SUFFIXES:
                for values, done in archive_blocks(file, ROWS, Path(scratch), series="sequence" in self.input_shapes):
                    yield None, values, (place + done) / n
                return
            stream = TableStream(file, self.label, "impute", Path(scratch))
            for sentence in stream.skipped:
                self._leave_out(sentence)
            if not stream.numbers:
                raise ValueError(f"{file} has no column of numbers: it holds {sorted(stream.texts)}")
            if "sequence" in self.input_shapes:
                channels = Channels(file, self.columns, self._leave_out)
                for block, done in stream.columns():
                    values = channels.of(block)
                    self.columns = channels.names
                    yield channels.names, values, (place + done) / n
                return
            self._refuse_text(file, stream)
            for values, _ in stream.blocks(lambda done: share.__setitem__(0, done)):
                yield stream.numbers, values, (place + share[0]) / n

    def _refuse_text(self, file: Path, stream: TableStream) -> None:
        became = sorted(set(stream.texts) & set(self.columns or ()))
        if became:
            raise ValueError(
                f"{file}: columns {became} hold text here, but held numbers in the support set: mend them, or leave "
                "cells empty where the value is missing"
            )

    def _samples(self) -> Iterator[Chunk]:
        with tempfile.TemporaryDirectory() as scratch:
            stream = TableStream(self.files[0], self.label, "impute", Path(scratch), as_text=FILE_COLUMNS)
            before = 0.0
            for columns, share in stream.columns():
                n = len(columns.values)
                for start in range(0, n, self._size):
                    stop = min(n, start + self._size)
                    samples = manifest_samples(columns.part(start, stop), self.input_shapes, self._leave_out)
                    names = [str(columns.row(i)) for i in range(start, stop)]
                    yield Chunk(names, samples, before + (share - before) * stop / n)
                before = share


def _manifest(path: Path) -> list[Path]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(
            f"{path} {what}: a model of several modalities reads a manifest, a CSV with a row a sample, whose columns "
            "image and sequence name files and whose other columns are numbers"
        )
    return [path]


def named_samples(
    path: Path, input_shapes: Mapping[str, Sequence[int]], label: str | None = None
) -> tuple[list[str], dict[str, Tensor]]:
    """All that lies at a path as samples, and a name for each: a file, a row (from 1), or a file and a window's start.

    Args:
        path: see :class:`SampleStream`.
        input_shapes: of the model.
        label: likewise.

    Returns:
        The names, and the samples; sequences that are shorter than the longest are NaN at their ends.

    Raises:
        ValueError: there is nothing of the kind, or it can't be used; see :func:`metaad_zoo.data.samples.as_samples`.
    """
    return gathered(SampleStream(path, input_shapes, label))


def gathered(stream: SampleStream) -> tuple[list[str], dict[str, Tensor]]:
    """All chunks of a stream, as :func:`named_samples` gives them."""
    chunks = list(stream)
    samples = {m: _padded([c.samples[m] for c in chunks]) for m in chunks[0].samples}
    return [name for c in chunks for name in c.names], samples


def _padded(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    steps = max(x.shape[1] for x in parts)
    if all(x.shape[1] == steps for x in parts):
        return torch.cat(list(parts))
    return torch.cat([torch.nn.functional.pad(x, (0, 0, 0, steps - x.shape[1]), value=torch.nan) for x in parts])

"""The reader of manifests: a table with a row a sample, whose cells name files and hold numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.backbones import ANY
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.joined import ArrayReader, GappyReader, JoinedModalities, Part, array_part
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.read.images import ImageReader
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions, Schema
from metaad_zoo.data.read.row_block import Rows
from metaad_zoo.data.read.rows import SampleSource
from metaad_zoo.data.read.series import SeriesReader
from metaad_zoo.data.read.table import TableReader
from metaad_zoo.data.read.table_sources import TableSource
from metaad_zoo.episodes import present

FILE_COLUMNS = ("image", "sequence")
GROUP_COLUMNS = ("domain", "class")
FILES_AT_ONCE = 256
"""Rows whose files are held in memory together."""

EXACT = 2**53
"""Whole numbers from here on are not exact in float64: two classes could become one."""


@dataclass
class ManifestOptions:
    """Options for reading the files that a manifest names.

    Args:
        image_size: height and width of the images; None demands one size for all.
        length: steps of the sequences: longer ones are cut there; None takes the longest.
        channels: channels of the images, 1 or 3; None demands one kind for all.
    """

    image_size: int | None = None
    length: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"data.length is {self.length}; expected steps, at least 1")


@dataclass
class ManifestReader:
    """Samples out of a CSV or Parquet file with a header.

    - ``image``, ``sequence``: paths of files in the manifest's folder or below, from that folder on; a sequence is a
      CSV or Parquet file (a row a step, a column a channel) or an ``.npz`` of one array ``(steps,)`` or
      ``(steps, channels)``;
    - a column of labels, as in any table (:mod:`metaad_zoo.data.read.roles`);
    - ``domain`` or ``class``: text or whole numbers; where there are labels they are domains, else classes; without
      either, all rows are one domain, named after the file;
    - the other features are the modality ``tabular``.

    An empty cell is a modality, or a number, that the sample lacks: NaN. Sequences that are shorter than the longest
    are NaN at their ends. Their channels are those of the first one.

    Args:
        source: the manifest's path, or what :func:`metaad_zoo.data.read.table_sources.open_table` made of it.
        options: what the user says of its columns.
        files: how the files are read.
        schemas: schemas of the domain that the rows belong to, by modality (``tabular``, ``sequence``); a missing one
            is decided by the first rows or file.

    Attributes:
        account: what is left out, guessed or changed.
    """

    source: Any
    options: ColumnOptions = USUAL_OPTIONS
    files: ManifestOptions = field(default_factory=ManifestOptions)
    schemas: dict[str, Schema] = field(default_factory=dict)
    account: Account = field(default_factory=Account)

    @property
    def path(self) -> Path:
        """Of the manifest."""
        return self.source.path if isinstance(self.source, TableSource) else Path(self.source).expanduser()

    def table(self) -> TableReader:
        """The reader of the manifest's own rows."""
        special = [n for n in (*FILE_COLUMNS, *GROUP_COLUMNS) if n != self.options.label]
        return TableReader(
            self.source,
            self.options,
            self.schemas.get("tabular"),
            self.account,
            as_text=FILE_COLUMNS,
            special=special,
        )

    def read(self) -> JoinedModalities:
        """All samples, for training.

        Raises:
            ValueError: the manifest or a file that it names is missing, damaged or outside of the manifest's folder
                (manifest, row from 1, column and file are named), a row has nothing in it or no domain, sequences
                differ in channels, or there is no modality.
        """
        with self.table() as table:
            rows = table.rows()
            self.schemas.setdefault("tabular", table.schema)
        return self.joined(rows)

    def joined(self, rows: Rows) -> JoinedModalities:
        """The samples that some rows stand for; errors as for :meth:`read`."""
        names, labels = self._groups(rows)
        parts: dict[str, Part] = {}
        for column in FILE_COLUMNS:
            files = self._files(rows, column)
            if files is not None and any(files):
                present = [f for f in files if f is not None]
                reader, shape = self._images(present) if column == "image" else self._sequences(rows, files)
                places = np.cumsum([f is not None for f in files]) - 1
                places[[f is None for f in files]] = -1
                parts[column] = Part(GappyReader(reader, places), shape, labels)
        if rows.values.shape[1]:
            parts["tabular"] = array_part("tabular", rows.values, labels)
        self._refuse_empty(rows, parts)
        anomalous = None
        if rows.labels is not None:
            self._refuse_unlabelled(rows)
            anomalous = rows.labels == 1
        return JoinedModalities(self.path.stem, names, parts, skipped=list(self.account), anomalous=anomalous)

    def _groups(self, rows: Rows) -> tuple[list[str], np.ndarray]:
        """Names of the domains or classes, and the position of each row's among them."""
        order = GROUP_COLUMNS if rows.labels is not None else GROUP_COLUMNS[::-1]
        present = [name for name in order if name in rows.special]
        if not present:
            return [self.path.stem], np.zeros(len(rows.values), np.int64)
        group, cells = present[0], rows.special[present[0]]
        if cells.dtype.kind != "U":
            wrong = np.flatnonzero((np.abs(cells) >= EXACT) | (cells != np.round(cells)) & ~np.isnan(cells))
            if len(wrong):
                raise ValueError(
                    f"{self._cell(rows, wrong[0], group)}: expected text or a whole number below {EXACT}, saw "
                    f"{cells[wrong[0]]}: give the {group} a name, such as {group}_1"
                )
            cells = np.array(["" if np.isnan(v) else f"{v:.0f}" for v in cells])
        empty = np.flatnonzero(cells == "")
        if len(empty):
            raise ValueError(
                f"{self._cell(rows, empty[0], group)}: the cell is empty ({len(empty)} such rows): every sample needs "
                f"its {group}"
            )
        if len(present) > 1:
            self.account.add("left out", self.path.name, f"not used because {group!r} is", [present[1]])
        names, labels = np.unique(cells, return_inverse=True)
        return names.tolist(), labels

    def _cell(self, rows: Rows, position: int, column: str) -> str:
        return f"{self.path}, row {rows.numbers[position]}, column {column!r}"

    def _files(self, rows: Rows, column: str) -> list[Path | None] | None:
        """The file of each row, None where the cell is empty; None where there is no such column."""
        if column not in rows.special:
            return None
        cells = rows.special[column].tolist()
        if null := [i for i, cell in enumerate(cells) if "\0" in cell]:
            raise ValueError(f"{self._cell(rows, null[0], column)}: a path can't hold a null character: mend the cell")
        numbers = [i for i, cell in enumerate(cells) if cell.replace(".", "", 1).lstrip("-").isdigit()]
        if numbers and not any(os.path.isfile(self.path.parent / cells[i]) for i in numbers):
            raise ValueError(
                f"{self._cell(rows, numbers[0], column)}: expected the path of a file, saw the number "
                f"{cells[numbers[0]]}: name the file with its ending, or rename the column if it is a feature"
            )
        files = [self.path.parent / cell if cell else None for cell in cells]
        self._refuse_outside(rows, column, files)
        # os.path takes a name that is too long for the file system as one that is not there; pathlib raises.
        missing = [i for i, file in enumerate(files) if file is not None and not os.path.isfile(file)]
        if missing:
            raise ValueError(
                f"{self._cell(rows, missing[0], column)}: {files[missing[0]]} does not exist ({len(missing)} such "
                "rows): give paths from the manifest's folder on, or leave the cell empty where a sample has no "
                f"{column}"
            )
        return files

    def _refuse_outside(self, rows: Rows, column: str, files: Sequence[Path | None]) -> None:
        """A manifest may come from somebody else, who must not get other files of this machine read."""
        root = os.path.join(os.path.realpath(self.path.parent), "")
        outside = [i for i, f in enumerate(files) if f is not None and not os.path.realpath(f).startswith(root)]
        if outside:
            first, file = outside[0], files[outside[0]]
            link = f", a link to {os.path.realpath(str(file))}," if os.path.abspath(str(file)).startswith(root) else ""
            raise ValueError(
                f"{self._cell(rows, first, column)}: {file}{link} lies outside of the manifest's folder "
                f"({len(outside)} such rows): give paths relative to the manifest's folder, and put the files "
                "themselves there, not links"
            )

    def _images(self, files: Sequence[Path]) -> tuple[ImageArrays, tuple[int, ...]]:
        size = self.files.image_size
        reader = ImageReader(files, channels=self.files.channels, height=size, width=size)
        images = reader.in_bytes()
        for kind, _, reason in reader.account.entries:  # without names: a manifest that is read in parts says it once
            self.account.add(kind, self.path.name, f"images: {reason}")
        source = ImageArrays("image", images, np.zeros(len(images), np.int64), ["image"])
        return source, source.image_shape

    def _sequences(self, rows: Rows, files: Sequence[Path | None]) -> tuple[ArrayReader, tuple[int, ...]]:
        read = [(i, self._sequence(file)) for i, file in enumerate(files) if file is not None]
        first, steps = read[0][1], max(len(x) for _, x in read)
        for row, x in read:
            if x.shape[1] != first.shape[1]:
                raise ValueError(
                    f"{self._cell(rows, row, 'sequence')}: {files[row]} has {x.shape[1]} channels, "
                    f"{files[read[0][0]]} has {first.shape[1]}: expected the same channels in all"
                )
        length = steps if self.files.length is None else self.files.length
        if steps > length:
            self.account.add("changed", self.path.name, f"sequences of more than {length} steps are cut at {length}")
        padded = np.full((len(read), length, first.shape[1]), np.nan)
        for i, (_, x) in enumerate(read):
            padded[i, : len(x)] = x[:length]
        return ArrayReader("sequence", padded), padded.shape[1:]

    def _sequence(self, file: Path) -> np.ndarray:
        """A sequence ``(steps, channels)``."""
        if file.suffix.lower() == ".npz":
            return sequence_of_archive(file)
        account = Account()
        with SeriesReader(file, schema=self.schemas.get("sequence"), account=account) as reader:
            rows, _ = reader.whole(one_sample=True)
            self.schemas.setdefault("sequence", reader.schema)
        for (kind, _, reason), subjects in account.entries.items():
            self.account.add(kind, f"{self.path.name}, sequences", reason, subjects)
        return rows.values

    def _refuse_empty(self, rows: Rows, parts: dict[str, Part]) -> None:
        if not parts:
            raise ValueError(
                f"{self.path} names no files and has no features: expected columns 'image', 'sequence' (with paths) or "
                "columns of numbers"
            )
        filled = ~np.isnan(rows.values).all(1) if rows.values.shape[1] else np.zeros(len(rows.values), bool)
        for part in parts.values():
            if isinstance(part.reader, GappyReader):
                filled |= part.reader.places >= 0
        if not filled.all():
            empty = np.flatnonzero(~filled)
            raise ValueError(
                f"{self.path}, row {rows.numbers[empty[0]]}: the sample has no image, no sequence and no number "
                f"({len(empty)} such rows): remove it"
            )

    def _refuse_unlabelled(self, rows: Rows) -> None:
        assert rows.labels is not None
        empty = np.flatnonzero(rows.labels < 0)
        if len(empty):
            raise ValueError(
                f"{self.path}, row {rows.numbers[empty[0]]}: the label is missing ({len(empty)} such rows): fill it "
                "in, or remove the row"
            )


def sequence_of_archive(path: Path) -> np.ndarray:
    """A sequence ``(steps, channels)`` float64 out of an ``.npz``.

    Raises:
        ValueError: the file is damaged, or holds no sequence; it is named.
    """
    arrays = read_archive(path)
    x = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if x is None or x.ndim not in (1, 2) or x.size == 0 or x.dtype.kind not in "iuf":
        seen = {name: (str(a.dtype), a.shape) for name, a in arrays.items()}
        raise ValueError(f"{path}: expected one array, or 'x', of numbers (steps,) or (steps, channels), saw {seen}")
    x = x.astype(np.float64).reshape(len(x), -1)
    return np.where(np.isfinite(x), x, np.nan)


class ManifestSource(SampleSource):
    """Samples of several modalities out of a manifest, some hundreds of rows at a time."""

    def find(self, source: Any) -> list[Any]:
        path = Path(source).expanduser() if isinstance(source, (str, Path)) else source
        if not isinstance(path, TableSource) and not (isinstance(path, Path) and path.is_file()):
            what = "is a folder" if isinstance(path, Path) and path.is_dir() else "is no file"
            raise ValueError(
                f"{path} {what}: a model of several modalities reads a manifest, a CSV with a row a sample, whose "
                "columns image and sequence name files and whose other columns are numbers"
            )
        return [path]

    def blocks(self) -> Iterator[Chunk]:
        reader = self.manifest()
        with reader.table() as table:
            if "tabular" not in self.schemas:
                table.survey()
            before = 0.0
            for rows in table.blocks():
                self.schemas["tabular"] = table.schema
                n = len(rows.values)
                for start in range(0, n, FILES_AT_ONCE):
                    stop = min(n, start + FILES_AT_ONCE)
                    part = rows.part(start, stop)
                    done = before + (rows.done - before) * stop / n
                    yield Chunk([str(k) for k in part.numbers], self._joined(reader, part), done, part.labels)
                before = rows.done

    def manifest(self) -> ManifestReader:
        """The reader of a manifest with files of the model's shapes."""
        channels, size, _ = self.shapes.get("image", (None, None, None))
        length, _ = self.shapes.get("sequence", (None, None))
        files = ManifestOptions(size, None if length == ANY else length, channels)
        return ManifestReader(self.files[0], self.options, files, self.schemas, self.account)

    def _joined(self, reader: ManifestReader, rows: Rows) -> dict[str, Tensor]:
        absent = [name for name in FILE_COLUMNS if name in self.shapes and name not in rows.special]
        width = self.shapes.get("tabular", (None,))[0]
        features = self.schemas["tabular"].features
        if width is not None and (not features or width not in (ANY, len(features))):
            raise ValueError(
                f"{reader.path} has {len(features)} columns of data ({', '.join(features[:10])}), but this model reads "
                f"{'some' if width == ANY else width}: name them by --columns"
            )
        if absent:  # more likely a misspelt column than samples that all lack what the model reads
            raise ValueError(
                f"{reader.path} has no column {absent}, which name files that this model reads; it has "
                f"{[*rows.special, *reader.schemas['tabular'].features]}: rename a column, or add one with empty cells "
                "where samples lack them"
            )
        source = reader.joined(rows)
        samples = source.all_samples()
        for name in sorted(samples.keys() - self.shapes.keys()):
            columns = [name] if name in FILE_COLUMNS else list(features)
            self.account.add("left out", reader.path.name, f"this model reads {sorted(self.shapes)}", columns)
            del samples[name]
        lacking = sorted(n for n in self.shapes if n not in samples or not present(samples[n]).all())
        if lacking:
            self.account.add(
                "guessed",
                reader.path.name,
                f"some samples lack {lacking}: only a model trained with gaps (data.absent) can be trusted on these",
            )
        for name in self.shapes.keys() - samples.keys():  # rows that all lack it
            samples[name] = torch.full((len(rows.values), *(max(size, 1) for size in self.shapes[name])), torch.nan)
        return samples

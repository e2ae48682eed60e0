"""A user's own multimodal samples: a manifest, a row a sample, that names files and holds numbers."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metaad_zoo.data.read.images import ImageReader
from metaad_zoo.data.sources.arrays import ImageArrays
from metaad_zoo.data.sources.columns import Columns, read_columns
from metaad_zoo.data.sources.modalities import ArrayReader, GappyReader, JoinedModalities, Part, array_part

FILE_COLUMNS = ("image", "sequence")
GROUP_COLUMNS = ("domain", "class")
EXACT = 2**24
"""Whole numbers from here on are not exact in float32: two classes could become one."""


def read_manifest(
    path: Path,
    image_size: int | None = None,
    length: int | None = None,
    channels: int | None = None,
    label: str | None = None,
) -> JoinedModalities:
    """Samples out of a CSV (or Parquet) file with a header.

    - ``image``, ``sequence``: paths, from the manifest's folder on; a sequence is a CSV or Parquet file (a row a step,
      a column a channel) or an ``.npz`` of one array ``(steps,)`` or ``(steps, channels)``;
    - ``label``: 0 normal, 1 anomalous;
    - ``domain`` or ``class``: text or whole numbers; where there are labels they are domains, else classes; without
      either, all rows are one domain, named after the file;
    - every other column of numbers is a feature of the modality ``tabular``.

    An empty cell is a modality, or a number, that the sample lacks: NaN. Sequences that are shorter than the longest
    are NaN at their ends.

    Args:
        path: the manifest.
        image_size: height and width of the images; None demands one size for all.
        length: steps of the sequences: longer ones are cut there; None takes the longest.
        channels: of the images; None demands one kind for all.
        label: the column of labels; None looks for one with a usual name.

    Raises:
        ValueError: the manifest or a file that it names is missing or damaged (manifest, row from 1, column and file
            are named), a row has nothing in it or no domain, sequences differ in channels, or there is no modality.
    """
    return joined_modalities(read_columns(path, label), image_size, length, channels)


def joined_modalities(
    columns: Columns, image_size: int | None, length: int | None, channels: int | None
) -> JoinedModalities:
    """What the rows of a manifest stand for; arguments and errors as for :func:`read_manifest`."""
    path = columns.path
    group, names, labels = _groups(columns)
    parts: dict[str, Part] = {}
    for column in FILE_COLUMNS:
        files = _files(columns, column)
        if files is not None and any(files):
            reader = (
                _images(columns, files, image_size, channels)
                if column == "image"
                else _sequences(columns, files, length)
            )
            places = np.cumsum([f is not None for f in files]) - 1
            places[[f is None for f in files]] = -1
            parts[column] = Part(GappyReader(reader[0], places), reader[1], labels)
    features = [i for i, name in enumerate(columns.names) if name not in (*FILE_COLUMNS, group)]
    values = columns.values[:, features]
    if features:
        parts["tabular"] = array_part("tabular", values, labels)
    _refuse_empty(columns, parts, values)
    text = [name for name in columns.text if name not in (*FILE_COLUMNS, group)]
    if text:
        columns.skipped.append(f"{path.name}: columns {text} hold text and are no features")
    anomalous = None if columns.labels is None else columns.labels == 1
    return JoinedModalities(path.stem, names, parts, skipped=columns.skipped, anomalous=anomalous)


def _groups(columns: Columns) -> tuple[str | None, list[str], np.ndarray]:
    """The column of domains or classes, their names, and each row's."""
    order = GROUP_COLUMNS if columns.labels is not None else GROUP_COLUMNS[::-1]
    present = [name for name in order if name in columns.text or name in columns.names]
    if not present:
        return None, [columns.path.stem], np.zeros(len(columns.values), np.int64)
    group = present[0]
    if group in columns.text:
        cells = columns.text[group]
    else:
        numbers = columns.values[:, columns.names.index(group)]
        cells = np.array(["" if np.isnan(v) else f"{v:.0f}" for v in numbers])
        wrong = np.flatnonzero((np.abs(numbers) >= EXACT) | (numbers != np.round(numbers)) & ~np.isnan(numbers))
        if len(wrong):
            raise ValueError(
                f"{columns.path}, row {columns.row(wrong[0])}, column {group!r}: expected text or a whole number below "
                f"{EXACT}, saw {numbers[wrong[0]]}: give the {group} a name, such as {group}_1"
            )
    empty = np.flatnonzero(cells == "")
    if len(empty):
        raise ValueError(
            f"{columns.path}, row {columns.row(empty[0])}, column {group!r}: the cell is empty ({len(empty)} such "
            f"rows): every sample needs its {group}"
        )
    if len(present) > 1:
        columns.skipped.append(f"{columns.path.name}: column {present[1]!r} is not used beside {group!r}")
        columns.text.pop(present[1], None)
        if present[1] in columns.names:
            kept = [i for i, name in enumerate(columns.names) if name != present[1]]
            columns.names, columns.values = [columns.names[i] for i in kept], columns.values[:, kept]
    names, labels = np.unique(cells, return_inverse=True)
    return group, names.tolist(), labels


def _files(columns: Columns, column: str) -> list[Path | None] | None:
    """The file of each row, None where the cell is empty; None where there is no such column."""
    if column in columns.names:
        values = columns.values[:, columns.names.index(column)]
        there = np.flatnonzero(~np.isnan(values))
        if len(there):
            raise ValueError(
                f"{columns.path}, row {columns.row(there[0])}, column {column!r}: expected the path of a file, saw the "
                f"number {values[there[0]]:g}: name the file with its ending, or rename the column if it is a feature"
            )
        return None
    if column not in columns.text:
        return None
    files = [columns.path.parent / cell if cell else None for cell in columns.text[column].tolist()]
    # os.path takes a name that is too long for the file system as one that is not there; pathlib raises.
    missing = [i for i, file in enumerate(files) if file is not None and not os.path.isfile(file)]
    if missing:
        raise ValueError(
            f"{columns.path}, row {columns.row(missing[0])}, column {column!r}: {files[missing[0]]} does not exist "
            f"({len(missing)} such rows): give paths from the manifest's folder on, or leave the cell empty where a "
            f"sample has no {column}"
        )
    return files


def _images(
    columns: Columns, files: Sequence[Path | None], image_size: int | None, channels: int | None
) -> tuple[ImageArrays, tuple[int, ...]]:
    given = [f for f in files if f is not None]
    reader = ImageReader(given, channels=channels, height=image_size, width=image_size)
    images = reader.in_bytes()
    # Without names, so that a manifest that is read in parts says it once.
    columns.skipped += [f"{columns.path.name}: images {kind}: {reason}" for kind, _, reason in reader.account.entries]
    source = ImageArrays("image", images, np.zeros(len(images), np.int64), ["image"])
    return source, source.image_shape


def _sequences(
    columns: Columns, files: Sequence[Path | None], length: int | None
) -> tuple[ArrayReader, tuple[int, ...]]:
    if length is not None and length < 1:
        raise ValueError(f"data.length is {length}; expected steps, at least 1")
    found = [(i, read_sequence(file)) for i, file in enumerate(files) if file is not None]
    first, steps = found[0][1], max(len(x) for _, x in found)
    for row, x in found:
        if x.shape[1] != first.shape[1]:
            raise ValueError(
                f"{columns.path}, row {columns.row(row)}, column 'sequence': {files[row]} has {x.shape[1]} channels, "
                f"{files[found[0][0]]} has {first.shape[1]}: expected the same channels in all"
            )
    if length is not None and steps > length:
        # Without numbers, so that a manifest that is read in parts says it once.
        columns.skipped.append(f"{columns.path.name}: sequences of more than {length} steps are cut at {length}")
    length = steps if length is None else length
    out = np.full((len(found), length, first.shape[1]), np.nan, np.float32)
    for i, (_, x) in enumerate(found):
        out[i, : len(x)] = x[:length]
    return ArrayReader("sequence", out), out.shape[1:]


def read_sequence(path: Path) -> np.ndarray:
    """A sequence ``(steps, channels)`` float32 out of a CSV or Parquet file's columns of numbers, or an ``.npz``.

    Raises:
        ValueError: the file is damaged, or holds no sequence; it is named.
    """
    if path.suffix.lower() != ".npz":
        values = read_columns(path).values
        if values.shape[1] == 0:
            raise ValueError(f"{path} has no column of numbers: expected a row a step and a column a channel")
        return values
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} can't be read as a numpy archive ({type(error).__name__}: {error})") from error
    x = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if x is None or x.ndim not in (1, 2) or x.size == 0 or x.dtype.kind not in "iuf":
        seen = {name: (str(a.dtype), a.shape) for name, a in arrays.items()}
        raise ValueError(f"{path}: expected one array, or 'x', of numbers (steps,) or (steps, channels), saw {seen}")
    x = x.astype(np.float32).reshape(len(x), -1)
    return np.where(np.isfinite(x), x, np.nan)


def _refuse_empty(columns: Columns, parts: dict[str, Part], values: np.ndarray) -> None:
    if not parts:
        raise ValueError(
            f"{columns.path} has the columns {[*columns.names, *columns.text]}: expected 'image', 'sequence' (with "
            "paths) or columns of numbers"
        )
    there = ~np.isnan(values).all(1) if values.shape[1] else np.zeros(len(values), bool)
    for part in parts.values():
        if isinstance(part.reader, GappyReader):
            there |= part.reader.places >= 0
    if not there.all():
        empty = np.flatnonzero(~there)
        raise ValueError(
            f"{columns.path}, row {columns.row(empty[0])}: the sample has no image, no sequence and no number "
            f"({len(empty)} such rows): remove it"
        )

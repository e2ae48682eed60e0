"""Tables larger than memory: read in streams into memory-mapped arrays of a cache, then row by row out of these."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.lib import format as npy
from pyarrow import parquet
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from metaad_zoo.data.sources.columns import Missing
from metaad_zoo.data.sources.table_streams import Survey, TableStream
from metaad_zoo.data.sources.tables import without_constant
from metaad_zoo.episodes import fingerprint

HASHED_ROWS = 4096
"""Rows that tell whether a big table has changed; all of them would be read from disk at each start."""

_FORMAT = 1
"""Of the cache; counts up when what lies there changes."""


class Positions:
    """Positions of rows in a file, which is open only while they are looked at.

    A mapped page counts as resident until its map is closed: held open, the maps of a long training would fill the
    memory that they are there to save.

    Args:
        path: ``.npy`` of integers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length = len(np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        return self._length

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        mapped = np.load(self.path, mmap_mode="r")
        return np.array(mapped, dtype) if copy or dtype not in (None, mapped.dtype) else mapped


@dataclass
class BigTable:
    """A table that stays on disk; to the rest of the package like a :class:`metaad_zoo.data.sources.tables.Table`.

    Attributes:
        name: readable and stable; a domain's name.
        folder: of the cache, with ``values.npy``, ``normal.npy`` and ``anomalous.npy``.
        columns: names of the columns.
        labelled: whether labels are known.
        skipped: what was left out, and why.
    """

    name: str
    folder: Path
    columns: list[str]
    labelled: bool
    skipped: list[str] = field(default_factory=list)
    class_names: None = field(default=None, init=False)

    @property
    def normal(self) -> np.ndarray:
        """Positions of the normal rows."""
        # A domain asks for their number and draws from them; both work without an array in memory.
        return cast(np.ndarray, Positions(self.folder / "normal.npy"))

    @property
    def anomalous(self) -> np.ndarray:
        """Positions of the anomalous rows."""
        return cast(np.ndarray, Positions(self.folder / "anomalous.npy"))

    def fingerprint(self) -> str:
        """Number of rows, columns and a hash of evenly spaced rows, see :func:`metaad_zoo.episodes.fingerprint`."""
        values = np.load(self.folder / "values.npy", mmap_mode="r")
        rows = np.linspace(0, len(values) - 1, min(len(values), HASHED_ROWS)).astype(np.int64)
        counts = np.array([len(values), len(self.normal), len(self.anomalous)])
        return f"{len(values)}:{fingerprint(np.array(values[rows]), counts).partition(':')[2]}"

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The rows at ``ids`` as ``{"tabular": (n, D)}`` float32."""
        return {"tabular": torch.from_numpy(np.array(np.load(self.folder / "values.npy", mmap_mode="r")[ids]))}


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where mapped tables are kept: ``chosen``, or ``metaad_zoo`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    if chosen is not None:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaad_zoo" / "tables"


def memory_needed(path: Path) -> int:
    """Bytes of a table file, unpacked as far as can be told without reading it.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                return sum(member.file_size for member in archive.infolist())
        if path.suffix.lower() in (".parquet", ".pq"):
            about = parquet.read_metadata(path)
            return max(path.stat().st_size, 4 * about.num_rows * about.num_columns)
    except (OSError, zipfile.BadZipFile, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} can't be read ({type(error).__name__}: {error})") from error
    return path.stat().st_size


def read_big_table(
    path: Path, label: str | None = None, missing: Missing = "impute", cache: str | Path | None = None
) -> BigTable:
    """A table of any size, in memory that does not depend on its length; what is read is what ``read_table`` reads.

    The first call reads the file twice, in blocks, and writes it to the cache as float32, so 4 bytes a cell and 8 a
    row; later ones find it there, as long as the file's path, size and time stay the same. The cache may be deleted at
    any time.

    Args:
        path: as for :func:`metaad_zoo.data.sources.tables.read_table`.
        label: likewise.
        missing: likewise.
        cache: folder; None takes :func:`cache_folder`'s own.

    Raises:
        ValueError: as for ``read_table``; or the file changed while it was read.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a table")
    state = _state(path)
    key = hashlib.sha256(json.dumps([_FORMAT, str(path.resolve()), *state, label, missing]).encode()).hexdigest()
    folder = cache_folder(cache) / f"{path.stem}-{key[:16]}"
    if not (folder / "table.json").is_file():
        _build(path, label, missing, state, folder)
    about = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    return BigTable(path.stem, folder, about["columns"], about["labelled"], about["skipped"])


def _header(file: IO[bytes], kind: str, shape: tuple[int, ...]) -> None:
    """The head of a ``.npy`` file, behind which the values then go block by block."""
    npy.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _build(path: Path, label: str | None, missing: Missing, state: tuple[int, int], folder: Path) -> None:
    """Write a table's arrays beside their place and put them there when all is well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        stream = TableStream(path, label, missing, beside)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"mapping {path.name}", total=2.0)
            found = stream.survey(lambda done: bar.update(task, completed=done))
            _write(stream, found, beside, lambda done: bar.update(task, completed=1 + done))
        for unpacked in beside.glob("unpacked-*"):
            unpacked.unlink()
        pa.default_memory_pool().release_unused()
        if _state(path) != state:
            raise ValueError(f"{path} changed while it was read: wait until it is written, then start again")
        try:
            beside.rename(folder)
        except OSError:  # another process was as fast
            if not (folder / "table.json").is_file():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(stream: TableStream, found: Survey, folder: Path, progress: Callable[[float], object]) -> None:
    varies, told = without_constant(stream.path.name, found.columns, found.low, found.high)
    with (
        (folder / "values.npy").open("wb") as values,
        (folder / "normal.npy").open("wb") as normal,
        (folder / "anomalous.npy").open("wb") as anomalous,
    ):
        _header(values, "<f4", (found.rows, int(varies.sum())))
        _header(normal, "<i8", (found.rows - found.anomalous,))
        _header(anomalous, "<i8", (found.anomalous,))
        start = 0
        for block, labels in stream.blocks(progress):
            values.write(np.ascontiguousarray(block[:, varies], "<f4").tobytes())
            anomaly = np.zeros(len(block), bool) if labels is None else labels == 1
            normal.write((start + np.flatnonzero(~anomaly)).astype("<i8").tobytes())
            anomalous.write((start + np.flatnonzero(anomaly)).astype("<i8").tobytes())
            start += len(block)
    about = {
        "file": str(stream.path),
        "columns": [c for c, v in zip(found.columns, varies, strict=True) if v],
        "labelled": stream.label is not None,
        "skipped": found.skipped + told,
    }
    (folder / "table.json").write_text(json.dumps(about), encoding="utf-8")

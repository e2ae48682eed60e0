"""Tables larger than memory: read in streams into memory-mapped arrays of a cache, then row by row out of these."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from numpy.lib import format as npy
from pyarrow import parquet
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions
from metaad_zoo.data.read.table import TableReader, needs_float64
from metaad_zoo.data.tables import known_labels, require_variation
from metaad_zoo.episodes import fingerprint

HASHED_ROWS = 4096
"""Number of rows that a fingerprint hashes; hashing all would read the whole file at each start."""

_FORMAT = 2
"""Version of the cache's layout."""


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
    """A table that stays on disk; to the rest of the package like a :class:`metaad_zoo.data.tables.Table`.

    Attributes:
        name: readable and stable; a domain's name.
        folder: cache folder with ``values.npy``, ``normal.npy`` and ``anomalous.npy``.
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
        """The rows at ``ids`` as ``{"tabular": (n, D)}``."""
        return {"tabular": torch.from_numpy(np.array(np.load(self.folder / "values.npy", mmap_mode="r")[ids]))}


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where mapped tables are kept: ``chosen``, or ``metaad_zoo`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    if chosen is not None:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaad_zoo" / "tables"


def memory_needed(path: Path) -> int:
    """Bytes of a table file, unpacked if that is known without reading it.

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


def read_big_table(path: Path, options: ColumnOptions = USUAL_OPTIONS, cache: str | Path | None = None) -> BigTable:
    """A table of any size, in memory that does not depend on its length; what is read is what ``read_table`` reads.

    The first call goes through the file three times, in blocks, and writes it to the cache, so 4 bytes a cell (8 where
    float32 is too coarse) and 8 a row; later ones find it there, as long as the file's path, size and time stay the
    same. The cache may be deleted at any time.

    Args:
        path: CSV, Parquet or npz file, see :func:`metaad_zoo.data.tables.read_table`.
        options: what the user says of its columns.
        cache: folder of the copies; None takes :func:`cache_folder`'s own.

    Raises:
        ValueError: as for ``read_table``; or the file changed while it was read.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a table")
    state = _state(path)
    key = json.dumps([_FORMAT, str(path.resolve()), *state, asdict(options)])
    folder = cache_folder(cache) / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (folder / "table.json").is_file():
        _build(path, options, state, folder)
    about = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    return BigTable(path.stem, folder, about["columns"], about["labelled"], about["skipped"])


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _build(path: Path, options: ColumnOptions, state: tuple[int, int], folder: Path) -> None:
    """Write a table's arrays beside their place and put them there when all is well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with Progress(console=Console(stderr=True), transient=True) as bar, TableReader(path, options) as reader:
            task = bar.add_task(f"mapping {path.name}", total=3.0)
            reader.survey(lambda done: bar.update(task, completed=done))
            require_variation(path, reader)
            _write(reader, beside, lambda done: bar.update(task, completed=1 + done))
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


def _write(reader: TableReader, folder: Path, progress: Callable[[float], object]) -> None:
    features = reader.schema.features
    low, high = ([getattr(reader.facts[n], side) for n in reader.schema.numbers] for side in ("low", "high"))
    kind = "<f8" if needs_float64(np.array(low), np.array(high)) else "<f4"
    rows = anomalies = 0
    with (
        (folder / "values").open("wb") as values,
        (folder / "normal").open("wb") as normal,
        (folder / "anomalous").open("wb") as anomalous,
    ):
        for block in reader.blocks(progress):
            values.write(np.ascontiguousarray(block.values, kind).tobytes())
            labels = np.zeros(len(block.values), bool)
            if block.labels is not None:
                labels = known_labels(reader.path, block.labels, block.numbers) == 1
            normal.write((rows + np.flatnonzero(~labels)).astype("<i8").tobytes())
            anomalous.write((rows + np.flatnonzero(labels)).astype("<i8").tobytes())
            rows, anomalies = rows + len(labels), anomalies + int(labels.sum())
    shapes = {"values": (rows, len(features)), "normal": (rows - anomalies,), "anomalous": (anomalies,)}
    for name, shape in shapes.items():
        _with_header(folder / name, kind if name == "values" else "<i8", shape)
    about = {
        "file": str(reader.path),
        "columns": features,
        "labelled": reader.schema.label is not None,
        "skipped": list(reader.account),
    }
    (folder / "table.json").write_text(json.dumps(about), encoding="utf-8")


def _with_header(file: Path, kind: str, shape: tuple[int, ...]) -> None:
    """Make a ``.npy`` file out of one of values alone, whose number is known only now."""
    with file.with_suffix(".npy").open("wb") as out, file.open("rb") as values:
        npy.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
        shutil.copyfileobj(values, out, 1 << 22)
    file.unlink()

"""Numpy archives (``.npz``): arrays read whole, or mapped out of unpacked copies. Pickled content is refused."""

from __future__ import annotations

import math
import shutil
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from metaad_zoo.data.read.memory import TooLargeError, refuse_large

MOST_COMPRESSION = 100
"""Arrays beyond the limit of memory are unpacked to the disk, unless they take this many times their packed size."""
SAMPLE_ARRAYS = ("X", "x")
"""Names under which an archive may hold its samples."""

_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    SyntaxError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
"""What numpy and zipfile raise for damaged, encrypted or forged archives."""


class NoRoomError(ValueError):
    """The disk has no room for what is unpacked."""


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (TooLargeError, NoRoomError):
        raise
    except _DAMAGE as error:
        if not path.exists():
            raise ValueError(f"{path} does not exist: expected a numpy archive (.npz)") from error
        raise ValueError(f"{path} can't be read as a numpy archive ({type(error).__name__}: {error})") from error


def read_archive(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an archive by name.

    Args:
        path: the archive.
        names: read those of these that are there; None reads all.

    Raises:
        ValueError: the file is missing or damaged, its arrays take more memory than the limit
            (:func:`metaad_zoo.data.read.memory.memory_limit`), or an array holds Python objects; the file is named.
    """
    with _damage_named(path), path.open("rb") as file:
        with zipfile.ZipFile(file) as archive_file:  # which never gives more bytes than it says
            wanted = [member for member in archive_file.infolist() if names is None or _array_name(member) in names]
            refuse_large(str(path), sum(member.file_size for member in wanted))
            _check_headers(archive_file, wanted)
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if names is None or name in names}
        if strange := [name for name, x in arrays.items() if not isinstance(x, np.ndarray)]:
            raise ValueError(f"{strange[:10]} are not arrays")
        _check_texts(arrays)
        return arrays


def _check_texts(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse texts with characters that Unicode does not have, which NumPy reads and Python can't hold."""
    for name, x in arrays.items():
        if x.dtype.kind == "U":
            codes = np.frombuffer(x.tobytes(), np.dtype(np.uint32).newbyteorder(x.dtype.byteorder))
            if codes.max(initial=0) > sys.maxunicode:
                raise ValueError(f"{name!r} holds a text that is not valid Unicode")


def _check_headers(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> None:
    """Compare the shapes that arrays say they have with their bytes, before anything is read.

    Raises:
        ValueError: they do not agree, or the format is unknown.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    for member in members:
        if not member.filename.endswith(".npy"):
            continue
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in readers:
                raise ValueError(f"{member.filename} has npy version {version}: expected an array of numbers")
            shape, _, dtype = readers[version](file)
            size = member.file_size - file.tell()
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{member.filename} says that it has shape {shape} of {dtype}, but it has {size:,} bytes")


def _array_name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def map_archive(path: Path, names: Sequence[str], scratch: Path) -> dict[str, np.ndarray]:
    """Arrays of an archive with one of these names, mapped from unpacked copies.

    Args:
        path: the archive.
        names: names of the arrays.
        scratch: folder for the copies, which must last as long as the arrays are used.

    Raises:
        ValueError: as for :func:`read_archive`.
    """
    arrays = {}
    with _damage_named(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {
            _array_name(m): m for m in archive.infolist() if _array_name(m) in names and m.filename.endswith(".npy")
        }
        _check_headers(archive, list(members.values()))
        _refuse_unpacking(path, list(members.values()), scratch)
        for name in names:
            if name in members:
                unpacked = scratch / f"unpacked-{name}.npy"
                if not unpacked.is_file():
                    with archive.open(f"{name}.npy") as packed, unpacked.open("wb") as out:
                        shutil.copyfileobj(packed, out, 1 << 20)
                arrays[name] = np.load(unpacked, mmap_mode="r", allow_pickle=False)
        _check_texts(arrays)
    return arrays


def _refuse_unpacking(path: Path, members: Sequence[zipfile.ZipInfo], scratch: Path) -> None:
    """Refuse arrays that do not fit on the disk, and arrays above the limit of memory that are compressed too much."""
    size = sum(member.file_size for member in members)
    if size > MOST_COMPRESSION * sum(member.compress_size for member in members):
        refuse_large(str(path), size)
    free = shutil.disk_usage(scratch).free
    if size > free:
        raise NoRoomError(
            f"{path} unpacks to {size >> 20:,} MiB, but {scratch.parent} has {free >> 20:,} MiB left: set TMPDIR to a "
            "larger disk"
        )


def sample_array(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The array ``X`` or ``x`` of numbers among an archive's arrays.

    Raises:
        ValueError: there is none; the file and what it holds are named.
    """
    x = next((arrays[name] for name in SAMPLE_ARRAYS if name in arrays), None)
    if x is None or x.dtype.kind not in "biuf" or x.ndim == 0:
        seen = {name: f"{a.dtype} {a.shape}" for name, a in arrays.items()} or "neither"
        raise ValueError(f"{path}: expected an array 'X' or 'x' of numbers, saw {seen}")
    return x

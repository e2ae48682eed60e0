"""Arrays of a numpy archive that are read as they are needed."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SAMPLES = ("X", "x")
"""Names under which an archive may hold its samples."""


def map_arrays(path: Path, names: tuple[str, ...], scratch: Path) -> dict[str, np.ndarray]:
    """Those arrays of an ``.npz`` that have one of these names, mapped out of unpacked copies.

    Args:
        path: of the archive.
        names: of arrays.
        scratch: folder for the copies, which must last as long as the arrays are used.

    Raises:
        ValueError: the file is damaged, or an array holds Python objects.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                if f"{name}.npy" in archive.namelist():
                    unpacked = scratch / f"unpacked-{name}.npy"
                    if not unpacked.is_file():
                        with archive.open(f"{name}.npy") as packed, unpacked.open("wb") as out:
                            shutil.copyfileobj(packed, out, 1 << 20)
                    arrays[name] = np.load(unpacked, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} can't be read as a numpy archive ({type(error).__name__}: {error})") from error
    return arrays


def map_samples(path: Path, scratch: Path) -> np.ndarray:
    """The array ``X`` or ``x`` of an ``.npz`` of numbers; arguments and errors as for :func:`map_arrays`."""
    arrays = map_arrays(path, SAMPLES, scratch)
    x = next(iter(arrays.values()), None)
    if x is None or x.dtype.kind not in "biuf":
        seen = {name: f"{a.dtype} {a.shape}" for name, a in arrays.items()} or "neither"
        raise ValueError(f"{path}: expected an array 'X' or 'x' of numbers, saw {seen}")
    return x


def archive_blocks(path: Path, rows: int, scratch: Path, series: bool) -> Iterator[tuple[np.ndarray, float]]:
    """Blocks ``(rows, C)`` float32 of an ``.npz`` of a table or a series, and the share of it that is read.

    Args:
        path: of the archive.
        rows: of a block.
        scratch: folder for an unpacked copy.
        series: one of one channel may then be ``(T,)``.

    Raises:
        ValueError: the file is damaged, it holds something else, or a value is infinite.
    """
    x = map_samples(path, scratch)
    if x.ndim not in ((1, 2) if series else (2,)) or len(x) == 0:
        expected = "a series of shape (T,) or (T, C)" if series else "table rows of shape (n, D)"
        raise ValueError(f"{path}: expected {expected}, saw {x.shape}")
    for start in range(0, len(x), rows):
        values = np.array(x[start : start + rows], np.float32).reshape(len(x[start : start + rows]), -1)
        infinite = np.flatnonzero(np.isinf(values).any(1))
        if len(infinite):
            raise ValueError(
                f"{path}, row {start + infinite[0] + 1}: a value is infinite ({len(infinite)} such rows near it): mend "
                "it, or set it to NaN where it is missing"
            )
        yield values, min(1.0, (start + rows) / len(x))

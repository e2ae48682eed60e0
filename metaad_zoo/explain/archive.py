"""A numpy archive (``.npz``) that grows part by part, without holding its arrays in memory."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from metaad_zoo.atomic_write import replacing


class GrowingArchive:
    """Writes arrays to an ``.npz`` file, each given in parts along its first axis; a context manager.

    The parts lie in a temporary folder beside the file, which appears when the context ends without an error. Parts of
    different size along other axes are padded with NaN at their ends.

    Args:
        path: the file.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with GrowingArchive(Path(folder, "a.npz")) as archive:
        ...         archive.add(x=np.zeros((2, 3)))
        ...         archive.add(x=np.ones((1, 2)))
        ...     np.load(Path(folder, "a.npz"))["x"]
        array([[ 0.,  0.,  0.],
               [ 0.,  0.,  0.],
               [ 1.,  1., nan]])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: dict[str, list[Path]] = {}
        self._n = 0

    def __enter__(self) -> GrowingArchive:
        self._folder = tempfile.TemporaryDirectory(dir=self.path.parent, prefix=f"{self.path.stem}-", suffix=".part")
        return self

    def add(self, **arrays: np.ndarray) -> None:
        """Append a part to each of these arrays, in memory of its own."""
        for name, array in arrays.items():
            part = Path(self._folder.name, f"{self._n}.npy")
            np.save(part, array, allow_pickle=False)
            self._parts.setdefault(name, []).append(part)
            self._n += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._folder:
            if kind is None:
                with replacing(self.path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name, parts in self._parts.items():
                        _write(archive, name, parts)


def _write(archive: zipfile.ZipFile, name: str, parts: list[Path]) -> None:
    arrays = [np.load(part, mmap_mode="r", allow_pickle=False) for part in parts]
    rows = sum(len(x) for x in arrays)
    shape = (rows, *np.max([x.shape[1:] for x in arrays], axis=0).astype(int).tolist())
    dtype = np.result_type(*(x.dtype for x in arrays))
    header: dict[str, Any] = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for x in arrays:
            ends = [(0, 0), *((0, most - size) for size, most in zip(x.shape[1:], shape[1:], strict=True))]
            whole = np.pad(x, ends, constant_values=np.nan) if any(end for _, end in ends) else x
            file.write(np.ascontiguousarray(whole, dtype).tobytes())

"""Atomic writes: a file is written under a temporary name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """Temporary path in the same folder; it replaces ``path`` when the block ends, or is removed if the block fails.

    Args:
        path: file to write.
        sync: wait until the content is on the disk before the file is renamed, so that it survives a power failure.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a.txt")) as beside:
        ...         _ = beside.write_text("whole")
        ...     Path(folder, "a.txt").read_text(), len(list(Path(folder).iterdir()))
        ('whole', 1)
    """
    beside = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield beside
        if sync:
            _sync(beside)
        os.replace(beside, path)
        if sync and os.name == "posix":  # elsewhere folders can't be opened
            _sync(path.parent)
    except OSError as error:
        if error.filename is None:  # such as of a full disk
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write bytes, or text in UTF-8, atomically (:func:`replacing`)."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)

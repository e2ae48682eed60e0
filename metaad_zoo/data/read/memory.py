"""The limit of what is read from files into memory at once."""

from __future__ import annotations

import os

LIMIT_VARIABLE = "METAAD_MEMORY_LIMIT"
"""Environment variable that names the limit in MiB."""
USUAL_LIMIT = 1024
"""MiB. Adapting takes about four times as much."""


class TooLargeError(ValueError):
    """What is read takes more memory than the limit."""


def memory_limit() -> int:
    """The limit in bytes.

    Raises:
        ValueError: the environment variable is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(USUAL_LIMIT))
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{LIMIT_VARIABLE}={text}: expected a number of MiB, such as {USUAL_LIMIT}")
    return int(text) << 20


def refuse_large(what: str, size: int) -> None:
    """Refuse values that take more memory than :func:`memory_limit`.

    Args:
        what: name of the file, or of what is read.
        size: bytes that the values take, or have taken so far.

    Raises:
        TooLargeError: they take more.
    """
    limit = memory_limit()
    if size > limit:
        raise TooLargeError(
            f"{what} takes {size / (1 << 20):,.0f} MiB of memory or more, the limit is {limit >> 20:,} MiB: give fewer "
            f"samples (tens are enough to adapt; `metaad score` reads any number), or set {LIMIT_VARIABLE} (MiB) higher"
        )

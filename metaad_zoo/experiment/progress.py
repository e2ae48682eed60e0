"""Progress of long experiments."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int], Callable[[], None]]
"""Called with the name of a piece of work and its number of steps; returns a function to call after each step."""


def silent(work: str, steps: int) -> Callable[[], None]:
    """Report nothing."""
    return lambda: None

"""Rows of a table as arrays: a block of them, parts of it, and blocks joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Rows:
    """Successive rows as samples.

    Attributes:
        values: ``(rows, D)`` float64, the schema's features; NaN where a value is missing.
        labels: ``(rows,)`` int8 of 0, 1 and -1 (unknown), or None without a label column.
        times: ``(rows,)`` float64 seconds (or the time column's own unit), or None without a time column.
        numbers: ``(rows,)`` number of each row in its source, from 1.
        done: share of the source that is read with these, from 0 to 1.
        special: special columns of the reader that the source has, float64 or texts.
    """

    values: np.ndarray
    labels: np.ndarray | None
    times: np.ndarray | None
    numbers: np.ndarray
    done: float = 1.0
    special: dict[str, np.ndarray] = field(default_factory=dict)

    def part(self, start: int, stop: int) -> Rows:
        """The rows from ``start`` to before ``stop``."""
        return chosen_rows(self, np.s_[start:stop])


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """Successive blocks as one."""
    labels = [r.labels for r in parts if r.labels is not None]
    times = [r.times for r in parts if r.times is not None]
    return Rows(
        np.concatenate([r.values for r in parts]),
        np.concatenate(labels) if labels else None,
        np.concatenate(times) if times else None,
        np.concatenate([r.numbers for r in parts]),
        special={name: np.concatenate([r.special[name] for r in parts]) for name in parts[0].special},
    )


def chosen_rows(rows: Rows, keep: np.ndarray | slice) -> Rows:
    labels = None if rows.labels is None else rows.labels[keep]
    times = None if rows.times is None else rows.times[keep]
    special = {name: x[keep] for name, x in rows.special.items()}
    return Rows(rows.values[keep], labels, times, rows.numbers[keep], rows.done, special)

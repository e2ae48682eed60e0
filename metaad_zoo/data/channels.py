"""Which columns of a user's series are its channels: no times, no text, and in the order of the support's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from metaad_zoo.data.sources.columns import Columns
from metaad_zoo.data.sources.sampling import as_seconds
from metaad_zoo.data.sources.series_files import TIME_NAMES, is_time


def positions(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the wanted columns are.

    Raises:
        ValueError: a column is missing, or there are others; they are named.

    Example:
        >>> positions(["b", "a"], ["a", "b"])
        [1, 0]
    """
    missing, others = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    if missing or others:
        raise ValueError(
            f"the columns are not those of the support set: missing {missing[:10]}, not known {others[:10]}: rename "
            "them, or adapt anew"
        )
    return [list(names).index(n) for n in wanted]


class Channels:
    """The channels of a file or DataFrame, block by block.

    Args:
        path: named in errors.
        wanted: names of the support's channels; None takes all that are no times.
        tell: is given a sentence on each thing that is left out.

    Example:
        >>> channels = Channels(Path("s.csv"), ["a", "b"], print)
        >>> channels.of(Columns(Path("s.csv"), ["t", "b", "a"], np.array([[0.0, 1.0, 2.0], [1.0, 3.0, 4.0]])))
        s.csv: time column 't' is no channel and is left out
        array([[2., 1.],
               [4., 3.]])
    """

    def __init__(
        self, path: Path, wanted: Sequence[str] | None, tell: Callable[[str], object] = lambda _: None
    ) -> None:
        self.path, self.wanted, self._tell = path, wanted, tell
        self.names: list[str] | None = None
        self._kept: list[int] = []
        self._time: str | None = None
        self._latest = -np.inf

    def of(self, block: Columns) -> np.ndarray:
        """The channels of the next rows, ``(rows, C)``.

        Raises:
            ValueError: they are not those of the support, there are none, or rows are out of time order.
        """
        if self.names is None:
            self._choose(block)
        self._check_order(block)
        return block.values[:, self._kept]

    def _choose(self, block: Columns) -> None:
        known = set(self.wanted or ())
        became = sorted(known & set(block.text))
        if became:
            raise ValueError(
                f"{self.path}: columns {became} hold text here, but held numbers in the support set: mend them, or "
                "leave cells empty where the value is missing"
            )
        times = [name for name, texts in block.text.items() if _are_times(texts)]
        texts = [name for name in block.text if name not in times]
        for i, name in enumerate(block.names):
            if name.lower() not in TIME_NAMES or name in known:
                continue
            # What is no channel of the support is a time, in whatever order: else it would be an unknown column.
            if known or is_time(name, block.values[:, i]):
                times.append(name)
            else:
                self._tell(f"{self.path}: column {name!r} does not rise, so it counts as a channel and not as a time")
        names = [name for name in block.names if name not in times]
        if not names:
            raise ValueError(
                f"{self.path} has no column of numbers beside labels and times: expected a column a channel"
            )
        for name in times:
            self._tell(f"{self.path}: time column {name!r} is no channel and is left out")
        if texts:
            self._tell(
                f"{self.path}: columns {texts} hold text and are left out; turn them into numbers if they matter"
            )
        self._time = next(iter(times), None)
        try:
            at = positions(names, self.wanted or names)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        self._kept = [block.names.index(names[i]) for i in at]
        self.names = [names[i] for i in at]

    def _check_order(self, block: Columns) -> None:
        if self._time is None or not len(block.values):
            return
        if self._time in block.text:
            try:
                times = as_seconds(block.text[self._time])
            except ValueError as error:
                raise ValueError(
                    f"{self.path}, column {self._time!r}, rows from {block.row(0)} on: expected times in ISO 8601, as "
                    f"in the rows before ({error}): mend them, or remove the column"
                ) from error
        else:
            times = block.values[:, block.names.index(self._time)].astype(np.float64)
        back = np.flatnonzero(np.diff(times, prepend=self._latest) < 0)
        if len(back):
            raise ValueError(
                f"{self.path}, row {block.row(back[0])}: column {self._time!r} goes back in time, but windows are cut "
                "in the order of the rows: sort them, or remove the column if it tells no time"
            )
        self._latest = max(self._latest, float(np.fmax.reduce(times)))


def _are_times(texts: np.ndarray) -> bool:
    try:
        return len(as_seconds(texts)) > 0
    except ValueError:
        return False

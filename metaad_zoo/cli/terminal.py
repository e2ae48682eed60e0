"""Output of all verbs: figures to standard output, progress bars and notes to standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

TABLE_WIDTH, NARROW = 118, 80
OK, ERROR, USAGE, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: done; an error, printed in one line; a command line that can't be read; done, but some files could not be
read; stopped by Ctrl-C."""
EXIT_CODES = (
    f"exit codes: {OK} done, {ERROR} error (one line on stderr), {USAGE} wrong usage, {DAMAGED} done, but some files "
    f"could not be read, {INTERRUPTED} interrupted"
)


def bars() -> Progress:
    """Progress bars on standard error, gone when they are done; none where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def progress_bars(lines: bool = False) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Report the progress of an experiment by bars.

    Args:
        lines: also print the name of each piece of work, for log files, where no bar is shown.

    Yields:
        A :data:`metaad_zoo.experiment.progress.Progress`.
    """
    with bars() as progress:

        def report(work: str, steps: int) -> Callable[[], None]:
            if lines:
                print(f"{work} ...", flush=True)
            bar = progress.add_task(work, total=steps)
            return lambda: progress.advance(bar)

        yield report


def error_in_words(error: Exception) -> str:
    """The message of an error; of a full disk with its file and a remedy."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    place = "" if error.filename is None else f" to write {error.filename}"
    more = "" if error.filename is not None or error.strerror == os.strerror(error.errno) else f" ({error.strerror})"
    return f"no space left on the disk{place}{more}: make room, or name another folder; no unfinished file is kept"


def note(sentence: str) -> None:
    """Tell what the user should know, on standard error, so that it does not end in a pipe."""
    print(f"note: {sentence}", file=sys.stderr)


def printable(text: str) -> str:
    """A text from elsewhere without what would steer the terminal.

    Example:
        >>> printable("a\\x1b[2Jb")
        'a[2Jb'
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")


def note_account(account: Iterable[str]) -> None:
    """Print what readers left out, guessed or changed."""
    for sentence in account:
        note(sentence)


def wide_console(least: int = TABLE_WIDTH) -> Console:
    """Standard output: as wide as the terminal, or as the widest tables where it is narrower than ``least`` or none."""
    from rich.console import Console

    console = Console()
    fits = console.width >= (least if console.is_terminal else TABLE_WIDTH)
    return console if fits else Console(width=TABLE_WIDTH)


def show(as_json: bool, results: Mapping[str, Any], table: RenderableType, where: str) -> None:
    """Print results: as a table that is wide enough, or as JSON.

    Args:
        as_json: print JSON rather than a table.
        results: what JSON output holds.
        table: what text output shows.
        where: a sentence on what lies in which folder.
    """
    from metaad_zoo.evaluation.report import finite

    if as_json:
        print(json.dumps(finite(results), default=str))
        return
    console = wide_console(NARROW)
    console.print(table)
    console.print(where, soft_wrap=True)


def tell(as_json: bool, figures: Mapping[str, Any], sentence: str) -> None:
    """Print figures: as a sentence, or as JSON."""
    print(json.dumps(figures, default=str) if as_json else sentence)

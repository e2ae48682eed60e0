"""What all verbs share of talking to a terminal: figures to standard output, bars and notes to standard error."""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import shtab
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from metaad_zoo.cli.conclude import TABLE_WIDTH
from metaad_zoo.evaluation.report import finite

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; an error, told in one line; a command line that can't be read; stopped by Ctrl-C."""
EXIT_CODES = (
    f"exit codes: {OK} done, {ERROR} error (one line on stderr), {USAGE} wrong usage, {INTERRUPTED} interrupted"
)


def bars() -> Progress:
    """Progress bars on standard error, gone when they are done; none where that is no terminal."""
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


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


def json_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help="figures for machines, as one JSON object")


def complete_paths(command: argparse.ArgumentParser) -> None:
    """Let a shell complete files after every option that takes a path."""
    for action in command._actions:
        if action.type is Path or action.dest in ("folder", "name", "methods", "models"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def shown(as_json: bool, results: Mapping[str, Any], table: Table, where: str) -> None:
    """Print the results of a long work: as a table that is wide enough, or as JSON.

    Args:
        as_json: which of the two.
        results: for machines.
        table: for people.
        where: a sentence on what lies in which folder.
    """
    if as_json:
        print(json.dumps(finite(results), default=str))
        return
    console = Console()
    (console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)).print(table)
    console.print(where, soft_wrap=True)


def tell(as_json: bool, figures: Mapping[str, Any], sentence: str) -> None:
    """Print figures: as a sentence, or as JSON."""
    print(json.dumps(figures, default=str) if as_json else sentence)

"""Dialect of a CSV file: encoding, delimiter, header, decimal and thousands separators, inferred from its beginning."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEAD_BYTES = 1 << 18
"""Number of bytes from which the dialect is inferred."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_ROWS_COMPARED = 20
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+|[+-]?\d*,(\d{1,2}|\d{4,})([eE][+-]?\d+)?|[+-]?(0|\d{4,}),\d+")
_THOUSANDS_COMMA = re.compile(r"[+-]?\d{1,3}((,\d{3}){2,}(\.\d*)?|(,\d{3})+\.\d*)")
_NUMBERS = {
    ",": re.compile(r"[+-]?(\d*|\d{1,3}(\.\d{3})+)(,\d*)?([eE][+-]?\d+)?|[+-]?[a-zA-Z]+"),
    ".": re.compile(r"[+-]?(\d*|\d{1,3}(,\d{3})+)(\.\d*)?([eE][+-]?\d+)?|[+-]?[a-zA-Z]+"),
}
"""Numbers, and words such as nan, by decimal separator."""

_ONE_GROUP = re.compile(r"[+-]?\d{1,3},\d{3}")


@dataclass(frozen=True)
class Dialect:
    """Dialect of a CSV file.

    Attributes:
        encoding: name of the codec, as Python spells it.
        delimiter: between cells.
        names: names of the columns where the file has no header; None where it has one.
        notes: a sentence on each choice that is not the standard's (UTF-8, commas, a header).
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_dialect(path: Path, head: bytes) -> Dialect:
    """Tell how a CSV file is written from its first bytes.

    Args:
        path: the file, named in messages.
        head: the file's first bytes, :data:`HEAD_BYTES` at most.

    Raises:
        ValueError: the file is empty, or its columns are separated by spaces.

    Example:
        >>> read_dialect(Path("a.csv"), b"a;b\\n1,5;2\\n").delimiter
        ';'
    """
    encoding = _encoding(head)
    text = head.decode(encoding, errors="replace").lstrip("\ufeff")
    lines = text.splitlines()
    if len(head) == HEAD_BYTES and len(lines) > 1:
        lines = lines[:-1]  # the last one may be cut
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} is empty: expected a header and at least one row")
    delimiter = _delimiter(lines)
    _refuse_spaces(path, lines, delimiter)
    notes = []
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"the file is not in UTF-8 and is read as {encoding}")
    if delimiter != ",":
        notes.append(f"columns are separated by {DELIMITERS[delimiter]}")
    names = _names_without_header(lines, delimiter)
    if names is not None:
        notes.append(f"row 1 holds numbers where names are expected: there is no header, columns are {_span(names)}")
    return Dialect(encoding, delimiter, names, tuple(notes))


def _span(names: Sequence[str]) -> str:
    return f"{names[0]!r} to {names[-1]!r}" if len(names) > 1 else repr(names[0])


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if head[:1000].count(0) > len(head[:1000]) // 4:
        return "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if not (len(head) == HEAD_BYTES and error.start >= len(head) - 3):  # a character cut at the end
            return "cp1252"
    return "utf-8"


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    return [row for row in csv.reader(lines[: 3 * _ROWS_COMPARED], delimiter=delimiter) if row][:_ROWS_COMPARED]


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that cuts the first rows into most cells, as many in each; else the most frequent in the header."""
    cells: dict[str, int] = {}
    for delimiter in DELIMITERS:
        widths = {len(row) for row in _rows(lines, delimiter)}
        if len(widths) == 1:
            cells[delimiter] = widths.pop()
    if max(cells.values(), default=1) > 1:
        return max(cells, key=cells.__getitem__)
    header = next(line for line in lines if line.strip())
    return max(DELIMITERS, key=header.count)


def _refuse_spaces(path: Path, lines: Sequence[str], delimiter: str) -> None:
    """Refuse columns that are separated by spaces, which would be one column of text."""
    header, *rows = [line.split() for line in lines if line.strip()][:_ROWS_COMPARED]
    spaced = len(header) > 1 and rows and all(len(r) == len(header) and all(map(is_number, r)) for r in rows)
    if spaced and delimiter not in "".join(lines[:_ROWS_COMPARED]):
        raise ValueError(
            f"{path}: columns are separated by spaces, where commas, semicolons, tabs or bars are expected: write it "
            r"anew, such as by pandas.read_csv(path, sep=r'\s+').to_csv(new_path, index=False)"
        )


def _names_without_header(lines: Sequence[str], delimiter: str) -> tuple[str, ...] | None:
    """``f0``, ``f1``, ... where the first row holds numbers alone; None where it is a header.

    Whole numbers that count up from 0 or 1 are the header that pandas writes for unnamed columns.
    """
    rows = _rows(lines, delimiter)
    first = [cell.strip() for cell in rows[0]]
    if not first or not all(is_number(cell) for cell in first):
        return None
    if first in ([str(i + start) for i in range(len(first))] for start in (0, 1)):
        return None
    return tuple(f"f{i}" for i in range(len(first)))


def is_number(cell: str) -> bool:
    """Whether a text is a number, with a decimal point or a decimal comma."""
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def decimal_separator(path: Path, delimiter: str, cells: dict[str, np.ndarray]) -> str | None:
    """Whether commas inside cells are decimal commas or separate thousands: ``","``, ``"."`` or None without any.

    Args:
        path: the file, named in messages.
        delimiter: character between cells; where it is a semicolon, ``1,234`` has a decimal comma.
        cells: some texts of each column.

    Raises:
        ValueError: the cells allow for both readings, or contradict each other; column and row are named.
    """
    unclear: tuple[str, int, str] | None = None
    readings: dict[str, tuple[str, int, str]] = {}
    for name, texts in cells.items():
        for row, text in enumerate(texts.tolist()):
            if "," not in text:
                continue
            cell = text.strip()
            if _DECIMAL_COMMA.fullmatch(cell):
                readings.setdefault(",", (name, row, text))
            elif _THOUSANDS_COMMA.fullmatch(cell):
                readings.setdefault(".", (name, row, text))
            elif _ONE_GROUP.fullmatch(cell):
                unclear = unclear or (name, row, text)
    if len(readings) == 2:
        (a, i, x), (b, j, y) = readings[","], readings["."]
        raise ValueError(
            f"{path}: {x!r} (column {a!r}, row {i + 1}) has a decimal comma, but {y!r} (column {b!r}, row {j + 1}) "
            "separates thousands by commas: write all numbers in one way"
        )
    if readings:
        return next(iter(readings))
    if unclear is None:
        return None
    if delimiter == ";":
        return ","
    name, row, text = unclear
    raise ValueError(
        f"{path}, column {name!r}, row {row + 1}: {text!r} may mean {text.replace(',', '')} (thousands) or "
        f"{text.replace(',', '.')} (decimal comma): say --decimal . if commas separate thousands, --decimal , if they "
        "are decimal commas (data.decimal for train.py)"
    )


def plain_number(text: str, decimal: str) -> str:
    """A number's text with a decimal point and without thousands separators.

    Raises:
        ValueError: it is no number that is written with this decimal separator.

    Example:
        >>> plain_number("1.234,5", ","), plain_number("1,234.5", ".")
        ('1234.5', '1234.5')
    """
    if not _NUMBERS[decimal].fullmatch(text):
        raise ValueError(f"{text!r} is no number with the decimal separator {decimal!r}")
    if decimal == ",":
        return text.replace(".", "").replace(",", ".")
    return text.replace(",", "")

"""Values of table cells: columns of Arrow arrays and texts as numbers, seconds and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from metaad_zoo.data.read.csv_dialect import plain_number
from metaad_zoo.data.read.roles import number_text


def texts_of(column: pa.Array) -> np.ndarray:
    """Texts ``(rows,)`` of a column without surrounding spaces; empty where a value is missing.

    Example:
        >>> texts_of(pa.array([" a", None]))
        array(['a', ''], dtype='<U1')
    """
    return np.array(["" if v is None else str(v).strip() for v in column.to_pylist()], dtype=str)


def cell_texts(values: np.ndarray) -> list[str]:
    """Texts of values ``(rows,)`` that are texts or float64; empty where a value is missing.

    Example:
        >>> cell_texts(np.array([1.0, np.nan, 0.5]))
        ['1', '', '0.5']
    """
    return values.tolist() if values.dtype.kind == "U" else ["" if v != v else number_text(v) for v in values.tolist()]


def numbers_of(column: pa.Array) -> np.ndarray:
    """Values ``(rows,)`` of a column of float64 or int64 as float64; NaN where a value is missing.

    ``to_numpy`` gives the same, but imports pandas, a sixth of the time of `metaad score` on a few rows.

    Example:
        >>> numbers_of(pa.array([1.5, None, 2.5])[1:])
        array([nan, 2.5])
    """
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    validity, content = column.buffers()
    rows = slice(column.offset, column.offset + len(column))
    kind = np.int64 if pa.types.is_integer(column.type) else np.float64
    values = np.frombuffer(content, kind, rows.stop)[rows].astype(np.float64)
    if column.null_count:
        is_present = np.unpackbits(np.frombuffer(validity, np.uint8), count=rows.stop, bitorder="little")[rows]
        values[is_present == 0] = np.nan
    return values


def numbers_of_texts(texts: Sequence[str], decimal: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers ``(rows,)`` of texts, NaN where a text is none, and the positions of those texts.

    Args:
        texts: filled cells; ``true`` and ``false`` are 1 and 0.
        decimal: the decimal separator, a comma or a point; None takes numbers as Python writes them.

    Example:
        >>> numbers_of_texts(["1,5", "TRUE", "n/a"], ",")
        (array([1.5, 1. , nan]), array([2]))
    """
    truth = {"true": 1.0, "false": 0.0}
    values, wrong = np.full(len(texts), np.nan), []
    for i, text in enumerate(texts):
        try:  # float() takes 1_000, which no file means as a number
            number = text.replace("_", "x") if decimal is None else plain_number(text, decimal)
            values[i] = truth[text.lower()] if text.lower() in truth else float(number)
        except ValueError:
            wrong.append(i)
    return values, np.asarray(wrong, np.int64)


def seconds_of(column: pa.Array) -> np.ndarray:
    """Times ``(rows,)`` as float64 seconds since 1970, durations as seconds; NaN where a value is missing.

    Example:
        >>> import datetime
        >>> seconds_of(pa.array([datetime.timedelta(minutes=1), None]))
        array([60., nan])
    """
    if pa.types.is_time(column.type):
        column = column.cast(pa.time64("us")).cast(pa.int64())
        return numbers_of(column) / 1e6
    duration = pa.types.is_duration(column.type)
    whole = column.cast(pa.duration("us") if duration else pa.timestamp("us", getattr(column.type, "tz", None)), False)
    return numbers_of(whole.cast(pa.int64())) / 1e6


def is_number_type(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds numbers: integers, floats, decimals, booleans, or nothing but missing values."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null, pa.types.is_decimal)
    return any(test(kind) for test in tests)

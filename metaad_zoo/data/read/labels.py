"""Labels in a user's own files: usual names of their columns, and words for normal and anomalous."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LABEL_NAMES = frozenset(
    (
        "anomaly is_anomaly anomalous is_anomalous anomaly_label label labels is_outlier outlier attack "
        "is_attack is_fraud fraud fraudulent class target y fault is_fault faulty failure defect defective "
        "status abnormal is_abnormal ground_truth gt"
    ).split()
)
"""Names of columns that hold labels, in lower case; those of two values with such a name are labels, or are refused."""

NORMAL_WORDS = frozenset("0 0.0 false no n f normal benign good inlier negative healthy".split())
ANOMALOUS_WORDS = frozenset(
    "1 1.0 true yes y t anomaly anomalous abnormal bad outlier positive attack fraud fault faulty defect".split()
)
"""Words for labels, in lower case; with :data:`NORMAL_WORDS`, values that are mapped without an option."""


def is_label_name(name: str) -> bool:
    """Whether a column is called as labels usually are."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_") in LABEL_NAMES


def parse_labels(path: Path, name: str, texts: Sequence[str], first_row: int = 0) -> np.ndarray:
    """Labels ``(rows,)`` int8 of 0 (normal), 1 (anomalous) and -1 (the cell is empty), by :data:`NORMAL_WORDS`.

    Args:
        path: the file, named in messages.
        name: name of the column.
        texts: texts of its cells.
        first_row: what rows are counted from in messages.

    Raises:
        ValueError: a value has no known meaning; file, row, column and value are named.

    Example:
        >>> parse_labels(Path("a.csv"), "label", ["normal", "Anomaly", ""])
        array([ 0,  1, -1], dtype=int8)
    """
    meaning = dict.fromkeys(NORMAL_WORDS, 0) | dict.fromkeys(ANOMALOUS_WORDS, 1) | {"": -1}
    labels = np.array([meaning.get(text.strip().lower(), 2) for text in texts], np.int8)
    wrong = np.flatnonzero(labels == 2)
    if len(wrong):
        values = sorted({texts[int(i)] for i in wrong})
        negative = " (scikit-learn's 1 and -1 are 0 and 1)" if set(values) & {"-1", "-1.0"} else ""
        raise ValueError(
            f"{path}, column {name!r}, row {first_row + int(wrong[0]) + 1}: expected labels 0 (normal) and 1 "
            f"(anomalous), saw {', '.join(map(repr, values[:5]))} ({len(wrong)} such rows): write 0 and 1{negative}, "
            f"or words such as normal and anomaly; if the column is no label, --ignore {name} leaves it out"
        )
    return labels

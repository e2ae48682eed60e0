"""Files of the benchmark TSB-AD: a CSV a series, with the length of its training part in the name.

    001_NAB_id_1_Facility_tr_1007_1st_2014.csv

is the first series of the benchmark and of NAB, of the domain ``Facility``; its first 1,007 rows train, and its first
anomaly begins at row 2,014 (from 0). Columns are values, the last one is ``Label``, 0 or 1.

Source: Liu and Paparrizos, "The Elephant in the Room: Towards A Reliable Time-Series Anomaly Detection Benchmark",
NeurIPS 2024; https://github.com/TheDatumOrg/TSB-AD.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.data.read.roles import ColumnOptions
from metaad_zoo.data.read.series import SeriesReader
from metaad_zoo.data.read.table import compact
from metaad_zoo.data.read.table_sources import open_table
from metaad_zoo.data.series import Series

LABEL = "Label"
NAME = re.compile(r".+_tr_(\d+)_1st_\d+")
LEAST, MOST, MARGIN = 500, 50_000, 100
"""Bounds of a training part in rows, and its distance to the first anomaly."""


def training_steps(stem: str) -> int | None:
    """Length of the training part by a file's name without its ending; None for other names.

    Example:
        >>> training_steps("001_NAB_id_1_Facility_tr_1007_1st_2014"), training_steps("machine-1-1")
        (1007, None)
    """
    match = NAME.fullmatch(stem)
    return None if match is None else int(match[1])


def read_tsb_ad(path: Path) -> Series:
    """One series, without rows in which a value or the label is missing, as the benchmark reads it.

    Raises:
        ValueError: the name gives no training part, the last column is not ``Label``, or a cell can't be used.
    """
    steps = training_steps(path.stem)
    if steps is None:
        raise ValueError(
            f"{path.name} gives no training part: expected a name such as 001_NAB_id_1_Facility_tr_1007_1st_2014.csv"
        )
    table = open_table(path, series=True)
    *columns, last = table.header()
    if last != LABEL or not columns:
        table.close()
        raise ValueError(f"{path}: expected columns of values and a last one {LABEL!r}, saw {[*columns, last][-10:]}")
    with SeriesReader(table, ColumnOptions(label=LABEL, columns=tuple(columns))) as reader:
        rows, _ = reader.whole()
    assert rows.labels is not None
    complete = ~np.isnan(rows.values).any(1) & (rows.labels >= 0)
    return Series(path.stem, compact(rows.values[complete]), rows.labels[complete], support_until=steps)


def training_part(labels: np.ndarray) -> int:
    """Length of the training part that the benchmark's names have: it ends a hundred rows before the first anomaly, and
    is at most a quarter of the series; from 500 to 50,000 rows.

    Args:
        labels: ``(n,)`` of 0 and 1, with at least one 1.

    Example:
        >>> labels = np.zeros(28479, int)
        >>> labels[4629:4700] = 1
        >>> training_part(labels)  # 057_SMD_id_1_Facility_tr_4529_1st_4629.csv
        4529
    """
    return int(np.clip(min(np.flatnonzero(labels)[0] - MARGIN, len(labels) // 4), LEAST, MOST))


def write_tsb_ad(
    folder: Path, index: int, name: str, number: int, domain: str, values: np.ndarray, labels: np.ndarray
) -> Path:
    """Write one series in the benchmark's format.

    Args:
        folder: folder to write to.
        index: number of the series in the benchmark, from 1.
        name: data set.
        number: number of the series in the data set, from 1.
        domain: field that the series comes from, such as ``Facility``.
        values: ``(n, C)``.
        labels: ``(n,)`` of 0 and 1, with at least one 1.
    """
    first = int(np.flatnonzero(labels)[0])
    stem = f"{index:03}_{name}_id_{number}_{domain}_tr_{training_part(labels)}_1st_{first}"
    header = ["Data"] if values.shape[1] == 1 else [f"Feature_{i}" for i in range(values.shape[1])]
    lines = [",".join([*header, LABEL])]
    lines += [
        ",".join([*map(repr, row), str(label)]) for row, label in zip(values.tolist(), labels.tolist(), strict=True)
    ]
    path = folder / f"{stem}.csv"
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path

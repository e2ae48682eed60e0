"""A user's own series out of CSV, Parquet and numpy files and folders of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions
from metaad_zoo.data.read.series import RATE_FACTOR, SeriesReader
from metaad_zoo.data.read.series_archive import read_series_npz
from metaad_zoo.data.read.table import compact
from metaad_zoo.data.read.table_sources import TABLE_SUFFIXES
from metaad_zoo.data.read.times import as_seconds, resampled, usual_step
from metaad_zoo.data.read.tsb_ad import training_steps
from metaad_zoo.data.series import SequenceArrays, Series, SeriesSet
from metaad_zoo.data.tables import known_labels

WINDOWS_FILE = "combined_windows.json"


@dataclass(frozen=True)
class FileOptions:
    """Options for reading files.

    Args:
        columns: what the user says of their columns.
        resample: seconds a step; None keeps the rows as they are.
    """

    columns: ColumnOptions = USUAL_OPTIONS
    resample: float | None = None


def read_own_series(root: Path, options: FileOptions = FileOptions()) -> SeriesSet | SequenceArrays:
    """Series from a user's own path, in a layout that is recognised by its content.

    - a CSV or Parquet file: a row a time step, a column a channel; one domain, named after the file;
    - an ``.npz``, see :func:`metaad_zoo.data.read.series_archive.read_series_npz`;
    - a CSV file of the benchmark TSB-AD, with the length of its training part in the name
      (:mod:`metaad_zoo.data.read.tsb_ad`);
    - a folder of such files, at any depth: each a domain, named by its path below the folder;
    - the layout of the Numenta Anomaly Benchmark: ``data/<group>/<series>.csv`` and ``labels/combined_windows.json``
      (or one other JSON file there), which maps ``<group>/<series>.csv`` to a list of ``[start, end]`` times.

    Raises:
        ValueError: nothing is there, or a file can't be used; it is named.

    Source of the layout: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly
    Benchmark", ICMLA 2015.
    """
    if root.suffix == ".npz" and root.is_file():
        return read_series_npz(root)
    if root.is_file():
        read = _read_file(root, root.stem, options)
        return SeriesSet(root.stem, [read.series], list(read.account))
    if not root.is_dir():
        raise ValueError(f"{root} does not exist: expected a .csv, .parquet or .npz file or a folder of them")
    if (root / "data").is_dir() and (root / "labels").is_dir():
        return _read_folder(root / "data", root.resolve().name, options, _anomaly_windows(root / "labels"))
    return _read_folder(root, root.resolve().name, options)


def _read_folder(
    root: Path, name: str, options: FileOptions, windows: Mapping[str, Sequence[Sequence[str]]] | None = None
) -> SeriesSet:
    files = [f for f in sorted(root.rglob("*")) if f.suffix.lower() in TABLE_SUFFIXES and f.is_file()]
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(root).parts)]
    if not files:
        raise ValueError(f"{root} holds no series: expected .csv, .parquet or .npz files in it or in folders below it")
    series: list[Series] = []
    steps: dict[str, float] = {}
    account = Account()
    for file in files:
        below = file.relative_to(root)
        domain = below.with_suffix("").as_posix()
        if file.suffix == ".npz":
            inside = read_series_npz(file)
            if isinstance(inside, SequenceArrays):
                raise ValueError(f"{file} holds short sequences with classes: give it alone, as data.root={file}")
            series += [
                replace(s, name=domain if len(inside.series) == 1 else f"{domain}/{s.name}") for s in inside.series
            ]
            continue
        spans = None if windows is None else windows.get(below.as_posix())
        read = _read_file(file, domain, options, spans)
        series.append(read.series)
        for (kind, _, reason), subjects in read.account.entries.items():
            account.add(kind, domain, reason, subjects)
        steps[domain] = read.step
    names = [s.name for s in series]
    doubled = sorted(name for name, n in Counter(names).items() if n > 1)
    if doubled:
        raise ValueError(
            f"{root} holds several files for {doubled[:9]}, which differ in their ending alone: rename one"
        )
    skipped = list(account)
    skipped += [f"{n}: has labels, but no file" for n in windows or () if not (root / n).is_file()]
    seconds = {n: s for n, s in steps.items() if not np.isnan(s)}
    if options.resample is None and seconds and max(seconds.values()) > RATE_FACTOR * min(seconds.values()):
        low, high = min(seconds, key=seconds.__getitem__), max(seconds, key=seconds.__getitem__)
        skipped.append(
            f"nothing, but steps differ, from {seconds[low]:g} s ({low}) to {seconds[high]:g} s ({high}): set "
            "data.resample to bring them together"
        )
    return SeriesSet(name, series, skipped)


@dataclass(frozen=True)
class _File:
    """Content of a file; the step is in seconds, NaN if unknown."""

    series: Series
    account: Account
    step: float


def _read_file(path: Path, name: str, options: FileOptions, windows: Sequence[Sequence[str]] | None = None) -> _File:
    with SeriesReader(path, options.columns) as reader:
        rows, breaks = reader.whole()
    values, times = compact(rows.values), rows.times
    labels = None if rows.labels is None else known_labels(path, rows.labels, rows.numbers)
    if windows is not None:
        if times is None:
            raise ValueError(f"{path} has no time column, which its labels by time need: add one, in ISO 8601")
        spans = [as_seconds(span) for span in windows]
        inside = [(times >= start) & (times <= end) for start, end in spans]
        labels = np.any([np.zeros(len(times), bool), *inside], 0).astype(np.uint8)
    if options.resample is not None:
        if times is None:
            raise ValueError(f"{path} has no time column, which data.resample={options.resample} needs: add one")
        values, labels = resampled(times, values, labels, options.resample)
        breaks = []  # there, values are missing
    step = float("nan") if times is None else usual_step(times)
    until = training_steps(path.stem) if options.resample is None else None
    if until is not None:
        reader.account.add("guessed", path.name, f"the first {until} rows are its training part, by the file's name")
    return _File(Series(name, values, labels, until, tuple(breaks)), reader.account, step)


def _anomaly_windows(folder: Path) -> Mapping[str, Sequence[Sequence[str]]]:
    """Anomalous spans by series, out of the labels of the Numenta layout."""
    files = sorted(folder.glob("*.json"))
    chosen = [f for f in files if f.name == WINDOWS_FILE] or files
    if len(chosen) != 1:
        raise ValueError(f"{folder} holds {[f.name for f in files]}: expected {WINDOWS_FILE}, or one JSON file")
    try:
        spans_by_file = json.loads(chosen[0].read_text(encoding="utf-8"))
        for spans in spans_by_file.values():
            for start, end in spans:
                as_seconds([start, end])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{chosen[0]} can't be used ({error}): expected JSON that maps '<group>/<series>.csv' to a list of [start, "
            "end] times in ISO 8601"
        ) from error
    windows: Mapping[str, Sequence[Sequence[str]]] = spans_by_file
    return windows

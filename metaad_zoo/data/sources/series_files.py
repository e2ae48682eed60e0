"""A user's own series out of CSV, Parquet and numpy files and folders of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, Columns, Missing, read_columns
from metaad_zoo.data.sources.sampling import as_seconds, resampled, usual_step
from metaad_zoo.data.sources.series import SequenceArrays, Series, SeriesSet
from metaad_zoo.data.sources.series_npz import read_series_npz
from metaad_zoo.registry import unknown_name

TIME_NAMES = ("timestamp", "datetime", "time", "date", "t")
"""Columns of rising numbers with such a name are times and no channels; columns of text that are times always are."""

WINDOWS_FILE = "combined_windows.json"


@dataclass(frozen=True)
class FileOptions:
    """How files are read.

    Args:
        label: the label column's name; None looks for a usual one.
        time: the time column's name; None looks for one.
        missing: what to do about missing values, see :func:`read_columns`.
        resample: seconds a step; None keeps the rows as they are.
    """

    label: str | None = None
    time: str | None = None
    missing: Missing = "impute"
    resample: float | None = None


def read_own_series(root: Path, options: FileOptions = FileOptions()) -> SeriesSet | SequenceArrays:
    """Series from a user's own path, told apart by what is there.

    - a CSV or Parquet file: a row a time step, a column a channel; one domain, named after the file;
    - an ``.npz``, see :func:`metaad_zoo.data.sources.series_npz.read_series_npz`;
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
        return SeriesSet(root.stem, [read.series], read.skipped + [f"{root.name}: {note}" for note in read.notes])
    if not root.is_dir():
        raise ValueError(f"{root} does not exist: expected a .csv, .parquet or .npz file or a folder of them")
    if (root / "data").is_dir() and (root / "labels").is_dir():
        return _read_folder(root / "data", root.resolve().name, options, _anomaly_windows(root / "labels"))
    return _read_folder(root, root.resolve().name, options)


def _read_folder(
    root: Path, name: str, options: FileOptions, windows: Mapping[str, Sequence[Sequence[str]]] | None = None
) -> SeriesSet:
    files = [f for f in sorted(root.rglob("*")) if f.suffix.lower() in {*COLUMN_SUFFIXES, ".npz"} and f.is_file()]
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(root).parts)]
    if not files:
        raise ValueError(f"{root} holds no series: expected .csv, .parquet or .npz files in it or in folders below it")
    found = SeriesSet(name, [])
    steps: dict[str, float] = {}
    notes: dict[str, list[str]] = defaultdict(list)
    for file in files:
        below = file.relative_to(root)
        domain = below.with_suffix("").as_posix()
        if file.suffix == ".npz":
            inside = read_series_npz(file)
            if isinstance(inside, SequenceArrays):
                raise ValueError(f"{file} holds short sequences with classes: give it alone, as data.root={file}")
            found.series += [
                replace(s, name=domain if len(inside.series) == 1 else f"{domain}/{s.name}") for s in inside.series
            ]
            continue
        spans = None if windows is None else windows.get(below.as_posix())
        read = _read_file(file, domain, options, spans)
        found.series.append(read.series)
        found.skipped += read.skipped
        for note in read.notes:
            notes[note].append(domain)
        steps[domain] = read.step
    names = [s.name for s in found.series]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise ValueError(
            f"{root} holds several files for {doubled[:9]}, which differ in their ending alone: rename one"
        )
    found.skipped += [f"{of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {n}" for n, of in notes.items()]
    found.skipped += [f"{n}: has labels, but no file" for n in windows or () if not (root / n).is_file()]
    known = {n: s for n, s in steps.items() if not np.isnan(s)}
    if options.resample is None and known and max(known.values()) > 1.5 * min(known.values()):
        low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        found.skipped.append(
            f"nothing, but steps differ, from {known[low]:g} s ({low}) to {known[high]:g} s ({high}): set "
            "data.resample to bring them together"
        )
    return found


@dataclass(frozen=True)
class _File:
    """What a file gave: notes are what many files may share; the step is in seconds, NaN where it is not known."""

    series: Series
    skipped: list[str]
    notes: list[str]
    step: float


def _read_file(path: Path, name: str, options: FileOptions, windows: Sequence[Sequence[str]] | None = None) -> _File:
    columns = read_columns(path, options.label, options.missing)
    times, kept, notes = _times(columns, options.time)
    values, labels = columns.values[:, kept], columns.labels
    if not kept:
        raise ValueError(f"{path} has no column of numbers beside labels and times: expected a column a channel")
    if times is not None:
        order = np.argsort(times, kind="stable")
        if (np.diff(times) < 0).any():
            notes.append("rows that were out of time, put in order")
            times, values = times[order], values[order]
            labels = None if labels is None else labels[order]
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
    step = float("nan") if times is None else usual_step(times)
    return _File(Series(name, values, labels), columns.skipped, notes, step)


def is_time(name: str, values: np.ndarray) -> bool:
    """Whether a column of numbers is one of times: such a name, and numbers that rise.

    Example:
        >>> is_time("t", np.array([1.0, 2.0])), is_time("t", np.array([2.0, 1.0])), is_time("a", np.array([1.0, 2.0]))
        (True, False, False)
    """
    return name.lower() in TIME_NAMES and len(values) > 1 and bool((np.diff(values) >= 0).all())


def _times(columns: Columns, wanted: str | None) -> tuple[np.ndarray | None, list[int], list[str]]:
    """Times in seconds, the positions of the channels, and what was left out of them."""
    if wanted is not None and wanted not in (*columns.names, *columns.text):
        raise unknown_name(f"time column of {columns.path}:", wanted, [*columns.names, *columns.text])
    found: dict[str, np.ndarray] = {}
    for name, texts in columns.text.items():
        try:
            found[name] = as_seconds(texts)
        except ValueError as error:
            raise ValueError(
                f"{columns.path}, column {name!r}: expected numbers, or times in ISO 8601 such as 2014-04-01 00:05:00 "
                f"({error}): mend it, or remove the column"
            ) from error
    for i, name in enumerate(columns.names):
        if name == wanted or is_time(name, columns.values[:, i]):
            found[name] = columns.values[:, i].astype(np.float64)
    chosen = wanted if wanted is not None else next(iter(found), None)
    kept = [i for i, name in enumerate(columns.names) if name not in found]
    notes = [f"time column {name!r}, which is no channel" for name in found]
    if chosen is None:
        return None, kept, notes
    times = found[chosen]
    if chosen not in columns.text and (np.isnan(times).any() or np.abs(times).max() >= 2**24):
        return None, kept, notes  # float32 can't tell seconds since 1970 apart: no use for sampling
    return times, kept, notes


def _anomaly_windows(folder: Path) -> Mapping[str, Sequence[Sequence[str]]]:
    """Anomalous spans by series, out of the labels of the Numenta layout."""
    files = sorted(folder.glob("*.json"))
    chosen = [f for f in files if f.name == WINDOWS_FILE] or files
    if len(chosen) != 1:
        raise ValueError(f"{folder} holds {[f.name for f in files]}: expected {WINDOWS_FILE}, or one JSON file")
    try:
        found = json.loads(chosen[0].read_text(encoding="utf-8"))
        for spans in found.values():
            for start, end in spans:
                as_seconds([start, end])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{chosen[0]} can't be used ({error}): expected JSON that maps '<group>/<series>.csv' to a list of [start, "
            "end] times in ISO 8601"
        ) from error
    windows: Mapping[str, Sequence[Sequence[str]]] = found
    return windows

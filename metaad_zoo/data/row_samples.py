"""A user's own table rows and series, in any of the forms they come in, as samples of a model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metaad_zoo.backbones import ANY
from metaad_zoo.data.channels import Channels, positions
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, Columns, read_columns


def as_rows(data: Any, shape: Sequence[int], label: str | None = None) -> Tensor:
    """Table rows ``(n, D)``.

    Args:
        data: an array or tensor ``(n, D)``, a DataFrame of numbers, a CSV or Parquet file (its label column and
            a pandas index are left out), or an ``.npz`` with ``X``. NaN is a missing value.
        shape: ``(D,)`` of the model, -1 for any.
        label: a file's label column, where it is not one of the usual names.

    Raises:
        ValueError: the form, a value or the number of columns can't be used.
    """
    x = _numbers(data, label)
    if x.ndim != 2 or (shape[0] != ANY and x.shape[1] != shape[0]):
        columns = "D" if shape[0] == ANY else shape[0]
        raise ValueError(f"expected table rows of shape (n, {columns}), saw {tuple(x.shape)}")
    return torch.as_tensor(x)


def column_names(data: Any, label: str | None = None) -> list[str] | None:
    """Names of a table's columns of numbers, in its order; None where it has no names (arrays, ``.npz``)."""
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        return read_columns(path, label).names if path.suffix.lower() in COLUMN_SUFFIXES else None
    names = getattr(data, "columns", None)
    return None if names is None else [str(n) for n in names]


def in_order(x: Tensor, names: Sequence[str] | None, wanted: Sequence[str] | None) -> Tensor:
    """Rows with their columns in the order of a support set's.

    Args:
        x: ``(n, D)``.
        names: of its columns, or None where they have none: the order is then taken as it is.
        wanted: the support set's, or None.

    Raises:
        ValueError: a column is missing, or there are others; they are named.
    """
    if names is None or wanted is None or list(names) == list(wanted):
        return x
    return x[:, positions(names, wanted)]


def as_windows(data: Any, shape: Sequence[int]) -> Tensor:
    """Windows ``(n, T, C)`` of series.

    Args:
        data: windows as an array or tensor ``(n, T, C)``, or ``(n, T)`` for one channel; or files, which hold one long
            series each, a row a time step: a CSV, Parquet or ``.npz`` (``x``) file or a list of them, cut into windows
            one behind the other (what is left at the end is not used). NaN is a missing value.
        shape: ``(T, C)`` of the model, -1 for any.

    Raises:
        ValueError: the form, a value or the number of channels can't be used, or a series is shorter than a window.
    """
    length, channels = shape
    if is_paths(data):
        x = windows_of_files(data, length)[0]
    else:
        x = _numbers(data)
        if x.ndim == 2 and length not in (ANY, x.shape[1]) and channels in (ANY, x.shape[1]):
            raise ValueError(
                f"saw one series of {x.shape[0]} steps and {x.shape[1]} channels, where this model reads windows of "
                f"{length} steps: cut them by metaad_zoo.data.row_samples.cut_windows(series, {length}), or score each "
                "step of a fitted detector's series by detector.score_series(series)"
            )
        x = x[:, :, None] if x.ndim == 2 else x
    if x.ndim != 3 or (length != ANY and x.shape[1] != length) or (channels != ANY and x.shape[2] != channels):
        wanted = ", ".join("any" if size == ANY else str(size) for size in shape)
        raise ValueError(f"expected windows of shape (n, {wanted}), saw {tuple(x.shape)}")
    return torch.as_tensor(x)


def is_paths(data: Any) -> bool:
    """Whether these are files: a path, or a list of paths."""
    several = isinstance(data, (list, tuple)) and bool(data)
    return isinstance(data, (str, Path)) or (several and all(isinstance(p, (str, Path)) for p in data))


def windows_of_files(
    paths: str | Path | Sequence[str | Path], length: int, wanted: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Windows ``(n, T, C)`` of the series in files, and the names of their channels, None where they have none.

    Args:
        paths: the files; channels of all come in the order of the first one's.
        length: see :func:`cut_windows`.
        wanted: names of the support's channels, whose order comes before that.

    Raises:
        ValueError: see :func:`as_windows`; the channels have other names.
    """
    windows = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        series, names = read_series(path, wanted)
        wanted = wanted or names
        windows.append(cut_windows(series, length, str(path)))
    return _joined(windows), None if wanted is None else list(wanted)


def _joined(windows: Sequence[np.ndarray]) -> np.ndarray:
    """Windows of several series; whole series of different lengths are NaN at their ends."""
    channels = sorted({x.shape[2] for x in windows})
    if len(channels) > 1:
        raise ValueError(f"the series differ in channels, {channels}: give those with the same ones")
    steps = max(x.shape[1] for x in windows)
    ends = [((0, 0), (0, steps - x.shape[1]), (0, 0)) for x in windows]
    return np.concatenate([np.pad(x, end, constant_values=np.nan) for x, end in zip(windows, ends, strict=True)])


def as_long(x: Tensor, steps: int) -> Tensor:
    """Sequences ``(n, T, C)`` as long as those of a support set, NaN at their ends where they are shorter.

    Raises:
        ValueError: they are longer.

    Example:
        >>> as_long(torch.zeros(1, 2, 1), 3).flatten()
        tensor([0., 0., nan])
    """
    if x.shape[1] > steps:
        raise ValueError(
            f"sequences of {x.shape[1]} steps, but those of the support set had {steps}: cut them by "
            f"metaad_zoo.data.row_samples.cut_windows(series, {steps}), take detector.score_series, or adapt to longer"
        )
    return functional.pad(x, (0, 0, 0, steps - x.shape[1]), value=torch.nan) if x.shape[1] < steps else x


def series_files(path: Path) -> list[Path]:
    """The series that a path stands for: itself, or the CSV, Parquet and ``.npz`` files directly inside a folder.

    Raises:
        ValueError: the path does not exist, or the folder holds none.
    """
    if path.is_file():
        return [path]
    kinds = COLUMN_SUFFIXES | {".npz"}
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in kinds) if path.is_dir() else []
    if not files:
        what = "holds no series directly in it" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}: expected files ending in {', '.join(sorted(kinds))}")
    return files


def cut_windows(series: np.ndarray, length: int, name: str = "the series") -> np.ndarray:
    """``(T, C)`` to ``(T // length, length, C)``: windows one behind the other; with length -1 the whole as one.

    Raises:
        ValueError: the series is shorter than a window.
    """
    if length == ANY:
        return series[None]
    if len(series) < length:
        raise ValueError(f"{name} has {len(series)} steps, but this model reads windows of {length}: give a longer one")
    n = len(series) // length
    return series[: n * length].reshape(n, length, -1)


def read_series(data: Any, wanted: Sequence[str] | None = None) -> tuple[np.ndarray, list[str] | None]:
    """A series ``(T, C)`` or ``(T,)``, and the names of its channels, None where they have none.

    Args:
        data: a file, a DataFrame or an array. Times, an index and text in a file are no channels.
        wanted: names of the support's channels, into whose order they are brought.

    Raises:
        ValueError: it can't be read as one, the channels have other names, or rows are out of time order.
    """
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        if path.suffix.lower() in COLUMN_SUFFIXES:
            return _named(read_columns(path), wanted)
        x = _numbers(path)
        if x.ndim not in (1, 2):
            raise ValueError(f"{path}: expected a series of shape (T,) or (T, C), saw {x.shape}")
        return x[:, None] if x.ndim == 1 else x, None
    names, x = column_names(data), _numbers(data)
    return (x, None) if names is None else _named(Columns(Path("the DataFrame"), names, x), wanted)


def _named(columns: Columns, wanted: Sequence[str] | None) -> tuple[np.ndarray, list[str] | None]:
    channels = Channels(columns.path, wanted)
    return channels.of(columns), channels.names


def _numbers(data: Any, label: str | None = None) -> np.ndarray:
    """float32 from an array, a tensor, a DataFrame or a file."""
    if isinstance(data, (str, Path)):
        return _from_file(Path(data).expanduser(), label)
    if isinstance(data, Tensor):
        data = data.detach().cpu().numpy()
    try:
        # A copy: a tensor must not share memory that the caller may change, nor read-only memory.
        return np.array(data, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected numbers, saw {type(data).__name__} that can't be read as such ({error}): leave out columns of "
            "text, or turn them into numbers"
        ) from error


def _from_file(path: Path, label: str | None) -> np.ndarray:
    if path.suffix.lower() in COLUMN_SUFFIXES:
        columns = read_columns(path, label)
        if not columns.names:
            raise ValueError(f"{path} has no column of numbers: it holds {sorted(columns.text)}")
        return columns.values
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path}: expected a .csv, .parquet or .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            name = next((n for n in ("X", "x") if n in archive.files), None)
            if name is None:
                raise ValueError(f"it holds {sorted(archive.files)}, expected 'X' or 'x'")
            return np.asarray(archive[name], np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} can't be read as a numpy archive of numbers: {error}") from error

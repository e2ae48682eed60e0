"""Series in a numpy archive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.series import SequenceArrays, Series, SeriesSet, as_flags


def read_series_npz(path: Path) -> SeriesSet | SequenceArrays:
    """Series from an ``.npz`` file; pickled content is refused.

    One of these, with values ``(T,)`` or ``(T, C)`` and labels ``(T,)`` of 0 and 1:

    - ``x`` and, if known, ``y``: one series;
    - ``<name>__x`` and ``<name>__y`` for each series; ``__`` in a name becomes ``/``;
    - ``<name>_train``, ``<name>_test`` and ``<name>_test_label`` (or ``<name>_label``): the training part is taken as
      normal and gives the support;
    - ``x`` ``(n, T, C)``, ``y`` ``(n,)`` integers and, if wanted, ``names``: short sequences with a class each.

    Raises:
        ValueError: the file is damaged, or arrays are missing or of another shape or kind; the file is named.
    """
    arrays = read_archive(path)
    try:
        if "x" in arrays and arrays["x"].ndim == 3:
            return _sequences(path, arrays)
        if "x" in arrays:
            return SeriesSet(path.stem, [Series(path.stem, arrays["x"], arrays.get("y"))])
        pairs = [n.removesuffix("__x") for n in arrays if n.endswith("__x")]
        if pairs:
            return SeriesSet(
                path.stem, [Series(n.replace("__", "/"), arrays[f"{n}__x"], arrays.get(f"{n}__y")) for n in pairs]
            )
        trained = [n.removesuffix("_train") for n in arrays if n.endswith("_train")]
        series = [_with_training(n, arrays) for n in trained]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not series:
        raise ValueError(
            f"{path} holds {sorted(arrays)[:9]}: expected 'x' (and 'y'), '<name>__x' (and '<name>__y'), or "
            "'<name>_train', '<name>_test' and '<name>_test_label'"
        )
    return SeriesSet(path.stem, series)


def _with_training(name: str, arrays: Mapping[str, np.ndarray]) -> Series:
    train, test = arrays[f"{name}_train"], arrays.get(f"{name}_test")
    labels = arrays.get(f"{name}_test_label", arrays.get(f"{name}_label"))
    if test is None or test.shape[1:] != train.shape[1:]:
        seen = "none" if test is None else f"one of shape {test.shape}"
        raise ValueError(f"'{name}_train' has shape {train.shape}: expected '{name}_test' to match, saw {seen}")
    if labels is None:
        raise ValueError(f"'{name}_test' needs '{name}_test_label' or '{name}_label'")
    flags = np.concatenate([np.zeros(len(train), np.uint8), as_flags(f"{name}_test", labels, len(test))])
    return Series(name, np.concatenate([train, test]), flags, len(train))


def _sequences(path: Path, arrays: Mapping[str, np.ndarray]) -> SequenceArrays:
    x, y = arrays["x"], arrays.get("y")
    if y is None or not np.issubdtype(y.dtype, np.integer) or x.dtype.kind not in "biuf":
        raise ValueError("'x' of shape (n, T, C), numbers, needs 'y', the class of each, as integers")
    names = arrays.get("names")
    if y.size and (y.min() < 0 or (names is not None and (names.ndim != 1 or y.max() >= len(names)))):
        seen = "" if names is None else f", 'names' has shape {names.shape}"
        raise ValueError(f"'y' runs from {y.min()} to {y.max()}{seen}: expected classes from 0, each with a name")
    present, labels = np.unique(y, return_inverse=True)
    present_names = [str(i if names is None else names[i]) for i in present.tolist()]
    return SequenceArrays(path.stem, list(x.astype(np.float32)), labels, present_names)

"""Tables known by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from metaad_zoo.data.known.download import fetch_public, public_files
from metaad_zoo.data.known.images import data_folder
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.tables import Table, check_arrays, number_names, read_table, varying

_SKLEARN = ("wine", "breast_cancer", "iris", "digits")


def _sklearn_table(name: str) -> Table:
    """One of the sets that are part of scikit-learn, each class of which may be normal (CC BY 4.0, from the UCI)."""
    from sklearn import datasets  # imports scipy: slow, and needed by these sets alone

    bunch = getattr(datasets, f"load_{name}")()
    names = [str(c) for c in bunch.feature_names]
    name = "digits_table" if name == "digits" else name  # the digits are also a set of images
    table = varying(name, names, bunch.data.astype(np.float32), bunch.target.astype(np.int64))
    table.class_names = [str(c) for c in bunch.target_names]
    return table


def _sklearn_reader(*names: str) -> Callable[[str | Path | None], list[Table]]:
    def read(root: str | Path | None = None) -> list[Table]:
        if root is not None:
            raise ValueError(f"data.root is {root} but these tables read no files: set data.dataset=own for your own")
        return [_sklearn_table(name) for name in names]

    return read


@register_dataset("adbench", modality="tabular")
def _read_adbench(root: str | Path | None) -> list[Table]:
    """``adbench.npz``, or the benchmark's own files: a folder ``adbench`` of one ``.npz`` (``X``, ``y``) a table.

    Source: Han et al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022 (BSD-2).
    """
    folder = data_folder(root)
    path = folder if folder.is_file() else folder / "adbench.npz"
    if not path.is_file():
        return _read_adbench_files(folder)
    archive = read_archive(path)
    names = sorted(key.removesuffix("__X") for key in archive if key.endswith("__X"))
    arrays = {n: check_arrays(path, {"X": archive[f"{n}__X"], "y": archive[f"{n}__y"]}) for n in names}
    return [
        varying(f"adbench/{name}", number_names(x.shape[1]), x.astype(np.float32), y) for name, (x, y) in arrays.items()
    ]


def _read_adbench_files(folder: Path) -> list[Table]:
    """Tables in the folder ``adbench``; if there is none, the error of the first says where to get it."""
    present = [f for f in public_files("adbench") if (folder / "adbench" / f).is_file()]
    if not present:
        fetch_public("adbench", public_files("adbench")[0], folder)
    tables = [read_table(folder / "adbench" / f) for f in present]
    for table in tables:
        table.name = f"adbench/{table.name}"
    return tables


for _name in _SKLEARN:
    register_dataset(f"sklearn/{'digits_table' if _name == 'digits' else _name}", modality="tabular")(
        _sklearn_reader(_name)
    )
register_dataset("sklearn_tables", modality="tabular")(_sklearn_reader(*_SKLEARN))

"""A user's own data, in any of the forms it comes in, as samples of a model's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.backbones import ANY
from metaad_zoo.data.read.images import as_images
from metaad_zoo.data.row_samples import (
    as_long,
    as_rows,
    as_windows,
    column_names,
    in_order,
    is_paths,
    windows_of_files,
)
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, Columns, read_columns
from metaad_zoo.data.sources.manifest import FILE_COLUMNS, joined_modalities
from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED, count

_FORMS: Mapping[str, Callable[[Any, Sequence[int]], Tensor]] = {
    "image": as_images,
    "sequence": as_windows,
    "tabular": as_rows,
}


def as_samples(data: Any, input_shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Samples by modality, float32, in the shape that a model was trained on.

    Args:
        data: for a model of one modality, what :func:`metaad_zoo.data.read.images.as_images` (arrays, tensors, files,
            a folder, an ``.npz``), :func:`metaad_zoo.data.row_samples.as_rows` (arrays, DataFrames, CSV, Parquet,
            ``.npz``) or :func:`metaad_zoo.data.row_samples.as_windows` (arrays, lists of series, files) take. For any
            model, a dict from modality to one of these; a tensor that has the model's own shape already is taken as it
            is. Of several modalities all but one may be missing (left out or None): the samples then lack them.
        input_shapes: shape of one sample by modality; -1 for an axis of any length.

    Raises:
        ValueError: the form, shape, range or a value can't be used (infinite; missing, in images); files are named.
    """
    if not isinstance(data, Mapping):
        if len(input_shapes) > 1 and isinstance(data, (str, Path)):
            return manifest_samples(read_columns(Path(data).expanduser()), input_shapes)
        if len(input_shapes) > 1:
            raise ValueError(f"this model reads {sorted(input_shapes)}: give a dict from modality to samples")
        ((name, shape),) = input_shapes.items()
        data = {name: _FORMS[name](data, shape)}
    given = {name: x for name, x in data.items() if x is not None}
    if set(given) - set(input_shapes) or not given or (len(given) < len(input_shapes) == 1):
        raise ValueError(f"expected samples of {sorted(input_shapes)}, saw {sorted(given)}")
    samples = {name: _one_modality(name, x, input_shapes[name]) for name, x in given.items()}
    n = count(samples)
    if n == 0:
        raise ValueError(f"expected at least one sample, saw { {name: tuple(x.shape) for name, x in samples.items()} }")
    for name, x in samples.items():
        missing_may_be = name != "image" or len(input_shapes) > 1
        bad = (x.isinf() if missing_may_be else ~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            what = "infinity" if missing_may_be else "NaN or infinity"
            raise ValueError(f"{name!r} holds {what} in sample {bad[:10]}: remove or mend these samples")
    for name, shape in input_shapes.items():
        if name not in samples:
            samples[name] = torch.full((n, *(max(size, 1) for size in shape)), torch.nan)
    return samples


def support_samples(
    support: Any, input_shapes: Mapping[str, Sequence[int]], columns: list[str] | None = None
) -> tuple[dict[str, Tensor], list[str] | None]:
    """A support set as samples of a model's shape, in memory of its own, and the names of columns or channels.

    Args:
        support: as for :func:`as_samples`; of a category in the MVTec layout its normal images are taken.
        input_shapes: likewise.
        columns: names of a table's columns or a series' channels; by default those of a file, or a table's DataFrame.

    Raises:
        ValueError: see :func:`as_samples`; a sample has no value at all; two columns have one name, or not each has
            one.
    """
    support, columns = _series_by_name(support, input_shapes, columns)
    columns = columns or (column_names(support) if set(input_shapes) == {"tabular"} else None)
    # A copy: what is done to the caller's array later must not reach the detector.
    samples = {name: x.clone() for name, x in as_samples(support, input_shapes).items()}
    _refuse_empty(samples)
    found = next(iter(samples.values())).shape[-1]
    if columns is not None and not len(set(columns)) == len(columns) == found:
        raise ValueError(f"expected a name of its own for each of {found} columns, saw {columns}: rename them")
    return samples, columns


def samples_like(
    support: Mapping[str, Tensor], samples: Any, input_shapes: Mapping[str, Sequence[int]], columns: list[str] | None
) -> dict[str, Tensor]:
    """Samples that a model adapted to a support set can score: their columns in its order, as many, as long.

    Args:
        support: as :func:`support_samples` gives it.
        samples: as for :func:`as_samples`.
        input_shapes: likewise.
        columns: names of the support's columns or channels, or None.

    Raises:
        ValueError: see :func:`as_samples`; a sample has no value at all, has other columns, or is of another size than
            the support's.
    """
    samples, _ = _series_by_name(samples, input_shapes, columns)
    here = as_samples(samples, input_shapes)
    _refuse_empty(here)
    if columns is not None and "tabular" in here:
        here = {"tabular": in_order(here["tabular"], column_names(samples), columns)}
    for name, x in here.items():
        if x.shape[-1] != support[name].shape[-1]:
            raise ValueError(
                f"{name!r} has {x.shape[-1]} columns or channels, but the support set had {support[name].shape[-1]}"
            )
    if "sequence" in here:
        here["sequence"] = as_long(here["sequence"], support["sequence"].shape[1])
    return here


def _series_by_name(
    data: Any, input_shapes: Mapping[str, Sequence[int]], columns: list[str] | None
) -> tuple[Any, list[str] | None]:
    """Files of series as windows, their channels in the order of ``columns``, and these names; all else as it is."""
    if set(input_shapes) != {"sequence"} or not is_paths(data):
        return data, columns
    return windows_of_files(data, input_shapes["sequence"][0], columns)


def have_values(samples: Mapping[str, Tensor]) -> Tensor:
    """Which samples have any value at all, in whatever modality: ``(n,)`` bool.

    Example:
        >>> have_values({"tabular": torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])})
        tensor([ True, False])
    """
    return torch.stack([~x.isnan().flatten(1).all(1) for x in samples.values()]).any(0)


def _refuse_empty(samples: Mapping[str, Tensor]) -> None:
    # A model would score such a sample like any other, mostly as normal: a dead sensor must not look healthy.
    empty = (~have_values(samples)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"{len(empty)} of {count(samples)} samples have no value at all, at {empty[:10]}: leave them out"
        )


def manifest_samples(
    columns: Columns, input_shapes: Mapping[str, Sequence[int]], tell: Callable[[str], object] = lambda _: None
) -> dict[str, Tensor]:
    """Rows of a manifest, with the files that they name, as samples of a model of several modalities.

    Args:
        columns: the rows.
        input_shapes: of the model.
        tell: is given a sentence on each thing that is left out.

    Raises:
        ValueError: a file that is named can't be used, or the rows are no samples of the model.
    """
    gone = [name for name in FILE_COLUMNS if name in input_shapes and name not in {*columns.names, *columns.text}]
    if gone:  # more likely a misspelt column than samples that all lack what the model reads
        raise ValueError(
            f"{columns.path} has no column {gone}, which name files that this model reads; it has "
            f"{[*columns.names, *columns.text]}: rename a column, or add one with empty cells where samples lack them"
        )
    channels, size, _ = input_shapes.get("image", (None, None, None))
    length, _ = input_shapes.get("sequence", (None, None))
    found = joined_modalities(columns, size, None if length == ANY else length, channels)
    for sentence in found.skipped:
        tell(sentence)
    read = found.read(np.arange(len(found.labels)), np.random.default_rng(0))
    samples = as_samples(read, input_shapes)
    lacking = sorted(name for name, x in samples.items() if x.isnan().flatten(1).all(1).any())
    if lacking:
        tell(f"some samples lack {lacking}: only a model trained with gaps (data.absent) can be trusted on these")
    return samples


def _one_modality(name: str, x: Any, shape: Sequence[int]) -> Tensor:
    if isinstance(x, Tensor) and x.ndim == len(shape) + 1:
        if not fits(x.shape[1:], shape):
            raise ValueError(f"expected {name!r} of shape (n, {', '.join(map(str, shape))}), saw {tuple(x.shape)}")
        return x.detach().float()
    if name in _FORMS:
        return _FORMS[name](x, shape)
    raise ValueError(
        f"expected {name!r} as a tensor of shape (n, {', '.join(map(str, shape))}), saw {type(x).__name__}"
    )


def fits(found: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether one sample's shape is a model's; -1 there stands for any length.

    Example:
        >>> fits((64, 3), (64, -1)), fits((63, 3), (64, -1))
        (True, False)
    """
    return len(found) == len(shape) and all(b in (a, ANY) for a, b in zip(found, shape, strict=True))


def as_labels(labels: Any, n: int) -> Tensor:
    """Support labels ``(n,)`` int64 out of 0 (normal), 1 (anomalous), -1 (unlabelled).

    Raises:
        ValueError: there are not n of them, one is none of these, or all are anomalous.
    """
    array = np.array(labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels)
    kinds = {NORMAL, ANOMALOUS, UNLABELLED}
    if array.shape != (n,) or array.dtype.kind not in "biuf" or not set(array.tolist()) <= kinds:
        raise ValueError(
            f"expected {n} labels of 0 (normal), 1 (anomalous), -1 (unlabelled), saw shape {array.shape} with values "
            f"{sorted(set(map(str, array.ravel().tolist())))[:10]}"
        )
    if (array == ANOMALOUS).all():
        raise ValueError(f"all {n} support samples are labelled anomalous: give at least one normal or unlabelled one")
    return torch.as_tensor(array.astype(np.int64))


def refuse_anomalies_in(support: Any) -> None:
    """Refuse a file of several classes, or with labelled anomalies, as a support set without labels.

    Raises:
        ValueError: as said; the file is named.
    """
    if not isinstance(support, (str, Path)):
        return
    path = Path(support).expanduser()
    if path.suffix.lower() in COLUMN_SUFFIXES and path.is_file():
        labels = read_columns(path).labels
        if labels is not None and labels.any():
            raise ValueError(
                f"{path} labels {int(labels.sum())} of {len(labels)} rows as anomalous, all of which would count as "
                "normal support; give the normal rows alone, or labels (`metaad adapt --label COLUMN`)"
            )

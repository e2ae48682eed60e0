"""A user's own data, in any of the forms it comes in, as samples of a model's shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metaad_zoo.backbones import ANY
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.arrays import array_of, require_values
from metaad_zoo.data.read.manifest import ManifestOptions, ManifestReader
from metaad_zoo.data.read.memory import refuse_large
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions, Schema
from metaad_zoo.data.read.rows import is_frame, is_paths
from metaad_zoo.data.read.table_sources import COLUMN_SUFFIXES, TableSource, open_table
from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED, count, present
from metaad_zoo.modality.base import get_form, get_modality, list_modalities
from metaad_zoo.modality.streams import SampleStream


@dataclass
class Reading:
    """Samples that were read, and how.

    Attributes:
        samples: ``(n, ...)`` tensors by modality.
        names: names of samples that come from files: a file, a row (from 1), or a file and a window's start.
        labels: ``(n,)`` of 0 (normal), 1 (anomalous) and -1 (unknown); None where the data has none.
        schemas: what the columns are, by modality, where they have names.
        account: what is left out, guessed or changed.
        classes: names of the classes that the samples belong to, where the data says so.
        ratio: median width by height of images, before they were brought to the model's size.
    """

    samples: dict[str, Tensor]
    names: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None
    schemas: dict[str, Schema] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    classes: Sequence[str] = ()
    ratio: float | None = None

    def require_normal(self, where: str) -> None:
        """Refuse labelled anomalies that would count as normal support.

        Args:
            where: the data, for messages.

        Raises:
            ValueError: as said.
        """
        n = 0 if self.labels is None else int((self.labels == ANOMALOUS).sum())
        if len(self.classes) > 1:
            raise ValueError(
                f"{where} holds {len(self.classes)} classes or anomalies, all of which would count as normal support; "
                "give the normal images alone, or labels"
            )
        if n:
            raise ValueError(
                f"{where} labels {n} of {count(self.samples)} samples as anomalous, all of which would count as normal "
                "support: give the normal ones alone, say --label COLUMN (detector.fit(..., "
                "label=COLUMN)) to use them as known anomalies, or --ignore COLUMN if the column is no label"
            )


def recognise(path: Path, role: str = "support (--support)") -> tuple[str, Any]:
    """Kind of samples in a user's files.

    Args:
        path: file or folder.
        role: argument that names the path, for messages.

    Returns:
        Name of the modality, or of the form of several at once, and what to read them from: the path, or a table that
        is already open.

    Raises:
        ValueError: there are no files, or no modality recognises them.
    """
    path = path.expanduser()
    if not path.exists():
        raise ValueError(f"{role} {path} does not exist: expected a file or folder of samples")
    if path.is_dir() and not any(path.iterdir()):
        raise ValueError(f"{role} {path} is an empty folder: expected files of samples in it")
    source: Any = path
    columns = None
    if path.is_file() and path.suffix.lower() in COLUMN_SUFFIXES:
        source = open_table(path, series=False)
        columns = source.header()
    names = list_modalities(several=True)
    for name in names:
        if get_form(name).recognises(path, columns):
            return name, source
    raise ValueError(f"{role} {path}: can't tell what samples these are; set modality (--modality), one of {names}")


def note_guess(account: Account, path: Path, name: str) -> None:
    """Note the kind of samples that :func:`recognise` took files for, and how to overrule it.

    Args:
        account: account to add to.
        path: the files.
        name: name of the modality or form.

    Example:
        >>> account = Account()
        >>> note_guess(account, Path("a.csv"), "tabular")
        >>> list(account)
        ['a.csv: read as tabular samples; for sequence samples add --modality sequence']
    """
    with_columns = [modality for modality in list_modalities() if get_modality(modality).entry]
    overrule = [f"for {n} samples add --modality {n}" for n in with_columns if name in with_columns and n != name]
    account.add("guessed", path.name or str(path), "; ".join([f"read as {name} samples", *overrule]))


def read_samples(
    data: Any,
    input_shapes: Mapping[str, Sequence[int]],
    options: ColumnOptions = USUAL_OPTIONS,
    schemas: Mapping[str, Schema] | None = None,
    **reading_options: Any,
) -> Reading:
    """Samples by modality in the shape that a model was trained on.

    Args:
        data: samples. One modality: images as arrays, tensors, files, a folder or an ``.npz``; table rows as
            arrays, DataFrames, CSV, Parquet or ``.npz``; windows as arrays, or series as DataFrames and files, which
            are cut into windows. For a model of several, a manifest. For any model, a dict from modality to one of
            these; a tensor of floats that has the model's own shape already is taken as it is. Of several modalities
            all but one may be missing (left out or None): the samples then lack them.
        input_shapes: shape of one sample by modality; -1 for an axis of any length.
        options: what the user says of the columns.
        schemas: column roles of the domain that the samples belong to, by modality.
        reading_options: options of images, see :class:`metaad_zoo.data.read.images.ImageReader`.

    Returns:
        Samples: images float32, others float32 or, where they come from files, float64.

    Raises:
        ValueError: the form, shape, range or a value can't be used (infinite; missing, in images); files are named.
    """
    with naming(data):
        return _read_samples(data, input_shapes, options, schemas, reading_options)


@contextmanager
def naming(data: Any) -> Iterator[None]:
    """Give errors that name no file the name of the files that are read, where ``data`` are files."""
    try:
        yield
    except ValueError as error:
        if isinstance(data, TableSource):
            data = data.path
        sources = [data] if isinstance(data, (str, Path)) else list(data) if is_paths(data) else []
        paths = [str(Path(source).expanduser()) for source in sources]
        if not paths or any(path in str(error) for path in paths):
            raise
        others = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
        raise ValueError(f"{paths[0]}{others}: {error}") from error


def _read_samples(
    data: Any,
    input_shapes: Mapping[str, Sequence[int]],
    options: ColumnOptions,
    schemas: Mapping[str, Schema] | None,
    reading_options: Mapping[str, Any],
) -> Reading:
    reading = Reading({}, schemas=dict(schemas or {}))
    if not isinstance(data, Mapping):
        if len(input_shapes) > 1 and not (is_paths(data) or isinstance(data, TableSource)):
            raise ValueError(f"this model reads {sorted(input_shapes)}: give a dict from modality to samples")
        if len(input_shapes) > 1:
            _gather(reading, SampleStream(data, input_shapes, options, schemas), data)
        else:
            data = {next(iter(input_shapes)): data}
    if isinstance(data, Mapping):
        samples = {name: x for name, x in data.items() if x is not None}
        if set(samples) - set(input_shapes) or not samples or (len(samples) < len(input_shapes) == 1):
            raise ValueError(f"expected samples of {sorted(input_shapes)}, saw {sorted(samples)}")
        for name, x in samples.items():
            _read_modality(reading, name, x, input_shapes[name], options, reading_options)
    n = count(reading.samples) if reading.samples else 0
    if n == 0:
        shapes = {name: tuple(x.shape) for name, x in reading.samples.items()}
        raise ValueError(f"expected at least one sample, saw {shapes}")
    check_values(reading.samples, len(input_shapes) > 1)
    for name, shape in input_shapes.items():
        if name not in reading.samples:
            reading.samples[name] = torch.full((n, *(max(size, 1) for size in shape)), torch.nan)
    return reading


def as_samples(data: Any, input_shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The samples of :func:`read_samples` alone."""
    return read_samples(data, input_shapes).samples


def _read_modality(
    reading: Reading,
    name: str,
    data: Any,
    shape: Sequence[int],
    options: ColumnOptions,
    reading_options: Mapping[str, Any],
) -> None:
    if isinstance(data, Tensor):
        require_values(data)
    keeps = reading_options.get("aspect") == "keep" and get_modality(name).reads_arrays
    whole = isinstance(data, Tensor) and data.is_floating_point() and data.ndim == len(shape) + 1
    if whole and not (keeps and not fits(data.shape[1:], shape)):
        if not fits(data.shape[1:], shape):
            raise ValueError(f"expected {name!r} of shape (n, {', '.join(map(str, shape))}), saw {tuple(data.shape)}")
        data = data.detach()
        reading.samples[name] = data if data.dtype == torch.float64 else data.float()
    elif is_paths(data) or is_frame(data) or isinstance(data, TableSource) or get_modality(name).reads_arrays:
        array_options = reading_options if get_modality(name).reads_arrays else {}
        _gather(reading, SampleStream(data, {name: shape}, options, reading.schemas, **array_options), data)
    else:
        reading.samples[name] = get_modality(name).of_array(data, shape)


def _gather(reading: Reading, stream: SampleStream, data: Any) -> None:
    """Add all of a stream of data to what was read."""
    chunks: list[Chunk] = []
    size = 0
    for chunk in stream:
        size += sum(x.nbytes for x in chunk.samples.values())
        refuse_large(str(data) if is_paths(data) else "the data", size)
        chunks.append(chunk)
    if chunks:
        reading.samples |= {m: joined([c.samples[m] for c in chunks]) for m in chunks[0].samples}
    reading.names = [name for chunk in chunks for name in chunk.names]
    labels = [c.labels for c in chunks if c.labels is not None]
    reading.labels = np.concatenate(labels) if labels and len(labels) == len(chunks) else None
    reading.schemas |= {m: schema for m, schema in stream.schemas.items() if m in reading.samples}
    reading.account.join(stream.account)
    reading.classes, reading.ratio = stream.classes, stream.ratio


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate samples; sequences shorter than the longest are padded with NaN."""
    if len(parts) == 1:
        return parts[0]
    if all(x.shape[1:] == parts[0].shape[1:] for x in parts):
        return torch.cat(list(parts))
    steps = max(x.shape[1] for x in parts)
    return torch.cat([with_steps(x, steps) for x in parts])


def check_values(samples: Mapping[str, Tensor], several: bool) -> None:
    """Refuse values that a model can't read.

    Args:
        samples: samples by modality ``(n, ...)``.
        several: whether the model reads several modalities, of which a sample may lack some.

    Raises:
        ValueError: a value is infinite, missing in images, or far outside the modality's range.
    """
    for name, x in samples.items():
        modality = get_modality(name)
        wrong = x.isinf() if modality.missing else ~x.isfinite()
        absent = ~present(x) if several else x.new_zeros(len(x), dtype=torch.bool)  # samples that lack the modality
        bad = (wrong.flatten(1).any(1) & ~absent).nonzero().flatten().tolist()
        if bad:
            what = "infinity" if modality.missing else "NaN or infinity"
            raise ValueError(f"{name!r} holds {what} in sample {bad[:10]}: remove or mend these samples")
        if modality.value_range is not None:
            low, high = modality.value_range
            least, most = (float(value) for value in x.nan_to_num(low).aminmax())
            if least < 2 * low - high or most > 2 * high - low:
                raise ValueError(
                    f"expected {name!r} in about [{low:g}, {high:g}], saw values from {least:.3g} to {most:.3g}: scale "
                    "them as the training data were"
                )


def read_support(
    support: Any,
    input_shapes: Mapping[str, Sequence[int]],
    options: ColumnOptions = USUAL_OPTIONS,
    **reading_options: Any,
) -> Reading:
    """A support set as samples of a model's shape, in memory of its own.

    Args:
        support: data as for :func:`read_samples`; a category in the MVTec layout gives its normal images.
        input_shapes: shape of one sample by modality; -1 for an axis of any length.
        options: what the user says of the columns; ``columns`` are the names of an array's columns.

    Raises:
        ValueError: see :func:`read_samples`; a sample has no value at all, or not each column has a name of its own.
    """
    reading = read_samples(support, input_shapes, options, **reading_options)
    # A copy: what is done to the caller's array later must not reach the detector.
    reading.samples = {name: x.clone() for name, x in reading.samples.items()}
    _leave_out_empty_windows(reading)
    with naming(support):
        _refuse_empty(reading.samples)
    if options.columns is not None and not reading.schemas:
        _name_columns(reading, options.columns)
    return reading


def _name_columns(reading: Reading, columns: Sequence[str]) -> None:
    """Give an array's columns their names."""
    name, x = next(iter(reading.samples.items()))
    if not len(set(columns)) == len(columns) == x.shape[-1]:
        raise ValueError(f"expected a name of its own for each of {x.shape[-1]} columns, saw {list(columns)}")
    reading.schemas[name] = Schema(tuple(columns))


def read_manifest(manifest: Any, options: ColumnOptions = USUAL_OPTIONS) -> Reading:
    """Samples of several modalities in the shapes of their own files; images in the usual shape of images.

    Args:
        manifest: see :class:`metaad_zoo.data.read.manifest.ManifestReader`.
        options: what the user says of its columns.

    Raises:
        ValueError: the manifest or one of its files can't be used.
    """
    channels, size, _ = get_modality("image").shape
    reader = ManifestReader(manifest, options, ManifestOptions(size, None, channels))
    source = reader.read()
    labels = None if source.anomalous is None else source.anomalous.astype(np.int64)
    return Reading(source.all_samples(), [], labels, reader.schemas, reader.account)


def read_query(
    support: Mapping[str, Tensor],
    samples: Any,
    input_shapes: Mapping[str, Sequence[int]],
    schemas: Mapping[str, Schema],
    options: ColumnOptions = USUAL_OPTIONS,
    joins: bool = False,
    **reading_options: Any,
) -> Reading:
    """Samples that a model adapted to a support set can score: their columns in its order, as many, as long.

    Args:
        support: ``(n, ...)`` support samples by modality.
        samples: data as for :func:`read_samples`.
        input_shapes: shape of one sample by modality; -1 for an axis of any length.
        schemas: column roles of the support, by modality.
        options: what the user says of the columns.
        joins: whether the samples are to join the support set: windows of series that have no value are left out.

    Raises:
        ValueError: see :func:`read_samples`; a sample has no value at all, has other columns, or is of another size
            than the support's.
    """
    reading = read_samples(samples, input_shapes, options, schemas, **reading_options)
    if joins:
        _leave_out_empty_windows(reading)
    with naming(samples):
        _refuse_empty(reading.samples)
        for name, x in reading.samples.items():
            if x.shape[-1] != support[name].shape[-1]:
                raise ValueError(
                    f"{name!r} has {x.shape[-1]} columns or channels, but the support set had {support[name].shape[-1]}"
                )
            if x.ndim == 3:
                reading.samples[name] = as_long(x, support[name].shape[1])
    return reading


def as_long(x: Tensor, steps: int) -> Tensor:
    """Pad sequences ``(n, T, C)`` with NaN to the length of those of a support set.

    Raises:
        ValueError: they are longer.

    Example:
        >>> as_long(torch.zeros(1, 2, 1), 3).flatten()
        tensor([0., 0., nan])
    """
    if x.shape[1] > steps:
        raise ValueError(
            f"sequences of {x.shape[1]} steps, but those of the support set had {steps}: cut them by "
            f"metaad_zoo.data.read.series.cut_windows(series, {steps}), take detector.score_series, or adapt to longer"
        )
    return with_steps(x, steps)


def with_steps(x: Tensor, steps: int) -> Tensor:
    """Sequences ``(n, T, C)`` padded to ``steps`` steps with NaN."""
    return functional.pad(x, (0, 0, 0, steps - x.shape[1]), value=torch.nan)


def have_values(samples: Mapping[str, Tensor]) -> Tensor:
    """Which samples have at least one value, in any modality: ``(n,)`` bool.

    Example:
        >>> have_values({"tabular": torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])})
        tensor([ True, False])
    """
    return torch.stack([present(x) for x in samples.values()]).any(0)


def _leave_out_empty_windows(reading: Reading) -> None:
    """Leave out windows of series that have no value, with a line in the account, unless none has one.

    A user can't leave them out of a file: steps would be missing from the series.
    """
    name = next(iter(reading.samples))
    valued = have_values(reading.samples)
    cut_here = len(reading.samples) == 1 and bool(reading.names) and get_modality(name).windows
    if not cut_here or bool(valued.all()) or not bool(valued.any()):
        return
    rows = valued.nonzero().flatten().tolist()
    n = len(reading.names)
    file = Path(reading.names[0].rpartition(":")[0]).name
    reading.account.add("left out", file, f"{n - len(rows)} of {n} windows have no value at all and are not used")
    reading.samples = {name: reading.samples[name][rows]}
    reading.names = [reading.names[i] for i in rows]
    reading.labels = None if reading.labels is None else reading.labels[rows]


def _refuse_empty(samples: Mapping[str, Tensor]) -> None:
    # A model would score such a sample like any other, mostly as normal: a dead sensor must not look healthy.
    empty = (~have_values(samples)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"{len(empty)} of {count(samples)} samples have no value at all, at {empty[:10]}: leave them out"
        )


def require_size(samples: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], any_size: bool, name: str) -> None:
    """Refuse images that were read at a size by their own aspect ratio, for a model of one size.

    Args:
        samples: samples by modality ``(n, ...)``.
        shapes: shape that the model is built for, by modality.
        any_size: whether it reads images of any size.
        name: name of its learner, for the message.

    Raises:
        ValueError: as said.
    """
    for modality, shape in shapes.items():
        size = tuple(samples[modality].shape[1:])
        if get_modality(modality).reads_arrays and size != tuple(shape) and not any_size:
            raise ValueError(
                f"{modality!r} has shape {size} by its aspect ratio, but {name} reads {tuple(shape)} alone: crop the "
                "images to that ratio, or take a model with aspect=squash or pad"
            )


def fits(sizes: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether one sample's shape is a model's; -1 there stands for any length.

    Example:
        >>> fits((64, 3), (64, -1)), fits((63, 3), (64, -1))
        (True, False)
    """
    return len(sizes) == len(shape) and all(b in (a, ANY) for a, b in zip(sizes, shape, strict=True))


def as_labels(labels: Any, n: int) -> Tensor:
    """Support labels ``(n,)`` int64 out of 0 (normal), 1 (anomalous), -1 (unlabelled).

    Raises:
        ValueError: there are not n of them, one is none of these, all are anomalous, or they are scikit-learn's 1 and
            -1.
    """
    array = array_of(labels)
    kinds = {NORMAL, ANOMALOUS, UNLABELLED}
    if array.shape != (n,) or array.dtype.kind not in "biuf" or not set(array.tolist()) <= kinds:
        raise ValueError(
            f"expected {n} labels of 0 (normal), 1 (anomalous), -1 (unlabelled), saw shape {array.shape} with values "
            f"{sorted(set(map(str, array.ravel().tolist())))[:10]}"
        )
    if (array == ANOMALOUS).all():
        raise ValueError(f"all {n} support samples are labelled anomalous: give at least one normal or unlabelled one")
    return torch.as_tensor(array.astype(np.int64))

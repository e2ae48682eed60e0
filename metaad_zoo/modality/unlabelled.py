"""Unlabelled samples beside a support set: read by its schema in a stream, of which a fixed draw is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions, Schema
from metaad_zoo.data.read.rows import is_frame, is_paths
from metaad_zoo.data.read.table_sources import TableSource
from metaad_zoo.episodes import UNLABELLED, count
from metaad_zoo.modality.base import get_modality
from metaad_zoo.modality.image import PictureModality
from metaad_zoo.modality.samples import Reading, as_long, check_values, have_values, read_samples
from metaad_zoo.modality.streams import SampleStream

MOST_UNLABELLED = 10_000
"""Maximum number of unlabelled samples that are used."""
MOST_NUMBERS = 2**26
"""Maximum number of values in them, all modalities together."""

Block = tuple[dict[str, Tensor], np.ndarray | None]
"""Samples by modality and their labels."""


def read_unlabelled(
    data: Any,
    support: Reading,
    input_shapes: Mapping[str, Sequence[int]],
    options: ColumnOptions = USUAL_OPTIONS,
    **reading_options: Any,
) -> Reading:
    """Unlabelled samples of the domain of a support set, at most :data:`MOST_UNLABELLED` of them.

    More samples are read in a stream, and a draw without replacement by a fixed seed is used, in their order. Labels
    are ignored. Files that can't be read as images and samples without any value are left out.

    Args:
        data: samples in any form that :func:`metaad_zoo.modality.samples.read_samples` takes. A folder of images
            without images of its own stands for the folders in it.
        support: support set, whose columns are taken by their names.
        input_shapes: shape of one sample by modality, images in the support's size; -1 for an axis of any length.
        options: what the user says of the columns of the support.
        reading_options: options of images, see :class:`metaad_zoo.data.read.images.ImageReader`.

    Returns:
        Samples in the support's dtype; no labels.

    Raises:
        ValueError: see :func:`metaad_zoo.modality.samples.read_query`; no sample has a value.
    """
    account = Account()
    place = Path(data).name if isinstance(data, (str, Path)) else "the unlabelled samples"
    columns = ColumnOptions(decimal=options.decimal)
    draw = _Draw(support.samples)
    labelled = 0
    for samples, labels in _blocks(data, input_shapes, columns, support.schemas, account, draw, reading_options):
        labelled += 0 if labels is None else int((labels != UNLABELLED).sum())
        draw.add(_as_support(samples, support.samples))
    check_values(draw.samples, len(input_shapes) > 1)
    if draw.empty:
        account.add("left out", place, f"{draw.empty:,} unlabelled samples have no value")
    if not draw.n:
        raise ValueError(f"{place}: expected at least one unlabelled sample with a value, saw none")
    if labelled:
        account.add("left out", place, f"the labels of {labelled:,} unlabelled samples are ignored")
    used = count(draw.samples)
    if used < draw.n:
        account.add("left out", place, f"{draw.n:,} unlabelled samples: {used:,} drawn by a fixed seed are used")
    return Reading(draw.samples, account=account)


def _blocks(
    data: Any,
    shapes: Mapping[str, Sequence[int]],
    options: ColumnOptions,
    schemas: Mapping[str, Schema],
    account: Account,
    draw: _Draw,
    reading_options: Mapping[str, Any],
) -> Iterator[Block]:
    """Samples in blocks; files, DataFrames and arrays of images as a stream, of images those alone that are drawn."""
    if isinstance(data, Mapping) and len(shapes) == 1 and data.keys() == shapes.keys():
        data = data[next(iter(shapes))]
    pictures = len(shapes) == 1 and isinstance(get_modality(next(iter(shapes))), PictureModality)
    if _streams(data, shapes):
        if pictures and isinstance(data, (np.ndarray, Tensor)):
            data = draw.some_of(data)
        stream = SampleStream(data, shapes, options, schemas, below=True, damaged="empty", **reading_options)
        if pictures and len(files := draw.some_of(stream.files)) < len(stream.files):
            account.join(stream.account)
            stream = SampleStream(files, shapes, options, schemas, damaged="empty", **reading_options)
        yield from ((chunk.samples, chunk.labels) for chunk in stream)
        account.join(stream.account)
    else:
        reading = read_samples(data, shapes, options, schemas, **reading_options)
        account.join(reading.account)
        yield reading.samples, reading.labels


def _streams(data: Any, shapes: Mapping[str, Sequence[int]]) -> bool:
    if is_paths(data) or is_frame(data) or isinstance(data, TableSource):
        return True
    arrays = len(shapes) == 1 and not isinstance(data, Mapping) and get_modality(next(iter(shapes))).reads_arrays
    return arrays and not (isinstance(data, Tensor) and data.is_floating_point())


def _as_support(samples: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Samples with the modalities, dtypes and lengths of the support's; a modality that they lack is NaN.

    Raises:
        ValueError: they have other columns, or are longer.
    """
    n, matching = count(samples), {}
    for name, like in support.items():
        x = samples.get(name)
        if x is None:
            matching[name] = torch.full((n, *like.shape[1:]), torch.nan, dtype=like.dtype)
            continue
        if x.shape[-1] != like.shape[-1]:
            raise ValueError(
                f"{name!r} has {x.shape[-1]} columns or channels in the unlabelled samples, but {like.shape[-1]} in "
                "the support set: give the same ones"
            )
        matching[name] = (as_long(x, like.shape[1]) if x.ndim == 3 else x).to(like)
    return matching


class _Draw:
    """A draw without replacement from a stream of unknown length: the samples with the smallest random keys.

    Args:
        like: samples by modality ``(n, ...)`` of the shapes to come.

    Attributes:
        samples: the drawn samples, in the order of the stream.
        n: number of samples with a value so far.
        empty: number of samples without one.
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        numbers = sum(x[0].numel() for x in like.values())
        self._most = max(1, min(MOST_UNLABELLED, MOST_NUMBERS // numbers))
        self._rng, self._keys = np.random.default_rng(0), np.empty(0)
        self.samples = {name: x[:0] for name, x in like.items()}
        self.n = self.empty = 0

    def some_of(self, items: Any) -> Any:
        """As many items as are drawn, before any is read: of a list or an array; all if there are no more."""
        if len(items) <= self._most:
            return items
        self.n += len(items) - self._most
        chosen = np.sort(self._rng.choice(len(items), self._most, replace=False))
        return [items[i] for i in chosen] if isinstance(items, list) else items[chosen]

    def add(self, samples: Mapping[str, Tensor]) -> None:
        """Add the next samples of the stream."""
        usable = have_values(samples).numpy()
        self.empty += int((~usable).sum())
        self.n += int(usable.sum())
        keys = np.where(usable, self._rng.random(len(usable)), np.inf)
        candidates = np.flatnonzero(usable)
        if len(self._keys) == self._most:
            candidates = np.flatnonzero(keys < self._keys.max())
        if len(candidates):
            self._keys = np.concatenate([self._keys, keys[candidates]])
            chosen = np.sort(np.argsort(self._keys)[: self._most])
            self._keys = self._keys[chosen]
            self.samples = {m: torch.cat([x, samples[m][candidates]])[chosen] for m, x in self.samples.items()}

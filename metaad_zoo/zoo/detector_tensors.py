"""Tensors of a detector in a checkpoint, converted and validated: calibration, training tasks and support set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metaad_zoo.data.read.pixels import Aspect, kept_size
from metaad_zoo.data.read.region import read_region
from metaad_zoo.data.read.roles import Schema
from metaad_zoo.episodes import NORMAL, UNLABELLED, count
from metaad_zoo.evaluation.novelty import TrainingTasks, support_statistics
from metaad_zoo.modality import get_modality
from metaad_zoo.modality.samples import Reading, as_labels, as_samples
from metaad_zoo.zoo.checkpoint import CONTAMINATION, SUPPORT_LABELS, Checkpoint
from metaad_zoo.zoo.reading import CheckpointError, parse_json

CALIBRATION, LABELS, COLUMNS, SUPPORT = "calibration", SUPPORT_LABELS, "support_columns", "support/"
SHOWN = "calibration_shown/"
"""Calibration scores of samples reduced to some modalities, whose names, joined by ``+``, and size follow."""
RATIO = "support_ratio"
"""Median width by height of a support set's images, before they were brought to a model's size."""
ROI = "support_roi"
"""Region of interest ``(H, W)`` bool, at the size of the support's images."""
PLACES = "support_places"
"""Where windows of series lie, ``(K, 2)`` int64: number of the series, or -1, and position of the first step."""
STATISTICS, DISTANCES = "training_tasks/statistics", "training_tasks/distances"
KINDS = (torch.float32, torch.float64)
"""Dtypes of scores and samples."""


def calibration_tensors(by_shots: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Ascending scores of normal samples by the size of the support set, under the names that a checkpoint has them.

    Example:
        >>> list(calibration_tensors({5: torch.zeros(3), 10: torch.zeros(3)}))
        ['calibration/5', 'calibration/10']
    """
    return {f"{CALIBRATION}/{n}": scores for n, scores in by_shots.items()}


def shown_calibration_tensors(by_shown: Mapping[tuple[str, ...], Mapping[int, Tensor]]) -> dict[str, Tensor]:
    """As :func:`calibration_tensors`, of samples reduced to some modalities, by the sorted names of these.

    Example:
        >>> list(shown_calibration_tensors({("image", "tabular"): {5: torch.zeros(3)}}))
        ['calibration_shown/image+tabular/5']
    """
    return {f"{SHOWN}{'+'.join(names)}/{n}": x for names, by_shots in by_shown.items() for n, x in by_shots.items()}


def shown_calibration(tensors: Mapping[str, Tensor]) -> dict[tuple[str, ...], dict[int, Tensor]]:
    """Inverse of :func:`shown_calibration_tensors`.

    Raises:
        ValueError: a name ends in no size.
    """
    sets = dict.fromkeys(name.removeprefix(SHOWN).rpartition("/")[0] for name in tensors if name.startswith(SHOWN))
    return {tuple(text.split("+")): dict(sorted(_by_shots(tensors, f"{SHOWN}{text}").items())) for text in sets}


def calibration_by_shots(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Calibration of a checkpoint: ascending scores of normal samples, by the size of the support set.

    Scores under the plain name ``calibration`` are for supports of any size.

    Raises:
        ValueError: a name ends in no size.
    """
    of_any_size = {1: tensors[CALIBRATION]} if CALIBRATION in tensors else {}
    return dict(sorted((of_any_size | _by_shots(tensors, CALIBRATION)).items()))


def _by_shots(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, Tensor]:
    """Tensors of a prefix by the size of the support set that ends their names; ValueError where one is no size."""
    sizes = {name.removeprefix(f"{prefix}/"): x for name, x in tensors.items() if name.startswith(f"{prefix}/")}
    for size in sizes:
        if not re.fullmatch("[1-9][0-9]{0,8}", size):
            raise ValueError(f"'{prefix}/{size}' names no size of a support set")
    return {int(size): x for size, x in sizes.items()}


def training_tasks_tensors(tasks: TrainingTasks | None) -> dict[str, Tensor]:
    """Statistics of the training tasks under the names that a checkpoint has them; {} without any.

    Example:
        >>> list(training_tasks_tensors(TrainingTasks(torch.zeros(3, 8), {5: torch.zeros(2)})))
        ['training_tasks/statistics', 'training_tasks/distances/5']
    """
    if tasks is None:
        return {}
    return {STATISTICS: tasks.statistics} | {f"{DISTANCES}/{n}": x for n, x in tasks.distances.items()}


def training_tasks_of(tensors: Mapping[str, Tensor]) -> TrainingTasks | None:
    """Inverse of :func:`training_tasks_tensors`; None for checkpoints without them.

    Raises:
        ValueError: a name ends in no size.
    """
    distances = _by_shots(tensors, DISTANCES)
    return TrainingTasks(tensors[STATISTICS], distances) if STATISTICS in tensors else None


def check_detector_tensors(folder: Path, checkpoint: Checkpoint) -> None:
    """Refuse calibration scores and support sets that no detector has written.

    Args:
        folder: named in errors.
        checkpoint: checkpoint as it was read.

    Raises:
        CheckpointError: a tensor is unknown, or does not fit the model.
    """
    tensors = checkpoint.tensors
    shapes: Mapping[str, Sequence[int]] = checkpoint.learner.arguments()["input_shapes"]
    support = {f"{SUPPORT}{name}" for name in shapes}
    prefixes = (f"{CALIBRATION}/", SHOWN)
    scores = {name: x for name, x in tensors.items() if name == CALIBRATION or name.startswith(prefixes)}
    distances = {name: x for name, x in tensors.items() if name.startswith(f"{DISTANCES}/")}
    unknown = sorted(
        tensors.keys()
        - {LABELS, COLUMNS, RATIO, ROI, PLACES, CONTAMINATION, STATISTICS}
        - support
        - {*scores, *distances}
    )
    if unknown:
        named = [name[:40] for name in unknown[:3]]
        raise CheckpointError(f"{folder} holds {named}, which no detector keeps: it is damaged or was changed")
    try:
        calibration_by_shots(scores)
        for names in shown_calibration(scores):
            if not set(names) < set(shapes) or list(names) != sorted(set(names)):
                raise ValueError(f"{'+'.join(names)!r} names no part of the modalities {sorted(shapes)}")
    except ValueError as error:
        raise CheckpointError(f"{folder} holds calibration scores of no known kind: {error}; damaged") from error
    if not all(x.ndim == 1 and x.dtype in KINDS and _ascending(x) for x in scores.values()):
        raise CheckpointError(f"{folder} holds calibration scores that are not an ascending row of numbers: damaged")
    try:
        _check_training_tasks(tensors, distances, shapes)
    except ValueError as error:
        raise CheckpointError(f"{folder} holds training tasks that no training has written: {error}") from error
    if LABELS in tensors:
        try:
            _check_support(tensors, _shapes_of_support(tensors, shapes, checkpoint.aspect))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder} holds a support set that does not fit its model: {error}") from error
    elif {COLUMNS, RATIO, ROI, PLACES, CONTAMINATION} & tensors.keys() or support & tensors.keys():
        raise CheckpointError(f"{folder} holds a support set without its labels: it is damaged or was changed")


def _check_training_tasks(
    tensors: Mapping[str, Tensor], distances: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> None:
    tasks = training_tasks_of(tensors)
    if tasks is None:
        if distances:
            raise ValueError("there are distances to them, but no statistics")
        return
    blank = {name: torch.zeros(1, *(max(size, 1) for size in shape)) for name, shape in shapes.items()}
    statistics, expected = tasks.statistics, support_statistics(blank, torch.zeros(1))
    width = 0 if expected is None else len(expected)
    if statistics.dtype not in KINDS or statistics.ndim != 2 or statistics.shape[1] != width or not len(statistics):
        shape = tuple(statistics.shape)
        raise ValueError(f"statistics are {statistics.dtype} of shape {shape}, expected (tasks, {width}) of float32")
    if not bool(statistics.isfinite().all()) or not all(
        x.ndim == 1 and x.dtype in KINDS and _ascending(x) for x in distances.values()
    ):
        raise ValueError("statistics or ascending distances are not finite, or not ascending")


def _ascending(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all() and (x.diff() >= 0).all())


def _shapes_of_support(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], aspect: Aspect
) -> dict[str, Sequence[int]]:
    """Shapes that the support's samples must have: with ``aspect="keep"`` images have the size for their ratio."""
    if aspect != "keep" or RATIO not in tensors:
        return dict(shapes)
    _check_ratio(tensors[RATIO])
    ratio = float(tensors[RATIO])
    return {
        name: (shape[0], *kept_size(shape[1], shape[2], ratio)) if get_modality(name).reads_arrays else shape
        for name, shape in shapes.items()
    }


def _check_ratio(ratio: Tensor) -> None:
    if ratio.shape != (1,) or ratio.dtype not in KINDS or not bool((ratio > 0) & ratio.isfinite()):
        raise ValueError(f"{RATIO} is {ratio.dtype} of shape {tuple(ratio.shape)}, expected one number above 0")


def _check_support(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    samples = {name: tensors[f"{SUPPORT}{name}"] for name in shapes}
    for name, x in {**samples, LABELS: tensors[LABELS]}.items():
        expected = (torch.int64,) if name == LABELS else KINDS
        if x.dtype not in expected:
            raise ValueError(f"{name} is of {x.dtype}, expected {' or '.join(map(str, expected))}")
    support = as_samples(samples, shapes)
    as_labels(tensors[LABELS], len(next(iter(support.values()))))
    if RATIO in tensors:
        _check_ratio(tensors[RATIO])
    if PLACES in tensors:
        places = tensors[PLACES]
        if places.dtype != torch.int64 or places.shape != (len(tensors[LABELS]), 2):
            raise ValueError(
                f"{PLACES} is {places.dtype} of shape {tuple(places.shape)}, expected a series and a step each sample"
            )
    if ROI in tensors:
        roi, images = tensors[ROI], [x for name, x in support.items() if get_modality(name).reads_arrays]
        if len(images) != 1 or roi.dtype != torch.bool or roi.shape != images[0].shape[2:] or not bool(roi.any()):
            raise ValueError(f"{ROI} is {roi.dtype} of shape {tuple(roi.shape)}, expected a mask of the images' size")
    if CONTAMINATION in tensors:
        share = tensors[CONTAMINATION]
        if share.shape != (1,) or share.dtype not in KINDS or not bool((share >= 0) & (share < 1)):
            raise ValueError(
                f"{CONTAMINATION} is {share.dtype} of shape {tuple(share.shape)}, expected a share in [0, 1)"
            )
    if COLUMNS in tensors:
        _check_columns(tensors, support)


def support_tensors(
    reading: Reading,
    labels: Any,
    roi: Any,
    aspect: Aspect,
    unlabelled: Reading | None = None,
    contamination: float | None = None,
) -> dict[str, Tensor]:
    """A support set as a checkpoint's tensors.

    Args:
        reading: support set as it was read.
        labels: ``(n,)`` of 0, 1 and -1; None: the reading's labels, or all normal without them.
        roi: region of interest as for :func:`metaad_zoo.data.read.region.read_region`, or None.
        aspect: how the images were brought to the model's size.
        unlabelled: further samples without labels, which follow those of the support set.
        contamination: share of anomalies among the unlabelled samples, in [0, 1); None: not known.

    Raises:
        ValueError: labels, region or contamination can't be used.
    """
    n = count(reading.samples)
    labels = reading.labels if labels is None else labels
    tensors = {LABELS: as_labels([NORMAL] * n if labels is None else labels, n)}
    tensors |= {f"{SUPPORT}{name}": x for name, x in reading.samples.items()}
    places = places_in_series(reading)
    if places is not None:
        tensors[PLACES] = functional.pad(
            places, (0, 0, 0, 0 if unlabelled is None else count(unlabelled.samples)), value=-1
        )
    if unlabelled is not None:
        tensors[LABELS] = torch.cat([tensors[LABELS], torch.full((count(unlabelled.samples),), UNLABELLED)])
        tensors |= {f"{SUPPORT}{m}": torch.cat([x, unlabelled.samples[m]]) for m, x in reading.samples.items()}
    if contamination is not None:
        tensors[CONTAMINATION] = _share(contamination, tensors[LABELS])
    if reading.ratio is not None:
        tensors[RATIO] = torch.tensor([reading.ratio], dtype=torch.float64)
    return tensors | schema_tensors(reading.schemas) | roi_tensors(roi, reading.samples, reading.ratio, aspect)


def places_in_series(reading: Reading) -> Tensor | None:
    """Where windows of series lie, as :data:`PLACES`; None for other samples, arrays, and windows that don't adjoin."""
    name, x = next(iter(reading.samples.items()))
    if len(reading.samples) != 1 or not reading.names or not get_modality(name).windows:
        return None
    files, starts = zip(*(name.rpartition(":")[::2] for name in reading.names), strict=True)
    numbers = {file: i for i, file in enumerate(dict.fromkeys(files))}
    places = torch.tensor([[numbers[file], int(start)] for file, start in zip(files, starts, strict=True)])
    adjoin = (places.diff(dim=0) == torch.tensor([0, x.shape[1]])).all(1)
    return places if bool(adjoin.any()) else None


def _share(contamination: float, labels: Tensor) -> Tensor:
    if not (isinstance(contamination, Real) and 0 <= contamination < 1):
        raise ValueError(
            f"contamination (--contamination) is {contamination!r}; expected a share in [0, 1), such as 0.1"
        )
    if not bool((labels == UNLABELLED).any()):
        raise ValueError(
            f"contamination (--contamination) is {contamination}, the share of anomalies among the unlabelled samples, "
            "and there are none: give unlabelled (--unlabelled), or leave contamination out"
        )
    return torch.tensor([float(contamination)], dtype=torch.float64)


def roi_tensors(roi: Any, support: Mapping[str, Tensor], ratio: float | None, aspect: Aspect) -> dict[str, Tensor]:
    """Region of interest of a support set as a checkpoint's tensor; empty without one.

    Args:
        roi: as for :func:`metaad_zoo.data.read.region.read_region`, or None.
        support: samples by modality ``(n, ...)``.
        ratio: width by height of the support's images before they were brought to the model's size.
        aspect: how they were.

    Raises:
        ValueError: the region can't be used, or the samples are no images.
    """
    if roi is None:
        return {}
    images = [x for name, x in support.items() if get_modality(name).reads_arrays]
    if len(images) != 1:
        raise ValueError(
            f"a region of interest (--roi) is for images, but this model reads {sorted(support)}: leave it out"
        )
    return {ROI: read_region(roi, images[0].shape[-2:], ratio, aspect)}


def schema_tensors(schemas: Mapping[str, Schema]) -> dict[str, Tensor]:
    """Column roles of a support set as a tensor of JSON bytes, since a checkpoint holds nothing but tensors."""
    if not schemas:
        return {}
    text = json.dumps({name: json.loads(schema.to_json()) for name, schema in schemas.items()}).encode()
    return {COLUMNS: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def schemas_of(tensors: Mapping[str, Tensor]) -> dict[str, Schema]:
    """Inverse of :func:`schema_tensors`, by modality; also reads the list of names that version 0.1 wrote.

    Raises:
        ValueError: the tensor holds no columns by modality.
    """
    if COLUMNS not in tensors:
        return {}
    x = tensors[COLUMNS]
    if x.dtype != torch.uint8 or x.ndim != 1:
        raise ValueError(f"{COLUMNS} are {x.dtype} of shape {tuple(x.shape)}, expected text as a row of bytes")
    parts = parse_json(bytes(x.tolist()), COLUMNS)
    if isinstance(parts, list):
        modality = next((n.removeprefix(SUPPORT) for n in tensors if n.startswith(SUPPORT)), "")
        parts = {modality: parts}
    if not isinstance(parts, dict):
        raise ValueError(f"{COLUMNS} are no columns by modality")
    return {str(name): Schema.from_json(json.dumps(schema)) for name, schema in parts.items()}


def _check_columns(tensors: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> None:
    for name, schema in schemas_of(tensors).items():
        features = schema.features
        width = support[name].shape[-1] if name in support and get_modality(name).entry else None
        if width is None:
            raise ValueError(f"{COLUMNS} name columns of {name!r}, which the support lacks")
        if len(features) != width or len(set(features)) < len(features):
            raise ValueError(f"{COLUMNS} name {len(set(features))} columns, the support has {width}")

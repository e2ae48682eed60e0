"""Tensors of an adapted detector in a checkpoint: calibration scores and support set, converted and validated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from metaad_zoo.data.read.pixels import Aspect, kept_size
from metaad_zoo.data.read.roles import Schema
from metaad_zoo.modality import get_modality
from metaad_zoo.modality.samples import as_labels, as_samples
from metaad_zoo.zoo.checkpoint import Checkpoint
from metaad_zoo.zoo.reading import CheckpointError, parse_json

CALIBRATION, LABELS, COLUMNS, SUPPORT = "calibration", "support_labels", "support_columns", "support/"
RATIO = "support_ratio"
"""Median width by height of a support set's images, before they were brought to a model's size."""
KINDS = (torch.float32, torch.float64)
"""Dtypes of scores and samples."""


def calibration_tensors(by_shots: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Ascending scores of normal samples by the size of the support set, under the names that a checkpoint has them.

    Example:
        >>> list(calibration_tensors({5: torch.zeros(3), 10: torch.zeros(3)}))
        ['calibration/5', 'calibration/10']
    """
    return {f"{CALIBRATION}/{n}": scores for n, scores in by_shots.items()}


def calibration_by_shots(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """What a checkpoint is calibrated for: ascending scores of normal samples, by the size of the support set.

    Scores under the plain name ``calibration`` are for supports of any size.

    Raises:
        ValueError: a name ends in no size.
    """
    by_shots = {1: tensors[CALIBRATION]} if CALIBRATION in tensors else {}
    for name, scores in tensors.items():
        if name.startswith(f"{CALIBRATION}/"):
            size = name.removeprefix(f"{CALIBRATION}/")
            if not re.fullmatch("[1-9][0-9]{0,8}", size):
                raise ValueError(f"{name!r} names no size of a support set")
            by_shots[int(size)] = scores
    return dict(sorted(by_shots.items()))


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
    scores = {name: x for name, x in tensors.items() if name == CALIBRATION or name.startswith(f"{CALIBRATION}/")}
    unknown = sorted(tensors.keys() - {LABELS, COLUMNS, RATIO} - support - scores.keys())
    if unknown:
        named = [name[:40] for name in unknown[:3]]
        raise CheckpointError(f"{folder} holds {named}, which no detector keeps: it is damaged or was changed")
    try:
        calibration_by_shots(scores)
    except ValueError as error:
        raise CheckpointError(f"{folder} holds calibration scores of no known kind: {error}; damaged") from error
    if not all(x.ndim == 1 and x.dtype in KINDS and _ascending(x) for x in scores.values()):
        raise CheckpointError(f"{folder} holds calibration scores that are not an ascending row of numbers: damaged")
    if LABELS in tensors:
        try:
            _check_support(tensors, _shapes_of_support(tensors, shapes, checkpoint.aspect))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder} holds a support set that does not fit its model: {error}") from error
    elif COLUMNS in tensors or RATIO in tensors or support & tensors.keys():
        raise CheckpointError(f"{folder} holds a support set without its labels: it is damaged or was changed")


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
    if COLUMNS in tensors:
        _check_columns(tensors, support)


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
            raise ValueError(f"{COLUMNS} name columns of {name!r}, of which the support has none")
        if len(features) != width or len(set(features)) < len(features):
            raise ValueError(f"{COLUMNS} name {len(set(features))} columns, the support has {width}")

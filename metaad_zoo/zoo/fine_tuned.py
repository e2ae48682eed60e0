"""A checkpoint as the start of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import SplitRecord
from metaad_zoo.learners import FineTuning, Learner, PatchMemory, PatchMetric, Trained, with_head
from metaad_zoo.learners.base import OptimizerCallable, Schedule
from metaad_zoo.modality.samples import fits
from metaad_zoo.zoo.checkpoint import aspect_of, load_checkpoint
from metaad_zoo.zoo.lookup import locate
from metaad_zoo.zoo.manifest import WEIGHTS, read_manifest


class FineTuned(Learner):
    """A checkpoint's learner, to be trained on; for configs: ``class_path: metaad_zoo.zoo.FineTuned``.

    As ``pathlib.Path`` does, it builds an object of another class: the checkpoint's own, with its settings and weights.
    A patch memory, which trains nothing, becomes a :class:`metaad_zoo.learners.PatchMetric` that starts as it. The
    object's :attr:`~metaad_zoo.learners.Learner.parent` lists the classes of the checkpoint, which are never tested on.

    Args:
        checkpoint: what :func:`metaad_zoo.zoo.locate` takes: a published name, a finished run, a folder, an address.
        train: ``"full"``, ``"head"`` or ``"low_rank"``; see :class:`metaad_zoo.learners.FineTuning`.
        rank: rank of the update that ``"low_rank"`` trains.
        head: another learner without inner loop, which takes the checkpoint's backbone in its own learner's place; see
            :func:`metaad_zoo.learners.with_head`. None: the checkpoint's own.
        head_options: arguments of that learner, such as ``{"distance": "cosine"}``.
        optimizer: builds the outer optimiser.
        schedule: schedule of the outer learning rate, ``"constant"`` or ``"cosine"``.
        input_shapes: shape of one sample of the new data by modality; ``train.py`` sets it.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ValueError: the new data have other shapes, or there is nothing to train.
    """

    def __new__(  # type: ignore[misc]
        cls,
        checkpoint: str,
        train: Trained = "full",
        rank: int = 4,
        head: str | None = None,
        head_options: dict[str, Any] | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-4),
        schedule: Schedule = "cosine",
        input_shapes: dict[str, Sequence[int]] | None = None,
    ) -> Learner:
        how = FineTuning(train, rank, optimizer, schedule)
        folder = locate(checkpoint)
        parent = load_checkpoint(folder)
        if input_shapes is not None:
            _require_shapes(checkpoint, parent.learner, input_shapes)
        if head is None and head_options:
            raise ValueError(f"head_options={head_options} is for another head: name it by model.head")
        if head is not None:
            learner: Learner = with_head(parent.learner, head, head_options)
        elif isinstance(parent.learner, PatchMemory) and not parent.learner.trains:
            learner = PatchMetric.on(parent.learner)
        else:
            learner = parent.learner
        sha256 = str(read_manifest(folder)["sha256"][WEIGHTS])
        return how.apply(learner, checkpoint, sha256, parent.trained_on)


def parent_shapes(checkpoint: str) -> dict[str, list[int]]:
    """Shape of one sample by modality, from a checkpoint's manifest; its weights are not read.

    Raises:
        CheckpointError: there is no such checkpoint, or its manifest is damaged.
    """
    shapes = read_manifest(locate(checkpoint))["arguments"].get("input_shapes")
    return {str(name): list(shape) for name, shape in shapes.items()} if isinstance(shapes, dict) else {}


def parent_splits(checkpoint: str) -> SplitRecord:
    """Splits of the classes or domains that a checkpoint has seen, from its manifest.

    Raises:
        CheckpointError: there is no such checkpoint, or its manifest is damaged.
    """
    manifest = read_manifest(locate(checkpoint))
    return SplitRecord.parse(manifest.get("splits"), manifest["trained_on"], parent=checkpoint)


def parent_aspect(checkpoint: str) -> Aspect:
    """Treatment of the aspect ratio of images, from a checkpoint's manifest; errors as for :func:`parent_shapes`."""
    return aspect_of(read_manifest(locate(checkpoint)))


def _require_shapes(checkpoint: str, learner: Learner, data_shapes: Mapping[str, Sequence[int]]) -> None:
    shapes: Mapping[str, Sequence[int]] = learner.arguments()["input_shapes"]
    read = getattr(getattr(learner, "network", None), "modalities", list(shapes))
    for name in read:
        if name not in data_shapes:
            raise ValueError(f"{checkpoint} reads {sorted(read)}, the data has {sorted(data_shapes)}: take other data")
        if not fits(data_shapes[name], shapes[name]):
            raise ValueError(
                f"{checkpoint} reads {name} of shape {tuple(shapes[name])}, the data has {tuple(data_shapes[name])} "
                "(-1: any length): bring the data to it (data.image_size, data.channels, data.window, data.length), or "
                "take a checkpoint that reads any"
            )

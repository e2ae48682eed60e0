"""A checkpoint by its name, or a new one of a learner that trains nothing."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from metaad_zoo.backbones import modality_of
from metaad_zoo.backbones.pretrained import TIMM_PREFIX
from metaad_zoo.learners import learner_class
from metaad_zoo.modality import get_modality
from metaad_zoo.zoo.checkpoint import Checkpoint, load_checkpoint
from metaad_zoo.zoo.detector_tensors import check_detector_tensors
from metaad_zoo.zoo.lookup import locate, published_of, untrained_learners

IMAGE_SIZE = 224
"""Height and width in pixels that a new checkpoint reads if none is named: that of most pretrained networks."""


def open_checkpoint(
    name: str | Path,
    weights: str | Path | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
) -> Checkpoint:
    """The checkpoint of a name, verified.

    Args:
        name: what :func:`metaad_zoo.zoo.locate` takes; or the name of a learner that trains nothing, such as
            ``"patch_memory"``: its published checkpoint or, if a backbone or size is named, a new one that is not
            calibrated.
        weights: local file of pretrained weights that the checkpoint does not store, or of the new one.
        backbone: backbone of the new one, such as ``"timm/vit_small_patch14_dinov2"``; without ``weights`` with the
            weights that timm downloads.
        image_size: height and width in pixels that the new one reads; None: 224.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or its weights are not available.
        ValueError: the backbone does not fit the learner, or the checkpoint has its own.
    """
    is_new = backbone is not None or image_size is not None or published_of(str(name)) == str(name)
    if is_new and str(name) in untrained_learners():
        return _new(str(name), weights, backbone, image_size)
    if backbone is not None or image_size is not None:
        raise ValueError(
            f"{name} has its own backbone and image size: leave out backbone (--backbone) and image_size "
            f"(--image-size), or name a learner that trains nothing: {', '.join(untrained_learners())}"
        )
    folder = locate(name)
    checkpoint = load_checkpoint(folder, weights)
    check_detector_tensors(folder, checkpoint)
    return checkpoint


def _new(name: str, weights: str | Path | None, backbone: str | None, image_size: int | None) -> Checkpoint:
    kind: Any = learner_class(name)
    settings: dict[str, Any] = {"backbone": backbone or signature(kind).parameters["backbone"].default}
    if not settings["backbone"].startswith(TIMM_PREFIX):
        raise ValueError(
            f"{name} needs pretrained weights: backbone (--backbone) is {backbone!r}, expected timm/<model>"
        )
    if backbone is not None or weights is not None:
        settings["backbone_options"] = {"pretrained": True if weights is None else str(weights), "frozen": True}
    modality, size = modality_of(settings["backbone"]), image_size or IMAGE_SIZE
    channels = get_modality(modality).shape[0]
    learner = kind(**settings, input_shapes={modality: (channels, size, size)})
    return Checkpoint(learner, [], {}, aspect="keep" if learner.any_size else "squash")

"""A checkpoint by its name: published, in a folder, or a new one of a learner or baseline that trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from metaad_zoo.backbones import modality_of
from metaad_zoo.backbones.pretrained import TIMM_PREFIX
from metaad_zoo.evaluation.baselines import is_baseline, modalities_of
from metaad_zoo.learners import classical_class, learner_class
from metaad_zoo.modality import TabularModality, get_form, get_modality
from metaad_zoo.zoo.checkpoint import Checkpoint, load_checkpoint
from metaad_zoo.zoo.defaults import default_of
from metaad_zoo.zoo.detector_tensors import check_detector_tensors
from metaad_zoo.zoo.lookup import is_known, locate, published_of, untrained_learners

IMAGE_SIZE = 224
"""Height and width in pixels that a new checkpoint reads if none is named: that of most pretrained networks."""


def open_checkpoint(
    name: str | Path,
    weights: str | Path | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    modality: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    window: int | None = None,
    **options: Any,
) -> Checkpoint:
    """The checkpoint of a name, verified.

    Args:
        name: what :func:`metaad_zoo.zoo.locate` takes; a modality (``"image"``, ``"series"``, ``"table"``, ...) for its
            default detector; a baseline, such as ``"knn"``; or a learner that trains nothing, such as
            ``"patch_memory"``: its published checkpoint or, if a backbone or size is named, a new one that is not
            calibrated.
        weights: local file of pretrained weights that the checkpoint does not store, or of the new one.
        backbone: backbone of the new one, such as ``"timm/vit_small_patch14_dinov2"``; without ``weights`` with the
            weights that timm downloads.
        image_size: height and width in pixels that the new one reads; None: 224.
        modality: modality that a baseline reads; None: tables, or the first that it can read.
        input_shapes: shape of one sample by modality that a baseline reads; None: the usual ones of ``modality``.
        window: steps of the windows of series that a baseline reads; None: the usual number of ``modality``.
        options: a baseline's own arguments, such as ``k=3``.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or its weights are not available.
        ValueError: the backbone does not fit the learner, the checkpoint has its own, or an option is unknown.
    """
    default = None if is_known(str(name)) else default_of(str(name))
    if default is not None:
        name, modality = default.detector, default.modality if is_baseline(default.detector) else None
    new = {"backbone": backbone, "image_size": image_size}
    if is_baseline(str(name)) and not is_known(str(name)):
        _refuse(f"the baseline {name} has no network", new | {"weights": weights})
        return _new_baseline(str(name), modality, input_shapes, window, options)
    _refuse(f"{name} is no baseline", {"modality": modality, "input_shapes": input_shapes, "window": window} | options)
    is_new = backbone is not None or image_size is not None or published_of(str(name)) == str(name)
    if is_new and str(name) in untrained_learners():
        return _new(str(name), weights, backbone, image_size)
    names = ", ".join(untrained_learners())
    _refuse(f"{name} has its own backbone and image size; only learners that train nothing ({names}) take others", new)
    folder = locate(name)
    checkpoint = load_checkpoint(folder, weights)
    check_detector_tensors(folder, checkpoint)
    return checkpoint


def _refuse(reason: str, options: Mapping[str, Any]) -> None:
    unused = [f"{option} (--{option.replace('_', '-')})" for option, value in options.items() if value is not None]
    if unused:
        raise ValueError(f"{reason}: leave out {' and '.join(unused)}")


def _new_baseline(
    name: str,
    modality: str | None,
    shapes: Mapping[str, Sequence[int]] | None,
    window: int | None,
    options: dict[str, Any],
) -> Checkpoint:
    readable = modalities_of(name)
    usual = modality or (TabularModality.name if TabularModality.name in readable else readable[0])
    shapes = shapes or get_form(usual).usual_shapes()
    if window is not None:
        shapes = _with_window(shapes, window)
    if not shapes:
        raise ValueError(f"{name} for {usual} samples needs their shapes: give input_shapes, or a support to adapt")
    learner = classical_class(name)(input_shapes={m: list(shape) for m, shape in shapes.items()}, **options)
    return Checkpoint(learner.eval(), [], {})


def _with_window(shapes: Mapping[str, Sequence[int]], window: int) -> dict[str, Sequence[int]]:
    """Shapes of samples in which the only modality's windows have so many steps."""
    (name, shape), *others = shapes.items()
    if others or not get_modality(name).windows:
        raise ValueError(f"window (--window) is for series, and this detector reads {', '.join(shapes)}: leave it out")
    if window < 1:
        raise ValueError(f"window (--window) is {window}; expected a number of steps, at least 1")
    return {name: (window, *shape[1:])}


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

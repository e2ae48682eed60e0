"""Backbones by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from metaad_zoo.registry import Registry, unknown_name

Builder = TypeVar("Builder", bound=Callable[..., "Backbone"])

TIMM_PREFIX = "timm/"
MULTIMODAL = "multimodal"
"""Modality of a backbone that reads several: it is given a dict of them."""

_BACKBONES: Registry[tuple[Callable[..., Backbone], str]] = Registry("backbone")


class Backbone(nn.Module):
    """A sample in, an embedding out: ``forward(x (n, ...)) -> (n, embedding_dim)``.

    Attributes:
        modality: the modality it reads: ``"image"``, ``"sequence"``, ``"tabular"``; ``"multimodal"`` reads
            several, as a dict by modality.
        embedding_dim: length of the embedding.
        cpu_tasks: how many tasks of a batch it best runs at once on a CPU, where larger activations overflow caches and
            are paged in anew by each operation; None: any number.
    """

    modality: str
    embedding_dim: int
    cpu_tasks: int | None = None


def register_backbone(name: str, *, modality: str) -> Callable[[Builder], Builder]:
    """Make a builder known by a name; the decorated function or class returns a :class:`Backbone`.

    Args:
        name: what users type.
        modality: what the backbone reads.

    Raises:
        ValueError: the name is taken.
    """

    def register(builder: Builder) -> Builder:
        _BACKBONES.add(name, (builder, modality), (modality,))
        return builder

    return register


def list_backbones(pattern: str = "*", *, modality: str | None = None) -> list[str]:
    """Names of the registered backbones, in natural order; patterns that start with ``timm/`` list timm's models.

    Args:
        pattern: fnmatch pattern.
        modality: only those that read this modality.

    Example:
        >>> list_backbones("*net*", modality="image")
        ['resnet12']
        >>> "timm/resnet18" in list_backbones("timm/resnet1*")
        True
    """
    names = _BACKBONES.names(pattern, modality=modality)
    if pattern.startswith(TIMM_PREFIX) and modality in (None, "image"):
        names += _timm_names(pattern)
    return sorted(names, key=_natural)


def modality_of(name: str) -> str:
    """The modality that a backbone reads.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    if name.startswith(TIMM_PREFIX):
        return "image"
    return _registered(name)[1]


def _registered(name: str) -> tuple[Callable[..., Backbone], str]:
    if name not in _BACKBONES:  # timm's models may be what was meant
        raise unknown_name("backbone", name, [*_BACKBONES.names(), *_timm_names(f"*{name}*")])
    return _BACKBONES[name]


def create_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone by its name.

    Args:
        name: one of :func:`list_backbones`, or ``timm/<model>`` for any of timm's models.
        options: the builder's own arguments, such as ``in_channels`` and ``image_size``.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named), or the builder refuses an option.

    Example:
        >>> import torch
        >>> create_backbone("conv4", in_channels=1, image_size=28)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 64])
    """
    if name.startswith(TIMM_PREFIX):
        from metaad_zoo.backbones.pretrained import TimmBackbone, require_model  # timm takes a second to import

        require_model(name.removeprefix(TIMM_PREFIX))
        _check_options(name, TimmBackbone, {"model": None, **options})
        return TimmBackbone(name.removeprefix(TIMM_PREFIX), **options)
    builder, _ = _registered(name)
    _check_options(name, builder, options)
    return builder(**options)


def options_from_shapes(modality: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What the samples' shapes tell a backbone that reads a modality.

    Args:
        modality: of the backbone; ``"multimodal"`` gets all shapes as its ``input_shapes``.
        shapes: shape of one sample by modality.

    Raises:
        ValueError: images are not square.

    Example:
        >>> options_from_shapes("image", {"image": (1, 28, 28)})
        {'in_channels': 1, 'image_size': 28}
    """
    if modality == MULTIMODAL:
        return {"input_shapes": {name: tuple(shape) for name, shape in shapes.items()}}
    shape = shapes[modality]
    if modality == "image":
        channels, height, width = shape
        if height != width:
            raise ValueError(f"backbones read square images, saw {height} x {width} pixels: set data.image_size")
        return {"in_channels": channels, "image_size": height}
    if modality == "sequence":
        return {"in_channels": shape[-1]}
    return {"in_features": shape[0]} if modality == "tabular" else {}


def _check_options(name: str, builder: Callable[..., Backbone], options: Mapping[str, Any]) -> None:
    known = inspect.signature(builder).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of backbone {name!r}:", option, set(known) - {"model"})


def _timm_names(pattern: str) -> list[str]:
    import timm

    return [TIMM_PREFIX + n for n in timm.list_models(pattern.removeprefix(TIMM_PREFIX))]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which resnet9 comes before resnet12."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

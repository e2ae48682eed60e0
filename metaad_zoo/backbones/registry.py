"""Backbones by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, get_type_hints

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
        axes: what the axes of one sample are, such as ``("channels", "height", "width")``.
        embedding_dim: length of the embedding.
        cpu_tasks: how many tasks of a batch it best runs at once on a CPU, where larger activations overflow caches and
            are paged in anew by each operation; None: any number.
    """

    modality: str
    axes: ClassVar[tuple[str, ...]] = ()
    embedding_dim: int
    cpu_tasks: int | None = None

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        """Constructor arguments that follow from the shape of one sample; it has as many sizes as :attr:`axes`.

        Raises:
            ValueError: the backbone can't read such samples.
        """
        return {}

    @classmethod
    def options_from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """As :meth:`options_from_shape`, of the one modality that the backbone is given.

        Raises:
            ValueError: its samples have other axes.
        """
        ((name, shape),) = shapes.items()
        if cls.axes and len(shape) != len(cls.axes):
            raise ValueError(
                f"{cls.__name__} reads samples of shape ({', '.join(cls.axes)}), but those of {name!r} have shape "
                f"{tuple(shape)}: choose another backbone (`metaad list --backbones`)"
            )
        return cls.options_from_shape(shape)


def register_backbone(name: str, *, modality: str) -> Callable[[Builder], Builder]:
    """Make a builder known by a name; the decorated function or class returns a :class:`Backbone`.

    The class says what it is built with for samples of some shape (:meth:`Backbone.options_from_shape`); of a function
    it is the one that the return annotation names.

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
    if pattern.startswith(TIMM_PREFIX) and modality in (None, modality_of(TIMM_PREFIX)):
        names += _timm_names(pattern)
    return sorted(names, key=_natural)


def modality_of(name: str) -> str:
    """The modality that a backbone reads.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    return backbone_class(name).modality if name.startswith(TIMM_PREFIX) else _registered(name)[1]


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


def backbone_class(name: str) -> type[Backbone]:
    """The class of a backbone, without building it.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    if name.startswith(TIMM_PREFIX):
        from metaad_zoo.backbones.pretrained import TimmBackbone

        return TimmBackbone
    builder, _ = _registered(name)
    returned = builder if isinstance(builder, type) else get_type_hints(builder).get("return", Backbone)
    assert issubclass(returned, Backbone)
    return returned


def options_from_shapes(name: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The arguments of a backbone that follow from the shape of the samples that it is to read.

    Args:
        name: of the backbone.
        shapes: shape of one sample by modality; of one modality, unless the backbone reads several.

    Raises:
        ValueError: the name is unknown, or the backbone can't read such samples.

    Example:
        >>> options_from_shapes("conv4", {"image": (1, 28, 28)})
        {'in_channels': 1, 'image_size': 28}
    """
    return backbone_class(name).options_from_shapes(shapes)


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

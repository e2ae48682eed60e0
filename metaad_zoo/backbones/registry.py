"""Registry of backbones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, get_type_hints

from torch import nn

from metaad_zoo.backbones.weights import WeightsSource, chosen_pretrained
from metaad_zoo.registry import Registry

Builder = TypeVar("Builder", bound=Callable[..., "Backbone"])

MULTIMODAL = "multimodal"
"""Modality of a backbone that reads several modalities, as a dict."""

BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone")


class Backbone(nn.Module):
    """Base of backbones, which map samples to embeddings: ``forward(x (n, ...)) -> (n, embedding_dim)``.

    Attributes:
        modality: ``"image"``, ``"sequence"``, ``"tabular"``, or ``"multimodal"`` for a dict of several modalities.
        axes: names of the axes of one sample, such as ``("channels", "height", "width")``.
        embedding_dim: length of the embedding.
        source: origin of the pretrained weights that it started from; None: random ones.
        n_parts: number of equally long blocks of the embedding that a learner compares on their own, see
            :class:`metaad_zoo.backbones.multimodal.Fusion`; NaN for a block that a sample lacks.
        gives_missing: whether embeddings hold NaN in the columns of values that a sample lacks.
        cpu_tasks: number of tasks to run at once on a CPU for the best speed, limited by its caches; None: any number.
    """

    modality: str
    axes: ClassVar[tuple[str, ...]] = ()
    embedding_dim: int
    source: WeightsSource | None = None
    n_parts: int = 1
    gives_missing: ClassVar[bool] = False
    cpu_tasks: int | None = None

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        """Constructor arguments for samples of a shape, with one size for each of :attr:`axes`.

        Raises:
            ValueError: the backbone does not support the shape.
        """
        return {}

    @classmethod
    def options_from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Like :meth:`options_from_shape`, for the shape by modality.

        Raises:
            ValueError: the samples have other axes.
        """
        ((name, shape),) = shapes.items()
        if cls.axes and len(shape) != len(cls.axes):
            raise ValueError(
                f"{cls.__name__} reads samples of shape ({', '.join(cls.axes)}), but those of {name!r} have shape "
                f"{tuple(shape)}: choose another backbone (`metaad list --backbones`)"
            )
        return cls.options_from_shape(shape)


def register_backbone(name: str, *, modality: str) -> Callable[[Builder], Builder]:
    """Register a builder: a :class:`Backbone` class, or a function whose return annotation names one.

    The class defines the options for samples of a shape (:meth:`Backbone.options_from_shape`).

    Args:
        name: name of the backbone.
        modality: modality that the backbone reads.

    Raises:
        ValueError: the name is taken.
    """
    return BACKBONES.decorator(name, (modality,))


def list_backbones(pattern: str = "*", *, modality: str | None = None) -> list[str]:
    """Names of the registered backbones, in natural order; patterns that start with ``timm/`` list timm's models.

    Args:
        pattern: fnmatch pattern of names.
        modality: modality that the backbones read; None: any.

    Example:
        >>> list_backbones("*net*", modality="image")
        ['resnet12']
        >>> "timm/resnet18" in list_backbones("timm/resnet1*")
        True
    """
    return BACKBONES.names(pattern, modality=modality)


def modality_of(name: str) -> str:
    """The modality that a backbone reads.

    Raises:
        ValueError: the name is unknown (the nearest names are given).
    """
    (modality,) = BACKBONES.modalities(name) or ("",)
    return modality


def create_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone by its name.

    Args:
        name: one of :func:`list_backbones`, or ``timm/<model>`` for any of timm's models.
        options: arguments of the builder, such as ``in_channels`` and ``image_size``.

    Raises:
        ValueError: the name is unknown (the nearest names are given), or an option is invalid.

    Example:
        >>> import torch
        >>> create_backbone("conv4", in_channels=1, image_size=28)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 64])
    """
    if "pretrained" in options:
        options["pretrained"] = chosen_pretrained(options["pretrained"])
    backbone: Backbone = BACKBONES.create(name, **options)
    return backbone


def backbone_class(name: str) -> type[Backbone]:
    """The class of a backbone, without building it.

    Raises:
        ValueError: the name is unknown (the nearest names are given).
    """
    builder = BACKBONES[name]
    returned = builder if isinstance(builder, type) else get_type_hints(builder).get("return", Backbone)
    assert issubclass(returned, Backbone)
    return returned


def options_from_shapes(name: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Constructor arguments of a backbone for samples of given shapes.

    Args:
        name: name of the backbone.
        shapes: shape of one sample by modality; several modalities only for a multimodal backbone.

    Raises:
        ValueError: the name is unknown, or the backbone does not support the shapes.

    Example:
        >>> options_from_shapes("conv4", {"image": (1, 28, 28)})
        {'in_channels': 1, 'image_size': 28}
    """
    return backbone_class(name).options_from_shapes(shapes)

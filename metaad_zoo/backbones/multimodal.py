"""What backbones of several modalities share: encoders, a common space, masks, and a part that sees all jointly.

Whether two modalities agree can't be told from either alone, nor by a linear head from both side by side. So each
fusion ends in a :class:`JointPart`, which sees products and differences of the modalities' embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.backbones.registry import (
    MULTIMODAL,
    Backbone,
    backbone_class,
    create_backbone,
    modality_of,
)
from metaad_zoo.registry import unknown_name

DEFAULT_ENCODERS: Mapping[int, str] = {3: "conv4", 2: "gru", 1: "mlp"}
"""By the number of a sample's axes the encoder where none is asked for."""

Encoder = str | Mapping[str, Any]
"""A backbone's name, or a dict of its ``name`` (the default one where it is left out) and its options."""


class JointPart(nn.Module):
    """A two-layer network on all embeddings, their products and absolute differences pair by pair, and who is there.

    What belongs to an absent modality, or to a pair that lacks one, is 0.

    Args:
        modalities: their number.
        width: of each embedding, and of the result.

    Shape:
        embeddings ``(n, modalities, width)`` and presence ``(n, modalities)`` to ``(n, width)``.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        pairs = modalities * (modalities - 1) // 2
        features = (modalities + 2 * pairs) * width + modalities
        self.layers = nn.Sequential(nn.Linear(features, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, embeddings: Tensor, there: Tensor) -> Tensor:
        shown = there.unsqueeze(-1)
        parts = [torch.where(shown, embeddings, 0).flatten(1)]
        for (a, here), (b, beside) in combinations(zip(embeddings.unbind(1), shown.unbind(1), strict=True), 2):
            parts.append(torch.where(here & beside, torch.cat([a * b, (a - b).abs()], -1), 0))
        joint: Tensor = self.layers(torch.cat([*parts, there.to(embeddings.dtype)], 1))
        return joint


class Fusion(Backbone):
    """What all fusions share: encoders, the common space, the masks and the joint part; subclasses let embeddings meet.

    A modality is absent in a sample where all its values are NaN. Zeros then go through its encoder, and what comes out
    is masked: it has no influence on the embedding, but for an encoder whose batch normalisation counts those zeros in
    its statistics. Single missing values are the encoder's matter.

    Args:
        input_shapes: shape of one sample by modality; there are two modalities or more.
        encoders: by modality a backbone's name, or a dict of its name and options, such as
            ``{"image": {"name": "conv4", "width": 32}}``; what is left out is as in :data:`DEFAULT_ENCODERS`.
        width: of the common space, and of the embedding.

    Shape:
        A dict from modality to ``(n, ...)`` to ``(n, width)``.

    Raises:
        ValueError: there are fewer than two modalities, an encoder is unknown, reads another modality or refuses an
            option; or later a modality is missing from the dict, unknown, of another number of samples or another
            shape, or a sample has none at all.
    """

    modality = MULTIMODAL

    @classmethod
    def options_from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return {"input_shapes": {name: tuple(shape) for name, shape in shapes.items()}}

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.modalities = sorted(input_shapes)  # so that weights fit whatever the order of the data
        if len(self.modalities) < 2:
            raise ValueError(
                f"a fusion backbone reads two modalities or more, saw input_shapes of {self.modalities}: choose a "
                "backbone of that modality (`metaad list --backbones`), or data with several"
            )
        for name in encoders or {}:
            if name not in input_shapes:
                raise unknown_name("modality in encoders:", name, self.modalities)
        built = {name: _encoder(name, (encoders or {}).get(name, {}), input_shapes) for name in self.modalities}
        self.encoders = nn.ModuleDict(built)
        self.projections = nn.ModuleDict({m: nn.Linear(e.embedding_dim, width) for m, e in built.items()})
        self.joint = JointPart(len(built), width)
        self.embedding_dim = width
        self.cpu_tasks = min((e.cpu_tasks for e in built.values() if e.cpu_tasks is not None), default=None)

    def forward(self, samples: Mapping[str, Tensor]) -> Tensor:
        _check_samples(samples, self.modalities)
        projected, there = [], []
        for name in self.modalities:
            x = samples[name]
            here = ~x.isnan().unsqueeze(-1).flatten(1).all(1)
            x = torch.where(here.view(-1, *(1,) * (x.ndim - 1)), x, 0)
            common = torch.tanh(self.projections[name](self.encoders[name](x)))
            projected.append(torch.where(here.unsqueeze(-1), common, 0))
            there.append(here)
        presence = torch.stack(there, 1)
        # A traced graph can't refuse a sample: see metaad_zoo.export.
        nothing = 0 if torch.compiler.is_compiling() else int((~presence.any(1)).sum())
        if nothing:
            raise ValueError(
                f"a sample must have at least one of {self.modalities}, but in {nothing} of {len(presence)} samples "
                "all values are missing (NaN), or unknown to the support set: leave such samples out"
            )
        joint: Tensor = self.joint(self.meet(torch.stack(projected, 1), presence), presence)
        return joint

    def meet(self, common: Tensor, there: Tensor) -> Tensor:
        """Let the modalities act on each other.

        Args:
            common: ``(n, modalities, width)``, 0 for those absent.
            there: ``(n, modalities)``, true for those present.

        Returns:
            ``(n, modalities, width)``; what it gives those absent is masked later.
        """
        raise NotImplementedError


def _encoder(modality: str, asked: Encoder, shapes: Mapping[str, Sequence[int]]) -> Backbone:
    options: dict[str, Any] = {"name": asked} if isinstance(asked, str) else dict(asked)
    shape = tuple(shapes[modality])
    name = options.pop("name", None) or DEFAULT_ENCODERS.get(len(shape))
    if name is None:
        raise ValueError(f"there is no default encoder for the modality {modality!r}: name one in encoders.{modality}")
    reads = backbone_class(name)
    if modality_of(name) == MULTIMODAL or (reads.axes and len(reads.axes) != len(shape)):
        raise ValueError(
            f"encoders.{modality} is {name!r}, which reads the modality {modality_of(name)!r} of shape "
            f"({', '.join(reads.axes)}): choose one for samples of shape {shape} "
            f"(`metaad list --backbones --modality {modality}`)"
        )
    return create_backbone(name, **{**reads.options_from_shapes({modality: shape}), **options})


def _check_samples(samples: Mapping[str, Tensor], modalities: Sequence[str]) -> None:
    if not isinstance(samples, Mapping):
        raise ValueError(f"expected a dict with samples of {list(modalities)}, saw {type(samples).__name__}")
    for name in modalities:
        if name not in samples:
            raise ValueError(
                f"modality {name!r} is missing, saw {sorted(samples)}: give it too, filled with NaN for samples that "
                "lack it"
            )
    for name in samples:
        if name not in modalities:
            raise unknown_name("modality of samples:", name, modalities)
    sizes = {name: samples[name].shape[0] for name in modalities}  # which may be symbols, in a traced graph
    if any(size != sizes[modalities[0]] for size in sizes.values()):
        raise ValueError(f"expected one number of samples for all modalities, saw {sizes}")

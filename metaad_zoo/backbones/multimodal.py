"""Base of multimodal backbones: encoders, common space, masks and joint part.

A linear head on concatenated embeddings can't detect whether two modalities agree. So each fusion ends in a
:class:`JointPart`, which reads products and differences of the modalities' embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.missing import centre_missing, declared_absent, declared_missing
from metaad_zoo.backbones.registry import MULTIMODAL, Backbone, backbone_class, create_backbone, modality_of
from metaad_zoo.registry import unknown_name

DEFAULT_ENCODERS: Mapping[int, str] = {3: "conv4", 2: "gru", 1: "mlp"}
"""Default encoder by the number of axes of a sample."""

Encoder = str | Mapping[str, Any]
"""Name of a backbone, or a dict of its ``name`` (optional) and its options."""


class JointPart(nn.Module):
    """Two-layer network on all embeddings, products and absolute differences of each pair, and the presence mask.

    Features of absent modalities, and of pairs with an absent modality, are 0.

    Args:
        modalities: number of modalities.
        width: length of each embedding and of the result.

    Shape:
        embeddings ``(n, modalities, width)`` and presence ``(n, modalities)`` to ``(n, width)``.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        pairs = modalities * (modalities - 1) // 2
        features = (modalities + 2 * pairs) * width + modalities
        self.layers = nn.Sequential(nn.Linear(features, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, embeddings: Tensor, present: Tensor) -> Tensor:
        mask = present.unsqueeze(-1)
        parts = [torch.where(mask, embeddings, 0).flatten(1)]
        for (a, mask_a), (b, mask_b) in combinations(zip(embeddings.unbind(1), mask.unbind(1), strict=True), 2):
            parts.append(torch.where(mask_a & mask_b, torch.cat([a * b, (a - b).abs()], -1), 0))
        joint: Tensor = self.layers(torch.cat([*parts, present.to(embeddings.dtype)], 1))
        return joint


class Fusion(Backbone):
    """Base of fusions: encoders, common space, masks and joint part; a subclass implements :meth:`meet`.

    A modality is absent from a sample if all its values are NaN. Its encoder then reads zeros, and its output is
    masked. It has no influence on the embedding, except through batch normalisation in the encoder, whose statistics
    include the zeros. The encoder handles single missing values.

    With ``parts`` the embedding is made of blocks: the output of each modality's encoder, in the order of
    :attr:`modalities`, and the joint embedding. Zeros make them equally long. The block of an absent modality is NaN,
    and so is the joint block of a sample that lacks any modality. A learner then compares each block on its own.

    Args:
        input_shapes: shape of one sample by modality, for two modalities or more.
        encoders: name of a backbone by modality, or a dict of its name and options, such as
            ``{"image": {"name": "conv4", "width": 32}}``; default: :data:`DEFAULT_ENCODERS`.
        width: length of the joint embedding, and of each modality's vector in the common space.
        parts: whether the embedding has a block for each modality beside the joint one.

    Shape:
        A dict from modality to ``(n, ...)`` to ``(n, width)``, with ``parts`` to ``(n, (modalities + 1) * d)`` with
        ``d`` the longest of the blocks.

    Attributes:
        n_parts: number of blocks of the embedding; 1 without ``parts``.

    Raises:
        ValueError: there are fewer than two modalities, an encoder is unknown, reads another modality or rejects an
            option; or a modality of the samples is missing or unknown, has another number of samples or another shape,
            or a sample has no modality.
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
        parts: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = sorted(input_shapes)  # so that weights do not depend on the order of the data
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
        self.n_parts = len(built) + 1 if parts else 1
        self.embedding_dim = width
        if parts:
            self.embedding_dim = self.n_parts * max(width, *(e.embedding_dim for e in built.values()))
        self.cpu_tasks = min((e.cpu_tasks for e in built.values() if e.cpu_tasks is not None), default=None)

    def forward(self, samples: Mapping[str, Tensor]) -> Tensor:
        _check_samples(samples, self.modalities)
        encoded = [self._encode(name, samples[name]) for name in self.modalities]
        alone, projected, masks = ([parts[i] for parts in encoded] for i in range(3))
        present = torch.stack(masks, 1)
        # A traced graph can't raise an error for a sample: see metaad_zoo.export.
        empty = 0 if torch.compiler.is_compiling() or declared_missing() is False else int((~present.any(1)).sum())
        if empty:
            raise ValueError(
                f"a sample must have at least one of {self.modalities}, but in {empty} of {len(present)} samples "
                "all values are missing (NaN), or unknown to the support set: leave such samples out"
            )
        joint: Tensor = self.joint(self.meet(torch.stack(projected, 1), present), present)
        if self.n_parts == 1:
            return joint
        blocks = torch.stack([_widened(x, self.embedding_dim // self.n_parts) for x in (*alone, joint)], 1)
        exists = torch.cat([present, present.all(1, True)], 1)
        return torch.where(exists.unsqueeze(-1), blocks, torch.nan).flatten(1)

    def _encode(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding ``(n, d)`` of one modality, its vector ``(n, width)`` in the common space, presence mask."""
        encoder, projection = self.encoders[name], self.projections[name]
        if name in declared_absent():
            assert isinstance(projection, nn.Linear)
            embedding, vector = (x.new_zeros(x.shape[0], n) for n in (projection.in_features, projection.out_features))
            return embedding, vector, x.new_zeros(x.shape[0], dtype=torch.bool)
        mask = ~x.isnan().unsqueeze(-1).flatten(1).all(1)
        x = torch.where(mask.view(-1, *(1,) * (x.ndim - 1)), x, 0)
        embedding = centre_missing(encoder(x)) if encoder.gives_missing else encoder(x)
        return embedding, torch.where(mask.unsqueeze(-1), torch.tanh(projection(embedding)), 0), mask

    def meet(self, common: Tensor, present: Tensor) -> Tensor:
        """Exchange information between modalities.

        Args:
            common: ``(n, modalities, width)``, 0 for absent modalities.
            present: ``(n, modalities)`` booleans.

        Returns:
            ``(n, modalities, width)``; values of absent modalities are masked later.
        """
        raise NotImplementedError


def _widened(x: Tensor, width: int) -> Tensor:
    """Embeddings ``(n, d)`` with zeros up to a width, scaled so that mean squares over the features stay the same."""
    d = x.shape[-1]
    return x if d == width else F.pad(x * (width / d) ** 0.5, (0, width - d))


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

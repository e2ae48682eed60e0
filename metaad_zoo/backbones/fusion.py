"""Backbones of several modalities: an encoder for each, a common space, and a part that sees them jointly.

Whether two modalities agree can't be told from either alone, nor by a linear head from both side by side. So each
fusion ends in a :class:`JointPart`, which sees products and differences of the modalities' embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.registry import (
    MULTIMODAL,
    Backbone,
    create_backbone,
    modality_of,
    options_from_shapes,
    register_backbone,
)
from metaad_zoo.names import unknown_name

DEFAULT_ENCODERS: Mapping[str, str] = {"image": "conv4", "sequence": "gru", "tabular": "mlp"}
"""By modality the encoder where none is asked for."""

Encoder = str | Mapping[str, Any]
"""A backbone's name, or a dict of its ``name`` (the default one where it is left out) and its options."""

MASKED = -1e4
"""Added to an attention score that must not count: its weight is 0, and yet a row of them alone stays finite."""


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
        tokens: vectors of the common space that a modality's embedding is projected to.

    Shape:
        A dict from modality to ``(n, ...)`` to ``(n, width)``.

    Raises:
        ValueError: there are fewer than two modalities, an encoder is unknown, reads another modality or refuses an
            option; or later a modality is missing from the dict, unknown, of another number of samples or another
            shape, or a sample has none at all.
    """

    modality = MULTIMODAL

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
        tokens: int = 1,
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
        self.projections = nn.ModuleDict({m: nn.Linear(e.embedding_dim, tokens * width) for m, e in built.items()})
        self.joint = JointPart(len(built), width)
        self.tokens = tokens
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
            projected.append(torch.where(here.unsqueeze(-1), common, 0).unflatten(1, (self.tokens, -1)))
            there.append(here)
        presence = torch.stack(there, 1)
        nothing = int((~presence.any(1)).sum())
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
            common: ``(n, modalities, tokens, width)``, 0 for those absent.
            there: ``(n, modalities)``, true for those present.

        Returns:
            ``(n, modalities, width)``; what it gives those absent is masked later.
        """
        raise NotImplementedError


def _encoder(modality: str, asked: Encoder, shapes: Mapping[str, Sequence[int]]) -> Backbone:
    options: dict[str, Any] = {"name": asked} if isinstance(asked, str) else dict(asked)
    name = options.pop("name", None) or DEFAULT_ENCODERS.get(modality)
    if name is None:
        raise ValueError(f"there is no default encoder for the modality {modality!r}: name one in encoders.{modality}")
    reads = modality_of(name)
    if reads != modality:
        raise ValueError(
            f"encoders.{modality} is {name!r}, which reads the modality {reads!r}: choose one that reads {modality!r} "
            f"(`metaad list --backbones --modality {modality}`)"
        )
    return create_backbone(name, **{**options_from_shapes(modality, shapes), **options})


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
    sizes = {name: len(samples[name]) for name in modalities}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected one number of samples for all modalities, saw {sizes}")


@register_backbone("fusion_concat", modality=MULTIMODAL)
class ConcatFusion(Fusion):
    """Late fusion: the embeddings meet in the joint part alone.

    Source: the concatenation baseline of Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017, with
    products and differences of pairs as in Conneau et al., "Supervised Learning of Universal Sentence Representations
    from Natural Language Inference Data", EMNLP 2017.

    Args, Shape and Raises are those of :class:`Fusion`.

    Example:
        >>> shapes = {"image": (1, 16, 16), "tabular": (5,)}
        >>> fusion = create_backbone("fusion_concat", input_shapes=shapes, encoders={"image": {"width": 8}})
        >>> fusion({"image": torch.rand(2, 1, 16, 16), "tabular": torch.full((2, 5), torch.nan)}).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(input_shapes, encoders, width)

    def meet(self, common: Tensor, there: Tensor) -> Tensor:
        return common.squeeze(2)


@register_backbone("fusion_gated", modality=MULTIMODAL)
class GatedFusion(Fusion):
    """Every unit of each modality is gated by all modalities.

    The gates of a unit are a softmax over the modalities present, times their number: equal gates change nothing. For
    two modalities that softmax is the published sigmoid; the published sum of the gated embeddings is left to the joint
    part, which sees them apart.

    Source: Arevalo et al., "Gated Multimodal Units for Information Fusion", ICLR 2017 workshop.

    Args, Shape and Raises are those of :class:`Fusion`.
    """

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(input_shapes, encoders, width)
        modalities = len(self.modalities)
        self.gates = nn.Linear(modalities * (width + 1), modalities * width)

    def meet(self, common: Tensor, there: Tensor) -> Tensor:
        embeddings = common.squeeze(2)
        seen = torch.cat([embeddings.flatten(1), there.to(embeddings.dtype)], 1)
        scores = self.gates(seen).view_as(embeddings).masked_fill(~there.unsqueeze(-1), -torch.inf)
        return embeddings * scores.softmax(1) * there.sum(1).view(-1, 1, 1)


@register_backbone("fusion_attention", modality=MULTIMODAL)
class AttentionFusion(Fusion):
    """Each modality attends to the tokens of the others.

    An encoder gives one embedding, and a softmax over a single token has no choice: so the projection makes several
    tokens of it. All directed pairs of modalities share one attention block (pre-norm, beside an identity); their
    projections tell them apart. A modality's embedding is the mean of its tokens. A modality that is alone in its
    sample attends to nothing.

    Source: Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019, whose tokens
    are time steps.

    Args:
        input_shapes: see :class:`Fusion`, also for Shape and Raises.
        encoders: likewise.
        width: likewise; a multiple of ``heads``.
        tokens: of each modality.
        heads: of the attention.
    """

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
        tokens: int = 4,
        heads: int = 2,
    ) -> None:
        if width % heads:
            raise ValueError(f"fusion_attention: heads={heads} do not divide width={width}")
        if tokens < 1:
            raise ValueError(f"fusion_attention: expected at least one token a modality, saw tokens={tokens}")
        super().__init__(input_shapes, encoders, width, tokens)
        self.heads = heads
        self.norm, self.into, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.last_norm = nn.LayerNorm(width)

    def meet(self, common: Tensor, there: Tensor) -> Tensor:
        tokens = common.flatten(1, 2)
        of = torch.arange(common.shape[1], device=common.device).repeat_interleave(self.tokens)
        others = (of.unsqueeze(1) != of) & there.repeat_interleave(self.tokens, 1).unsqueeze(1)  # (n, from, to)
        q, k, v = self.into(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = torch.zeros_like(others, dtype=q.dtype).masked_fill(~others, MASKED).unsqueeze(1)
        mixed = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        tokens = tokens + torch.where(others.any(2, keepdim=True), mixed, 0)
        embeddings: Tensor = self.last_norm(tokens).unflatten(1, (-1, self.tokens)).mean(2)
        return embeddings

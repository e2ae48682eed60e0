"""Multimodal backbones: fusion by concatenation, gates or cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.backbones.multimodal import Encoder, Fusion
from metaad_zoo.backbones.registry import MULTIMODAL, register_backbone

MASKED = -1e4
"""Added to masked attention scores: their weight is 0, and a row with only masked scores stays finite."""


@register_backbone("fusion_concat", modality=MULTIMODAL)
class ConcatFusion(Fusion):
    """Late fusion: only the joint part combines the embeddings.

    Source: the concatenation baseline of Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017, with
    products and differences of pairs as in Conneau et al., "Supervised Learning of Universal Sentence Representations
    from Natural Language Inference Data", EMNLP 2017.

    Args, Shape and Raises are those of :class:`Fusion`.

    Example:
        >>> from metaad_zoo.backbones import create_backbone
        >>> shapes = {"image": (1, 16, 16), "tabular": (5,)}
        >>> fusion = create_backbone("fusion_concat", input_shapes=shapes, encoders={"image": {"width": 8}})
        >>> fusion({"image": torch.rand(2, 1, 16, 16), "tabular": torch.full((2, 5), torch.nan)}).shape
        torch.Size([2, 64])
    """

    def meet(self, common: Tensor, present: Tensor) -> Tensor:
        return common


@register_backbone("fusion_gated", modality=MULTIMODAL)
class GatedFusion(Fusion):
    """Gated fusion: gates computed from all modalities scale every unit of each modality.

    The gates of a unit are a softmax over the present modalities, times their number, so that equal gates are 1. For
    two modalities the softmax is the published sigmoid. In place of the published sum of the gated embeddings, the
    joint part reads them separately.

    Source: Arevalo et al., "Gated Multimodal Units for Information Fusion", ICLR 2017 workshop.

    Args, Shape and Raises are those of :class:`Fusion`.
    """

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
        parts: bool = False,
    ) -> None:
        super().__init__(input_shapes, encoders, width, parts)
        modalities = len(self.modalities)
        self.gates = nn.Linear(modalities * (width + 1), modalities * width)

    def meet(self, common: Tensor, present: Tensor) -> Tensor:
        features = torch.cat([common.flatten(1), present.to(common.dtype)], 1)
        scores = self.gates(features).view_as(common).masked_fill(~present.unsqueeze(-1), -torch.inf)
        return common * scores.softmax(1) * present.sum(1).view(-1, 1, 1)


@register_backbone("fusion_attention", modality=MULTIMODAL)
class AttentionFusion(Fusion):
    """Cross-attention between modalities.

    Each encoder's embedding becomes several tokens, because attention to a single token is trivial. All directed pairs
    of modalities share one residual attention block (pre-norm); only the projections into the common space differ. A
    modality's embedding is the mean of its tokens. The only modality of a sample attends to nothing.

    Source: Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019, whose tokens
    are time steps.

    Args:
        input_shapes: see :class:`Fusion`, also for Shape and Raises.
        encoders: see :class:`Fusion`.
        width: see :class:`Fusion`; a multiple of ``heads``.
        tokens: number of tokens of each modality.
        heads: number of attention heads.
        parts: see :class:`Fusion`.
    """

    def __init__(
        self,
        input_shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[str, Encoder] | None = None,
        width: int = 64,
        tokens: int = 4,
        heads: int = 2,
        parts: bool = False,
    ) -> None:
        if width % heads:
            raise ValueError(f"fusion_attention: heads={heads} do not divide width={width}")
        if tokens < 1:
            raise ValueError(f"fusion_attention: expected at least one token a modality, saw tokens={tokens}")
        super().__init__(input_shapes, encoders, width, parts)
        self.tokens, self.heads = tokens, heads
        self.spread = nn.Linear(width, tokens * width)
        self.norm, self.into, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.last_norm = nn.LayerNorm(width)

    def meet(self, common: Tensor, present: Tensor) -> Tensor:
        tokens = self.spread(common).unflatten(-1, (self.tokens, -1)).flatten(1, 2)
        modality = torch.arange(common.shape[1], device=common.device).repeat_interleave(self.tokens)
        attended = (modality.unsqueeze(1) != modality) & present.repeat_interleave(self.tokens, 1).unsqueeze(1)
        q, k, v = self.into(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = torch.zeros_like(attended, dtype=q.dtype).masked_fill(~attended, MASKED).unsqueeze(1)
        mixed = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        tokens = tokens + torch.where(attended.any(2, keepdim=True), mixed, 0)
        embeddings: Tensor = self.last_norm(tokens).unflatten(1, (-1, self.tokens)).mean(2)
        return embeddings

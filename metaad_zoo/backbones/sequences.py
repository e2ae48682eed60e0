"""What all backbones for sequences share: variable length, missing values, any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaad_zoo.backbones.missing import ANY, split_missing
from metaad_zoo.backbones.registry import Backbone
from metaad_zoo.backbones.task_axis import current_task_axis


def check_sequences(x: Tensor, channels: int) -> None:
    """Refuse a batch that is not ``(n, T, channels)`` with at least one step and one channel.

    Args:
        x: the batch.
        channels: that are expected; :data:`ANY` number of them.

    Raises:
        ValueError: tells what was seen and what was expected.
    """
    if x.ndim != 3 or 0 in x.shape[1:] or channels not in (ANY, x.shape[2]):
        expected = "any number of channels" if channels == ANY else channels
        raise ValueError(
            f"expected sequences of shape (n, T, {expected}), saw {tuple(x.shape)}: let the backbone's in_channels "
            f"agree with the data's channels ({ANY}: any number)"
        )


class ReadsSequences(Backbone):
    """A backbone of sequences ``(n, T, C)``."""

    modality = "sequence"
    axes = ("steps", "channels")

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        return {"in_channels": shape[-1]}


class SequenceBackbone(ReadsSequences):
    """A backbone for sequences of any length, some of whose values may be missing (NaN).

    A step is padding where all its channels are missing and no later step has a value: what is appended so changes no
    embedding. Any other missing value counts as 0, which is the support set's mean where sequences are scaled by it. A
    sequence that is missing as a whole counts as one step of zeros.

    With ``in_channels=-1`` any number of channels is read: each by itself, by the same weights (channel independence:
    Nie et al., "A Time Series is Worth 64 Words", ICLR 2023), and the channels' embeddings are pooled by mean and by
    maximum, side by side. Order of the channels and absent ones (missing in all steps) do not matter then.

    Args:
        in_channels: of the sequences; -1: any number.
        width: of the embedding that :meth:`encode` gives; with ``in_channels=-1`` the pooled one is twice as long.

    Attributes:
        channels: that :meth:`encode` is given.

    Raises:
        ValueError: the number of channels can't be, or later a batch has another shape.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        if in_channels < 1 and in_channels != ANY:
            raise ValueError(f"expected in_channels of 1 or more, or {ANY} for any number, saw {in_channels}")
        self.in_channels = in_channels
        self.channels = 1 if in_channels == ANY else in_channels
        self.embedding_dim = 2 * width if in_channels == ANY else width

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Embed sequences without NaN.

        Args:
            x: ``(n, T, channels)``.
            lengths: ``(n,)``, at least 1: the steps behind are padding; None where all steps are there.

        Returns:
            ``(n, width)``.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        check_sequences(x, self.in_channels)
        lengths = present = None
        # Masks are built only where they are needed; a traced graph can't choose.
        if torch.compiler.is_compiling() or torch.isnan(x).any():
            values, there = split_missing(x)
            x, lengths = without_padding(values, there)
            present = there.any(1)
        return self.encode(x, lengths) if self.in_channels != ANY else self._by_channel(x, lengths, present)

    def _by_channel(self, x: Tensor, lengths: Tensor | None, present: Tensor | None) -> Tensor:
        channels = x.shape[2]
        if lengths is not None:
            lengths = fold_channels(lengths.view(-1, 1, 1).expand(-1, 1, channels)).flatten()
        return pool_channels(split_channels(self.encode(fold_channels(x), lengths), channels), present)


def without_padding(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cut off the steps that are padding in all sequences, and give the lengths if they still differ.

    While a graph is traced nothing is cut off, for it has one shape for all batches.

    Args:
        values: ``(n, T, C)``.
        there: where they are not missing.

    Example:
        >>> there = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0]]).bool().unsqueeze(2)
        >>> values, lengths = without_padding(torch.ones(2, 4, 1), there)
        >>> values.shape, lengths
        (torch.Size([2, 3, 1]), tensor([1, 3]))
    """
    steps = torch.arange(1, values.shape[1] + 1, device=values.device)
    lengths = torch.where(there.any(2), steps, 1).amax(1)
    if torch.compiler.is_compiling():
        return values, lengths
    shortest, longest = torch.stack(lengths.aminmax()).tolist()
    return values[:, :longest], None if shortest == longest else lengths


def step_mask(lengths: Tensor, length: int) -> Tensor:
    """Which of ``length`` steps are no padding, ``(n, length)`` of lengths ``(n,)``."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)


def mean_over_steps(h: Tensor, lengths: Tensor | None) -> Tensor:
    """``(n, T, d)`` to ``(n, d)``; padding does not count."""
    if lengths is None:
        return h.mean(1)
    here = step_mask(lengths, h.shape[1]).unsqueeze(2)
    return torch.where(here, h, 0).sum(1) / lengths.unsqueeze(1).to(h.dtype)


def fold_channels(x: Tensor) -> Tensor:
    """``(n, T, C)`` to ``(n * C, T, 1)``, where each task keeps to itself (see :class:`TaskAxis`)."""
    axis = current_task_axis()
    if axis is None:
        return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    return axis.fold(axis.split(x).transpose(2, 3).flatten(1, 2)).unsqueeze(2)


def split_channels(y: Tensor, channels: int) -> Tensor:
    """``(n * C, d)`` to ``(n, C, d)``, the way back from :func:`fold_channels`."""
    axis = current_task_axis()
    if axis is None:
        return y.unflatten(0, (-1, channels))
    return axis.fold(axis.split(y).unflatten(1, (-1, channels)))


def pool_channels(y: Tensor, present: Tensor | None) -> Tensor:
    """Mean and maximum over the channels that are there, ``(n, C, d)`` to ``(n, 2 * d)``; zeros where none is.

    Args:
        y: embeddings of the channels.
        present: ``(n, C)``; None: all are there.
    """
    if present is None:
        return torch.cat([y.mean(1), y.amax(1)], 1)
    here = present.unsqueeze(2)
    mean = torch.where(here, y, 0).sum(1) / here.sum(1).clamp_min(1).to(y.dtype)
    highest = y.masked_fill(~here, -torch.inf).amax(1).masked_fill(~here.any(1), 0)
    return torch.cat([mean, highest], 1)

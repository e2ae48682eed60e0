"""Base of sequence backbones: variable length, missing values, any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaad_zoo.backbones.missing import ANY, is_traced, may_miss, pool_present, split_missing
from metaad_zoo.backbones.registry import Backbone
from metaad_zoo.backbones.task_axis import current_task_axis


def check_sequences(x: Tensor, channels: int) -> None:
    """Check that a batch has the shape ``(n, T, channels)``, with at least one step and one channel.

    Args:
        x: batch of sequences.
        channels: expected number of channels, or :data:`ANY`.

    Raises:
        ValueError: the batch has another shape.
    """
    if x.ndim != 3 or 0 in x.shape[1:] or channels not in (ANY, x.shape[2]):
        expected = "any number of channels" if channels == ANY else channels
        raise ValueError(
            f"expected sequences of shape (n, T, {expected}), saw {tuple(x.shape)}: let the backbone's in_channels "
            f"agree with the data's channels ({ANY}: any number)"
        )


class ReadsSequences(Backbone):
    """Base of backbones that read sequences ``(n, T, C)``.

    Args:
        in_channels: number of channels; -1: any number.

    Raises:
        ValueError: the number of channels is out of range.
    """

    modality = "sequence"
    axes = ("steps", "channels")

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        if in_channels < 1 and in_channels != ANY:
            raise ValueError(f"expected in_channels of 1 or more, or {ANY} for any number, saw {in_channels}")
        self.in_channels = in_channels

    @classmethod
    def options_from_shape(cls, shape: Sequence[int]) -> dict[str, Any]:
        return {"in_channels": shape[-1]}


class SequenceBackbone(ReadsSequences):
    """Base of backbones for sequences of any length with missing values (NaN).

    A step is padding if it and all later steps are missing in all channels; padding does not change the embedding. Any
    other missing value counts as 0, which is the support set's mean for scaled sequences. A sequence without any value
    counts as one step of zeros.

    With ``in_channels=-1`` the number of channels is arbitrary. The same weights embed each channel separately (channel
    independence: Nie et al., "A Time Series is Worth 64 Words", ICLR 2023), and the embedding is the mean and maximum
    over channels. It depends neither on the order of channels nor on absent channels (missing in all steps).

    Args:
        in_channels: number of channels; -1: any number.
        width: length of the embedding of :meth:`encode`; with ``in_channels=-1`` the pooled one is twice as long.

    Attributes:
        channels: number of channels of the input of :meth:`encode`.

    Raises:
        ValueError: the number of channels is out of range, or a batch has another shape.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(in_channels)
        self.channels = 1 if in_channels == ANY else in_channels
        self.embedding_dim = 2 * width if in_channels == ANY else width

    def encode(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Embed sequences without NaN.

        Args:
            x: ``(n, T, channels)``.
            lengths: number of steps before padding ``(n,)``, at least 1; None: no padding.

        Returns:
            ``(n, width)``.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        check_sequences(x, self.in_channels)
        lengths = present = None
        # Masks are built only if needed; a traced graph has no data-dependent branch.
        if may_miss(x):
            values, mask = split_missing(x)
            x, lengths = without_padding(values, mask)
            present = mask.any(1)
        return self.encode(x, lengths) if self.in_channels != ANY else self._by_channel(x, lengths, present)

    def _by_channel(self, x: Tensor, lengths: Tensor | None, present: Tensor | None) -> Tensor:
        channels = x.shape[2]
        if lengths is not None:
            lengths = fold_channels(lengths.view(-1, 1, 1).expand(-1, 1, channels)).flatten()
        return pool_channels(split_channels(self.encode(fold_channels(x), lengths), channels), present)


def without_padding(values: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
    """Remove the steps that are padding in all sequences, and return the lengths if they still differ.

    In a traced graph, which has one shape for all batches, no step is removed.

    Args:
        values: ``(n, T, C)``.
        present: ``(n, T, C)`` booleans, False for missing values.

    Example:
        >>> present = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0]]).bool().unsqueeze(2)
        >>> values, lengths = without_padding(torch.ones(2, 4, 1), present)
        >>> values.shape, lengths
        (torch.Size([2, 3, 1]), tensor([1, 3]))
    """
    steps = torch.arange(1, values.shape[1] + 1, device=values.device)
    lengths = torch.where(present.any(2), steps, 1).amax(1)
    if is_traced():
        return values, lengths
    shortest, longest = torch.stack(lengths.aminmax()).tolist()
    return values[:, :longest], None if shortest == longest else lengths


def step_mask(lengths: Tensor, length: int) -> Tensor:
    """Mask of the steps before padding, ``(n, length)``, from lengths ``(n,)``."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)


def mean_over_steps(h: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean over the steps before padding, ``(n, T, d)`` to ``(n, d)``."""
    if lengths is None:
        return h.mean(1)
    mask = step_mask(lengths, h.shape[1]).unsqueeze(2)
    return torch.where(mask, h, 0).sum(1) / lengths.unsqueeze(1).to(h.dtype)


def fold_channels(x: Tensor) -> Tensor:
    """``(n, T, C)`` to ``(n * C, T, 1)``, separately for each task (see :class:`TaskAxis`)."""
    axis = current_task_axis()
    if axis is None:
        return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    return axis.fold(axis.split(x).transpose(2, 3).flatten(1, 2)).unsqueeze(2)


def split_channels(y: Tensor, channels: int) -> Tensor:
    """``(n * C, d)`` to ``(n, C, d)``, the inverse of :func:`fold_channels`."""
    axis = current_task_axis()
    if axis is None:
        return y.unflatten(0, (-1, channels))
    return axis.fold(axis.split(y).unflatten(1, (-1, channels)))


def pool_channels(y: Tensor, present: Tensor | None) -> Tensor:
    """Mean and maximum over the present channels, ``(n, C, d)`` to ``(n, 2 * d)``; 0 if none is present.

    Args:
        y: embeddings of the channels.
        present: ``(n, C)`` booleans; None: all channels are present.
    """
    return torch.cat([y.mean(1), y.amax(1)], 1) if present is None else pool_present(y, present)

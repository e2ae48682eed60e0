"""A window told by what is usually asked of it: level, spread, roughness, slope, extremes and spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

from metaad_zoo.backbones.missing import ANY, split_missing
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.sequences import ReadsSequences, check_sequences

BANDS = ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0))
"""Shares of the spectrum, from the lowest frequency above 0 to the highest."""
FEATURES = 7 + len(BANDS)
GAIN = 5.0
"""Spreads are told as ``log(1 + GAIN * spread)``: in units of the support, a fifth is where the logarithm sets in."""


@register_backbone("window_statistics", modality="sequence")
class WindowStatistics(ReadsSequences):
    """Ten figures of each channel, without weights: what a window is compared by should not depend on its phase.

    They are the mean, the largest and the smallest value, the slope, and as logarithms the standard deviation, that of
    the differences between steps, the largest difference and the mean amplitude in three bands of the spectrum.

    Channels stay apart, in the order of the data, so that a learner may weigh them. An absent channel gives NaN.

    Args:
        in_channels: of the sequences; -1: any number, then ``embedding_dim`` is -1 too.

    Shape:
        ``(n, T, C)`` to ``(n, 10 C)``, the channel's figures side by side.

    Example:
        >>> WindowStatistics(1)(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]))[0, :2]
        tensor([2.5000, 4.0000])
    """

    def __init__(self, in_channels: int = ANY) -> None:
        super().__init__()
        if in_channels < 1 and in_channels != ANY:
            raise ValueError(f"expected in_channels of 1 or more, or {ANY} for any number, saw {in_channels}")
        self.in_channels = in_channels
        self.embedding_dim = ANY if in_channels == ANY else FEATURES * in_channels

    def forward(self, x: Tensor) -> Tensor:
        check_sequences(x, self.in_channels)
        values, there = split_missing(x)
        figures = torch.stack([*_levels(values, there), *_roughness(values, there), *_spectrum(values, there)], -1)
        absent = ~there.any(1).unsqueeze(-1)
        return figures.masked_fill(absent, torch.nan).flatten(1)


def _mean(x: Tensor, there: Tensor) -> Tensor:
    """Over the steps that are there, ``(n, T, C)`` to ``(n, C)``."""
    return (x * there).sum(1) / there.sum(1).clamp_min(1)


def _log_root(square: Tensor) -> Tensor:
    return torch.log1p(GAIN * (square + 1e-12).sqrt())


def _levels(x: Tensor, there: Tensor) -> list[Tensor]:
    """Mean, largest, smallest, slope (of a line over [-1, 1], but for a factor), log standard deviation."""
    mean = _mean(x, there)
    off = (x - mean.unsqueeze(1)) * there
    largest = x.masked_fill(~there, -torch.inf).amax(1).clamp_min(-3e38)
    smallest = x.masked_fill(~there, torch.inf).amin(1).clamp_max(3e38)
    time = torch.linspace(-1, 1, x.shape[1], dtype=x.dtype, device=x.device).view(1, -1, 1)
    return [mean, largest, smallest, _mean(off * time, there), _log_root(_mean(off.square(), there))]


def _roughness(x: Tensor, there: Tensor) -> list[Tensor]:
    """Logarithms of the root mean square of the differences between steps and of the largest."""
    if x.shape[1] < 2:
        return [x[:, 0] * 0, x[:, 0] * 0]
    both = there[:, 1:] & there[:, :-1]
    square = x.diff(dim=1).square() * both
    return [_log_root(_mean(square, both)), _log_root(square.amax(1))]


def _spectrum(x: Tensor, there: Tensor) -> list[Tensor]:
    """Logarithms of the mean amplitude in each band; what is missing counts as the mean."""
    off = (x - _mean(x, there).unsqueeze(1)) * there
    amplitude = torch.fft.rfft(off, dim=1)[:, 1:].abs()
    n = amplitude.shape[1]
    found = []
    for low, high in BANDS:
        first, last = round(low * n), round(high * n)
        band = amplitude[:, first : max(last, first + 1)]
        found.append(torch.log1p(band.mean(1)) if band.shape[1] else x[:, 0] * 0)
    return found

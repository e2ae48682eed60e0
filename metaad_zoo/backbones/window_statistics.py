"""Statistics of a window as its embedding: level, spread, roughness, slope, extremes and spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

from metaad_zoo.backbones.missing import ANY, split_missing
from metaad_zoo.backbones.registry import register_backbone
from metaad_zoo.backbones.sequences import ReadsSequences, check_sequences

BANDS = ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0))
"""Bands of the spectrum, as shares of its range from the lowest frequency above 0 to the highest."""
FEATURES = 7 + len(BANDS)
GAIN = 5.0
"""Gain of ``log(1 + GAIN * spread)``, which is linear up to about a fifth of the support's spread."""
SMALLEST = 1e-12
"""Number added to squares before their root is taken, which then has a gradient at 0."""


@register_backbone("window_statistics", modality="sequence")
class WindowStatistics(ReadsSequences):
    """Ten statistics of each channel, mostly independent of phase; it has no weights.

    They are the mean, the largest and the smallest value, the slope, and the logarithms of the standard deviation, of
    that of the differences between steps, of the largest difference and of the mean amplitude in three bands of the
    spectrum.

    Channels stay separate, in the order of the data, so that a learner may weight them. An absent channel gives NaN.

    Args:
        in_channels: number of channels; -1: any number, and ``embedding_dim`` is -1 too.

    Shape:
        ``(n, T, C)`` to ``(n, 10 C)``, the statistics of each channel side by side.

    Example:
        >>> WindowStatistics(1)(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]))[0, :2]
        tensor([2.5000, 4.0000])
    """

    gives_missing = True

    def __init__(self, in_channels: int = ANY) -> None:
        super().__init__(in_channels)
        self.embedding_dim = ANY if in_channels == ANY else FEATURES * in_channels

    def forward(self, x: Tensor) -> Tensor:
        check_sequences(x, self.in_channels)
        values, present = split_missing(x)
        parts = [f(values, present) for f in (_levels, _roughness, _spectrum)]
        statistics = torch.stack([x for part in parts for x in part], -1)
        absent = ~present.any(1).unsqueeze(-1)
        return statistics.masked_fill(absent, torch.nan).flatten(1)


def _mean(x: Tensor, present: Tensor) -> Tensor:
    """Mean over the present steps, ``(n, T, C)`` to ``(n, C)``."""
    return (x * present).sum(1) / present.sum(1).clamp_min(1)


def _log_root(square: Tensor) -> Tensor:
    return torch.log1p(GAIN * (square + SMALLEST).sqrt())


def _levels(x: Tensor, present: Tensor) -> list[Tensor]:
    """Mean, largest, smallest, slope (up to a factor, with time in [-1, 1]), log standard deviation."""
    mean = _mean(x, present)
    centred = (x - mean.unsqueeze(1)) * present
    largest = x.masked_fill(~present, -torch.inf).amax(1).clamp_min(-3e38)
    smallest = x.masked_fill(~present, torch.inf).amin(1).clamp_max(3e38)
    time = torch.linspace(-1, 1, x.shape[1], dtype=x.dtype, device=x.device).view(1, -1, 1)
    return [mean, largest, smallest, _mean(centred * time, present), _log_root(_mean(centred.square(), present))]


def _roughness(x: Tensor, present: Tensor) -> list[Tensor]:
    """Logarithms of the root mean square and of the maximum of the differences between steps."""
    if x.shape[1] < 2:
        return [x[:, 0] * 0, x[:, 0] * 0]
    both = present[:, 1:] & present[:, :-1]
    square = x.diff(dim=1).square() * both
    return [_log_root(_mean(square, both)), _log_root(square.amax(1))]


def _spectrum(x: Tensor, present: Tensor) -> list[Tensor]:
    """Logarithms of the mean amplitude in each band; missing values count as the mean."""
    centred = (x - _mean(x, present).unsqueeze(1)) * present
    amplitude = torch.fft.rfft(centred, dim=1)[:, 1:].abs()
    n = amplitude.shape[1]
    logarithms = []
    for low, high in BANDS:
        first, last = round(low * n), round(high * n)
        band = amplitude[:, first : max(last, first + 1)]
        logarithms.append(torch.log1p(band.mean(1)) if band.shape[1] else x[:, 0] * 0)
    return logarithms

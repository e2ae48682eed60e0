"""Equal mean of simple experts on windows of series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.backbones.window_statistics import BANDS, FEATURES, GAIN, SMALLEST, WindowStatistics
from metaad_zoo.evaluation.baselines.registry import register_baseline
from metaad_zoo.evaluation.baselines.series import Forecast, ScoreSequences, SequenceMethod, pieces_of
from metaad_zoo.evaluation.baselines.subspaces import ShrunkCovariance
from metaad_zoo.evaluation.baselines.vectors import distances
from metaad_zoo.modality import SequenceModality
from metaad_zoo.registry import unknown_name

EXPERTS = ("nearest", "mahalanobis", "roughness", "spectrum", "forecast_channels", "forecast_steps")
"""Experts on a window.

- ``nearest``: distance to the nearest support window in the statistics of :class:`WindowStatistics`;
- ``mahalanobis``: Mahalanobis distance to the support's windows in these statistics;
- ``roughness``: how unusual the differences from step to step are, as a mean over channels;
- ``spectrum``: how unusual the amplitudes of the frequencies are;
- ``forecast_channels``: residual of a linear forecast, the mean over the three channels where it is largest;
- ``forecast_steps``: the same at the step where it is largest, as a mean over channels.
"""
ROUGHNESS = 5
"""Position of the roughness among the statistics of a channel."""
ORDER, PENALTY = 5, 1.0
"""Steps before the one that is forecast, and the penalty of the ridge regression; see ``linear_ar``."""
TOP_CHANNELS = 3
LIMIT = 20.0
"""Limit of standardised statistics for the Mahalanobis distance."""
LEAST_SPREADS = {"statistics": 0.05, "spectrum": 0.1, "forecast": 0.01}
"""Spread that is added to that of the support, whose windows may all be equal; in units of the support's values."""
FOLDS = 5
ROUNDING = 1e-6
"""Difference from the centre, in spreads, that counts as none."""


@register_baseline("series_experts", modalities=(SequenceModality.name,))
class SeriesExperts(SequenceMethod):
    """Equal mean of the experts :data:`EXPERTS` on a window: statistics, spectrum and linear forecasts.

    Each expert's score ``s`` becomes ``sign(z) log(1 + |z|)`` with ``z = (s - median) / spread`` over the scores of the
    support's own windows, each scored by the experts fitted to the other folds. Folds are runs of consecutive windows,
    because neighbours in a series resemble each other: windows are expected in the order of time. There are five
    folds, or as many as windows; with one window the scores stay in their own units.

    Nothing is trained. A missing value counts as the support's centre.

    Args:
        weights: weight of each expert, those without one being left out; None: all weigh the same. Weights that are
            trained on other families of series did no better (``benchmarks/series_families.py``).

    Raises:
        ValueError: an expert is unknown, or the weights are negative or all 0.
    """

    title = "series_experts"

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = None if weights is None else dict(weights)
        for name in weights or ():
            if name not in EXPERTS:
                raise unknown_name("expert", name, EXPERTS)
        if weights is not None and (min(weights.values(), default=0.0) < 0 or not any(weights.values())):
            raise ValueError(f"weights are {weights}; expected numbers of at least 0, one of them above 0")

    def fit_units(self, x: Tensor) -> ScoreSequences:
        """The weighted mean of the experts."""
        experts = self.fit_experts(x)
        named = dict.fromkeys(EXPERTS, 1.0) if self.weights is None else self.weights
        weights = torch.tensor([named.get(name, 0.0) for name in EXPERTS], dtype=x.dtype)
        weights /= weights.sum()
        of_complete = _CompleteWindows(experts, x.shape[1])

        def score(x: Tensor) -> Tensor:
            if torch.compiler.is_compiling() or x.requires_grad or x.shape[1:] != of_complete.shape:
                return experts(x) @ weights
            values = x.numpy()
            complete = ~np.isnan(values).any((1, 2))
            if complete.all():
                return torch.from_numpy(of_complete(values)) @ weights
            units = torch.empty(len(x), len(EXPERTS), dtype=x.dtype)
            units[complete] = torch.from_numpy(of_complete(values[complete]))
            units[~complete] = experts(x[~complete])
            return units @ weights

        return score

    def fit_experts(self, x: Tensor) -> _ExpertsInUnits:
        """Scores ``(n, experts)`` in the units of scores of the support's own windows, as a function of windows.

        Args:
            x: support windows ``(K, T, C)`` in the units of the support.

        Raises:
            ValueError: the windows are too short.
        """
        if x.shape[1] <= ORDER:
            raise ValueError(
                f"{self.title} needs sequences of more than {ORDER} steps, saw sequences of {x.shape[1]} steps: take "
                "longer windows"
            )
        return _ExpertsInUnits(_Experts.of(x), None if len(x) == 1 else _Units.of(_own_scores(x)))


def _own_scores(x: Tensor) -> Tensor:
    """Scores ``(K, experts)`` of the windows ``(K, T, C)``, each by the experts fitted to the other folds."""
    folds = torch.arange(len(x)) * min(FOLDS, len(x)) // len(x)
    parts = [_Experts.of(x[folds != fold]).scores(x[folds == fold]) for fold in folds.unique()]
    return torch.cat(parts)


@dataclass(frozen=True)
class _Units:
    """Centre and spread ``(experts,)`` of the scores of normal windows."""

    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> _Units:
        """Units of scores ``(K, experts)``."""
        centre = scores.median(0).values
        return cls(centre, scores.std(0, correction=0) + 0.02 * centre.abs() + 1e-6)

    def of_scores(self, scores: Tensor) -> Tensor:
        z = (scores - self.centre) / self.spread
        z = torch.where(z.abs() > ROUNDING, z, 0.0)  # windows of a constant series are all alike
        return z.sign() * z.abs().log1p()


@dataclass(frozen=True)
class _Standard:
    """Mean and spread of features of the support."""

    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor, least_spread: float) -> _Standard:
        return cls(x.mean(0), x.std(0, correction=0) + least_spread)

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.spread


@dataclass(frozen=True)
class _Experts:
    """All experts, fitted to windows ``(K, T, C)`` in the units of the support."""

    of_statistics: _Standard
    statistics: Tensor
    covariance: ShrunkCovariance
    of_spectrum: _Standard
    forecast: Forecast
    usual_residual: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Experts:
        raw, spectrum = _statistics(x), _spectrum(x)
        of_statistics = _Standard.of(raw, LEAST_SPREADS["statistics"])
        statistics = of_statistics(raw)
        pieces, present = pieces_of(x, ORDER + 1)
        forecast = Forecast.of(pieces, present, PENALTY)
        squares = torch.where(present[..., -1], forecast.residuals(pieces).square(), 0.0)
        usual_residual = (squares.sum((0, 1)) / present[..., -1].sum((0, 1)).clamp_min(1)).sqrt()
        return cls(
            of_statistics,
            statistics,
            ShrunkCovariance.of(statistics.clamp(-LIMIT, LIMIT)),
            _Standard.of(spectrum, LEAST_SPREADS["spectrum"]),
            forecast,
            usual_residual + LEAST_SPREADS["forecast"],
        )

    def scores(self, x: Tensor) -> Tensor:
        """Scores ``(n, experts)`` of windows ``(n, T, C)``, in the order of :data:`EXPERTS`."""
        statistics = self.of_statistics(_statistics(x))
        return torch.stack(
            [
                distances(statistics, self.statistics).amin(1),
                self.covariance.distance(statistics.clamp(-LIMIT, LIMIT)),
                statistics[:, ROUGHNESS::FEATURES].abs().mean(1),
                self.of_spectrum(_spectrum(x)).square().mean(1).sqrt(),
                *self._residuals(x),
            ],
            1,
        )

    def _residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two experts on the residuals of the forecast, ``(n,)`` each."""
        pieces, present = pieces_of(x, ORDER + 1)
        present = present[..., -1]
        residuals = torch.where(present, self.forecast.residuals(pieces).abs() / self.usual_residual, 0.0)
        by_channel = residuals.sum(1) / present.sum(1).clamp_min(1)
        by_step = residuals.sum(2) / present.sum(2).clamp_min(1)
        return by_channel.topk(min(TOP_CHANNELS, x.shape[2]), 1).values.mean(1), by_step.amax(1)


def _statistics(x: Tensor) -> Tensor:
    """Statistics ``(n, C * FEATURES)`` of windows; 0 for a channel without a value."""
    return WindowStatistics(x.shape[2])(x).nan_to_num(0.0)


def _spectrum(x: Tensor) -> Tensor:
    """Logarithmic amplitudes ``(n, C * frequencies)`` of windows without their means."""
    centred = (x - x.nanmean(1, keepdim=True)).nan_to_num(0.0)
    return torch.fft.rfft(centred, dim=1)[:, 1:].abs().log1p().flatten(1)


@dataclass(frozen=True)
class _ExpertsInUnits:
    """Experts in the units of the scores of normal windows; without units, which one window does not give, logarithms
    of the scores."""

    experts: _Experts
    units: _Units | None

    def __call__(self, x: Tensor) -> Tensor:
        """Scores ``(n, experts)`` of windows ``(n, T, C)``."""
        scores = self.experts.scores(x)
        return scores.log1p() if self.units is None else self.units.of_scores(scores)


class _CompleteWindows:
    """:class:`_ExpertsInUnits` on windows without missing values, in NumPy.

    A live series brings one window at a time, for which the overhead of some 200 operations of torch is most of the
    time. Statistics are ordered by statistic, then channel.

    Args:
        fitted: the experts.
        steps: steps of a window, T.
    """

    AT_ONCE = 32
    """Windows computed at once, so that they stay in the processor's cache."""

    def __init__(self, fitted: _ExpertsInUnits, steps: int) -> None:
        experts, units = fitted.experts, fitted.units
        channels = len(experts.usual_residual)
        self.shape = torch.Size((steps, channels))

        def by_statistic(x: Tensor) -> np.ndarray:
            return x.unflatten(-1, (channels, FEATURES)).transpose(-1, -2).flatten(-2).contiguous().numpy()

        self._centre, self._spread = (
            by_statistic(experts.of_statistics.centre),
            by_statistic(experts.of_statistics.spread),
        )
        self._statistics = by_statistic(experts.statistics)
        self._norms = (self._statistics**2).sum(1)
        covariance = experts.covariance
        self._mean, self._directions = (
            by_statistic(covariance.support.centre),
            by_statistic(covariance.support.directions),
        )
        self._variances, self._residual_variance = covariance.variances.numpy(), covariance.residual_variance
        frequencies = steps // 2
        self._spectrum_centre, self._spectrum_spread = (
            x.view(frequencies, channels).numpy() for x in (experts.of_spectrum.centre, experts.of_spectrum.spread)
        )
        turns = np.outer(np.arange(1, frequencies + 1), np.arange(steps)) / steps
        self._slope = np.linspace(-1, 1, steps)[None] / steps
        self._waves = np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns), self._slope])
        self._bands = np.zeros((len(BANDS), frequencies))
        for row, (low, high) in zip(self._bands, BANDS, strict=True):
            first = round(low * frequencies)
            row[first : max(round(high * frequencies), first + 1)] = 1.0
            row /= max(row.sum(), 1.0)
        # Parseval's theorem, each frequency below the highest standing for two.
        self._of_variance = np.where(2 * np.arange(1, frequencies + 1) == steps, 1.0, 2.0) / steps**2
        order = experts.forecast.slope.unflatten(1, (channels, ORDER)).permute(2, 1, 0)
        self._forecast = order.reshape(ORDER * channels, channels).contiguous().numpy()
        self._intercept, self._usual_residual = experts.forecast.intercept.numpy(), experts.usual_residual.numpy()
        self._units = None if units is None else (units.centre.numpy(), units.spread.numpy())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scores ``(n, experts)`` of windows ``(n, T, C)``."""
        parts = [self._scores(x[i : i + self.AT_ONCE]) for i in range(0, len(x), self.AT_ONCE)]
        scores = parts[0] if len(parts) == 1 else np.concatenate([np.zeros((0, len(EXPERTS))), *parts])
        if self._units is None:
            return np.log1p(scores)
        z = (scores - self._units[0]) / self._units[1]
        size = np.abs(z)
        return np.where(size > ROUNDING, np.copysign(np.log1p(size), z), 0.0)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        n, channels = len(x), x.shape[2]
        scores = np.empty((n, len(EXPERTS)))
        statistics, amplitudes = self._features(x)
        vectors = (statistics.reshape(n, -1) - self._centre) / self._spread
        squares = np.einsum("nf,nf->n", vectors, vectors)
        nearest = (self._norms - 2 * (vectors @ self._statistics.T)).min(1) + squares
        scores[:, 0] = np.sqrt(np.maximum(nearest, 0.0))
        off = np.minimum(np.maximum(vectors, -LIMIT), LIMIT) - self._mean
        coordinates = off @ self._directions.T
        residual = off - coordinates @ self._directions
        remote = np.einsum("nf,nf->n", residual, residual) / self._residual_variance
        scores[:, 1] = np.sqrt((coordinates * coordinates / self._variances).sum(1) + remote)
        scores[:, 2] = np.abs(vectors[:, ROUGHNESS * channels : (ROUGHNESS + 1) * channels]).sum(1) / channels
        unusual = ((np.log1p(amplitudes) - self._spectrum_centre) / self._spectrum_spread).reshape(n, -1)
        scores[:, 3] = np.sqrt(np.einsum("nf,nf->n", unusual, unusual) / unusual.shape[1])
        scores[:, 4:] = self._residuals(x)
        return scores

    def _features(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Statistics ``(n, FEATURES, C)`` and amplitudes ``(n, frequencies, C)``."""
        n, steps, channels = x.shape
        statistics = np.empty((n, FEATURES, channels))
        statistics[:, 0] = mean = x.sum(1) / steps
        x.max(1, out=statistics[:, 1])
        x.min(1, out=statistics[:, 2])
        waves = self._waves @ (x - mean[:, None])
        statistics[:, 3] = waves[:, -1]
        frequencies = (waves.shape[1] - 1) // 2
        powers = waves[:, :-1] ** 2
        powers = powers[:, :frequencies] + powers[:, frequencies:]
        differences = x[:, 1:] - x[:, :-1]
        differences *= differences
        statistics[:, 4] = self._of_variance @ powers
        statistics[:, 5] = differences.sum(1) / (steps - 1)
        statistics[:, 6] = differences.max(1)
        statistics[:, 4:7] = np.log1p(GAIN * np.sqrt(statistics[:, 4:7] + SMALLEST))
        amplitudes = np.sqrt(powers)
        statistics[:, 7:] = np.log1p(self._bands @ amplitudes)
        return statistics, amplitudes

    def _residuals(self, x: np.ndarray) -> np.ndarray:
        """The two experts on the residuals of the forecast, ``(n, 2)``."""
        n, steps, channels = x.shape
        past = np.concatenate([x[:, i : i + steps - ORDER] for i in range(ORDER)], axis=2)
        residuals = past @ self._forecast
        residuals += self._intercept
        residuals -= x[:, ORDER:]
        np.abs(residuals, out=residuals)
        residuals /= self._usual_residual
        by_channel = residuals.sum(1)
        by_channel.sort(1)
        top = min(TOP_CHANNELS, channels)
        scores = np.empty((n, 2))
        scores[:, 0] = by_channel[:, channels - top :].sum(1) / (top * (steps - ORDER))
        scores[:, 1] = residuals.sum(2).max(1) / channels
        return scores

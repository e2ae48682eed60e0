"""Equal mean of simple experts on windows of series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaad_zoo.backbones.window_statistics import FEATURES, WindowStatistics
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
        return lambda x: experts(x) @ (weights / weights.sum())

    def fit_experts(self, x: Tensor) -> Callable[[Tensor], Tensor]:
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
        fitted = _Experts.of(x)
        if len(x) == 1:
            return lambda x: fitted.scores(x).log1p()
        units = _Units.of(_own_scores(x))
        return lambda x: units.of_scores(fitted.scores(x))


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

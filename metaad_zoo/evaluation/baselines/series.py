"""Methods on short overlapping pieces of sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from metaad_zoo.episodes import Samples, SupportScaling
from metaad_zoo.evaluation.baselines.features import tensors, usual
from metaad_zoo.evaluation.baselines.registry import register_baseline
from metaad_zoo.evaluation.baselines.subspaces import Directions, check_share
from metaad_zoo.modality import SequenceModality, get_modality, read_as
from metaad_zoo.registry import unknown_name

ScoreSequences = Callable[[Tensor], Tensor]
"""Scores ``(n,)`` of sequences ``(n, T, C)``; NaN where a value is missing."""
ScorePieces = Callable[[Tensor, Tensor], Tensor]
"""Scores ``(n,)`` from pieces and the mask of their values, both ``(n, m, C, length)``."""
Pool = Literal["mean", "max"]


class SequenceMethod(ABC):
    """A method on sequences, each channel in the units of the support.

    Attributes:
        title: name of the method in errors.
    """

    title: str

    @abstractmethod
    def fit_units(self, x: Tensor) -> ScoreSequences:
        """Fit to sequences ``(K, T, C)`` in the units of the support; NaN where a value is missing."""

    def adapt(self, support: Samples, support_labels: Tensor) -> SequenceScorer:
        """Fit to the support windows whose label is 0 or -1; one is enough.

        Raises:
            ValueError: no such window is given, there are no sequences, or they are too short or empty.
        """
        name, values = sequences_of(support, self.title)
        windows = usual({name: values}, support_labels, 1, self.title)[name]
        scaling = get_modality(name).feature_scaling(windows)
        return SequenceScorer(self.title, scaling, self.fit_units(scaling.apply(windows).double()), {name: windows})


@dataclass(frozen=True)
class SequenceScorer:
    """A method on sequences, fitted to a support set.

    Attributes:
        title: name of the method in errors.
        scaling: from raw values to the units of the support.
        score_units: scores ``(n,)`` of sequences ``(n, T, C)`` in these units.
        support: raw sequences of the support, by modality.
    """

    title: str
    scaling: SupportScaling
    score_units: ScoreSequences
    support: Samples

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw sequences in the units of the support."""
        name, x = sequences_of(samples, self.title)
        return {name: self.scaling.apply(x)}

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of sequences in the support's :meth:`units`."""
        return self.score_units(next(iter(samples.values())).double())

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Sequences in the support's :meth:`units` as vectors ``(n, T * C)``; without any, those of the support."""
        x = next(iter((self.units(self.support) if samples is None else samples).values()))
        return x.nan_to_num(0.0).flatten(1)

    def score(self, samples: Samples) -> Tensor:
        """Anomaly scores ``(n,)``; higher is more anomalous.

        Raises:
            ValueError: there are no sequences, or they are too short.
        """
        units = self.units(samples)
        n = len(next(iter(units.values())))
        return self.logits(units) if n else torch.zeros(0, dtype=torch.float64)


def sequences_of(samples: Samples, title: str) -> tuple[str, Tensor]:
    """The sequences among samples, on the CPU, and the name of their modality.

    Raises:
        ValueError: there are none.
    """
    names = read_as(list(tensors(samples)), SequenceModality.name)
    if not names:
        raise ValueError(f"{title} reads sequences, saw {sorted(samples)}: `metaad list` names other baselines")
    return names[0], samples[names[0]].cpu()


class PieceMethod(SequenceMethod):
    """A method on the overlapping pieces of sequences.

    Args:
        length: steps of a piece.
        option: name of the option that sets ``length``, for the error.

    A missing value counts as the support's centre; pieces without any value are skipped, and a sequence without a
    value to look at scores 0.
    """

    def __init__(self, length: int, option: str) -> None:
        self.length, self._option = length, option

    @abstractmethod
    def fit(self, pieces: Tensor, present: Tensor) -> ScorePieces:
        """Fit to the support's ``pieces`` and the mask ``present`` of their values, both ``(K, m, C, length)``."""

    def fit_units(self, x: Tensor) -> ScoreSequences:
        pieces, present = self.pieces(x)
        if not present[..., -1].any():
            raise ValueError(
                f"{self.title} found no value in the support's sequences past their first {self.length - 1} steps"
            )
        score_pieces = self.fit(pieces, present)
        return lambda x: score_pieces(*self.pieces(x))

    def pieces(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pieces of sequences ``(n, T, C)`` and the mask of their values, both ``(n, m, C, length)``.

        Raises:
            ValueError: the sequences are shorter than a piece.
        """
        if x.shape[1] < self.length:
            least = f"{self._option} steps" if self._option == "window" else f"more than {self._option} steps"
            raise ValueError(
                f"{self.title} needs sequences of {least}, saw sequences of {x.shape[1]} steps: lower "
                f"{self._option}, which makes pieces of {self.length} steps"
            )
        return pieces_of(x, self.length)


def pieces_of(x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Overlapping pieces of sequences ``(n, T, C)`` and the mask of their values, both ``(n, m, C, length)``."""
    return x.nan_to_num(0.0).unfold(1, length, 1), (~x.isnan()).unfold(1, length, 1)


def ridge(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Coefficients ``(features, outputs)`` of the ridge regression of ``(n, outputs)`` on ``(n, features)``.

    Those of scikit-learn's ``Ridge`` without an intercept, whose import takes as long as that of torch.
    """
    if len(x) < x.shape[1]:  # the same coefficients, of a smaller matrix
        return x.T @ torch.linalg.solve(x @ x.T + alpha * torch.eye(len(x), dtype=x.dtype), y)
    return torch.linalg.solve(x.T @ x + alpha * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


@dataclass(frozen=True)
class Forecast:
    """A linear forecast of each step of all channels from the steps before it.

    Attributes:
        slope: ``(C, C * order)``.
        intercept: ``(C,)``.
    """

    slope: Tensor
    intercept: Tensor

    @classmethod
    def of(cls, pieces: Tensor, present: Tensor, alpha: float) -> Forecast:
        """Ridge regression with the penalty ``alpha`` on the pieces whose last step has a value in any channel."""
        rows = present[..., -1].any(-1)
        past, last = _past(pieces)[rows], pieces[..., -1][rows]
        of_past, of_last = past.mean(0), last.mean(0)
        slope = ridge(past - of_past, last - of_last, alpha).T
        return cls(slope, of_last - slope @ of_past)

    def residuals(self, pieces: Tensor) -> Tensor:
        """Last step of each piece minus its forecast, ``(n, m, C)``."""
        return pieces[..., -1] - (_past(pieces) @ self.slope.T + self.intercept)


@register_baseline("linear_ar", modalities=(SequenceModality.name,))
class LinearAutoregression(PieceMethod):
    """Mean squared residual of a linear model that predicts each step from the steps before it.

    One ridge regression over all support windows predicts the next step of each channel from the last ``order`` steps
    of all channels.

    Args:
        order: number of preceding steps. 5 leaves 59 equations in a window of 64 steps, so that 5 windows suffice.
        alpha: ridge penalty; 1 matters only where channels are many in proportion to the equations.
    """

    title = "linear_ar"

    def __init__(self, order: int = 5, alpha: float = 1.0) -> None:
        if order < 1 or alpha <= 0:
            raise ValueError(
                f"order is {order} and alpha {alpha}; expected an order of at least 1 and an alpha above 0"
            )
        super().__init__(order + 1, "order")
        self.alpha = alpha

    def fit(self, pieces: Tensor, present: Tensor) -> ScorePieces:
        """The regression, on steps that have a value in any channel."""
        forecast = Forecast.of(pieces, present, self.alpha)

        def score(pieces: Tensor, present: Tensor) -> Tensor:
            return _mean_where(forecast.residuals(pieces).square().flatten(1), present[..., -1].flatten(1))

        return score


@register_baseline("pca_subwindows", modalities=(SequenceModality.name,))
class SubwindowReconstruction(PieceMethod):
    """Reconstruction error of a sequence's sub-windows by principal directions of the support's sub-windows.

    Args:
        window: steps of a sub-window. 16 gives 49 sub-windows in a window of 64 steps.
        explained: share of the sub-windows' variance that the directions explain.
        pool: ``"max"`` takes the largest error, for anomalies of a few steps; ``"mean"`` the mean, for whole windows.
    """

    title = "pca_subwindows"

    def __init__(self, window: int = 16, explained: float = 0.9, pool: Pool = "max") -> None:
        if window < 1:
            raise ValueError(f"window is {window}; expected steps, at least 1")
        if pool not in get_args(Pool):
            raise unknown_name("pool:", pool, get_args(Pool))
        check_share(explained)
        super().__init__(window, "window")
        self.explained, self.pool = explained, pool

    def fit(self, pieces: Tensor, present: Tensor) -> ScorePieces:
        """The directions of all sub-windows of the support."""
        directions = Directions.of(pieces.flatten(2)[_any(present)]).explaining(self.explained)

        def score(pieces: Tensor, present: Tensor) -> Tensor:
            rows = pieces.flatten(2)
            errors = (directions.residual(rows.flatten(0, 1)) / rows.shape[-1]).sqrt().view(rows.shape[:2])
            if self.pool == "mean":
                return _mean_where(errors, _any(present))
            return torch.where(_any(present), errors, 0.0).amax(1)

        return score


def _past(pieces: Tensor) -> Tensor:
    """All but the last step of each piece, channels side by side: ``(n, m, C * order)``."""
    return pieces[..., :-1].flatten(2)


def _any(present: Tensor) -> Tensor:
    """Which pieces have a value at all, ``(n, m)``."""
    return present.flatten(2).any(-1)


def _mean_where(values: Tensor, present: Tensor) -> Tensor:
    return torch.where(present, values, 0.0).sum(1) / present.sum(1).clamp_min(1)

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

ScorePieces = Callable[[Tensor, Tensor], Tensor]
"""Scores ``(n,)`` from pieces and the mask of their values, both ``(n, m, C, length)``."""
Pool = Literal["mean", "max"]


class PieceMethod(ABC):
    """A method on the overlapping pieces of sequences, each channel in the units of the support.

    Args:
        length: steps of a piece.
        option: name of the option that sets ``length``, for the error.

    A missing value counts as the support's centre; pieces without any value are skipped.
    """

    title: str

    def __init__(self, length: int, option: str) -> None:
        self.length, self._option = length, option

    @abstractmethod
    def fit(self, pieces: Tensor, present: Tensor) -> ScorePieces:
        """Fit to the support's ``pieces`` and the mask ``present`` of their values, both ``(K, m, C, length)``."""

    def adapt(self, support: Samples, support_labels: Tensor) -> PieceScorer:
        """Fit to the support windows whose label is 0 or -1; one is enough.

        Raises:
            ValueError: no such window is given, there are no sequences, or they are too short or empty.
        """
        name, values = self._sequences(support)
        windows = usual({name: values}, support_labels, 1, self.title)[name]
        pieces = SequencePieces(get_modality(name).feature_scaling(windows), self.length, self.refuse)
        support_pieces, present = pieces(windows)
        if not present[..., -1].any():
            raise ValueError(
                f"{self.title} found no value in the support's sequences past their first {self.length - 1} steps"
            )
        return PieceScorer(self, pieces, self.fit(support_pieces, present), {name: windows})

    def _sequences(self, samples: Samples) -> tuple[str, Tensor]:
        names = read_as(list(tensors(samples)), SequenceModality.name)
        if not names:
            raise ValueError(
                f"{self.title} reads sequences, saw {sorted(samples)}: `metaad list` names other baselines"
            )
        return names[0], samples[names[0]].cpu()

    def refuse(self, steps: int) -> ValueError:
        """The error for sequences that are shorter than a piece."""
        least = f"{self._option} steps" if self._option == "window" else f"more than {self._option} steps"
        return ValueError(
            f"{self.title} needs sequences of {least}, saw sequences of {steps} steps: lower {self._option}, "
            f"which makes pieces of {self.length} steps"
        )


@dataclass(frozen=True)
class SequencePieces:
    """Cuts sequences into overlapping pieces, in the units of a support set."""

    scaling: SupportScaling
    length: int
    refuse: Callable[[int], ValueError]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pieces of sequences ``(n, T, C)`` and the mask of their values, both ``(n, m, C, length)``."""
        return self.of_units(self.scaling.apply(x))

    def of_units(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of sequences in the units of the support."""
        if x.shape[1] < self.length:
            raise self.refuse(x.shape[1])
        scaled = x.double()
        return scaled.nan_to_num(0.0).unfold(1, self.length, 1), (~scaled.isnan()).unfold(1, self.length, 1)


@dataclass(frozen=True)
class PieceScorer:
    """A method on pieces, fitted to a support set."""

    method: PieceMethod
    pieces: SequencePieces
    score_pieces: ScorePieces
    support: Samples

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw sequences in the units of the support."""
        name, x = self.method._sequences(samples)
        return {name: self.pieces.scaling.apply(x)}

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of sequences in the support's :meth:`units`."""
        return self.score_pieces(*self.pieces.of_units(next(iter(samples.values()))))

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Sequences in the support's :meth:`units` as vectors ``(n, T * C)``; without any, those of the support."""
        x = next(iter((self.units(self.support) if samples is None else samples).values()))
        return x.nan_to_num(0.0).flatten(1)

    def score(self, samples: Samples) -> Tensor:
        """Anomaly scores ``(n,)``; 0 for a sequence without a value to look at.

        Raises:
            ValueError: there are no sequences, or they are too short.
        """
        return self.score_pieces(*self.pieces(self.method._sequences(samples)[1]))


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
        from sklearn.linear_model import Ridge  # not for those who adapt another method

        rows = present[..., -1].any(-1)
        model = Ridge(alpha=self.alpha).fit(_past(pieces)[rows].numpy(), pieces[..., -1][rows].numpy())
        # scikit-learn leaves out the axis of a single output in some of its versions
        slope = torch.as_tensor(model.coef_).reshape(pieces.shape[2], -1)
        intercept = torch.as_tensor(model.intercept_).reshape(-1)

        def score(pieces: Tensor, present: Tensor) -> Tensor:
            squared = (pieces[..., -1] - (_past(pieces) @ slope.T + intercept)).square()
            return _mean_where(squared.flatten(1), present[..., -1].flatten(1))

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

"""Scores of the time points of a series, out of the scores of its windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.roles import Schema
from metaad_zoo.data.read.rows import series_of
from metaad_zoo.data.windows import Pooling, score_series
from metaad_zoo.modality.base import get_modality

CHANNELS_AT_ONCE = 256


class ScoresWindows(ABC):
    """Scores of the time points of a series by a detector of windows."""

    @property
    @abstractmethod
    def input_shapes(self) -> Mapping[str, Sequence[int]]:
        """Shape of one sample by modality."""

    @property
    @abstractmethod
    def schemas(self) -> dict[str, Schema]:
        """Roles of the support's named columns, by modality."""

    @abstractmethod
    def score_known(self, samples: dict[str, Tensor], leave_one_out: bool = False) -> np.ndarray:
        """Scores ``(n,)`` of tensors by modality; NaN for samples without any value."""

    @abstractmethod
    def _as_fitted(self) -> ScoresWindows:
        """The detector as it is fitted now."""

    @abstractmethod
    def _fitted_support(self) -> Mapping[str, Tensor]:
        """The support's samples by modality; RuntimeError before the detector is fitted."""

    def score_series(
        self, series: Any, stride: int = 1, how: Pooling | None = None, causal: bool = False
    ) -> np.ndarray:
        """Anomaly scores of every time point of a series, ``(T,)`` float64.

        By ``"mean"`` and ``"max"`` a point's score looks ahead by ``window - 1`` steps, as far as the windows that
        cover it reach. ``causal=True`` gives the scores of a live series (:meth:`Detector.stream`): that of the window
        which ends with the point, or with a stride of the last one that ended before it.

        Args:
            series: ``(T,)`` or ``(T, C)``, a DataFrame or a file; NaN where a value is missing.
            stride: steps from one window to the next, 1 to the length of the window.
            how: pooling of a point's score over the windows that cover it, ``"mean"`` or ``"max"``, or the ``"last"``
                window that ends at or before it; None: the mean, or with ``causal`` the last.
            causal: take no later step into account.

        Returns:
            Scores; NaN where the point has no value or no window that covers it has a score, and in causal mode at the
            first ``window - 1`` points and behind gaps.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: the model reads no sequences, the series is shorter than its window or can't be used, or ``how``
                looks ahead with ``causal``.
        """
        if causal and how not in (None, "last"):
            raise ValueError(f"how is {how!r} with causal=True, but its windows reach ahead: leave how out")
        how = how or ("last" if causal else "mean")
        fit = self._as_fitted()  # while another thread fits, the window and the scores stay those of one fit
        window = fit.window
        values, breaks = series_of(series, fit.schemas.get(fit._windowed))
        scores = score_series(fit.score_windows, values, window, stride, how, breaks)
        scores[np.isnan(values).all(1)] = np.nan
        return scores

    def score_windows(self, windows: Mapping[str, Tensor], leave_one_out: bool = False) -> np.ndarray:
        """As :meth:`score_known`, for windows ``(n, window, C)`` of a series under any modality name."""
        return self.score_known({self._windowed: next(iter(windows.values()))}, leave_one_out)

    def drops_by_channel(self, window: np.ndarray) -> np.ndarray:
        """By how much a window's score falls when one channel at a time is replaced by the nearest support window's.

        Args:
            window: ``(window, C)``.

        Returns:
            ``(C,)``; the nearest window is that of the smallest Euclidean distance, each channel in its support spread.
        """
        fit = self._as_fitted()
        support = fit._fitted_support()[fit._windowed].double().cpu()
        x, usual = torch.as_tensor(window, dtype=torch.float64), support.nanmean((0, 1))
        spread = (support - usual).square().nanmean((0, 1)).sqrt()
        differences = ((support - x) / spread.clamp_min(1e-9)).nan_to_num(0.0)
        nearest = support[int(differences.square().sum((1, 2)).argmin())]
        replaced = x.repeat(len(usual) + 1, 1, 1)
        for channel in range(len(usual)):
            replaced[channel, :, channel] = nearest[:, channel]
        scores = np.concatenate([fit.score_windows({fit._windowed: part}) for part in replaced.split(CHANNELS_AT_ONCE)])
        return np.asarray(scores[-1] - scores[:-1])

    @property
    def reads_windows(self) -> bool:
        """Whether a sample is a window of a series, whose time points can be scored (:meth:`score_series`)."""
        return len(self.input_shapes) == 1 and all(get_modality(name).windows for name in self.input_shapes)

    @property
    def _windowed(self) -> str:
        """Modality of a model that reads windows of series; ValueError for other models."""
        if not self.reads_windows:
            raise ValueError(f"score_series is for models of series; this one reads {sorted(self.input_shapes)}")
        return next(iter(self.input_shapes))

    @property
    def window(self) -> int:
        """Length of the windows in steps: the model's, or the support's if the model reads any length.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: the model reads no series.
        """
        name, fit = self._windowed, self._as_fitted()
        return int(fit._fitted_support()[name].shape[1])

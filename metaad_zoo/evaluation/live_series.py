"""A live series: rows come as they are measured, scores and decisions go out, in constant memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.point_stream import PointStream
from metaad_zoo.data.read.roles import Schema
from metaad_zoo.data.read.rows import is_frame, numbers_of
from metaad_zoo.data.read.series import SeriesReader
from metaad_zoo.data.read.times import GAP_STEPS, gap_length
from metaad_zoo.data.windows import Pooling
from metaad_zoo.episodes import Adapted, present
from metaad_zoo.evaluation.adaptive import AdaptiveThreshold
from metaad_zoo.evaluation.calibration import ROUNDING, p_values
from metaad_zoo.evaluation.decisions import Calibrate
from metaad_zoo.modality.base import SCORING_CHUNK
from metaad_zoo.modality.window_scoring import ScoresWindows

Decide = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""p-values and decisions (0 or 1) of scores ``(n,)`` without NaN."""


@dataclass(frozen=True)
class LivePoints:
    """Points of a live series that have got their score.

    Attributes:
        first: position of the first of them, counted from the stream's first row.
        scores: ``(n,)``; NaN where there is none.
        p_values: ``(n,)``, NaN where there is no score; None if the stream does not decide.
        anomalous: ``(n,)`` booleans; None if the stream does not decide.
    """

    first: int
    scores: np.ndarray
    p_values: np.ndarray | None
    anomalous: np.ndarray | None

    def __len__(self) -> int:
        return len(self.scores)


class LiveSeries:
    """Scores of a series whose rows come one by one, or some at a time.

    Memory holds as many rows as a window and a stride have, however long the series is. Use it from one thread.

    Args:
        scorer: maps windows ``{"sequence": (n, window, C)}`` to scores ``(n,)``.
        window: steps of a window.
        channels: number of channels, C.
        stride: steps from one window to the next, 1 to ``window``.
        how: see :data:`metaad_zoo.data.windows.Pooling`; ``"last"`` is causal.
        decide: p-values and decisions of scores, called in the order of time; None: scores alone.
        schema: names of the channels, by which rows in dicts and DataFrames are read.

    Example:
        >>> def scorer(windows): return windows["sequence"].amax((1, 2))
        >>> live = LiveSeries(scorer, window=2, channels=1)
        >>> [live.push([x]).scores.tolist() for x in (1.0, 5.0, 2.0)]
        [[nan], [5.0], [5.0]]
    """

    def __init__(
        self,
        scorer: Callable[[dict[str, Tensor]], Tensor | np.ndarray],
        window: int,
        channels: int,
        stride: int = 1,
        how: Pooling = "last",
        decide: Decide | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.window, self.channels, self.stride, self.how = window, channels, stride, how
        self._new_part = lambda: PointStream(scorer, window, stride, how)
        self._part, self._decide, self._schema = self._new_part(), decide, schema
        self._first = 0
        self._last_time: float | None = None

    @property
    def delay(self) -> int:
        """Rows that must follow a point, at most, until it has its score."""
        return 0 if self.how == "last" else self.window + self.stride - 2

    @property
    def received(self) -> int:
        """Number of rows so far."""
        return self._first + self._part.received

    def push(self, rows: Any) -> LivePoints:
        """Take the next rows; the points that have got their score with them.

        Args:
            rows: one row ``(C,)``, or its values by channel as a dict or a pandas Series; or several rows ``(n, C)``, a
                list of dicts, a dict of arrays ``(n,)`` by channel, or a DataFrame. Gaps in the times of DataFrames are
                respected, within one and from one to the next. For a single channel, ``(n,)`` is n rows. NaN where a
                value is missing.

        Raises:
            ValueError: rows can't be read, have other channels than the support set, or go back in time.
        """
        values, breaks, last_time = self._read(rows)
        parts = []
        for i, part in enumerate(np.split(values, breaks)):
            parts += [self.finish()] if i else []
            first = self._first + self._part.scored
            parts.append(self._judged(first, self._part.take(part)))
        self._last_time = last_time
        return parts[0] if len(parts) == 1 else _joined(parts)

    def finish(self) -> LivePoints:
        """Scores of the points that wait for rows to come; rows that are pushed later stand behind a gap."""
        first = self._first + self._part.scored
        points = self._judged(first, self._part.end())
        self._first, self._part, self._last_time = self.received, self._new_part(), None
        return points

    def _read(self, rows: Any) -> tuple[np.ndarray, Sequence[int], float | None]:
        """Values ``(n, C)``, the positions at which they continue after a gap, and the last time."""
        breaks: Sequence[int] = ()
        last_time = None
        if self._is_record(rows):
            values = self._of_record(rows)
        elif isinstance(rows, (list, tuple)) and rows and all(self._is_record(row) for row in rows):
            values = np.concatenate([np.atleast_2d(self._of_record(row)) for row in rows])
        elif is_frame(rows):
            values, breaks, last_time = self._of_frame(rows)
        else:
            values = numbers_of(rows)
        if values.ndim == 1:
            values = values[:, None] if self.channels == 1 else values[None]
        if values.ndim != 2 or values.shape[1] != self.channels:
            raise ValueError(
                f"expected rows of {self.channels} channels, as the support set has, saw shape {np.shape(rows)}"
            )
        if np.isinf(values).any():
            raise ValueError(f"row {self.received + np.argwhere(np.isinf(values))[0, 0]} is infinite: give NaN instead")
        return values, breaks, last_time

    def _of_frame(self, frame: Any) -> tuple[np.ndarray, Sequence[int], float | None]:
        with SeriesReader(frame, schema=self._schema) as reader:
            rows, breaks = reader.whole()
        if rows.times is None or not len(rows.times):
            return rows.values, breaks, None
        if self._last_time is not None:
            step = rows.times[0] - self._last_time
            if step < 0:
                raise ValueError(
                    f"the first row lies {-step:g} before the last row that was pushed: push each row once, in the "
                    "order of time, or call finish() before another series"
                )
            usual = None if self._schema is None else self._schema.step
            lengths = [gap_length(rows.times), GAP_STEPS * usual if usual else np.inf]
            if step > max((length for length in lengths if np.isfinite(length)), default=np.inf):
                breaks = [0, *breaks]
        return rows.values, breaks, float(rows.times[-1])

    def _is_record(self, row: Any) -> bool:
        """Whether these are values by channel: a dict, or a pandas Series whose index names channels."""
        if isinstance(row, Mapping) or self._schema is None:
            return isinstance(row, Mapping)
        is_series = hasattr(row, "iloc") and row.ndim == 1
        return is_series and any(name in row.index for name in self._schema.features)

    def _of_record(self, row: Mapping[str, Any]) -> np.ndarray:
        if self._schema is None:
            raise ValueError("rows are dicts by channel, but the support set had no names: give arrays (C,)")
        missing = [name for name in self._schema.features if name not in row]
        if missing:
            raise ValueError(f"the row lacks {missing[:10]}: expected a value of each channel, NaN where it is missing")
        values = [row[name] for name in self._schema.features]
        shapes = {name: np.shape(x) for name, x in zip(self._schema.features, values, strict=True)}
        if not any(shapes.values()):
            return numbers_of(values)
        if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
            several = {name: shape for name, shape in shapes.items() if shape}
            raise ValueError(
                "expected one value of each channel, or arrays (n,) of one length, saw shapes "
                f"{dict([*several.items()][:10])}"
            )
        return np.stack([numbers_of(x) for x in values], axis=-1)

    def _judged(self, first: int, scores: np.ndarray) -> LivePoints:
        if self._decide is None:
            return LivePoints(first, scores, None, None)
        p, anomalous = np.full(len(scores), np.nan), np.zeros(len(scores), bool)
        valued = ~np.isnan(scores)
        if valued.any():
            p[valued], anomalous[valued] = self._decide(scores[valued])
        return LivePoints(first, scores, p, anomalous)


def _joined(parts: Sequence[LivePoints]) -> LivePoints:
    scores = np.concatenate([part.scores for part in parts])
    if parts[0].p_values is None:
        return LivePoints(parts[0].first, scores, None, None)
    p = np.concatenate([part.p_values for part in parts if part.p_values is not None])
    anomalous = np.concatenate([part.anomalous for part in parts if part.anomalous is not None])
    return LivePoints(parts[0].first, scores, p, anomalous)


class StreamsSeries(ScoresWindows):
    """A detector of windows that scores live series."""

    @abstractmethod
    def _as_fitted(self) -> StreamsSeries:
        """The detector as it is fitted now."""

    @abstractmethod
    def with_point_stride(self, stride: int) -> StreamsSeries:
        """This fit, with decisions on points for scores by windows ``stride`` steps apart."""

    @abstractmethod
    def _fitted(self) -> Adapted:
        """The adapted method; RuntimeError before the detector is fitted."""

    @property
    @abstractmethod
    def has_history(self) -> bool:
        """Whether the support set is a history of windows that lie one behind the other."""

    @abstractmethod
    def way_to_decide(
        self, alpha: float | None = None, calibrate: Calibrate | None = None, contamination: float | None = None
    ) -> tuple[float, Calibrate]:
        """The false-alarm rate and the way to calibrate."""

    @abstractmethod
    def normal_scores(self, calibrate: Calibrate | None = None, contamination: float | None = None) -> Tensor:
        """Calibration scores ``(m,)``, ascending."""

    def stream(
        self,
        stride: int = 1,
        how: Pooling = "last",
        alpha: float | None = None,
        calibrate: Calibrate | None = None,
        adaptive: bool | AdaptiveThreshold | None = None,
        decide: bool = True,
    ) -> LiveSeries:
        """A live series, whose rows come as they are measured; it keeps to the present fit.

        By ``"last"``, a point's score is that of the window that ends with it, known at once, and equal to
        ``score_series(..., causal=True)``. The others equal :meth:`score_series` after a delay of up to
        ``window + stride - 2`` rows. Rows that are pushed in blocks take less time each than single rows.

        Args:
            stride: steps from one window to the next, 1 to the length of the window.
            how: from windows to points: ``"last"``, ``"mean"`` or ``"max"``, as for :meth:`score_series`.
            alpha: false-alarm rate; None: as for :meth:`way_to_decide`.
            calibrate: see :meth:`p_value`.
            adaptive: whether the threshold follows the series as it changes, starting from the calibration scores:
                :class:`metaad_zoo.evaluation.adaptive.AdaptiveThreshold` with its usual settings, or one of your own;
                None: as `metaad score` does, if the support set is a history and ``calibrate`` is None.
            decide: whether points get p-values and decisions; False: scores alone.

        Raises:
            RuntimeError: the detector is not fitted, or can't decide.
            ValueError: the model reads no series, or can't decide so.
        """
        fit = self._as_fitted()
        name, window = fit._windowed, fit.window
        decisions = fit.with_point_stride(stride)._live_decisions(alpha, calibrate, adaptive, how) if decide else None
        channels = fit._fitted_support()[name].shape[2]
        return LiveSeries(fit._live_scorer(name), window, channels, stride, how, decisions, fit.schemas.get(name))

    def _live_scorer(self, name: str) -> Callable[[Mapping[str, Tensor]], np.ndarray]:
        """As :meth:`score_windows`, with less to check in windows of the modality ``name`` that come one by one."""
        adapted = self._fitted()

        def score(windows: Mapping[str, Tensor]) -> np.ndarray:
            x = next(iter(windows.values()))
            if len(x) > SCORING_CHUNK or not bool(present(x).all()):
                return self.score_windows(windows)
            scores = adapted.score({name: x}).double().cpu().numpy()
            return np.where(np.isnan(scores), np.inf, scores)

        return score

    def _live_decisions(
        self,
        alpha: float | None,
        calibrate: Calibrate | None,
        adaptive: bool | AdaptiveThreshold | None,
        how: Pooling,
    ) -> Decide:
        if isinstance(adaptive, AdaptiveThreshold):
            threshold = adaptive
        else:
            rate, way = self.way_to_decide(alpha, calibrate)
            if way == "within" and how != "last":  # means over windows compare with such means
                rate, way = self.way_to_decide(alpha, "points")
            normal = self.normal_scores(way)
            if not (calibrate is None and self.has_history if adaptive is None else adaptive):

                def decide_fixed(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                    p = p_values(torch.as_tensor(scores), normal).numpy()
                    return p, p <= rate + ROUNDING

                return decide_fixed
            threshold = AdaptiveThreshold(normal.numpy(), rate)

        def decide(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            decisions = threshold.decide(scores)
            return decisions.p, decisions.flagged

        return decide

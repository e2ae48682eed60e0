"""Calibration scores of a series: blocks of its history, each scored by the method adapted without it.

Neighbouring windows of a series resemble each other, so a window that is left out alone is scored too low (blocked
cross-validation: Burman, Chow and Nolan, "A cross-validatory method for dependent data", Biometrika 1994; Bergmeir and
Benítez, "On the use of cross-validation for time series predictor evaluation", Information Sciences 2012). Contiguous
blocks are left out instead, and with each a window on either side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.windows import score_series
from metaad_zoo.episodes import NORMAL, Adapted, Method, Samples
from metaad_zoo.evaluation.leave_one_out import AT_ONCE, SupportTooSmallError, part_of

BLOCKS = 10
GAP = 1
"""Windows on either side of a block that the method is not adapted to."""
LONG_HISTORY = 20
"""Number of normal windows with a place from which on they, and not other tasks, decide by default."""
LEAST = 2 * GAP + 3
"""Minimum number of windows: a block of one, its gaps, and two to adapt to."""


def has_long_history(labels: Tensor, places: Tensor | None) -> bool:
    """Whether at least :data:`LONG_HISTORY` normal support windows have a place in a series.

    Args:
        labels: ``(K,)`` of 0, 1 and -1.
        places: ``(K, 2)``, -1 for windows without a place; None for samples of other kinds.
    """
    return places is not None and int(((labels == NORMAL) & (places[:, 0] >= 0)).sum()) >= LONG_HISTORY


def block_scores(method: Method, support: Samples, labels: Tensor, places: Tensor, stride: int | None = None) -> Tensor:
    """Scores of the normal support windows, or of their points, by the method adapted without their block.

    Args:
        method: the method, before adaptation.
        support: windows ``(K, window, C)`` under one modality name, in the order of time.
        labels: ``(K,)`` of 0, 1 and -1.
        places: ``(K, 2)`` int64: number of each window's series, and position of its first step in it. Windows without
            a place, -1, are adapted to and not scored.
        stride: steps from one window to the next for the scores of points; None: scores of the windows themselves.

    Returns:
        ``(m,)`` float64, ascending: a score for each normal window that has a place, or each of its points. A point's
        score is the mean over the windows that cover it, as in :func:`metaad_zoo.data.windows.score_series`.

    Raises:
        SupportTooSmallError: there are fewer than five normal windows that have a place.
    """
    normal = _placed(labels, places)
    if len(normal) < LEAST:
        raise SupportTooSmallError(
            f"{len(normal)} normal windows of a series are too few to leave out blocks with their neighbours: give a "
            f"history of {LEAST} windows or more"
        )
    parts = []
    for block in _blocks(normal):
        apart = torch.ones(len(labels), dtype=torch.bool)
        apart[max(0, block[0] - GAP) : block[-1] + GAP + 1] = False
        adapted = method.adapt(part_of(support, apart), labels[apart.to(labels.device)])
        if stride is None:
            chunks = [adapted.score(part_of(support, rows)) for rows in torch.as_tensor(block).split(AT_ONCE)]
            parts.append(torch.cat(chunks).double().cpu().numpy())
        else:
            length = next(iter(support.values())).shape[1]
            parts += [_point_scores(adapted, support, run, stride) for run in _adjoining(block, places, length)]
    scores = np.concatenate(parts)
    return torch.as_tensor(np.sort(scores[~np.isnan(scores)]))


def calibration_stride(window: int) -> int:
    """Steps from one window to the next for the scores of points: a quarter of a window."""
    return max(1, window // 4)


def scored_windows(labels: Tensor, places: Tensor, length: int, stride: int) -> int:
    """Number of windows that :func:`block_scores` scores for the points.

    The scores of all points are means over these. So many samples, and not as many as points, bound the rate that a
    threshold can hold; the windows of a block overlap, so that even this number is above that of independent samples.

    Args:
        labels: as for :func:`block_scores`.
        places: as for :func:`block_scores`.
        length: steps of a window.
        stride: as for :func:`block_scores`.
    """
    normal = _placed(labels, places)
    runs = [run for block in _blocks(normal) for run in _adjoining(block, places, length)]
    return sum((len(run) - 1) * length // stride + 1 for run in runs)


def _placed(labels: Tensor, places: Tensor) -> np.ndarray:
    """Positions of the normal windows that have a place in a series."""
    rows: np.ndarray = ((labels == NORMAL) & (places[:, 0] >= 0).to(labels.device)).nonzero().flatten().cpu().numpy()
    return rows


def _blocks(normal: np.ndarray) -> list[np.ndarray]:
    return np.array_split(normal, min(BLOCKS, len(normal)))


def _adjoining(block: np.ndarray, places: Tensor, length: int) -> list[np.ndarray]:
    """A block's windows in groups that adjoin in time."""
    adjoin = (np.diff(places.cpu().numpy()[block], axis=0) == [0, length]).all(1)
    return np.split(block, np.flatnonzero(~adjoin) + 1)


def _point_scores(adapted: Adapted, support: Samples, rows: np.ndarray, stride: int) -> np.ndarray:
    """Point scores of windows that adjoin in time."""
    (name, windows), *_ = part_of(support, torch.as_tensor(rows)).items()
    series = windows.flatten(0, 1).cpu().numpy()
    return score_series(
        lambda samples: adapted.score({name: next(iter(samples.values())).to(windows)}).double().cpu(),
        series,
        windows.shape[1],
        stride,
    )

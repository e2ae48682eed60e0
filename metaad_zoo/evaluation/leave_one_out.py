"""Scores of a support set's own samples, each by the method adapted without it.

A method that has read a sample scores it too low; one that keeps its samples, as nearest neighbours and memories do,
next to nothing. A threshold from such scores calls most new samples anomalous.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, Method, Samples, count

__all__ = ["leave_one_out_scores", "own_scores", "sample_keys"]

PARTS = 10
LEAST = 3
"""Samples below which leaving one out says nothing: of two, each is scored by a model of one, which knows no spread."""


def leave_one_out_scores(method: Method, support: Samples, support_labels: Tensor) -> Tensor:
    """Score of each normal support sample by the method adapted to all others, ``(K,)`` float64, ascending.

    Raises:
        ValueError: there are fewer than two normal support samples, or fewer than three that are no known anomalies.
    """
    normal = (support_labels == NORMAL).nonzero().flatten()
    if len(normal) < 2:
        raise ValueError(
            f"leave-one-out needs two normal support samples, saw {len(normal)}: give more, or calibrate across tasks"
        )
    _require_least(support_labels)
    return _leave_out(method, support, support_labels, normal, len(normal)).sort().values


def own_scores(method: Method, support: Samples, support_labels: Tensor) -> tuple[list[bytes], Tensor]:
    """Keys (:func:`sample_keys`) of the support samples that are no known anomalies, and the score of each by the
    method adapted without it, ``(m,)`` float64.

    Up to ten samples are left out one by one, more in ten parts. Equal samples have the mean of their scores.

    Raises:
        ValueError: there are fewer than three such samples.
    """
    _require_least(support_labels)
    usable = (support_labels != ANOMALOUS).nonzero().flatten()
    scores = _leave_out(method, support, support_labels, usable, min(PARTS, len(usable)))
    keys = sample_keys(_part(support, usable))
    by_key: dict[bytes, list[float]] = {}
    for key, score in zip(keys, scores.tolist(), strict=True):
        by_key.setdefault(key, []).append(score)
    return keys, torch.tensor([sum(by_key[key]) / len(by_key[key]) for key in keys], dtype=torch.float64)


def _require_least(support_labels: Tensor) -> None:
    n = int((support_labels != ANOMALOUS).sum())
    if n < LEAST:
        raise ValueError(
            f"each support sample is scored by a model of the others, and {n} sample{'s' * (n != 1)} (known anomalies "
            f"apart) leave too few: give {LEAST} or more, or calibrate across tasks"
        )


def sample_keys(samples: Samples) -> list[bytes]:
    """Of each sample its values in float32; equal for equal samples, whatever the sign of a zero.

    Example:
        >>> one, other, again = sample_keys({"tabular": torch.tensor([[0.0], [1.0], [-0.0]])})
        >>> one == again != other
        True
    """
    rows = [(samples[name].float().cpu() + 0.0).flatten(1).numpy() for name in sorted(samples)]
    return [row.tobytes() for row in np.concatenate(rows, axis=1)]


def _leave_out(method: Method, support: Samples, labels: Tensor, which: Tensor, parts: int) -> Tensor:
    """Scores ``(len(which),)`` float64, in that order."""
    scores = torch.empty(len(which), dtype=torch.float64)
    for part in range(parts):
        out = which[part::parts]
        rest = torch.ones(count(support), dtype=torch.bool)
        rest[out] = False
        adapted = method.adapt(_part(support, rest), labels[rest.to(labels.device)])
        scores[part::parts] = adapted.score(_part(support, out)).double().cpu()
    return scores


def _part(samples: Samples, which: Tensor) -> dict[str, Tensor]:
    return {name: x[which.to(x.device)] for name, x in samples.items()}

"""Leave-one-out scores of support samples, each by the method adapted without it.

A method scores the samples that it was adapted to too low, near 0 if it stores them as nearest neighbours do. A
threshold from such scores would flag most new samples.

Samples of large supports are left out in ten parts (cross-conformal prediction: Vovk, "Cross-conformal predictors",
2015; CV+: Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 2021), so that a method is
adapted ten times however many samples there are. It then has a tenth less of the support than the query's, which makes
the scores a little higher and p-values a little larger: fewer false alarms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, Method, Samples, count, only, present

__all__ = ["SupportTooSmallError", "leave_one_out_scores", "own_scores", "sample_keys"]

PARTS = 10
EXACT = 100
"""Number of normal samples up to which :func:`leave_one_out_scores` leaves out one at a time."""
LEAST = 3
"""Minimum number of samples: with two, each is scored by a model of one, which can't estimate a spread."""
AT_ONCE = 256
"""Number of samples of a part that are scored at once, to limit memory."""
PATIENCE = 5.0
"""Seconds after which a progress bar appears."""


class SupportTooSmallError(ValueError):
    """A support set has too few samples for leave-one-out."""


def leave_one_out_scores(
    method: Method, support: Samples, support_labels: Tensor, shown: Collection[str] | None = None
) -> Tensor:
    """Score of each normal support sample by the method adapted to all others, ``(K,)`` float64, ascending.

    Up to a hundred normal samples are left out one by one, more samples in ten parts.

    Args:
        method: the method, before adaptation.
        support: the support set.
        support_labels: ``(n,)`` of 0, 1 and -1.
        shown: modalities by which samples are scored, as if they lacked all others; samples that lack one of these
            get no score. None: every normal sample by all that it has.

    Raises:
        SupportTooSmallError: there are fewer than two normal support samples, or fewer than three that are not known
            anomalies.
    """
    normal = ((support_labels == NORMAL) & _having(support, shown, support_labels)).nonzero().flatten()
    if len(normal) < 2:
        of = "" if shown is None else f" with {' and '.join(shown)}"
        raise SupportTooSmallError(f"leave-one-out needs two normal support samples{of}, saw {len(normal)}: give more")
    _require_least(support_labels)
    parts = len(normal) if len(normal) <= EXACT else PARTS
    return _leave_out(method, support, support_labels, normal, parts, shown).sort().values


def own_scores(
    method: Method, support: Samples, support_labels: Tensor, shown: Collection[str] | None = None
) -> tuple[list[bytes], Tensor]:
    """Keys (:func:`sample_keys`) and leave-one-out scores ``(m,)`` float64 of the support samples that are not known
    anomalies.

    Up to ten samples are left out one by one, more samples in ten parts. Equal samples share the mean of their scores.
    ``shown`` as for :func:`leave_one_out_scores`.

    Raises:
        SupportTooSmallError: there are fewer than three such samples.
    """
    _require_least(support_labels)
    usable = ((support_labels != ANOMALOUS) & _having(support, shown, support_labels)).nonzero().flatten()
    scores = _leave_out(method, support, support_labels, usable, min(PARTS, len(usable)), shown)
    keys = sample_keys(part_of(support, usable))
    by_key: dict[bytes, list[float]] = {}
    for key, score in zip(keys, scores.tolist(), strict=True):
        by_key.setdefault(key, []).append(score)
    return keys, torch.tensor([sum(by_key[key]) / len(by_key[key]) for key in keys], dtype=torch.float64)


def _require_least(support_labels: Tensor) -> None:
    n = int((support_labels != ANOMALOUS).sum())
    if n < LEAST:
        raise SupportTooSmallError(
            f"each support sample is scored by a model of the others, and {n} sample{'s' * (n != 1)} (known anomalies "
            f"apart) leave too few: give {LEAST} or more"
        )


def sample_keys(samples: Samples) -> list[bytes]:
    """Values of each sample in float32 as bytes; 0.0 and -0.0 have the same key.

    Example:
        >>> zero, one, minus_zero = sample_keys({"tabular": torch.tensor([[0.0], [1.0], [-0.0]])})
        >>> zero == minus_zero != one
        True
    """
    rows = [(samples[name].float().cpu() + 0.0).flatten(1).numpy() for name in sorted(samples)]
    return [row.tobytes() for row in np.concatenate(rows, axis=1)]


def _having(support: Samples, shown: Collection[str] | None, labels: Tensor) -> Tensor:
    """Which samples ``(n,)`` have each of some modalities; all where ``shown`` is None."""
    mask = torch.ones_like(labels, dtype=torch.bool)
    for name in shown or ():
        mask &= present(support[name]).to(mask.device)
    return mask


def _leave_out(
    method: Method, support: Samples, labels: Tensor, rows: Tensor, parts: int, shown: Collection[str] | None
) -> Tensor:
    """Scores ``(len(rows),)`` float64 of the samples at ``rows`` by the modalities ``shown``, in ``parts`` parts."""
    seen = support if shown is None else only(support, shown)
    scores = torch.empty(len(rows), dtype=torch.float64)
    for part in _with_progress(parts):
        left_out = rows[part::parts]
        mask = torch.ones(count(support), dtype=torch.bool)
        mask[left_out] = False
        adapted = method.adapt(part_of(support, mask), labels[mask.to(labels.device)])
        chunks = [adapted.score(part_of(seen, rows_at_once)) for rows_at_once in left_out.split(AT_ONCE)]
        scores[part::parts] = torch.cat(chunks).double().cpu()
    return scores


def part_of(samples: Samples, rows: Tensor) -> dict[str, Tensor]:
    """The samples at ``rows``, positions or a mask."""
    return {name: x[rows.to(x.device)] for name, x in samples.items()}


def _with_progress(parts: int) -> Iterator[int]:
    """Numbers of the parts; a bar on standard error, if that is a terminal, appears after :data:`PATIENCE`."""
    from rich.console import Console
    from rich.progress import Progress

    start = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("leave-one-out", total=parts)
    try:
        for part in range(parts):
            if time.monotonic() - start > PATIENCE and sys.stderr.isatty():
                bar.start()
            yield part
            bar.advance(task)
    finally:
        if bar.live.is_started:
            bar.stop()

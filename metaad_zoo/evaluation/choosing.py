"""Which method to take for a support set: cross-validation inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, Corruption, Method, Samples, count
from metaad_zoo.evaluation.metrics import auroc

FOLDS = 5
WITHIN = 0.01
"""AUROC by which two methods may differ and still count as equally good."""
ENOUGH = 200
"""Normal samples from which on a method that is fitted to them alone is expected to do without meta-learning."""


@dataclass(frozen=True)
class Candidate:
    """A method and how it did.

    Attributes:
        name: of the method.
        auroc: mean over folds (and kinds of synthetic anomalies).
        spread: standard error of that mean.
        reason: why it could not be tried; the figures are then NaN.
    """

    name: str
    auroc: float
    spread: float
    reason: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """What to take, and why.

    Attributes:
        choice: the method's name.
        why: one sentence.
        candidates: all that were tried, the best first; then those that could not be.
    """

    choice: str
    why: str
    candidates: list[Candidate]


def recommend(
    methods: Mapping[str, Method],
    support: Samples,
    labels: Tensor,
    corruptions: Sequence[Corruption] = (),
    simple: str = "iforest",
    seed: int = 0,
) -> Recommendation:
    """Try methods by cross-validation inside a support set.

    The normal samples are dealt out to folds. A method adapts to all other folds and scores the left one beside
    anomalies: the labelled ones, or where there are none, synthetic ones made of the left fold. Synthetic anomalies are
    a guess at what real ones will be like, and the recommendation is as good as the guess.

    Args:
        methods: by name, in the order in which equals are preferred.
        support: by modality ``(n, ...)``.
        labels: ``(n,)`` of 0, 1 and -1 (taken as normal).
        corruptions: kinds of synthetic anomalies, each tried; for supports without labelled anomalies.
        simple: of the methods, the one to prefer among equals where there is enough data.
        seed: of the folds and the synthetic anomalies.

    Raises:
        ValueError: there are fewer than four normal samples, no anomalies of either kind, or no method could be tried.
    """
    normal = (labels != ANOMALOUS).nonzero().flatten().numpy()
    anomalies = {name: x[labels == ANOMALOUS] for name, x in support.items()}
    labelled = count(anomalies) > 0
    if len(normal) < 4:
        raise ValueError(f"cross-validation needs at least 4 normal samples, saw {len(normal)}: give more")
    if not labelled and not corruptions:
        raise ValueError("there are no labelled anomalies and no synthetic ones: label some, or name synthetic kinds")
    folds = np.array_split(np.random.default_rng(seed).permutation(normal), min(FOLDS, len(normal) // 2))
    tried = [
        _try(name, m, support, folds, anomalies if labelled else None, corruptions, seed) for name, m in methods.items()
    ]
    ranked = sorted((c for c in tried if c.reason is None), key=lambda c: -c.auroc)
    if not ranked:
        raise ValueError(f"no method could be tried: {'; '.join(f'{c.name}: {c.reason}' for c in tried)}")
    choice, why = _choose(ranked, list(methods), len(normal), simple, labelled)
    return Recommendation(choice, why, [*ranked, *(c for c in tried if c.reason is not None)])


def _try(
    name: str,
    method: Method,
    support: Samples,
    folds: Sequence[np.ndarray],
    anomalies: Samples | None,
    corruptions: Sequence[Corruption],
    seed: int,
) -> Candidate:
    values = []
    for i, left in enumerate(folds):
        rest = _rows(support, np.concatenate([f for j, f in enumerate(folds) if j != i]))
        query = _rows(support, left)
        made = [anomalies] if anomalies is not None else []
        if anomalies is None:
            rngs = [np.random.default_rng([seed, i, k]) for k in range(len(corruptions))]
            made = [c(dict(query), dict(rest), rng) for c, rng in zip(corruptions, rngs, strict=True)]
        try:
            adapted = method.adapt(rest, torch.full((count(rest),), NORMAL))
            of_normal = adapted.score(query).double().cpu()
            for one in made:
                scores = torch.cat([of_normal, adapted.score(one).double().cpu()])
                kinds = torch.tensor([0] * len(of_normal) + [1] * count(one))
                values.append(auroc(scores, kinds))
        except (ValueError, RuntimeError, FloatingPointError) as error:
            return Candidate(name, float("nan"), float("nan"), str(error).splitlines()[0])
    return Candidate(name, float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))


def _rows(samples: Samples, ids: np.ndarray) -> dict[str, Tensor]:
    return {name: x[torch.as_tensor(ids)] for name, x in samples.items()}


def _choose(ranked: Sequence[Candidate], order: Sequence[str], n: int, simple: str, labelled: bool) -> tuple[str, str]:
    best = ranked[0]
    equals = [c.name for c in ranked if c.auroc >= best.auroc - WITHIN]
    by = "your labelled anomalies" if labelled else "synthetic anomalies"
    figure = f"AUROC {best.auroc:.3f} by cross-validation with {by}"
    if n >= ENOUGH and simple in equals:
        return simple, f"you have enough data ({n} normal samples): {simple} is within {WITHIN} of the best ({figure})"
    choice = min(equals, key=list(order).index)
    if choice == best.name:
        return choice, f"the best of {len(ranked)}: {figure}"
    return choice, f"within {WITHIN} of {best.name}, the best of {len(ranked)} ({figure}), and simpler"

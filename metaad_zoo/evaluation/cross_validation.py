"""Cross-validation of methods inside a support set, against its labelled anomalies or against synthetic ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, NORMAL, Corruption, Method, Samples, count
from metaad_zoo.evaluation.metrics import auroc

FOLDS = 5
SCORED = 20
"""Minimum number of scored normal samples: smaller supports are split into folds repeatedly."""
LABELS = "labels"
"""Name of the support's labelled anomalies among the kinds of anomalies."""


@dataclass(frozen=True)
class Trial:
    """Cross-validation result of one method.

    Attributes:
        name: name of the method.
        by_kind: AUROC of each fold against each kind of synthetic anomalies, or against :data:`LABELS`.
        reason: reason why the method failed; there are then no figures.
    """

    name: str
    by_kind: Mapping[str, Sequence[float]] = field(default_factory=dict)
    reason: str | None = None

    @property
    def folds(self) -> np.ndarray:
        """AUROC of each fold, the mean over kinds."""
        return np.mean(list(self.by_kind.values()), 0)

    @property
    def auroc(self) -> float:
        """Mean over folds and kinds; NaN where the method failed."""
        return float(self.folds.mean()) if self.by_kind else float("nan")

    @property
    def spread(self) -> float:
        """Standard error of that mean over folds."""
        return standard_error(self.folds) if self.by_kind else float("nan")


def try_methods(
    methods: Mapping[str, Method],
    support: Samples,
    labels: Tensor,
    corruptions: Mapping[str, Corruption],
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """Cross-validate methods inside a support set.

    The normal samples are split into folds. A method adapts to all folds but one and scores that one together with
    anomalies: the labelled ones or, where there are none, synthetic ones made from that fold.

    Args:
        methods: methods by name.
        support: samples by modality ``(n, ...)``.
        labels: ``(n,)`` of 0, 1 and -1 (taken as normal).
        corruptions: kinds of synthetic anomalies by name, all used; for supports without labelled anomalies.
        seed: random seed of the folds and the synthetic anomalies.
        tick: called after each method.

    Raises:
        ValueError: there are fewer than four normal samples, or no anomalies of either kind.
    """
    normal = (labels != ANOMALOUS).nonzero().flatten().numpy()
    anomalies = {name: x[labels == ANOMALOUS] for name, x in support.items()}
    labelled = count(anomalies) > 0
    if len(normal) < 4:
        raise ValueError(f"cross-validation needs at least 4 normal samples, saw {len(normal)}: give more")
    if not labelled and not corruptions:
        raise ValueError("there are no labelled anomalies and no synthetic ones: label some, or name synthetic kinds")
    splits = _splits(normal, np.random.default_rng(seed))
    tests: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Samples]]] = []
    for i, (training_rows, test_rows) in enumerate(splits):
        training, query = _rows(support, training_rows), _rows(support, test_rows)
        if labelled:
            against: dict[str, Samples] = {LABELS: anomalies}
        else:
            rngs = [np.random.default_rng([seed, i, k]) for k in range(len(corruptions))]
            against = {kind: c(query, training, rng) for (kind, c), rng in zip(corruptions.items(), rngs, strict=True)}
        tests.append((training, query, against))
    trials = []
    for name, method in methods.items():
        trials.append(_try(name, method, tests))
        tick()
    return trials


def _splits(normal: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices of the training and test samples, for each fold of each repeat."""
    repeats = math.ceil(SCORED / len(normal))
    splits = []
    for _ in range(repeats):
        folds = np.array_split(rng.permutation(normal), min(FOLDS, len(normal) // 2))
        splits += [(np.concatenate([f for j, f in enumerate(folds) if j != i]), fold) for i, fold in enumerate(folds)]
    return splits


def _try(name: str, method: Method, splits: Sequence[tuple[Samples, Samples, Mapping[str, Samples]]]) -> Trial:
    values: dict[str, list[float]] = defaultdict(list)
    try:
        for training, query, against in splits:
            adapted = method.adapt(training, torch.full((count(training),), NORMAL))
            parts = [query, *against.values()]
            # Scored in one go, which is many times as fast for some methods.
            together = {m: torch.cat([part[m] for part in parts]) for m in query}
            of_normal, *anomaly_scores = adapted.score(together).double().cpu().split([count(part) for part in parts])
            for kind, scores in zip(against, anomaly_scores, strict=True):
                truth = torch.tensor([0] * len(of_normal) + [1] * len(scores))
                values[kind].append(auroc(torch.cat([of_normal, scores]), truth))
    except (ValueError, RuntimeError, FloatingPointError) as error:
        return Trial(name, reason=str(error).splitlines()[0])
    return Trial(name, dict(values))


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of ``values`` ``(n,)``."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _rows(samples: Samples, ids: np.ndarray) -> dict[str, Tensor]:
    return {name: x[torch.as_tensor(ids)] for name, x in samples.items()}

"""Which method to take for a support set: what other data sets say, moved by cross-validation inside the support."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, Corruption, Method, Samples
from metaad_zoo.evaluation.cross_validation import Trial, standard_error, try_methods

PRIOR = Path(__file__).with_name("choosing_prior.json")
WITHIN = 0.01
"""AUROC by which two methods may differ and still count as equally good."""
ENOUGH = 200
"""Normal samples from which on a method that is fitted to them alone is expected to do without meta-learning."""
CLEAR = 2.0
"""Standard errors by which a method of which no other data set tells must be ahead."""


@dataclass(frozen=True)
class Prior:
    """What data sets with known anomalies say of methods, before one's own support set is looked at.

    Learned by ``benchmarks/recommendation.py``, in the spirit of Zhao et al., "Automatic Unsupervised Outlier Model
    Selection", NeurIPS 2021. The weights tell by how much AUROC on real anomalies differs per difference inside the
    support; they are small where cross-validation against guessed anomalies tells little.

    Attributes:
        advantage: by method its mean AUROC over these data sets, less that of all methods.
        weights: of what cross-validation says, by ``"labels"`` or ``"synthetic"``.
        datasets: how many there are.
    """

    advantage: Mapping[str, float]
    weights: Mapping[str, float]
    datasets: int

    def expected(self, trials: Sequence[Trial], by: str) -> dict[str, float]:
        """Expected AUROC of each method that the prior knows, less the mean of these methods.

        Args:
            trials: what came of cross-validation.
            by: ``"labels"`` or ``"synthetic"``.
        """
        known = [t for t in trials if t.name in self.advantage]
        mean = float(np.mean([t.auroc for t in known])) if known else 0.0
        return {t.name: self.advantage[t.name] + self.weights[by] * (t.auroc - mean) for t in known}


@cache
def _published(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_prior(modality: str, n: int, path: Path = PRIOR) -> Prior | None:
    """The prior that is published with this package, for supports of n normal samples; None where there is none.

    Which method is best depends on n. Between the sizes that were measured it is interpolated by the logarithm of n,
    beyond them the nearest one counts.

    Args:
        modality: of the samples.
        n: how many normal ones there are.
        path: of the file.
    """
    entry = _published(path).get(modality)
    if entry is None:
        return None
    sizes = sorted(entry["advantage"], key=int)
    measured = np.log([int(size) for size in sizes])
    by_method = {m: [entry["advantage"][size][m] for size in sizes] for m in entry["advantage"][sizes[0]]}
    advantage = {m: float(np.interp(np.log(n), measured, values)) for m, values in by_method.items()}
    return Prior(advantage, entry["weights"], entry["datasets"])


@dataclass(frozen=True)
class Candidate:
    """A method and how it did.

    Attributes:
        name: of the method.
        auroc: by cross-validation inside the support set: mean over folds and kinds of anomalies.
        spread: standard error of that mean.
        expected: AUROC expected on real anomalies, less the mean of all methods that other data sets tell of; None
            for a method of which they do not.
        reason: why it could not be tried; the figures are then NaN.
    """

    name: str
    auroc: float
    spread: float
    expected: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """What to take, and why.

    Attributes:
        choice: the method's name.
        why: in plain words.
        candidates: all that were tried, the most promising first; then those that could not be.
        use: a command or lines of Python that use the choice, where the samples' path is known.
        account: what was left out, guessed or changed when the samples were read.
    """

    choice: str
    why: str
    candidates: list[Candidate]
    use: str = ""
    account: list[dict[str, Any]] = field(default_factory=list)


def recommend(
    methods: Mapping[str, Method],
    support: Samples,
    labels: Tensor,
    corruptions: Mapping[str, Corruption],
    prior: Prior | None = None,
    simple: str = "iforest",
    seed: int = 0,
) -> Recommendation:
    """Choose by what other data sets say of the methods, moved by cross-validation inside the support set.

    A method that the prior does not know, such as a model of one's own, is taken where it is clearly ahead of the
    prior's choice in the support set itself; without a prior cross-validation decides alone.

    Args:
        methods: by name, in the order in which equals are preferred where there is no prior.
        support: by modality ``(n, ...)``.
        labels: ``(n,)`` of 0, 1 and -1 (taken as normal).
        corruptions: by name kinds of synthetic anomalies, for supports without labelled ones.
        prior: of the support's modality.
        simple: of the methods, the one to prefer among equals where there is enough data.
        seed: of the folds and the synthetic anomalies.

    Raises:
        ValueError: there are fewer than four normal samples, no anomalies of either kind, or no method could be tried.
    """
    n = int((labels != ANOMALOUS).sum())
    by = "labels" if bool((labels == ANOMALOUS).any()) else "synthetic"
    every = try_methods(methods, support, labels, corruptions, seed)
    trials = [t for t in every if t.reason is None]
    if not trials:
        raise ValueError(f"no method could be tried: {'; '.join(f'{t.name}: {t.reason}' for t in every)}")
    expected = prior.expected(trials, by) if prior else {}
    choice, why = _choose(trials, expected, prior, by)
    by_name = {t.name: t for t in trials}
    if n >= ENOUGH and simple in by_name and by_name[simple].auroc >= by_name[choice].auroc - WITHIN:
        seen = f"by cross-validation it is within {WITHIN} AUROC of {choice}" if choice != simple else why
        choice, why = simple, f"you have enough data ({n} normal samples) to do without meta-learning, and {seen}"
    ranked = sorted(trials, key=lambda t: (t.name != choice, -expected.get(t.name, -np.inf), -t.auroc))
    found = [Candidate(t.name, t.auroc, t.spread, expected.get(t.name)) for t in ranked]
    failed = [Candidate(t.name, float("nan"), float("nan"), None, t.reason) for t in every if t.reason is not None]
    return Recommendation(choice, why, [*found, *failed])


def _choose(trials: Sequence[Trial], expected: Mapping[str, float], prior: Prior | None, by: str) -> tuple[str, str]:
    """The method, and why."""
    against = "your labelled anomalies" if by == "labels" else "synthetic anomalies"
    best = max(trials, key=lambda t: t.auroc)
    figure = f"AUROC {best.auroc:.3f} by cross-validation with {against}"
    if prior is None or not expected:
        equals = [t.name for t in trials if t.auroc >= best.auroc - WITHIN]
        if equals[0] == best.name:
            return best.name, f"the best of {len(trials)}: {figure}"
        return equals[0], f"within {WITHIN} of {best.name}, the best of {len(trials)} ({figure}), and simpler"
    usual = max((t for t in trials if t.name in expected), key=lambda t: prior.advantage[t.name])
    chosen = max((t for t in trials if t.name in expected), key=lambda t: expected[t.name])
    other = max((t for t in trials if t.name not in expected), key=lambda t: t.auroc, default=None)
    if other is not None:
        ahead = other.folds - chosen.folds
        if ahead.mean() > max(WITHIN, CLEAR * standard_error(ahead)):
            return other.name, (
                f"it is {100 * ahead.mean():.1f} points of AUROC ahead of {chosen.name}, the best of the others, by "
                f"cross-validation with {against} (standard error {100 * standard_error(ahead):.1f})"
            )
    if chosen is usual:
        moved = "nothing in your samples speaks clearly against it"
        return chosen.name, f"the best on average over {prior.datasets} other data sets, and {moved}"
    gap = 100 * (chosen.auroc - usual.auroc)
    return chosen.name, (
        f"{usual.name} is the best on average over {prior.datasets} other data sets, but in your samples {chosen.name} "
        f"is {gap:.1f} points of AUROC ahead of it, by cross-validation with {against}"
    )

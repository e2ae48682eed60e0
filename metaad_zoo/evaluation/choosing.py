"""Choice of a method for a support set: a prior from other data sets, updated by cross-validation in the support."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, Corruption, Method, Samples
from metaad_zoo.evaluation.cross_validation import Trial, standard_error, try_methods

PRIOR = Path(__file__).with_name("choosing_prior.json")
WITHIN = 0.01
"""Difference in AUROC up to which two methods count as equally good."""
ENOUGH = 200
"""Number of normal samples from which on a method without meta-learning is expected to suffice."""
AGAINST = {"labels": "your labelled anomalies", "synthetic": "synthetic anomalies"}
CLEAR = 2.0
"""Standard errors by which a method that the prior does not cover must be ahead."""


@dataclass(frozen=True)
class Prior:
    """Performance of methods on data sets with known anomalies, before the user's support set is seen.

    Learned by ``benchmarks/recommendation.py``, in the spirit of Zhao et al., "Automatic Unsupervised Outlier Model
    Selection", NeurIPS 2021. A weight is the difference in AUROC on real anomalies per difference in
    cross-validation; it is small where cross-validation against synthetic anomalies is not informative.

    Attributes:
        advantage: mean AUROC of each method over these data sets, minus the mean over all methods.
        weights: weight of cross-validation against ``"labels"`` and against ``"synthetic"`` anomalies.
        datasets: number of data sets.
    """

    advantage: Mapping[str, float]
    weights: Mapping[str, float]
    datasets: int

    def expected(self, trials: Sequence[Trial], by: str) -> dict[str, float]:
        """Expected AUROC of each method that the prior covers, minus the mean of these methods.

        Args:
            trials: results of cross-validation.
            by: anomalies of the trials, ``"labels"`` or ``"synthetic"``.
        """
        compared = [t for t in trials if t.name in self.advantage]
        mean = float(np.mean([t.auroc for t in compared])) if compared else 0.0
        return {t.name: self.advantage[t.name] + self.weights[by] * (t.auroc - mean) for t in compared}


def read_prior(modality: str, n: int, path: Path = PRIOR) -> Prior | None:
    """The prior published with this package for supports of n normal samples; None if it does not cover the modality.

    Which method is best depends on n. The advantage is interpolated over log(n) between the measured sizes and constant
    beyond them.

    Args:
        modality: modality of the samples.
        n: number of normal samples.
        path: JSON file of priors.
    """
    entry = json.loads(path.read_text(encoding="utf-8")).get(modality)
    if entry is None:
        return None
    sizes = sorted(entry["advantage"], key=int)
    measured = np.log([int(size) for size in sizes])
    by_method = {m: [entry["advantage"][size][m] for size in sizes] for m in entry["advantage"][sizes[0]]}
    advantage = {m: float(np.interp(np.log(n), measured, values)) for m, values in by_method.items()}
    return Prior(advantage, entry["weights"], entry["datasets"])


@dataclass(frozen=True)
class Candidate:
    """A method and its result.

    Attributes:
        name: name of the method.
        auroc: AUROC by cross-validation inside the support set, the mean over folds and kinds of anomalies.
        spread: standard error of that mean.
        expected: expected AUROC on real anomalies, minus the mean of all methods that the prior covers; None for a
            method that it does not cover.
        reason: reason why the method failed; its figures are then NaN.
    """

    name: str
    auroc: float
    spread: float
    expected: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """The recommended method, with reasons.

    Attributes:
        choice: name of the recommended method.
        why: reason for the choice, a sentence.
        candidates: the methods that were tried, the most promising first, then those that failed.
        use: command or lines of Python that use the choice; empty where the samples' path is unknown.
        account: values left out, guessed or changed when the samples were read.
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
    default: str | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Recommendation:
    """Recommend a method by a prior from other data sets, updated by cross-validation inside the support set.

    A method that the prior does not cover, such as a user's own model, is chosen where cross-validation puts it clearly
    ahead of the prior's choice; without a prior cross-validation alone decides.

    Args:
        methods: methods by name; without a prior, the first of equally good ones is preferred.
        support: samples by modality ``(n, ...)``.
        labels: ``(n,)`` of 0, 1 and -1 (taken as normal).
        corruptions: kinds of synthetic anomalies by name, for supports without labelled anomalies.
        prior: prior of the support's modality.
        simple: name of the method that is preferred to an equally good one without results on other data sets, if
            there is enough data.
        seed: random seed of the folds and the synthetic anomalies.
        default: name of the modality's default detector; if the prior does not cover it, it takes the place of the
            prior's choice unless that is clearly ahead of it.
        tick: called after each method.

    Raises:
        ValueError: there are fewer than four normal samples, no anomalies of either kind, or no method could be tried.
    """
    n = int((labels != ANOMALOUS).sum())
    by = "labels" if bool((labels == ANOMALOUS).any()) else "synthetic"
    results = try_methods(methods, support, labels, corruptions, seed, tick)
    trials = [t for t in results if t.reason is None]
    if not trials:
        raise ValueError(f"no method could be tried: {'; '.join(f'{t.name}: {t.reason}' for t in results)}")
    expected = prior.expected(trials, by) if prior else {}
    choice, why = _choose(trials, expected, prior, by, default)
    by_name = {t.name: t for t in trials}
    if (
        n >= ENOUGH
        and choice not in expected
        and simple in by_name
        and by_name[simple].auroc >= by_name[choice].auroc - WITHIN
    ):
        clause = f"by cross-validation it is within {WITHIN} AUROC of {choice}" if choice != simple else why
        choice, why = simple, f"you have enough data ({n} normal samples) to do without meta-learning, and {clause}"
    why += _despite(choice, trials, by)
    ranked = sorted(trials, key=lambda t: (t.name != choice, -expected.get(t.name, -np.inf), -t.auroc))
    ranked_candidates = [Candidate(t.name, t.auroc, t.spread, expected.get(t.name)) for t in ranked]
    failed = [Candidate(t.name, float("nan"), float("nan"), None, t.reason) for t in results if t.reason is not None]
    return Recommendation(choice, why, [*ranked_candidates, *failed])


def _despite(choice: str, trials: Sequence[Trial], by: str) -> str:
    """Why the choice is not the method with the highest figure in the user's samples; nothing if it is."""
    by_name = {t.name: t for t in trials}
    best = max(trials, key=lambda t: t.auroc)
    if best.auroc - by_name[choice].auroc <= WITHIN:
        return ""
    figures = (
        f"{best.name} reaches more in your samples ({100 * best.auroc:.1f} against {100 * by_name[choice].auroc:.1f})"
    )
    if by == "labels":
        return f"; {figures}, but on few labelled anomalies, which is too little to overrule the other data sets"
    return f"; {figures}, but against synthetic anomalies, which say little about real ones"


def _clearly_ahead(trial: Trial, of: Trial) -> bool:
    ahead = trial.folds - of.folds
    return bool(ahead.mean() > max(WITHIN, CLEAR * standard_error(ahead)))


def _choose(
    trials: Sequence[Trial], expected: Mapping[str, float], prior: Prior | None, by: str, default: str | None
) -> tuple[str, str]:
    """The method, and why."""
    against = AGAINST[by]
    best = max(trials, key=lambda t: t.auroc)
    figure = f"AUROC {best.auroc:.3f} by cross-validation with {against}"
    if prior is None or not expected:
        equals = [t.name for t in trials if t.auroc >= best.auroc - WITHIN]
        if equals[0] == best.name:
            return best.name, f"the best of {len(trials)}: {figure}"
        return equals[0], f"within {WITHIN} of {best.name}, the best of {len(trials)} ({figure}), and simpler"
    usual = max((t for t in trials if t.name in expected), key=lambda t: prior.advantage[t.name])
    chosen = max((t for t in trials if t.name in expected), key=lambda t: expected[t.name])
    favourite = next((t for t in trials if t.name == default and t.name not in expected), None)
    if favourite is not None and not _clearly_ahead(chosen, favourite):
        chosen = favourite
    newcomer = max((t for t in trials if t.name not in expected), key=lambda t: t.auroc, default=None)
    if newcomer is not None and newcomer is not chosen and _clearly_ahead(newcomer, chosen):
        ahead = newcomer.folds - chosen.folds
        return newcomer.name, (
            f"it is {100 * ahead.mean():.1f} points of AUROC ahead of {chosen.name}, the best of the others, by "
            f"cross-validation with {against} (standard error {100 * standard_error(ahead):.1f})"
        )
    if chosen is favourite:
        moved = "nothing in your samples speaks clearly against it"
        return chosen.name, f"the default for such samples on other data sets (`metaad info` says why), and {moved}"
    if chosen is usual:
        moved = "nothing in your samples speaks clearly against it"
        return chosen.name, f"the best on average over {prior.datasets} other data sets, and {moved}"
    gap = 100 * (chosen.auroc - usual.auroc)
    return chosen.name, (
        f"{usual.name} is the best on average over {prior.datasets} other data sets, but in your samples {chosen.name} "
        f"is {gap:.1f} points of AUROC ahead of it, by cross-validation with {against}"
    )

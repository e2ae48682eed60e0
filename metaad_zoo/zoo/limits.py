"""Limits of a model, derived from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from metaad_zoo.learners import learner_class
from metaad_zoo.modality import get_form
from metaad_zoo.zoo.published import Published

Verdict = Literal["better", "alike", "worse", "unclear"]
HARDEST = 3
SLOW = 5.0
"""Times the seconds of the best baseline without a network from which a model needs a reason."""


def verdict(behind: Mapping[str, Any]) -> Verdict:
    """Comparison of our method with a baseline, from their paired difference in AUROC.

    Args:
        behind: the baseline's ``auroc_behind_first``: ours minus its own.

    Example:
        >>> verdict({"mean": 0.02, "ci95": [-0.01, 0.05]})
        'alike'
    """
    if behind["ci95"] is None:
        return "unclear"
    low, high = behind["ci95"]
    if low > 0:
        return "better"
    return "worse" if high < 0 else "alike"


def limits(published: Published) -> list[str]:
    """Sentences on the model's limits, from its figures and its protocol."""
    by_verdict: dict[Verdict, list[str]] = {"better": [], "alike": [], "worse": [], "unclear": []}
    for name, figures in published.baselines.items():
        by_verdict[verdict(figures["auroc_behind_first"])].append(name)
    sentences = []
    for name in by_verdict["worse"]:
        figures = published.baselines[name]
        sentences.append(f"**{name} is better here**: {_difference(figures)}. Prefer it for such data.")
    for name in by_verdict["alike"]:
        figures = published.baselines[name]
        sentences.append(f"**{name} may be as good here**: {_difference(figures)}. {_advice(name)}")
    if by_verdict["unclear"]:
        sentences.append(f"There are too few test tasks to tell whether it beats {', '.join(by_verdict['unclear'])}.")
    return [
        *sentences,
        *_of_decisions(published),
        *_of_tasks(published),
        _of_support(published),
        *_of_speed(published),
    ]


def _advice(baseline: str) -> str:
    if baseline.startswith("same network"):
        return "On these tasks there is no evidence that meta-training helps."
    return "It needs no training; try it first."


def _difference(figures: Mapping[str, Any]) -> str:
    behind = figures["auroc_behind_first"]
    low, high = (100 * x for x in behind["ci95"])
    return (
        f"AUROC {100 * figures['mean']['auroc']:.1f}; ours minus it: {100 * behind['mean']:+.1f} points "
        f"(95 % interval {low:+.1f} to {high:+.1f})"
    )


def _of_decisions(published: Published) -> list[str]:
    alpha, ours = published.metrics["protocol"].get("alpha"), published.metrics["methods"][published.ours]
    interval: Sequence[float] | None = ours["ci95"].get("fpr")
    if alpha is None or interval is None or interval[0] <= alpha:
        return []
    return [
        f"Its threshold aims at {alpha:.0%} false alarms, but gave {ours['mean']['fpr']:.0%} on the test tasks. "
        "Calibrate it with normal samples of your own domain (`--calibrate within`)."
    ]


def _of_tasks(published: Published) -> list[str]:
    by_task = published.metrics.get("auroc_by_task", {})
    hardest = sorted(by_task, key=lambda name: (by_task[name], name))[:HARDEST]
    if len(by_task) <= HARDEST:
        return []
    listing = ", ".join(f"{name} ({100 * by_task[name]:.1f})" for name in hardest)
    return [f"Hardest tasks, with their AUROC: {listing}."]


def _of_support(published: Published) -> str:
    protocol = published.metrics["protocol"]
    episode = protocol["data"]["test_episode"]
    shots = episode["support_normal"] or episode["support_unlabelled"]
    sizes = ", ".join(map(str, protocol.get("calibrated_for", [shots])))
    return (
        f"Figures are for supports of {shots} samples. P-values are for supports of {sizes}; other sizes use the next "
        "smaller one. Both hold for domains like those of the test. For others, compare methods on your own samples: "
        "`metaad recommend --support PATH`."
    )


def _of_speed(published: Published) -> list[str]:
    """Why a model takes more than :data:`SLOW` times as long as the best baseline without a network."""
    methods = published.metrics["methods"]
    names = [name for name in get_form(published.modality).neighbours if name in methods]
    if not names:
        return []
    beside = max(names, key=lambda name: methods[name]["mean"]["auroc"])
    ours, theirs = (methods[name].get("seconds_per_task", 0.0) for name in (published.ours, beside))
    if ours <= SLOW * theirs:
        return []
    instead = " ms instead of ".join(f"{float(f'{1000 * seconds:.2g}'):g}" for seconds in (ours, theirs))
    cost = learner_class(published.manifest["learner"]).cost
    return [f"Slower than {beside}: {instead} ms to adapt and to score a test episode, because {cost}."]

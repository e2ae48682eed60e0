"""Conclusion of a report: the result in sentences, readable names of the methods, and the purpose of each control."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

TIME_STAMP = re.compile(r"/\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}$")
CONTROLS: Mapping[str, str] = {
    "same network, untrained": "shows what the architecture achieves without training",
    "same network, from scratch": "shows what training on each support alone achieves",
    "before fine-tuning": "the checkpoint that was fine-tuned",
    "flag everything": "the F1 that needs no detector",
    "flag_everything": "the F1 that needs no detector",
    "random": "chance",
}
"""What each control is for, by its name."""
FLOORS = ("flag everything", "flag_everything", "random")
"""Controls that no method is compared with in the conclusion: they rank by chance."""


def readable_names(names: Iterable[str]) -> dict[str, str]:
    """Names of runs without their time stamps, numbered by time where several runs have one name.

    Example:
        >>> readable_names(["digits/2026-11-22_17-04-25", "knn"])
        {'digits/2026-11-22_17-04-25': 'digits', 'knn': 'knn'}
        >>> readable_names(["a/2026-11-22_17-04-25", "a/2026-11-21_17-04-25"])
        {'a/2026-11-22_17-04-25': 'a, run 2', 'a/2026-11-21_17-04-25': 'a, run 1'}
    """
    names = list(names)
    by_short: dict[str, list[str]] = {}
    for name in sorted(names):
        by_short.setdefault(TIME_STAMP.sub("", name), []).append(name)
    readable = {}
    for name in names:
        short = TIME_STAMP.sub("", name)
        alike = by_short[short]
        readable[name] = short if len(alike) == 1 else f"{short}, run {alike.index(name) + 1}"
    return readable


def conclusion(methods: Mapping[str, Any], alpha: float | None) -> list[str]:
    """The result in one to three sentences: the first method against the best other one, then its decisions.

    Args:
        methods: ``methods`` of ``results.json``, by readable name.
        alpha: target false-alarm rate; None: no threshold was set.
    """
    first, figures = next(iter(methods.items()))
    n_tasks = len(figures["tasks"])
    on = f"{n_tasks} unseen tasks" if n_tasks > 1 else "one task"
    rivals = [name for name in methods if name != first and name not in FLOORS]
    best = max(rivals, key=lambda name: methods[name]["mean"]["auroc"], default=None)
    sentences = [_alone(first, figures, on) if best is None else _compared(first, best, methods, on)]
    if "draws" in figures:
        sentences.append("The interval is over draws of the support and says nothing about other tasks.")
    elif n_tasks == 1:
        sentences.append("One task says nothing about others.")
    mean = figures["mean"]
    if alpha is not None and {"fpr", "recall"} <= mean.keys():
        sentences.append(
            f"With a threshold that aims at {100 * alpha:g} % false alarms, {first} flags {_percent(mean['fpr'])} of "
            f"the normal samples and {_percent(mean['recall'])} of the anomalies."
        )
    return sentences


def _alone(first: str, figures: Mapping[str, Any], on: str) -> str:
    interval = (figures.get("ci95") or {}).get("auroc")
    return f"{first} reaches an AUROC of {_percent(figures['mean']['auroc'])}{_around(interval, '%')} on {on}."


def _compared(first: str, best: str, methods: Mapping[str, Any], on: str) -> str:
    ours, theirs = (methods[name]["mean"]["auroc"] for name in (first, best))
    behind = methods[best].get("auroc_behind_first") or {}
    difference, interval = behind.get("mean", ours - theirs), behind.get("ci95")
    figures = f"AUROC {_percent(ours)} against {_percent(theirs)} on {on}"
    points = f"{100 * abs(difference):.1f} points"
    if interval is None:
        return f"{first} and the best other method, {best}: {figures}, a difference of {points} without an interval."
    if interval[0] > 0:
        verdict = f"{first} is better than the best other method, {best}"
    elif interval[1] < 0:
        verdict = f"{first} is worse than the best other method, {best}"
    else:
        verdict = f"{first} is neither clearly better nor clearly worse than the best other method, {best}"
    signed = [100 * end * (-1 if difference < 0 else 1) for end in interval]
    return f"{verdict}: {figures}, a difference of {points} (95 % interval {min(signed):.1f} to {max(signed):.1f})."


def _around(interval: list[float] | None, unit: str) -> str:
    return "" if not interval else f" (95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f} {unit})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

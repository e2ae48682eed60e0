"""Figures of a report, with their captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metaad_zoo.evaluation import plots
from metaad_zoo.evaluation.plots.comparison import by_rank
from metaad_zoo.evaluation.saved import ScoreTable
from metaad_zoo.evaluation.task_curves import ALPHAS, Band, false_alarms_at, over_tasks, precision_at, roc_at

CURVES = {"shots": "shots (support samples per task)", "inner_steps": "inner steps"}
MEANING = "Mean over tasks"
BANDS = "; shaded: 95 % interval of that mean, bootstrap over tasks"


@dataclass(frozen=True)
class Drawn:
    """A figure of a report.

    Attributes:
        name: file name without suffix.
        group: heading of the section.
        title: title, one line.
        caption: explanation of the figure.
        figure: the drawing.
    """

    name: str
    group: str
    title: str
    caption: str
    figure: Figure


def figures_of(results: dict[str, Any], scores: dict[str, ScoreTable] | None) -> tuple[list[Drawn], list[str]]:
    """All figures that can be drawn from results and scores.

    Args:
        results: content of ``results.json``.
        scores: scores by method; None without ``scores.parquet``.

    Returns:
        The figures, and sentences that name the missing ones.
    """
    curves = results.get("curves") or {}
    in_curves = [name for curve in curves.values() for name in curve["methods"]]
    styles = plots.styles_of(dict.fromkeys([*results["methods"], *in_curves]))
    missing = []
    with plots.drawing():
        drawn = [] if scores is None else [*_ranking(scores, styles), *_histograms(results["methods"], scores)]
        if scores is None:
            missing.append("ROC and precision-recall curves and score histograms: there is no scores.parquet.")
        else:
            absent = [name for name in results["methods"] if name not in scores]
            missing += [f"Curves and histogram of {name}: scores.parquet has no scores of it." for name in absent]
        for key, xlabel in CURVES.items():
            if key in curves:
                _check_curve(key, curves[key])
                drawn.append(_against(key, curves[key], styles, xlabel))
            else:
                missing.append(f"AUROC against {key.replace('_', ' ')}: results.json has no such curve.")
        calibration = _calibration(results.get("calibration"), scores or {}, styles)
        drawn += calibration
        if not calibration:
            missing.append("Calibration: there are no p-values, and results.json has no calibration.")
        drawn += _cost(results["methods"], styles)
    return drawn, missing


def _ranking(scores: Mapping[str, ScoreTable], styles: Mapping[str, plots.Style]) -> list[Drawn]:
    roc = {name: over_tasks(s, roc_at) for name, s in scores.items()}
    precision = {name: over_tasks(s, precision_at) for name, s in scores.items()}
    prevalence = float(
        np.mean([e.labels.mean() for task in next(iter(scores.values())).episodes_by_task() for e in task])
    )
    how = _how(list(roc.values()))
    return [
        Drawn("roc", "Ranking", "ROC curve", f"{how}. Grey: chance.", plots.roc_figure(roc, styles)),
        Drawn(
            "precision_recall",
            "Ranking",
            "Precision-recall curve",
            f"{how}. Grey: chance, the share of anomalies ({prevalence:.0%}).",
            plots.precision_recall_figure(precision, styles, prevalence),
        ),
    ]


def _how(bands: list[Band]) -> str:
    return MEANING + BANDS if any(b.low is not None for b in bands) else "One task, so no interval over tasks"


def _histograms(methods: Mapping[str, Any], scores: Mapping[str, ScoreTable]) -> list[Drawn]:
    drawn = []
    for i, (name, table) in enumerate(scores.items(), start=1):
        threshold = methods[name].get("threshold")
        caption = f"{(table.labels == 0).sum()} normal and {(table.labels == 1).sum()} anomalous samples of all tasks. "
        if by_rank(table.scores):
            caption += "By rank, because a few scores are far from the others. "
        caption += (
            f"No line: {threshold_words(methods[name])}." if threshold is None else "Right of the dashed line: flagged."
        )
        figure = plots.scores_figure(table, threshold)
        drawn.append(Drawn(f"scores_{i:02d}", "Scores and thresholds", name, caption, figure))
    return drawn


def threshold_words(figures: Mapping[str, Any]) -> str:
    """Description of a threshold that is not a single number.

    Example:
        >>> threshold_words({"threshold": None, "mean": {"recall": 0.8, "fpr": 0.1}})
        'each task has its own threshold'
    """
    flagged = {figures["mean"].get("recall"), figures["mean"].get("fpr")}
    if flagged == {None}:
        return "no threshold was set"
    if flagged == {1}:
        return "everything is flagged"
    return "nothing is flagged" if flagged == {0} else "each task has its own threshold"


def _check_curve(key: str, curve: Mapping[str, Any]) -> None:
    n = len(curve["values"])
    for name, line in curve["methods"].items():
        sizes = {len(line["mean"]), len(line.get("ci95") or line["mean"])}
        if sizes != {n}:
            raise ValueError(f"results.json: curves.{key} has {n} values, but {name!r} has {sorted(sizes)} figures")


def _against(key: str, curve: Mapping[str, Any], styles: Mapping[str, plots.Style], xlabel: str) -> Drawn:
    title = f"AUROC against {key.replace('_', ' ')}"
    caption = "Mean over tasks; shaded: its 95 % interval. Grey: chance. The values are evenly spaced."
    return Drawn(f"auroc_{key}", "Support and adaptation", title, caption, plots.auroc_figure(curve, styles, xlabel))


def _calibration(
    table: Mapping[str, Any] | None, scores: Mapping[str, ScoreTable], styles: Mapping[str, plots.Style]
) -> list[Drawn]:
    """From the p-values where there are any, else from the rates in ``results.json``."""
    telling = {n: s for n, s in scores.items() if not np.isnan(s.p_values).any() and np.unique(s.scores).size > 1}
    lines: dict[str, tuple[Any, Band]] = {n: (ALPHAS, over_tasks(s, false_alarms_at)) for n, s in telling.items()}
    caption = _how([band for _, band in lines.values()])
    if not lines and table:
        lines = {
            name: (table["alphas"], Band(np.asarray(line["fpr"], float), None, None))
            for name, line in table["methods"].items()
            if name in styles
        }
        caption = MEANING
    if not lines:
        return []
    figure = plots.calibration_figure(lines, styles)
    title = "False-alarm rate: target and result"
    caption += ". On the grey line, false alarms are as asked for; above it, there are more."
    left_out = [name for name in scores if telling and name not in telling]
    if left_out:
        caption += f" Not shown (equal scores, or no p-values): {', '.join(left_out)}."
    return [Drawn("calibration", "Calibration", title, caption, figure)]


def _cost(methods: Mapping[str, Any], styles: Mapping[str, plots.Style]) -> list[Drawn]:
    seconds = {name: figures.get("seconds_per_task") for name, figures in methods.items()}
    measured = {name: float(s) for name, s in seconds.items() if s}
    if not measured:
        return []
    caption = "To adapt to one task and score its queries, on the device named below."
    return [Drawn("seconds", "Cost", "Seconds per task", caption, plots.seconds_figure(measured, styles))]

"""Figures that compare methods: curves over tasks, scores, calibration, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, PercentFormatter

from metaad_zoo.evaluation.plots.style import FAINT, INK, Style
from metaad_zoo.evaluation.saved import ScoreTable
from metaad_zoo.evaluation.task_curves import ALPHAS, GRID, Band

WIDTH = 4.2  # inches: the text is then about as large as that around it on a phone's screen
NORMAL, ANOMALOUS = FAINT, "#d55e00"
LONG_TAIL = 10
"""Scores whose full range is this many times that of their middle 98 % are shown by rank."""


def roc_figure(bands: Mapping[str, Band], styles: Mapping[str, Style]) -> Figure:
    """Receiver operating characteristic: mean over tasks, with bands.

    Args:
        bands: curve of each method over :data:`GRID` of false-alarm rates.
        styles: style of each method.
    """
    figure, axes = _figure(len(bands))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=1)
    for name, band in bands.items():
        _draw_band(axes, np.append(0.0, GRID), _from_origin(band), styles[name])
    axes.set(xlabel="false-alarm rate", ylabel="share of anomalies found")
    _unit_square(axes)
    _legend(figure, styles, bands)
    return figure


def precision_recall_figure(bands: Mapping[str, Band], styles: Mapping[str, Style], prevalence: float) -> Figure:
    """Precision against recall: mean over tasks, with bands.

    Args:
        bands: curve of each method over :data:`GRID` of recalls.
        styles: style of each method.
        prevalence: share of anomalies, the precision by chance.
    """
    figure, axes = _figure(len(bands))
    axes.axhline(prevalence, color=FAINT, linewidth=1, zorder=1)
    for name, band in bands.items():
        _draw_band(axes, GRID, band, styles[name])
    axes.set(xlabel="share of anomalies found (recall)", ylabel="precision")
    _unit_square(axes)
    _legend(figure, styles, bands)
    return figure


def calibration_figure(bands: Mapping[str, tuple[Sequence[float], Band]], styles: Mapping[str, Style]) -> Figure:
    """Realised against nominal false-alarm rate.

    Args:
        bands: nominal and realised rates of each method.
        styles: style of each method.
    """
    figure, axes = _figure(len(bands))
    end = max([max(x) for x, _ in bands.values()], default=float(ALPHAS[-1]))
    axes.plot([0, end], [0, end], color=FAINT, linewidth=1, zorder=1)
    for name, (x, band) in bands.items():
        _draw_band(axes, np.asarray(x), band, styles[name], marker_step=1)
    axes.set(xlabel="false-alarm rate aimed at", ylabel="false-alarm rate reached")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    _legend(figure, styles, bands)
    return figure


def auroc_figure(curve: Mapping[str, Any], styles: Mapping[str, Style], xlabel: str) -> Figure:
    """AUROC against shots or inner steps.

    Args:
        curve: ``values`` and, for each of the ``methods``, ``mean`` and ``ci95``, as in ``results.json``.
        styles: style of each method.
        xlabel: name of the values.
    """
    figure, axes = _figure(len(curve["methods"]))
    positions = np.arange(len(curve["values"]))
    axes.axhline(0.5, color=FAINT, linewidth=1, zorder=1)
    for name, line in curve["methods"].items():
        means = np.array([np.nan if m is None else m for m in line["mean"]], dtype=float)
        ends = line.get("ci95") or [None] * len(means)
        low, high = np.array([(np.nan, np.nan) if e is None else e for e in ends], dtype=float).T
        band = Band(means, low, high) if np.isfinite(low).any() else Band(means, None, None)
        _draw_band(axes, positions, band, styles[name], marker_step=1)
    # Evenly spaced, as shots usually double.
    axes.set_xticks(positions, [str(v) for v in curve["values"]])
    axes.set(xlabel=xlabel, ylabel="AUROC")
    _legend(figure, styles, curve["methods"])
    return figure


def scores_figure(scores: ScoreTable, threshold: float | None) -> Figure:
    """Scores of normal and anomalous samples of all tasks, and the threshold between them.

    Args:
        scores: scores of one method, drawn by rank if some are infinite or far out.
        threshold: threshold to draw, or None.
    """
    figure, axes = _figure(0, height=2.7)
    values, cut, label = scores.scores, threshold, "score"
    if by_rank(values):
        cut = None if threshold is None else float(np.mean(values <= threshold))
        values, label = np.searchsorted(np.sort(values), values, side="right") / len(values), "rank of the score"
    bins = np.histogram_bin_edges(values, 30)
    for kind, normal in (("normal", True), ("anomalous", False)):
        part = values[(scores.labels == 0) == normal]
        look: dict[str, Any] = {"weights": np.full(len(part), 1 / max(len(part), 1)), "label": kind, "bins": bins}
        if normal:
            axes.hist(part, color=NORMAL, alpha=0.55, **look)
        else:
            axes.hist(part, histtype="stepfilled", facecolor="none", edgecolor=ANOMALOUS, hatch="////", **look)
    if cut is not None:
        axes.axvline(cut, color=INK, linewidth=1.4, linestyle="--", label="threshold")
    axes.set(xlabel=label, ylabel="share of samples")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def by_rank(scores: np.ndarray) -> bool:
    """Whether a histogram of the raw scores would show nothing but their tail.

    Example:
        >>> by_rank(np.array([0.0, 1.0, np.inf])), by_rank(np.array([0.0, 1.0, 2.0]))
        (True, False)
    """
    if not np.isfinite(scores).all():
        return True
    low, high = np.quantile(scores, [0.01, 0.99])
    return bool(np.ptp(scores) > LONG_TAIL * (high - low))


def seconds_figure(seconds: Mapping[str, float], styles: Mapping[str, Style]) -> Figure:
    """Time to adapt to one task and score its queries, on a logarithmic axis.

    Args:
        seconds: positive seconds per task of each method.
        styles: style of each method.
    """
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    for row, (name, value) in enumerate(seconds.items()):
        axes.plot([value], [row], **{**styles[name].line(), "linestyle": "none", "markersize": 7})
    axes.set_yticks(range(len(seconds)), [_short(name, 32) for name in seconds])
    axes.set_ylim(len(seconds) - 0.5, -0.5)
    axes.set_xscale("log")
    values = list(seconds.values())
    axes.set_xlim(10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)) + 1e-9))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds per task")
    return figure


def _figure(entries: int, height: float = 3.0) -> tuple[Figure, Axes]:
    """A figure with room below for a legend."""
    figure = Figure(figsize=(WIDTH, height + 0.17 * entries), layout="constrained")
    return figure, figure.subplots()


def _draw_band(axes: Axes, x: np.ndarray, band: Band, style: Style, marker_step: int = 25) -> None:
    axes.plot(x, band.mean, **style.line(), markevery=marker_step, linewidth=1.6)
    if band.low is not None and band.high is not None:
        axes.fill_between(x, band.low, band.high, color=style.color, alpha=0.13, linewidth=0)


def _from_origin(band: Band) -> Band:
    """A ROC curve starts at (0, 0), where nothing is flagged; the next point is that of the grid's first rate."""
    mean, low, high = (None if part is None else np.append(0.0, part) for part in band)
    assert mean is not None
    return Band(mean, low, high)


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))


def _legend(figure: Figure, styles: Mapping[str, Style], methods: Mapping[str, Any]) -> None:
    lines = [Line2D([], [], **styles[name].line()) for name in methods]
    figure.legend(lines, [_short(name) for name in methods], loc="outside lower left", ncols=1)


def _short(name: str, width: int = 56) -> str:
    """A label that fits; a leading underscore would hide it from a legend."""
    name = " ".join(name.split())
    return " " * name.startswith("_") + (name if len(name) <= width else f"{name[: width - 3]}...")

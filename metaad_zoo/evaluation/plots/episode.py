"""Figures of one episode and of the learning curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metaad_zoo.episodes import Episode, SupportScaling
from metaad_zoo.modality import get_modality

KINDS = {0: "normal", 1: "anomalous", -1: "unlabelled"}
COLUMNS_SHOWN, SUPPORT_SHOWN = 40, 50
FAR = 4.0
"""Limit of a table's colour scale, in deviations of the support from its median."""


def episode_figure(
    episode: Episode, scores: Tensor, threshold: float | None, flagged: Tensor | None = None, columns: int = 10
) -> Figure:
    """One episode: the support set, then the queries from the most normal to the most anomalous.

    Images are shown as they are; sequences as lines in the support's units, all at one scale; tables as rows of colours
    beside their scores. Of a large support set some samples are drawn, labelled ones first. Of several modalities the
    one with most axes is drawn that the support has.

    Args:
        episode: episode of images ``(n, C, H, W)``, sequences ``(n, T, C)`` or tables ``(n, D)``.
        scores: ``(n_query,)`` scores of the episode's queries.
        threshold: score above which a query is flagged; false alarms and missed anomalies are marked red. None if
            ``flagged`` is given instead.
        flagged: ``(n_query,)`` booleans, True for a flagged query; None: ``scores > threshold``.
        columns: number of pictures in a row.

    Raises:
        ValueError: neither ``threshold`` nor ``flagged`` is given.
    """
    if flagged is None:
        if threshold is None:
            raise ValueError("give the threshold, or which queries are flagged")
        flagged = scores > threshold
    names = sorted(episode.support, key=lambda m: (-episode.support[m].ndim, m))  # images tell most, rows least
    name = next((m for m in names if not episode.support[m].isnan().all()), names[0])
    modality = get_modality(name)
    scaling = SupportScaling.fit(episode.support[name].float(), modality.scaling)
    support, query = (scaling.apply(x[name].float()).cpu().numpy() for x in (episode.support, episode.query))
    part = f", {SUPPORT_SHOWN} of {len(support)} samples" if len(support) > SUPPORT_SHOWN else ""
    support = support[:SUPPORT_SHOWN]
    thumbnails = modality.thumbnails(support, query)
    if thumbnails is None:
        return _table_figure(episode, support, part, query, scores, threshold, flagged)
    support, query, draw = thumbnails.support, thumbnails.query, thumbnails.draw
    order = scores.argsort().tolist()
    support_rows, query_rows = -(-len(support) // columns), -(-len(query) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.6 * (support_rows + query_rows) + 1.2), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[support_rows, query_rows], squeeze=False)
    top, bottom = parts[0, 0], parts[1, 0]
    top.suptitle(f"{episode.task}: support set{part}{thumbnails.note}")
    cut = "" if threshold is None else f"threshold {threshold:.2f}; "
    bottom.suptitle(f"queries by score ({cut}red: mistakes)")
    top_axes = top.subplots(support_rows, columns, squeeze=False).ravel()
    for axes, sample, label in zip(top_axes, support, episode.support_labels.tolist(), strict=False):
        draw(axes, sample)
        _frame(axes, KINDS[label])
    bottom_axes = bottom.subplots(query_rows, columns, squeeze=False).ravel()
    for axes, i in zip(bottom_axes, order, strict=False):
        label = int(episode.query_labels[i])
        draw(axes, query[i])
        _frame(axes, f"{KINDS[label]}\n{float(scores[i]):.2f}", mistake=bool(flagged[i]) != bool(label))
    for axes in [*top_axes[len(support) :], *bottom_axes[len(query) :]]:
        axes.set_axis_off()
    return figure


def _frame(axes: Axes, title: str, mistake: bool = False) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color="red" if mistake else "black")
    for spine in axes.spines.values():
        spine.set(visible=True, color="red" if mistake else "0.7", linewidth=3 if mistake else 0.8)


def _table_figure(
    episode: Episode,
    support: np.ndarray,
    part: str,
    query: np.ndarray,
    scores: Tensor,
    threshold: float | None,
    flagged: Tensor,
) -> Figure:
    """Left the rows as colours, support first, then queries by score; right the scores, a point a row."""
    order = scores.argsort().cpu().numpy()
    ranked, labels = scores.double().cpu().numpy()[order], episode.query_labels.cpu().numpy()[order]
    table = np.concatenate([support, query[order]])[:, :COLUMNS_SHOWN]
    figure = Figure(figsize=(9, 1.6 + 0.14 * len(table)), layout="constrained")
    cells, points = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    drawn = cells.imshow(table, cmap="coolwarm", vmin=-FAR, vmax=FAR, aspect="auto", interpolation="nearest")
    cells.axhline(len(support) - 0.5, color="black", linewidth=1.5)
    figure.colorbar(drawn, ax=cells, location="left", label="in units of the support's spread, white: missing")
    of = f", the first {COLUMNS_SHOWN} of {support.shape[1]} columns" if support.shape[1] > COLUMNS_SHOWN else ""
    cells.set(
        xlabel="column", xticks=[], yticks=[], title=f"{episode.task}: support (above{part}), queries by score{of}"
    )
    places = len(support) + np.arange(len(ranked))
    wrong = flagged.cpu().numpy()[order] != (labels == 1)
    for label, marker in ((0, "o"), (1, "X")):
        rows = labels == label
        colours = np.where(wrong[rows], "red", "0.3").tolist()
        points.scatter(ranked[rows], places[rows], c=colours, marker=marker, s=22, label=KINDS[label])
    if threshold is not None and np.isfinite(threshold):
        points.axvline(threshold, color="black", linestyle="--", linewidth=1)
    points.set(xlabel="score", title="red: mistakes")
    points.legend(fontsize=8)
    return figure


def learning_curve(metrics_files: Sequence[Path]) -> Figure:
    """Training loss and validation AUROC against outer steps.

    Args:
        metrics_files: CSV files with the columns ``step``, ``train/loss`` and ``val/auroc``, the parts of one run in
            their order; where a resumed run repeats a step, the later part counts.
    """
    curves: dict[str, dict[int, float]] = {"train/loss": {}, "val/auroc": {}}
    for path in metrics_files:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, curve in curves.items():
                    if row.get(name):
                        curve[int(row["step"])] = float(row[name])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss_axes, auroc_axes = figure.subplots(1, 2)
    for axes, (name, curve) in zip((loss_axes, auroc_axes), curves.items(), strict=True):
        steps = sorted(curve)
        values = np.array([curve[s] for s in steps])
        axes.plot(steps, values, color="C0", alpha=0.3 if name == "train/loss" else 1.0)
        if name == "train/loss" and len(values) >= 20:
            window = len(values) // 20
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(steps[window - 1 :], smooth, color="C0")
        axes.set(xlabel="outer step", title=name)
        axes.grid(alpha=0.3)
    return figure

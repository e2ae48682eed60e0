"""Pictures of what a model does: one episode, and how it learned."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metaad_zoo.episodes import Episode


def episode_figure(episode: Episode, scores: Tensor, threshold: float, columns: int = 10) -> Figure:
    """One image episode: the support set, then the queries from the most normal to the most anomalous.

    Args:
        episode: with an ``image`` modality ``(n, C, H, W)``.
        scores: ``(n_query,)``, of the episode's queries.
        threshold: above it a query is flagged; flagged normals and passed anomalies are framed in red as mistakes.
        columns: pictures in a row.
    """
    support, query = episode.support["image"], episode.query["image"]
    order = scores.argsort().tolist()
    support_rows, query_rows = -(-len(support) // columns), -(-len(query) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.6 * (support_rows + query_rows) + 1.2), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[support_rows, query_rows], squeeze=False)
    top, bottom = parts[0, 0], parts[1, 0]
    top.suptitle(f"{episode.task}: support set")
    bottom.suptitle(f"queries by score (threshold {threshold:.2f}; red: mistakes)")
    kinds = {0: "normal", 1: "anomalous", -1: "unlabelled"}
    top_axes = top.subplots(support_rows, columns, squeeze=False).ravel()
    for axes, image, label in zip(top_axes, support, episode.support_labels.tolist(), strict=False):
        _show(axes, image, kinds[label])
    bottom_axes = bottom.subplots(query_rows, columns, squeeze=False).ravel()
    for axes, i in zip(bottom_axes, order, strict=False):
        label, flagged = int(episode.query_labels[i]), bool(scores[i] > threshold)
        _show(axes, query[i], f"{kinds[label]}\n{float(scores[i]):.2f}", mistake=flagged != bool(label))
    for axes in [*top_axes[len(support) :], *bottom_axes[len(query) :]]:
        axes.set_axis_off()
    return figure


def _show(axes: Axes, image: Tensor, title: str, mistake: bool = False) -> None:
    pixels = image.movedim(0, -1).float().cpu().numpy()
    low, high = pixels.min(), pixels.max()
    pixels = (pixels - low) / max(high - low, 1e-12)
    axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color="red" if mistake else "black")
    for spine in axes.spines.values():
        spine.set(color="red" if mistake else "0.7", linewidth=3 if mistake else 0.8)


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
    left, right = figure.subplots(1, 2)
    for axes, (name, curve) in zip((left, right), curves.items(), strict=True):
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

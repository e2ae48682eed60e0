"""Draw the picture of the README, `docs/front.png`: `METAAD_DATA=FOLDER python docs/front_picture.py`.

Left: damaged coffee leaves and heat maps, from five healthy leaves. Right: three metrics of a server that the
model never saw, those that change most during events, and its scores, from fifty normal windows. The folder
holds `bank/coffee_leaf.npz` (leaves of https://github.com/esgario/lara2018, MIT) and `asd.npz` (servers of
https://github.com/zhhlee/InterFusion, MIT).
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.data.point_stream import stream_point_scores
from metaad_zoo.explain import heat_maps, overlay, region_level

OUT = Path(__file__).with_name("front.png")
GOOD_LEAVES = 5
SERVER, NORMAL_WINDOWS, WINDOW = "omi-8", 50, 32
LINE, SCORE, EVENT = "#4a5568", "#c2410c", "#facc15"


def draw_leaves(panel: SubFigure, data: Path) -> None:
    """A healthy and two damaged leaves, above their heat maps."""
    archive = np.load(data / "bank" / "coffee_leaf.npz")
    leaves, labels, names = archive["x"], archive["y"], list(archive["names"])
    healthy, mined, spotted = (leaves[labels == names.index(name)] for name in ("healthy", "miner", "cercospora"))
    detector = mz.load_detector("patch_memory").fit(healthy[:GOOD_LEAVES])
    shown = np.stack([healthy[12], mined[7], spotted[0]])
    threshold, decisions = detector.threshold(0.1), detector.predict(shown, alpha=0.1)
    axes = panel.subplots(2, len(shown))
    for column, flagged, (photograph, heat) in zip(axes.T, decisions, heat_maps(detector, shown), strict=True):
        column[0].imshow(photograph)
        column[1].imshow(overlay(photograph, heat, region_level(heat, threshold) if flagged else None))
        for axis in column:
            axis.axis("off")
    for axis, flagged in zip(axes[0], decisions, strict=True):
        axis.set_title("anomalous" if flagged else "normal", color=SCORE if flagged else LINE, fontsize=9)
    panel.suptitle(f"Pictures: {GOOD_LEAVES} healthy leaves, then new ones", fontsize=10, x=0.02, ha="left")


def draw_series(panel: SubFigure, data: Path) -> None:
    """Metrics of a server with the labelled events, above the score of every minute."""
    archive = np.load(data / "asd.npz")
    training, test = (archive[f"{SERVER}_{part}"].astype(np.float32) for part in ("train", "test"))
    labels = archive[f"{SERVER}_test_label"] > 0
    starts = np.random.default_rng(0).choice(len(training) - WINDOW, NORMAL_WINDOWS, replace=False)
    detector = mz.load_detector("sequence-window_statistics-in_context-servers")
    detector.fit(np.stack([training[start : start + WINDOW] for start in starts]))
    scores = np.concatenate(list(stream_point_scores(detector.score, [test], WINDOW, 4)))
    axes = panel.subplots(4, 1, sharex=True, height_ratios=[1, 1, 1, 1.6])
    loudest = np.argsort(-np.abs(test[labels].mean(0) - test[~labels].mean(0)) / (test.std(0) + 1e-6))
    for axis, channel in zip(axes[:3], loudest[:3], strict=True):
        axis.plot(test[:, channel], color=LINE, linewidth=0.6)
    axes[3].plot(scores, color=SCORE, linewidth=0.9)
    axes[3].set_xlabel("time steps; labelled events in yellow", fontsize=8)
    for axis in axes:
        _mark_events(axis, labels)
    title = f"Series: {NORMAL_WINDOWS} normal windows of an unseen server, then its score"
    panel.suptitle(title, fontsize=10, x=0.02, ha="left")


def _mark_events(axis: Axes, labels: np.ndarray) -> None:
    edges = np.flatnonzero(np.diff(np.pad(labels.astype(int), 1)))
    for start, end in edges.reshape(-1, 2):
        axis.axvspan(start, end, color=EVENT, alpha=0.6, linewidth=0)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    axis.margins(x=0)


def front_picture(data: Path) -> Figure:
    """Both halves side by side."""
    figure = plt.figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25], wspace=0.04)
    draw_leaves(left, data)
    draw_series(right, data)
    return figure


if __name__ == "__main__":
    drawn = io.BytesIO()
    front_picture(Path(os.environ["METAAD_DATA"])).savefig(drawn, dpi=120)
    Image.open(drawn).convert("RGB").quantize(256).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")

"""Figures of episodes, learning curves and comparisons of methods."""

from metaad_zoo.evaluation.plots.comparison import (
    auroc_figure,
    calibration_figure,
    precision_recall_figure,
    roc_figure,
    scores_figure,
    seconds_figure,
)
from metaad_zoo.evaluation.plots.episode import episode_figure, learning_curve
from metaad_zoo.evaluation.plots.style import Style, drawing, styles_of
from metaad_zoo.evaluation.plots.svg import inline_svg, standalone_svg

__all__ = [
    "Style",
    "auroc_figure",
    "calibration_figure",
    "drawing",
    "episode_figure",
    "inline_svg",
    "learning_curve",
    "precision_recall_figure",
    "roc_figure",
    "scores_figure",
    "seconds_figure",
    "standalone_svg",
    "styles_of",
]

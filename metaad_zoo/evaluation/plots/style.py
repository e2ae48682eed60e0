"""Style of the figures that compare methods: legible on light and dark backgrounds, in colour and in grey."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

INK = "#1b1f24"
"""Text, axes and ticks. Post-processing turns exactly this colour into ``currentColor`` in SVG."""

FAINT = "#808080"
"""Grids and reference lines: mid-grey, which shows on light and dark ground."""

# Each has a contrast of at least 3 : 1 to the report's light and its dark ground (WCAG 1.4.11); a test holds it.
COLOURS = ("#0072b2", "#d55e00", "#00916a", "#c2619a", "#927608", "#8a63d2", "#b5484b", "#808080")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Style:
    """Line style of one method: colour, line and marker differ between methods."""

    color: str
    linestyle: str
    marker: str

    def line(self) -> dict[str, Any]:
        """Keywords for ``Axes.plot``."""
        return {"color": self.color, "linestyle": self.linestyle, "marker": self.marker, "markersize": 4}


def styles_of(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method, by position.

    Example:
        >>> styles_of(["a", "b"])["b"]
        Style(color='#d55e00', linestyle='--', marker='s')
    """
    return {
        name: Style(COLOURS[i % len(COLOURS)], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(methods)
    }


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's settings while a comparison is drawn and saved.

    A dollar sign in a method's name is a dollar sign, text stays text in SVG, and the same figure gives the same bytes.
    """
    settings: dict[Any, Any] = {
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.alpha": 0.25,
        "xtick.color": INK,
        "ytick.color": INK,
        "hatch.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 3.2,
        "svg.fonttype": "none",
        "svg.hashsalt": "metaad_zoo",
    }
    with mpl.rc_context(settings):
        yield

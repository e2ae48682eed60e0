"""Small pictures of samples, as the modalities draw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes


@dataclass(frozen=True)
class Thumbnails:
    """Samples of one episode and how one is drawn.

    Attributes:
        support: ``(n, ...)``, what of each support sample is drawn.
        query: ``(m, ...)``, what of each query sample is drawn.
        draw: draws one sample.
        note: what is not drawn, to follow the title; empty where all is.
    """

    support: np.ndarray
    query: np.ndarray
    draw: Callable[[Axes, np.ndarray], None]
    note: str = ""


def colour_limit(attribution: np.ndarray) -> float:
    """The attribution from which on colours are fullest: a single cell far above all must not make the others pale."""
    sizes = np.abs(attribution[~np.isnan(attribution)])
    return max(float(np.quantile(sizes[sizes > 0], 0.98)) if sizes.any() else 0.0, 1e-12)


def largest_first(size: np.ndarray, present: np.ndarray, most: int) -> list[int]:
    """Positions of the ``most`` largest entries among those present, largest first."""
    order = np.argsort(-np.where(present, np.nan_to_num(size), -1.0), kind="stable")[: min(most, int(present.sum()))]
    return [int(i) for i in order]

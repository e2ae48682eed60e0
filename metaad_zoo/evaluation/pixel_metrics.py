"""Metrics of heat maps against masks of the defects: pixel AUROC, AUPRO and pixel F1.

All three are exact: every value that a map takes is a threshold. Beside the maps, memory holds the pixels of the
defects and the normal pixels of one map at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

Images = Sequence[Any] | np.ndarray
"""Arrays or tensors ``(H, W)``, or one of ``(n, H, W)``."""
PIXEL_METRICS = ("pixel_auroc", "aupro", "pixel_f1")
LIMIT = 0.3
"""False-positive rate up to which AUPRO integrates, as in MVTec's evaluation code."""
_TOUCHING = np.ones((3, 3), bool)
"""Neighbours of a pixel, of which diagonal ones count (8-connectivity)."""


def pixel_auroc(maps: Images, masks: Images) -> float:
    """Area under the ROC curve over the pixels of all images together.

    Args:
        maps: heat maps ``(n, H, W)``, or a list of maps ``(H, W)`` of different sizes; higher is more anomalous.
        masks: the same number and sizes, bool or 0 and 1: which pixels are defective.

    Raises:
        ValueError: numbers or sizes differ, a map is NaN, a mask holds other values, or all pixels are of one kind.

    Example:
        >>> pixel_auroc([[[0.1, 0.9], [0.2, 0.3]]], [[[0, 1], [0, 0]]])
        1.0
    """
    return _Curve.of(maps, masks).auroc()


def aupro(maps: Images, masks: Images, limit: float = LIMIT) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate, divided by this rate: 1 at best.

    The overlap is the share of a defective region that lies above the threshold, averaged over the regions of all
    images, so that a small defect counts as much as a large one. A region is a connected component of a mask; pixels
    that touch at a corner are connected. The false-positive rate is the share of all normal pixels above the threshold.

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2, and its evaluation code.

    Args:
        maps: see :func:`pixel_auroc`.
        masks: see :func:`pixel_auroc`.
        limit: largest false-positive rate, above 0 and at most 1.

    Raises:
        ValueError: as for :func:`pixel_auroc`, or ``limit`` is out of range.

    Example:
        >>> aupro([[[0.9, 0.5, 0.1, 0.0]]], [[[1, 0, 1, 0]]], limit=1.0)
        0.75
    """
    return _Curve.of(maps, masks).aupro(limit)


def pixel_f1(maps: Images, masks: Images) -> float:
    """Best F1 of the pixels of all images together, over all thresholds; arguments and errors: :func:`pixel_auroc`.

    Example:
        >>> pixel_f1([[[0.9, 0.5], [0.4, 0.1]]], [[[1, 0], [1, 0]]])
        0.8
    """
    return _Curve.of(maps, masks).f1()


def pixel_metrics(maps: Images, masks: Images, limit: float = LIMIT) -> dict[str, float]:
    """All of :data:`PIXEL_METRICS` in one pass; arguments and errors as for :func:`aupro`."""
    curve = _Curve.of(maps, masks)
    return {"pixel_auroc": curve.auroc(), "aupro": curve.aupro(limit), "pixel_f1": curve.f1()}


@dataclass(frozen=True)
class _Curve:
    """Counts at each value that a defective pixel has, from the highest down.

    Between two of these values only the false positives rise, so no other threshold is needed.

    Attributes:
        hits: defective pixels at or above each value.
        overlap: mean overlap over the regions at each value.
        above: normal pixels above each value.
        reached: normal pixels at or above each value.
        normal: number of normal pixels.
    """

    hits: np.ndarray
    overlap: np.ndarray
    above: np.ndarray
    reached: np.ndarray
    normal: int

    @classmethod
    def of(cls, maps: Images, masks: Images) -> _Curve:
        if len(maps) != len(masks):
            raise ValueError(f"expected as many masks as heat maps, saw {len(maps)} maps and {len(masks)} masks")
        values, weights, regions, total = [], [], 0, 0
        for heat, mask in _pairs(maps, masks):
            labels, n = ndimage.label(mask, _TOUCHING)
            inside = labels[mask]
            values.append(heat[mask])
            weights.append(1 / np.bincount(inside, minlength=n + 1)[inside])
            regions, total = regions + n, total + mask.size
        defective = np.concatenate(values) if values else np.zeros(0)
        if not 0 < len(defective) < total:
            raise ValueError(
                f"{len(defective)} of {total} pixels are defective in the masks: expected defective and normal ones"
            )
        distinct, places = np.unique(defective, return_inverse=True)
        hits = np.bincount(places)[::-1].cumsum()
        overlap = np.bincount(places, np.concatenate(weights) / regions)[::-1].cumsum()
        above, reached = (np.zeros(len(distinct) + 1, np.int64) for _ in range(2))
        for heat, mask in _pairs(maps, masks):
            normal = np.sort(heat[~mask])  # neighbours in order are searched for much faster
            lower = np.searchsorted(distinct, normal)  # number of distinct values below each pixel
            equal = distinct[np.minimum(lower, len(distinct) - 1)] == normal
            np.add.at(above, lower, 1)
            np.add.at(reached, lower + equal, 1)
        return cls(hits, overlap, above[:0:-1].cumsum(), reached[:0:-1].cumsum(), total - len(defective))

    def auroc(self) -> float:
        return float(((self.above + self.reached) / -2 / self.normal + 1) @ np.diff(self.hits, prepend=0)) / int(
            self.hits[-1]
        )

    def f1(self) -> float:
        return float((2 * self.hits / (self.hits + self.reached + self.hits[-1])).max())

    def aupro(self, limit: float) -> float:
        if not 0 < limit <= 1:
            raise ValueError(f"limit is {limit}; expected a false-positive rate above 0 and at most 1, such as 0.3")
        # Each value gives two points: before and after its own pixels are flagged.
        rates = np.concatenate([[0.0], np.stack([self.above, self.reached], 1).ravel() / self.normal, [1.0]])
        before = np.concatenate([[0.0], self.overlap[:-1]])
        overlaps = np.concatenate([[0.0], np.stack([before, self.overlap], 1).ravel(), [1.0]])
        n = int(np.searchsorted(rates, limit, "right"))
        area = float(np.diff(rates[:n]) @ (overlaps[1:n] + overlaps[: n - 1])) / 2
        if n < len(rates):
            share = (limit - rates[n - 1]) / (rates[n] - rates[n - 1])
            at_limit = overlaps[n - 1] + share * (overlaps[n] - overlaps[n - 1])
            area += (limit - rates[n - 1]) * (overlaps[n - 1] + at_limit) / 2
        return float(area / limit)


def _pairs(maps: Images, masks: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each heat map with its mask as bool; raises ValueError for those that don't fit."""
    for i, (one_map, one_mask) in enumerate(zip(maps, masks, strict=True)):
        heat, mask = np.asarray(one_map), np.asarray(one_mask)
        if heat.ndim != 2 or heat.shape != mask.shape:
            raise ValueError(
                f"heat map {i} has shape {heat.shape} and its mask {mask.shape}: expected one shape (H, W)"
            )
        if np.isnan(heat).any():
            raise ValueError(f"heat map {i} has {int(np.isnan(heat).sum())} pixels that are NaN: expected numbers")
        if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise ValueError(f"mask {i} holds {np.unique(mask)[:5]}: expected True and False, or 1 and 0 (mask > 0)")
        yield heat, mask.astype(bool, copy=False)

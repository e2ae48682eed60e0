from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_auroc

from metaad_zoo.evaluation.pixel_metrics import PIXEL_METRICS, aupro, pixel_auroc, pixel_f1, pixel_metrics


def drawn(seed, ties):
    """Maps and masks of different sizes, one image without a defect, and the same pixels in one row each."""
    rng = np.random.default_rng(seed)
    sizes = [(9, 12), (16, 7), (5, 5)]
    masks = [rng.random(size) < share for size, share in zip(sizes, (0.2, 0.1, 0.0), strict=True)]
    maps = [rng.normal(size=mask.shape) + mask for mask in masks]
    if ties:
        maps = [np.round(heat, 0) for heat in maps]
    return maps, masks, np.concatenate([x.ravel() for x in maps]), np.concatenate([x.ravel() for x in masks])


def aupro_by_all_thresholds(maps, masks, limit):
    """The definition: a curve over every value in any map, cut off at the limit."""
    regions = []
    for i, mask in enumerate(masks):
        labels, n = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labels == k) for k in range(1, n + 1)]
    normal = sum(int((~mask).sum()) for mask in masks)
    rates, overlaps = [0.0], [0.0]
    for level in sorted({v for heat in maps for v in heat.ravel().tolist()}, reverse=True):
        flagged = [heat >= level for heat in maps]
        rates.append(sum(int((f & ~m).sum()) for f, m in zip(flagged, masks, strict=True)) / normal)
        overlaps.append(float(np.mean([flagged[i][region].mean() for i, region in regions])))
    grid = np.unique([*[r for r in rates if r < limit], limit])
    area = 0.0
    for a, b in itertools.pairwise(grid):  # on each step the curve is a straight line
        middle = (a + b) / 2
        area += (b - a) * np.interp(middle, rates, overlaps)
    return area / limit


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_their_definitions(seed, ties):
    maps, masks, scores, labels = drawn(seed, ties)
    assert pixel_auroc(maps, masks) == pytest.approx(sk.roc_auc_score(labels, scores))
    squashed = torch.tensor(scores).sigmoid()
    assert pixel_auroc(maps, masks) == pytest.approx(float(binary_auroc(squashed, torch.tensor(labels).long())))
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    assert pixel_f1(maps, masks) == pytest.approx(np.max(2 * precision * recall / (precision + recall + 1e-30)))
    for limit in (0.05, 0.3, 1.0):
        assert aupro(maps, masks, limit) == pytest.approx(aupro_by_all_thresholds(maps, masks, limit))
    together = pixel_metrics(maps, masks)
    assert together == {
        "pixel_auroc": pixel_auroc(maps, masks),
        "aupro": aupro(maps, masks, 0.3),
        "pixel_f1": pixel_f1(maps, masks),
    }
    assert tuple(together) == PIXEL_METRICS


def test_aupro_by_hand():
    """A region of one pixel and one of four, each half of the mean; ten normal pixels, of which one scores 5."""
    mask = np.zeros((3, 5), bool)
    mask[0, 0] = mask[0, 3] = mask[1, 4] = mask[2, 3] = mask[2, 4] = True
    heat = np.zeros((3, 5))
    heat[0, 0], heat[0, 3], heat[1, 4], heat[1, 1] = 9, 8, 2, 5
    # 0.5 at once, +1/8 by the pixel with 8; after one false positive of ten +1/8; the other two pixels are 0 as the
    # remaining nine are: a straight line from (0.1, 0.75) to (1, 1).
    at_limit = 0.75 + 0.25 * 0.2 / 0.9
    assert aupro(heat[None], mask[None]) == pytest.approx((0.1 * 0.625 + 0.2 * (0.75 + at_limit) / 2) / 0.3)
    assert aupro(mask[None].astype(float), mask[None]) == pytest.approx(1)
    assert aupro(-mask[None].astype(float), mask[None]) == pytest.approx(0)


def test_corners_connect_a_region():
    """Two pixels that touch at a corner are one region: the other region of one pixel counts as much as both."""
    mask = np.zeros((1, 3, 5), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 2, 4] = True
    heat = np.zeros((1, 3, 5))
    heat[0, 0, 0], heat[0, 1, 3] = 2, 1  # half of the first region lies above all normal pixels but one
    assert aupro(heat, mask, limit=1 / 24) == pytest.approx(0.25)


def test_tensors_and_half_precision_are_read():
    maps, masks, *_ = drawn(0, ties=True)
    tensors = [torch.tensor(x) for x in maps], [torch.tensor(x).long() for x in masks]
    assert pixel_metrics(*tensors) == pixel_metrics(maps, masks)
    assert pixel_metrics([x.half() for x in tensors[0]], masks) == pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((1, 3, 3), bool), "2 maps and 1 masks"),
        (np.zeros((1, 3, 3)), np.zeros((1, 6, 6), bool), r"heat map 0 has shape \(3, 3\) and its mask \(6, 6\)"),
        (np.full((1, 2, 2), np.nan), np.eye(2, dtype=bool)[None], "4 pixels that are NaN"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), 255), r"mask 0 holds \[255\]"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool), "0 of 4 pixels are defective"),
        (np.zeros((1, 2, 2)), np.ones((1, 2, 2), bool), "4 of 4 pixels are defective"),
    ],
)
def test_what_cannot_be_measured_is_refused(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        pixel_auroc(maps, masks)


def test_a_limit_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"limit is 0\.0"):
        aupro(np.zeros((1, 2, 2)), np.eye(2, dtype=bool)[None], 0.0)

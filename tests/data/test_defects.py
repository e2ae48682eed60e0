"""Synthetic defects with masks: what every kind promises, and what each one says of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from metaad_zoo.data.synthetic import draw_defect, list_defects, register_defect
from metaad_zoo.data.synthetic.defects import STEP

KINDS = list_defects()


def pictures(case, size=(3, 40, 32)):
    generator = torch.Generator().manual_seed(0)
    if case == "noise":
        return torch.rand(size, generator=generator)
    if case == "two colours":
        return (torch.arange(size[2]) < size[2] // 2).float().expand(size).clone()
    return torch.full(size, float(case))


def drawn(kind, image, seeds=8):
    pairs = [draw_defect(image, np.random.default_rng(seed), [kind]) for seed in range(seeds)]
    return torch.stack([x for x, _ in pairs]), torch.stack([mask for _, mask in pairs])


@pytest.mark.parametrize("case", ["noise", "two colours", "0", "0.5", "1"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_every_kind(kind, case):
    """The mask is exactly the changed pixels, there are some, values stay in [0, 1], and the generator decides all."""
    image = pictures(case)
    before = image.clone()
    changed, masks = drawn(kind, image)
    assert torch.equal(image, before), "the input is changed in place"
    assert changed.shape == (8, *image.shape)
    assert changed.dtype == image.dtype
    assert masks.dtype == torch.bool
    assert torch.equal((changed != image).any(1), masks)
    assert masks.flatten(1).any(1).all()
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    difference = (changed - image).abs().amax(1)
    assert float(difference[masks].min()) >= STEP * (1 - 1e-4)
    assert all(float(d.mean(0)[m].mean()) > 0.02 for d, m in zip((changed - image).abs(), masks, strict=True))
    again, same = drawn(kind, image)
    assert torch.equal(again, changed)
    assert torch.equal(same, masks)
    assert len({m.numpy().tobytes() for m in masks}) > 5, "all defects have one shape and place"


@pytest.mark.parametrize("size", [(1, 2, 2), (1, 8, 8), (3, 16, 24), (3, 96, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_defects_of_every_size(kind, size):
    masks = drawn(kind, pictures("noise", size), 4)[1]
    shares = masks.double().mean((1, 2))
    assert float(shares.min()) > 0
    if size[1] > 8:
        assert float(shares.max()) < 0.35
        assert 0.002 < float(shares.mean()) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_and_one_channel(kind):
    image = pictures("noise", (1, 24, 24)).double()
    assert draw_defect(image, np.random.default_rng(0), [kind])[0].dtype == torch.float64


def test_kinds_are_drawn_by_name():
    image = pictures("noise")
    drawn_kinds = [draw_defect(image, np.random.default_rng(seed))[1].sum() for seed in range(30)]
    assert len(set(map(int, drawn_kinds))) > 10
    with pytest.raises(ValueError, match="unknown defect 'scrach'; did you mean 'scratch'"):
        draw_defect(image, np.random.default_rng(0), ["scrach"])
    with pytest.raises(ValueError, match="'scratch' is registered already"):
        register_defect("scratch")(lambda image, rng: (image, np.ones(image.shape[1:])))


def test_a_scratch_is_thin():
    masks = drawn("scratch", pictures("0.5", (1, 96, 96)))[1].numpy()
    for mask in masks:
        rows, columns = np.nonzero(mask)
        assert max(np.ptp(rows), np.ptp(columns)) > 15
    eroded = masks[:, 3:-3, 3:-3].copy()
    for shift in range(-3, 4):
        eroded &= np.roll(masks, shift, 1)[:, 3:-3, 3:-3] & np.roll(masks, shift, 2)[:, 3:-3, 3:-3]
    assert eroded.sum() < 0.1 * masks.sum()


def test_a_missing_part_takes_the_colour_around_it():
    image = torch.full((1, 64, 64), 0.2)
    image[:, 16:48, 16:48] = 0.9
    image[:, 28:36, 28:36] = 0.1  # the part, on a plate of 0.9
    changed, masks = drawn("missing", image, 100)
    part = torch.zeros(64, 64, dtype=torch.bool)
    part[28:36, 28:36] = True
    removed = [x[0][part & m] for x, m in zip(changed, masks, strict=True) if m[part].all() and m.sum() < 300]
    assert removed
    assert float(torch.cat(removed).min()) > 0.5


def test_a_doubled_part_shows_pixels_of_the_image():
    image = pictures("noise", (3, 64, 64))
    changed, masks = drawn("doubled", image)
    values = {tuple(v) for v in image.flatten(1).T.tolist()}
    for x, mask in zip(changed, masks, strict=True):
        assert {tuple(v) for v in x[:, mask].T.tolist()} <= values


def test_a_blur_removes_detail():
    image = pictures("noise", (1, 96, 96))
    changed, masks = drawn("blur", image, 10)
    for x, mask in zip(changed, masks, strict=True):
        inside = binary_fill_holes(mask.numpy())
        assert x[0][torch.as_tensor(inside)].std() < 0.5 * image[0][torch.as_tensor(inside)].std()


def test_a_stain_is_one_spot_of_one_colour():
    changed, masks = drawn("stain", pictures("0.5", (3, 96, 96)))
    for x, mask in zip(changed, masks, strict=True):
        assert label(mask)[1] == 1
        shift = (x - 0.5)[:, mask]
        _, sizes, _ = torch.linalg.svd(shift, full_matrices=False)
        assert sizes[1] < 1e-3 * sizes[0], "its pixels differ in strength only"


def test_a_dent_has_a_light_and_a_dark_side():
    changed, _ = drawn("dent", pictures("0.5", (1, 96, 96)))
    assert float((changed - 0.5).amax((1, 2, 3)).min()) > 0.05
    assert float((changed - 0.5).amin((1, 2, 3)).max()) < -0.05


def test_texture_covers_irregular_regions():
    image = torch.as_tensor(gaussian_filter(pictures("noise", (1, 96, 96)).numpy(), (0, 1, 1)))
    masks = drawn("texture", image)[1]
    filled = [m.sum() / (np.ptp(np.nonzero(m)[0]) + 1) / (np.ptp(np.nonzero(m)[1]) + 1) for m in masks.numpy()]
    assert np.median(filled) < 0.5, "the regions fill the rectangle around them"

"""Masks of defects: MVTec AD's and VisA's layouts, npz, and their way into episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from metaad_zoo.data import ImageEpisodes, RandomCamera
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.image_folders import select_classes, select_for_scoring, select_support
from metaad_zoo.data.read.images import read_folder, read_npz
from metaad_zoo.data.read.masks import resize_masks
from metaad_zoo.episodes import EpisodeSpec
from tests.inspected import LAYOUTS, category


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_defect_has_its_mask_at_the_size_of_the_images(tmp_path, layout):
    root = category(tmp_path / "bolt", layout)
    selection = select_classes(root, Account())
    assert [mask is not None for mask in selection.masks] == selection.anomalous.tolist()
    images = read_folder(root, channels=1)
    assert images.anomalous.sum() == 4
    assert len(images.images) == 12
    assert torch.equal(images.masks, (images.images[:, 0] == 255) & torch.as_tensor(images.anomalous)[:, None, None])
    half = images.converted(10, 1)
    assert half.masks.shape == (12, 10, 10)
    assert half.masks[-1].any()
    assert not list(images.account)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_a_support_and_what_is_scored(tmp_path, layout):
    root = category(tmp_path / "bolt", layout)
    train, good, hole, *_ = LAYOUTS[layout]
    support, scored = select_support(root, Account()), select_for_scoring(root, Account())
    assert {str(file.parent.relative_to(root)) for file in support.files} == {train}
    assert {str(file.parent.relative_to(root)) for file in scored.files} == {good, hole}
    with pytest.raises(ValueError, match=r"holds the categories \['bolt'\] of an inspection set: give one of them"):
        select_for_scoring(tmp_path, Account())


def test_missing_masks_and_masks_without_an_image_are_told(tmp_path):
    root = category(tmp_path / "bolt")
    (root / "ground_truth/hole/1_mask.png").rename(root / "ground_truth/hole/99_mask.png")
    account = Account()
    assert sum(mask is not None for mask in select_classes(root, account).masks) == 3
    assert [(entry["reason"], entry["subjects"]) for entry in account.as_json()] == [
        ("no mask, so that pixel metrics can't judge these defects", ["test/hole/1.png"]),
        ("masks without an image of this name", ["ground_truth/hole"]),
    ]
    for path in (root / "ground_truth/hole").iterdir():
        path.unlink()
    account = Account()
    assert select_classes(root, account).masks == []
    assert not list(account), "a set without masks is complete"


def test_masks_are_resized_by_the_nearest_pixel_as_the_images_are():
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 10:20, 30:50] = True
    expected = Image.fromarray(mask[0].numpy()).resize((30, 20), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_masks(mask, (20, 30))[0].numpy(), np.array(expected))
    padded = resize_masks(mask, (30, 30), "pad")[0]
    np.testing.assert_array_equal(padded[5:25].numpy(), np.array(expected))
    assert not padded[:5].any()
    assert not padded[25:].any()


def test_masks_of_an_archive(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (6, 8, 8), np.uint8), np.array([0, 1, 0, 1, 0, 1])
    masks = np.zeros((6, 8, 8), np.uint8)
    masks[[1, 3], :4] = 1
    arrays = {"x": x, "y": y, "t": np.zeros(6, int), "names": ["bolt"]}
    np.savez(tmp_path / "a.npz", **arrays, masks=masks)
    images = read_npz(tmp_path / "a.npz")
    assert torch.equal(images.masks, torch.as_tensor(masks) > 0)
    assert [(entry["reason"], entry["subjects"]) for entry in images.account.as_json()] == [
        ("no mask, so that pixel metrics can't judge these defects", ["6"])
    ]
    assert read_npz(tmp_path / "a.npz", image_size=4).masks.shape == (6, 4, 4)
    for wrong in (masks[:5], masks.astype(float)):
        np.savez(tmp_path / "b.npz", **arrays, masks=wrong)
        with pytest.raises(ValueError, match=r"b\.npz: expected 'masks' as whole numbers or bool of shape \(6, 8, 8\)"):
            read_npz(tmp_path / "b.npz")


def test_an_episode_has_the_masks_of_its_query(tmp_path):
    for name in ("bolt", "nut", "screw"):
        category(tmp_path / name)
    spec = EpisodeSpec(2, query_normal=3, query_anomalous=3)
    options = {"splits": {"test": ["*"]}, "image_size": 16, "channels": 1, "episode": spec}
    data = ImageEpisodes("own", str(tmp_path), **options)
    for episode in data.episodes("test", 3):
        masks = data.query_masks(episode)
        assert masks.shape == (6, 16, 16)
        assert torch.equal(masks.flatten(1).any(1), episode.query_labels == 1)
        inside = episode.query["image"][:, 0][masks]
        assert inside.mean() > 0.7 > 0.3 > episode.query["image"][:, 0][~masks].mean()
    moved = ImageEpisodes("own", str(tmp_path), camera=RandomCamera(), **options)
    assert moved.query_masks(next(moved.episodes("test", 1))) is None

"""Region of interest: what lies outside changes neither the memory nor a score, and maps are 0 there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from metaad_zoo.cli.command_line import main
from metaad_zoo.data.read.region import read_region
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.export import export_detector, load_exported
from metaad_zoo.learners import PatchMemory, learner_class
from metaad_zoo.learners.patches import nearest
from metaad_zoo.zoo import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tests.conftest import small_learner

SIZE = 64
LEFT = np.zeros((SIZE, SIZE), bool)
LEFT[:, :32] = True


def memory(**settings):
    torch.manual_seed(0)
    return PatchMemory(backbone="timm/test_efficientnet", input_shapes={"image": (3, SIZE, SIZE)}, **settings).eval()


def detector(**settings):
    return Detector(Checkpoint(memory(**settings), [], {"calibration": torch.linspace(0.1, 2, 19)}, aspect="keep"))


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(60, 120, (6, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("settings", [{}, {"score_unit": "support"}, {"turns": True}, {"top": 0.0}], ids=str)
def test_scores_are_those_of_the_patches_inside(pictures, settings):
    """Against the same features cut by hand: columns of patches whose pixels lie in the left half."""
    whole, learner = memory(**settings), memory(**settings)
    inside = learner.within(torch.as_tensor(LEFT))
    assert learner.region is None, "the learner itself stays as it is"
    images = torch.as_tensor(pictures).movedim(-1, 1).float() / 255
    support, query, labels = {"image": images[:4]}, {"image": images[4:]}, torch.zeros(4, dtype=torch.int64)
    adapted = inside.adapt(support, labels)
    turns = range(4 if settings.get("turns") else 1)
    turned = [whole.patches(support["image"].rot90(k, (2, 3)), support).rot90(-k, (1, 2)) for k in turns]
    width = turned[0].shape[2]
    by_hand = torch.cat([x[:, :, : width // 2].flatten(0, 2) for x in turned])
    assert sorted(map(tuple, adapted.memory.tolist())) == sorted(map(tuple, by_hand.tolist()))
    patches = whole.patches(query["image"], support)[:, :, : width // 2].flatten(1, 2)
    flat = patches.flatten(0, 1)
    distances = (nearest(flat, adapted.memory)[0] * adapted.subspace.residual(flat)).sqrt().view(2, -1)
    if settings.get("top") != 0.0 and "score_unit" not in settings:
        share = max(1, round(learner.top * distances.shape[1]))
        torch.testing.assert_close(adapted.score(query), distances.topk(share, 1).values.mean(1))


def test_maps_are_0_outside(pictures):
    fitted = detector().fit(pictures[:4], roi=LEFT)
    maps = fitted.explain(pictures[4:], "patches").sum(1)
    assert (maps[:, :, 32:] == 0).all()
    assert (maps[:, :, :32] != 0).mean() > 0.9
    adapted = (
        memory()
        .within(torch.as_tensor(LEFT))
        .adapt({"image": torch.as_tensor(pictures[:4]).movedim(-1, 1).float() / 255}, torch.zeros(4, dtype=torch.int64))
    )
    far = torch.as_tensor(pictures[4:]).movedim(-1, 1).float() / 255
    whole = memory().adapt(adapted.support, torch.zeros(4, dtype=torch.int64)).heat_map({"image": far})
    heat = adapted.heat_map({"image": far})
    torch.testing.assert_close(heat[:, :, :16], whole[:, :, :16], rtol=0.5, atol=0.1)
    assert (heat[:, :, 32:] == 0).all()
    assert (whole[:, :, 32:] > 0).all()


@pytest.mark.parametrize("name", ["patch_memory", "patch_change", "patch_metric"])
def test_all_learners_of_patches_leave_the_rest_out(pictures, name):
    learner = learner_class(name)(backbone="timm/test_efficientnet", input_shapes={"image": (3, SIZE, SIZE)}).eval()
    images = torch.as_tensor(pictures).movedim(-1, 1).float() / 255
    adapted = learner.within(torch.as_tensor(LEFT)).adapt({"image": images[:4]}, torch.zeros(4, dtype=torch.int64))
    query = adapted.units({"image": images[4:]})
    maps = adapted.heat_map(query)
    assert (maps[:, :, 32:] == 0).all()
    assert (maps[:, :, :32] != 0).any()
    patches = adapted.learner.patches(query["image"], adapted.support)
    assert adapted.learner.inside(patches).shape[1] == patches.shape[1] * patches.shape[2] // 2
    assert adapted.score({"image": images[4:]}).isfinite().all()


def test_a_region_smaller_than_a_patch_keeps_the_patches_that_it_touches():
    learner = memory()
    region = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    region[30:33, 40] = True
    touched = learner.within(region).patches_inside((8, 8)).nonzero().tolist()
    assert touched == [[3, 5], [4, 5]]


def test_a_region_is_kept_with_the_detector(pictures, tmp_path):
    fitted = detector(score_unit="support").fit(pictures[:4], roi=LEFT)
    fitted.save(tmp_path / "saved")
    loaded = load_detector(tmp_path / "saved")
    assert torch.equal(loaded.region, torch.as_tensor(LEFT))
    assert np.array_equal(loaded.score(pictures), fitted.score(pictures))
    within = fitted.p_value(pictures[4:], "within")
    assert np.array_equal(loaded.p_value(pictures[4:], "within"), within)
    assert loaded.fit(pictures[:4]).region is None, "a new support has a new region"


def test_an_exported_graph_reads_the_region_alone(pictures, tmp_path):
    learner = PatchMemory(backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": (3, SIZE, SIZE)})
    fitted = Detector(Checkpoint(learner.eval(), [], {})).fit(pictures[:4], roi=LEFT)
    export_detector(fitted, tmp_path / "graph.pt2", alpha=None)
    images = np.moveaxis(pictures, -1, 1).astype(np.float32) / 255
    scores = load_exported(tmp_path / "graph.pt2")[0]({"image": images})["score"]
    np.testing.assert_allclose(scores, fitted.score(pictures), rtol=1e-4, atol=1e-4)


def test_regions_of_pictures_that_are_not_square(tmp_path, pictures):
    wide = np.tile(pictures, (1, 1, 2, 1))
    region = np.zeros((SIZE, 2 * SIZE), np.uint8)
    region[:, :SIZE] = 255
    fitted = detector(score_unit="support").fit(wide[:4], roi=region)
    height, width = fitted.input_shapes["image"][1:]
    assert fitted.region.float().mean(0).tolist() == [1.0] * (width // 2) + [0.0] * (width // 2)
    assert fitted.explain(wide[4:]).shape == (2, 3, height, width)
    one = detector(score_unit="support").fit(wide[:1], roi=region)  # compared with its turned copies
    assert np.isfinite(one.score(wide[4:])).all()


@pytest.mark.parametrize("kind", ["png", "jpg", "bool", "floats", "tensor"])
def test_forms_of_a_region(tmp_path, kind):
    grey = LEFT.astype(np.uint8) * 255
    sources = {"bool": LEFT, "floats": LEFT.astype(float), "tensor": torch.as_tensor(LEFT)}
    if kind in ("png", "jpg"):
        Image.fromarray(np.repeat(np.repeat(grey, 2, 0), 2, 1)).save(tmp_path / f"a.{kind}")
    source = sources.get(kind, tmp_path / f"a.{kind}")
    assert torch.equal(read_region(source, (SIZE, SIZE)), torch.as_tensor(LEFT))


class TestErrors:
    @pytest.mark.parametrize(
        ("region", "complaint"),
        [
            (np.zeros((SIZE, SIZE), np.uint8), "roi has no white pixel .128 of 255 or brighter.*paint the region"),
            (np.ones((SIZE, SIZE), np.uint8), "roi has no white pixel"),  # 1 of 255
            (np.ones((SIZE, 2 * SIZE), bool), r"roi has 128 x 64 pixels, a ratio of 2\.00 .* images is 1\.00: draw"),
            (np.ones((3, SIZE, SIZE), bool), r"an array \(H, W\), saw an array of shape \(3, 64, 64\)"),
            ("nowhere.png", r"nowhere\.png does not exist: expected an image, white in the region"),
        ],
    )
    def test_regions_that_can_not_be_used(self, pictures, region, complaint):
        model = detector()
        with pytest.raises(ValueError, match=complaint):
            model.fit(pictures[:3], roi=region)
        assert not model.is_fitted

    def test_a_learner_of_whole_images(self, pictures):
        learner = small_learner()
        _, size, _ = learner.arguments()["input_shapes"]["image"]
        model = Detector(Checkpoint(learner.eval(), [], {}))
        with pytest.raises(ValueError, match=r"scores whole images: a region of interest .* such as patch_memory"):
            model.fit(np.zeros((3, size, size), np.uint8), roi=np.ones((size, size), bool))
        assert not model.is_fitted

    def test_a_damaged_region(self, pictures, tmp_path):
        detector().fit(pictures[:3], roi=LEFT).save(tmp_path / "saved")
        checkpoint = load_checkpoint(tmp_path / "saved")
        for region in (
            torch.zeros(SIZE, SIZE, dtype=torch.bool),
            torch.ones(8, 8, dtype=torch.bool),
            torch.ones(SIZE, SIZE),
        ):
            checkpoint.tensors["support_roi"] = region
            save_checkpoint(tmp_path / "forged", checkpoint)
            with pytest.raises(CheckpointError, match="a support set that does not fit its model: support_roi is"):
                load_detector(tmp_path / "forged")


def test_adapt_takes_a_region(pictures, tmp_path, capsys):
    for i, picture in enumerate(pictures):
        folder = tmp_path / ("good" if i < 4 else "new")
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i}.png")
    Image.fromarray(LEFT.astype(np.uint8) * 255).save(tmp_path / "roi.png")
    save_checkpoint(tmp_path / "model", detector()._checkpoint)
    command = ["adapt", str(tmp_path / "model"), "--support", str(tmp_path / "good"), "--out", str(tmp_path / "mine")]
    assert main([*command, "--roi", str(tmp_path / "roi.png"), "--json"]) in (0, None)
    output = capsys.readouterr()
    assert json.loads(output.out)["region_of_interest"] == 0.5
    assert "region of interest: 50% of each image" in " ".join(output.err.split())
    expected = detector().fit(pictures[:4], roi=LEFT).score(pictures[4:])
    np.testing.assert_allclose(load_detector(tmp_path / "mine").score(tmp_path / "new"), expected)

"""Heat maps over photographs: a stain on noise is where the box is, at the picture's own size."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from metaad_zoo.cli import main
from metaad_zoo.data.read.pixels import at_own_size, resize
from metaad_zoo.detector import load_detector
from metaad_zoo.explain import Region, find_regions, heat_maps, overlay, region_level
from metaad_zoo.explain.overlay import EDGE, TOP, top_mean
from metaad_zoo.learners import PatchMemory
from metaad_zoo.learners.patches import to_pixels
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.inspected import category

SIZE = (60, 90)
STAIN = (slice(30, 45), slice(50, 70))


def memory(**settings) -> PatchMemory:
    torch.manual_seed(0)
    return PatchMemory(
        backbone="conv4", backbone_options={"width": 8}, input_shapes={"image": [1, 64, 64]}, layers=[1], **settings
    )


def picture(seed, stained=False):
    pixels = np.random.default_rng(seed).integers(60, 140, SIZE, np.uint8)
    if stained:
        pixels[STAIN] = 250
    return pixels


@pytest.fixture(params=["squash", "pad"])
def folder(request, tmp_path):
    """A detector of noise that is adapted to 12 pictures, and six more, of which 2 and 4 have a stain."""
    (tmp_path / "data").mkdir()
    for i in range(6):
        Image.fromarray(picture(100 + i, i in (2, 4))).save(tmp_path / "data" / f"{i}.png")
    save_checkpoint(tmp_path / "model", Checkpoint(memory(), [], {}, aspect=request.param))
    support = np.stack([picture(i) for i in range(12)])
    load_detector(tmp_path / "model").fit(support).save(tmp_path / "mine")
    return tmp_path


def explain(folder, *options, data="data", rc=0):
    shutil.rmtree(folder / "out", ignore_errors=True)
    arguments = ["explain", str(folder / "mine"), "--data", str(folder / data), "--out", str(folder / "out")]
    assert main([*arguments, "--calibrate", "within", *options]) == rc
    with (folder / "out" / "boxes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def hits(row):
    """Whether a box holds the stain and is not much larger."""
    x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
    box = np.zeros(SIZE, bool)
    box[y0:y1, x0:x1] = True
    stain = np.zeros(SIZE, bool)
    stain[STAIN] = True
    return (box & stain).sum() == stain.sum() > 0.15 * box.sum()


def test_the_box_hits_the_stain_at_the_pictures_own_size(folder, capsys):
    rows = explain(folder)
    assert {row["sample"].rsplit("/")[-1] for row in rows} == {f"{i}.png" for i in range(6)}
    detector = load_detector(folder / "mine")
    files = [str(folder / "data" / f"{i}.png") for i in range(6)]
    scores, p, decisions = detector.judge(files, calibrate="within")
    by_file = {row["sample"]: row for row in reversed(rows)}  # of several boxes the highest peak
    for file, *judged in zip(files, scores, p, decisions, strict=True):
        row = by_file[file]
        np.testing.assert_allclose([float(row[k]) for k in ("score", "p_value", "anomaly")], judged, rtol=1e-5)
        drawn = np.array(Image.open(folder / "out" / row["picture"]))
        assert drawn.shape == (*SIZE, 3)
        assert bool(row["x0"]) == bool(judged[2]), "a box where, and only where, a picture is called anomalous"
        assert (drawn == EDGE).all(2).any() == bool(judged[2])
    assert decisions[[2, 4]].tolist() == [1, 1]
    assert all(hits(by_file[files[i]]) for i in (2, 4))
    limit = detector.threshold(calibrate="within")
    for file, decision, (photograph, heat) in zip(files, decisions, heat_maps(detector, files), strict=True):
        assert np.array_equal(photograph[..., 0], np.array(Image.open(file)))
        if decision:
            expected = overlay(photograph, heat, region_level(heat, limit))
            np.testing.assert_array_equal(np.array(Image.open(folder / "out" / by_file[file]["picture"])), expected)
    with np.load(folder / "out" / "explanations.npz", allow_pickle=False) as archive:
        assert archive["sample"].tolist() == files
        np.testing.assert_allclose(archive["attribution/image"], detector.explain(files), atol=1e-5)
    assert "6 pictures, explanations.npz and boxes.csv" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["squash"], indirect=True)
def test_only_the_anomalous_or_the_highest_are_explained(folder, capsys):
    rows = explain(folder, "--only-anomalous", "--alpha", "0.08", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert {row["sample"].rsplit("/")[-1] for row in rows} == {"2.png", "4.png"}
    assert (figures["samples"], figures["anomalous"], figures["pictures"]) == (6, 2, 2)
    assert figures["boxes"] == len(rows)
    detector = load_detector(folder / "mine")
    assert figures["threshold"] == pytest.approx(detector.threshold(0.08, "within"))
    highest = sorted(detector.score(folder / "data"), reverse=True)[:3]
    rows = {row["picture"]: float(row["score"]) for row in explain(folder, "--top", "3")}
    assert sorted(rows) == list(rows)
    np.testing.assert_allclose(list(rows.values()), highest, rtol=1e-5)
    with np.load(folder / "out" / "explanations.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["score"], highest, rtol=1e-5)
    for i in (2, 4):
        (folder / "data" / f"{i}.png").unlink()
    assert explain(folder, "--only-anomalous", "--alpha", "0.08") == []
    with np.load(folder / "out" / "explanations.npz", allow_pickle=False) as archive:
        assert archive["sample"].shape == archive["score"].shape == (0,)


@pytest.mark.parametrize("folder", ["squash"], indirect=True)
def test_explain_takes_what_score_takes(folder, capsys):
    """A category in the MVTec layout: its tests, no masks; damaged files leave no picture; npz and own sizes."""
    category(folder / "bolt", n=3)
    (folder / "bolt" / "test" / "hole" / "broken.png").write_bytes(b"no image")
    rows = explain(folder, data="bolt", rc=3)
    names = {row["sample"].removeprefix(f"{folder}/bolt/") for row in rows}
    assert names == {f"test/good/{i}.png" for i in (3, 4, 5)} | {f"test/hole/{i}.png" for i in range(3)}
    assert "1 of 7 samples can't be read: they are not explained" in capsys.readouterr().err
    np.savez(folder / "x.npz", x=np.stack([picture(7), picture(8, True)]))
    rows = explain(folder, "--only-anomalous", data="x.npz")
    assert {row["sample"] for row in rows} == {"2"}
    assert hits(rows[0])


@pytest.mark.parametrize("folder", ["squash"], indirect=True)
def test_without_calibration_regions_are_decided_within_the_support(folder, capsys):
    arguments = ["explain", str(folder / "mine"), "--data", str(folder / "data"), "--out", str(folder / "out")]
    assert main(arguments) == 0
    assert "decisions compare with leave-one-out scores of the support set" in capsys.readouterr().err
    with (folder / "out" / "boxes.csv").open(newline="") as file:
        assert all(row["p_value"] and row["anomaly"] in ("0", "1") for row in csv.DictReader(file))
    assert main([*arguments, "--calibrate", "across"]) == 1
    assert "this checkpoint has no calibration" in capsys.readouterr().err
    assert main([*arguments, "--top", "0"]) == 1
    assert "top is 0" in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["feature", "support"])
def test_the_maps_top_explains_the_score(unit):
    """A score is the mean of the highest 1 % of the patches' distances; the map shows these distances, smoothed."""
    images = resize(torch.stack([torch.tensor(picture(i, i > 3)) for i in range(6)])[:, None], 64, 64).float() / 255
    learner, samples = memory(score_unit=unit), {"image": images[3:]}
    adapted = learner.adapt({"image": images[:3]}, torch.zeros(3))
    scores, maps = adapted.score(samples), adapted.heat_map(adapted.units(samples))
    patches = learner.patches(adapted.units(samples)["image"], adapted.support)
    exactly = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(patches.flatten(1, 2), adapted.memory, compute_mode=exactly).amin(2)
    distances *= adapted.subspace.residual(patches.flatten(0, 2)).view_as(distances)
    distances = distances.sqrt() / adapted.unit
    share = max(1, round(TOP * distances.shape[1]))
    torch.testing.assert_close(scores, distances.topk(share).values.mean(1), rtol=1e-3, atol=1e-4)
    expected = to_pixels(distances.view(patches.shape[:3]), (64, 64))
    torch.testing.assert_close(maps, expected, rtol=0, atol=0.02 * float(maps.max()))
    tops = [top_mean(heat.numpy()) for heat in maps]
    assert np.argsort(tops).tolist() == np.argsort(scores.numpy()).tolist()
    np.testing.assert_allclose(tops[1:], scores[1:], rtol=0.1)
    for heat, score in zip(maps, scores.tolist(), strict=True):
        for limit in (0.5 * score, 0.999 * score):
            assert find_regions(heat.numpy(), region_level(heat.numpy(), limit)), "a flagged image has a region"


def test_regions_are_scipys_components():
    heat = np.random.default_rng(0).random((30, 40))
    labels, n = ndimage.label(heat > 0.8, np.ones((3, 3)))
    regions = find_regions(heat, 0.8)
    assert len(regions) == n
    for region in regions:
        inside = labels[region.y0 : region.y1, region.x0 : region.x1]
        assert any(heat[labels == k].max() == region.peak for k in np.unique(inside[inside > 0]))
    assert [r.peak for r in regions] == sorted((r.peak for r in regions), reverse=True)
    corners = np.eye(2)
    assert find_regions(corners, 0.5) == [Region(0, 0, 2, 2, 1.0)], "pixels that touch at a corner are one region"


def test_a_map_goes_back_to_where_the_picture_was():
    image = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    image[..., 10:20, 30:50] = 255
    for aspect in ("squash", "pad"):
        small = resize(image, 64, 64, aspect).float()[:, 0]
        back = at_own_size(small, 40, 80, aspect)
        assert back.shape == (1, 40, 80)
        assert ((back > 127) == (image[:, 0] > 0)).float().mean() > 0.99


def test_an_overlay_keeps_the_photograph_where_nothing_is_strange():
    photograph = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    heat = np.zeros((50, 70))
    heat[20:30, 30:40] = 5
    drawn = overlay(photograph, heat, 1.0)
    np.testing.assert_array_equal(drawn[:15], photograph[:15])
    assert (drawn[20, 30:40] == EDGE).all(), "the contour is the region's edge"
    assert drawn[25, 35, 0] > 150
    calm = overlay(photograph, heat / 5, 4.0)
    assert np.abs(calm.astype(int) - photograph).max() <= 0.16 * 255, "the heat is measured by the threshold"
    for wrong, message in [
        ((photograph, heat[:40]), r"image's size \(50, 70\), saw shape \(40, 70\)"),
        ((photograph.astype(int), heat), "uint8 or of floats"),
    ]:
        with pytest.raises(ValueError, match=message):
            overlay(*wrong)

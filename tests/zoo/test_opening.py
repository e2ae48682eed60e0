"""The published patch memory, and one of any timm backbone by one option."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image

import metaad_zoo as mz
from metaad_zoo.backbones.efficientnet_lite import DISTRIBUTION, SHA256
from metaad_zoo.cli import main
from metaad_zoo.learners import PatchMemory
from metaad_zoo.zoo import open_checkpoint, published_of
from metaad_zoo.zoo.lookup import REPLACED
from tests.conftest import REPOSITORY


@pytest.fixture
def wheel():
    try:
        distribution(DISTRIBUTION)
    except PackageNotFoundError:
        pytest.skip(f"needs the package {DISTRIBUTION}")


@pytest.fixture
def weights(tmp_path):
    save_file(timm.create_model("test_vit3").state_dict(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "good" / f"{i}.png")
    return tmp_path / "good"


def test_a_memory_on_a_local_file_of_weights_by_one_command(weights, pictures, tmp_path, capsys):
    out = tmp_path / "detector"
    line = ["adapt", "patch_memory", "--backbone", "timm/test_vit3", "--weights", str(weights), "--image-size", "64"]
    assert main([*line, "--support", str(pictures), "--out", str(out)]) == 0
    assert "not calibrated on other domains" in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["arguments"]["backbone"] == "timm/test_vit3"
    assert manifest["pretrained"]["network.backbone"]["name"] == weights.name
    weights.unlink()  # the detector holds them
    detector = mz.load_detector(out)
    assert detector.input_shapes == {"image": [3, 64, 64]}
    assert detector.score(pictures).max() < 0.05
    assert detector.score(np.zeros((2, 64, 64, 3))).min() > detector.score(pictures).max()


def test_a_size_that_cuts_patches_and_other_misfits_are_refused(weights, tmp_path):
    with pytest.raises(ValueError, match=r"patches of 16 x 16 pixels; 72 is no multiple of 16: .* of 64 or 80"):
        open_checkpoint("patch_memory", weights, "timm/test_vit3", 72)
    with pytest.raises(ValueError, match=r"backbone \(--backbone\) is 'conv4', expected timm/<model>"):
        open_checkpoint("patch_memory", backbone="conv4")
    with pytest.raises(
        ValueError, match=r"has its own backbone .* learners .*\(patch_memory\) .*: leave out image_size"
    ):
        open_checkpoint("image-conv4-protonet-omniglot", image_size=64)
    with pytest.raises(ValueError, match="maml is no checkpoint"):
        open_checkpoint("maml")
    assert published_of("maml") == "maml"


@pytest.mark.parametrize("name", REPLACED)
def test_a_name_that_was_published_before_names_its_successor(name, tmp_path, capsys):
    (successor,) = (known for known in mz.list_checkpoints() if f" {known} " in f" {REPLACED[name]}")
    with pytest.raises(mz.CheckpointError, match=f"{name} is no longer published: {successor} replaces it"):
        mz.load_detector(name)
    table = tmp_path / "t.csv"
    table.write_text("a,b\n1,2\n2,3\n3,5\n")
    for line in (
        ["info", name],
        ["adapt", name, "--support", str(table), "--out", str(tmp_path / "out")],
        ["evaluate", name, "--data", str(table), "--out", str(tmp_path / "out")],
    ):
        assert main(line) == 1
        assert f"is no longer published: {successor} replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "size", "grid"),
    [
        ("vit_small_patch14_dinov2", 56, 4),
        ("vit_small_patch14_reg4_dinov2", 56, 4),
        ("vit_small_patch16_dinov3", 64, 4),
    ],
)
def test_maps_of_a_transformer_hold_its_patches_alone(model, size, grid):
    """Neither the class token nor registers: each position of a map is one patch."""
    options = {"pretrained": False, "frozen": True}
    shapes = {"image": (3, size, size)}
    learner = PatchMemory(backbone=f"timm/{model}", backbone_options=options, input_shapes=shapes, turns=False)
    backbone, images = learner.network.backbone, torch.rand(2, 3, size, size)
    needed, backbone.last_map = backbone.feature_maps(images), None
    maps = backbone.feature_maps(images)
    assert len(needed) == learner.layers[-1] + 1
    assert all(torch.equal(x, y) for x, y in zip(needed, maps, strict=False))
    assert {tuple(x.shape) for x in maps} == {(2, 384, grid, grid)}
    assert len(maps) == 12
    body, taken = backbone.body, {}
    body.blocks[learner.layers[0]].register_forward_hook(lambda *parts: taken.update(tokens=parts[-1]))
    body.forward_features((images - backbone.mean) / backbone.std)
    tokens = taken["tokens"][:, body.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).reshape(2, 384, grid, grid)
    torch.testing.assert_close(maps[learner.layers[0]], expected)
    adapted = learner.adapt({"image": images}, torch.zeros(2))
    assert adapted.memory.shape == (2 * grid**2, 2 * 384)
    with pytest.raises(ValueError, match=f"no multiple of {size // grid}"):
        PatchMemory(backbone=f"timm/{model}", backbone_options=options, input_shapes={"image": (3, 60, 60)})


def test_adapting_and_scoring_import_no_lightning(weights, pictures, tmp_path):
    """Lightning alone takes seconds to import, and serves training only."""
    line = f"""
import sys, metaad_zoo as mz
options = {{"weights": {str(weights)!r}, "backbone": "timm/test_vit3", "image_size": 64}}
detector = mz.load_detector("patch_memory", **options).fit({str(pictures)!r})
detector.predict({str(pictures)!r}, alpha=0.3, calibrate="within")
print([name for name in sys.modules if name.split(".")[0] in ("lightning", "pytorch_lightning", "torchmetrics")])
"""
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.usefixtures("wheel")
def test_the_published_memory_needs_one_picture():
    """It is what its learner's name stands for; its folder holds settings and calibration, and its card the origin."""
    name = published_of("patch_memory")
    folder = REPOSITORY / "checkpoints" / name
    assert not [tensor for tensor in load_file(folder / "model.safetensors") if tensor.startswith("learner/")]
    card = (folder / "README.md").read_text()
    for words in (f"sha256 {SHA256}", DISTRIBUTION, "not stored here", "pip install 'metaad_zoo[pretrained]'"):
        assert words in card
    detector = mz.load_detector("patch_memory")
    assert repr(detector) == repr(mz.load_detector(name))
    assert detector.calibrated_for[:2] == [1, 2]
    photo = load_sample_image("china.jpg")[:224, :224]
    broken = photo.copy()
    broken[60:110, 60:110] = load_sample_image("flower.jpg")[200:250, 300:350]
    detector.fit(photo[None])
    assert "its images are also stored rotated" in list(detector.account)[-1]
    assert detector.score(broken[None])[0] > detector.score(photo[None])[0]
    assert 0 < detector.p_value(photo[None])[0] <= 1


@pytest.mark.usefixtures("wheel")
def test_a_changed_manifest_of_origins_is_refused(tmp_path):
    """Another sha256 than that of the installed package's file."""
    shutil.copytree(REPOSITORY / "checkpoints" / published_of("patch_memory"), tmp_path / "c")
    text = (tmp_path / "c" / "manifest.json").read_text()
    (tmp_path / "c" / "manifest.json").write_text(text.replace(SHA256, "0" * 64))
    with pytest.raises(mz.CheckpointError, match=rf"has sha256 {SHA256}, .* says 0{{64}}: .* other weights"):
        mz.load_detector(tmp_path / "c")

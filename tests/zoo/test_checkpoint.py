"""A checkpoint comes back as it was, and every way of damaging or forging one ends in a named error."""

from __future__ import annotations

import hashlib
import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from metaad_zoo.learners import PatchMemory, learner_class, list_learners
from metaad_zoo.zoo import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tests.conftest import small_learner
from tests.tiny import GRADIENT_LEARNERS, tiny_embedding_learner, tiny_learner


@pytest.fixture
def folder(tmp_path):
    learner = small_learner(learn_lr="parameter")
    save_checkpoint(tmp_path / "c", Checkpoint(learner, ["digits/0"], {"calibration": torch.arange(5.0)}, "a: 1\n"))
    return tmp_path / "c"


def edit(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def forge(folder, content):
    """Replace the weights and make the hash agree, as a forger would."""
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, sha256={"model.safetensors": hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize("name", list_learners())
def test_comes_back_as_it_was(name, tmp_path):
    settings = {"momentum": 0.5, "engine": "vectorized", "tasks_at_once": 2}
    if name == "maml":
        settings |= {"learn_lr": "parameter_and_step", "adapt": ("head.*",)}
    if name in GRADIENT_LEARNERS:
        learner = tiny_learner(name, "conv4", **settings)
    elif issubclass(learner_class(name), PatchMemory):
        learner = learner_class(name)(backbone="conv4", input_shapes={"image": (1, 16, 16)}, layers=[2], turns=True)
    else:
        learner = tiny_embedding_learner(name, "conv4")
    assert learner.registered_name == name
    save_checkpoint(tmp_path, Checkpoint(learner, ["a"], {"calibration": torch.rand(3)}))
    again = load_checkpoint(tmp_path)
    assert again.learner.arguments() == learner.arguments()
    for key, x in learner.state_dict().items():
        assert torch.equal(again.learner.state_dict()[key], x)
    assert again.trained_on == ["a"]
    assert not again.learner.training


def test_holds_just_the_named_files(folder):
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "manifest.json", "config.yaml"}


@pytest.mark.parametrize("place", [0.0, 0.01, 0.3, 0.6, 0.999])
def test_a_flipped_byte(folder, place):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has sha256 .*, its manifest says"):
        load_checkpoint(folder)


def test_a_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="sha256"):
        load_checkpoint(folder)


class Malice:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled!')",))


@pytest.mark.parametrize("content", [pickle.dumps(Malice()), b"", b"\xff" * 64, (2**60).to_bytes(8, "little") + b"{}"])
def test_a_pickle_or_rubbish_with_a_matching_hash(folder, content):
    forge(folder, content)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        load_checkpoint(folder)


def test_weights_of_another_shape_or_name(folder, tmp_path):
    for tensors in ({"learner/network.head.weight": torch.zeros(1, 9)}, {"learner/other": torch.zeros(1)}):
        save_file(tensors, tmp_path / "w")
        forge(folder, (tmp_path / "w").read_bytes())
        with pytest.raises(CheckpointError, match="do not fit the learner"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 99}, r"format 99.*pip install -U"),
        ({"format": None}, "names no format"),
        ({"format": "1"}, "names no format"),
        ({"format": -3}, "names format -3"),
        ({"learner": None}, "learner missing"),
        ({"learner": "os.system"}, "unknown learner 'os.system'"),
        ({"arguments": []}, "arguments missing or of a wrong type"),
        ({"arguments": {"backbone": "convv4", "input_shapes": {"image": [1, 16, 16]}}}, "did you mean 'conv4'"),
        ({"arguments": {"malice": 1}}, "can't be built"),
        ({"arguments": {"input_shapes": {"image": [1, 16, 16]}, "inner_loop": {"steps": -4}}}, "steps >= 0"),
        (
            {"arguments": {"input_shapes": {"image": [1, 16, 16]}, "inner_loop": {"steps": 2.5}}},
            "steps is 2.5; expected int",
        ),
        ({"arguments": {"input_shapes": [1]}}, "can't be built"),
        ({"arguments": {"backbone": 5, "input_shapes": {"image": [1, 16, 16]}}}, "can't be built"),
        ({"arguments": {"backbone_options": {"width": 10**6}, "input_shapes": {"image": [1, 16, 16]}}}, "do not fit"),
        ({"arguments": {"backbone_options": {"width": -1}, "input_shapes": {"image": [1, 16, 16]}}}, "can't be built"),
        ({"sha256": {}}, "its manifest says None"),
        ({"trained_on": "all"}, "trained_on missing or of a wrong type"),
    ],
)
def test_a_forged_manifest(folder, changes, complaint):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(folder)


def test_missing_and_broken_files(folder, tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        load_checkpoint(folder)
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="names no format"):
        load_checkpoint(folder)


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read"):
        load_checkpoint(folder)

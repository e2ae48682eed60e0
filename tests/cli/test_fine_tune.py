"""`train.py` going on from a checkpoint: what it keeps, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import metaad_zoo as mz
from metaad_zoo.cli.train import run
from metaad_zoo.learners import ContrastivePretraining, PatchMemory, PatchMetric, PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint, FineTuned, load_checkpoint, save_checkpoint
from tests.cli.short import CONFIGS, SHORT
from tests.cli.test_configs import own_data
from tests.inspected import category

QUICK = [option for option in SHORT if "backbone_options" not in option and "_episodes=" not in option]
QUICK += ["--data.val_episodes=4", "--data.calibration_episodes=4", "--data.test_episodes=4"]


def command(tmp_path, *further):
    (tmp_path / "own").mkdir(exist_ok=True)
    config = CONFIGS / "finetune" / "image.yaml"
    root = tmp_path / "own" if list((tmp_path / "own").iterdir()) else own_data("image", tmp_path / "own")
    return [
        *("--config", str(config), "--data.root", str(root), "--runs", str(tmp_path / "runs"), "--name", "tuned"),
        *(*QUICK, "--model.checkpoint", str(tmp_path / "parent"), "--trainer.max_steps=2", *further),
    ]


@pytest.fixture
def parent(tmp_path):
    """A checkpoint that says what it was trained on."""

    def save(*trained_on):
        learner = PrototypicalNetwork(
            distance="cosine", backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": [1, 16, 16]}
        )
        save_checkpoint(tmp_path / "parent", Checkpoint(learner, list(trained_on), {}))
        return load_checkpoint(tmp_path / "parent")

    return save


def test_a_fine_tuned_model_remembers_its_parent(parent, tmp_path):
    before = parent("old/a", "old/b")
    cli = run(command(tmp_path, "--model.train=low_rank", "--model.optimizer.lr=0.01"))
    tuned = load_checkpoint(cli.run_dir / "model")
    assert tuned.learner.registered_name == "protonet"
    assert tuned.learner.arguments() == before.learner.arguments(), "its settings are the parent's"
    assert tuned.trained_on == cli.datamodule.seen
    assert {"old/a", "old/b"} < set(tuned.trained_on)
    assert yaml.safe_load(tuned.config)["model"]["init_args"]["checkpoint"] == str(tmp_path / "parent")
    assert any((p != q).any() for p, q in zip(tuned.learner.parameters(), before.learner.parameters(), strict=True))
    results = json.loads((cli.run_dir / "results.json").read_text())
    assert list(results["methods"])[:2] == ["protonet", "before fine-tuning"]
    said = results["protocol"]["fine_tuned_from"]
    sha256 = json.loads((tmp_path / "parent" / "manifest.json").read_text())["sha256"]["model.safetensors"]
    assert said["checkpoint"] == str(tmp_path / "parent")
    assert said["sha256"] == sha256
    assert said["trained"].startswith("low_rank")
    mz.load_detector(cli.run_dir)


def test_a_pretrained_backbone_is_given_another_head(tmp_path):
    """Meta-Baseline's second stage: the classes told apart first, episodes then, with any learner that compares."""
    shapes = {"image": [1, 16, 16]}
    learner = ContrastivePretraining(backbone="conv4", backbone_options={"width": 4}, input_shapes=shapes)
    save_checkpoint(tmp_path / "parent", Checkpoint(learner, ["old/a"], {}))
    head = ["--model.head=protonet", "--model.head_options={distance: cosine}", "--model.train=head"]
    cli = run(["fit", *command(tmp_path, *head)])
    checkpoint = load_checkpoint(cli.run_dir / "model")
    assert checkpoint.learner.registered_name == "protonet"
    assert checkpoint.learner.arguments()["distance"] == "cosine"
    assert "old/a" in checkpoint.trained_on
    before, after = (x.network.backbone.state_dict() for x in (learner, checkpoint.learner))
    assert all(x.equal(after[key]) for key, x in before.items()), "the backbone is the pretrained one"
    assert not checkpoint.learner.radius.equal(PrototypicalNetwork(input_shapes=shapes).radius)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "maml"}, "maml can't be a head.*protonet"),
        ({"head": "protonett"}, "did you mean"),
        ({"head_options": {"distance": "cosine"}}, "name it by model.head"),
    ],
)
def test_what_is_no_head_is_refused(parent, tmp_path, settings, message):
    parent("old/a")
    with pytest.raises(ValueError, match=message):
        FineTuned(str(tmp_path / "parent"), **settings)


def test_a_resumed_fine_tuning_ends_where_a_straight_one_does(parent, tmp_path):
    parent("old/a")
    low_rank = ["--model.train=low_rank", "--model.schedule=constant", "--data.episodes_per_epoch=4"]
    straight = run(["fit", *command(tmp_path, *low_rank, "--trainer.max_steps=4", "--name", "straight")])
    run(["fit", *command(tmp_path, *low_rank)])
    again = run(["fit", *command(tmp_path, *low_rank, "--trainer.max_steps=4", "--ckpt_path=last")])
    a, b = (dict(load_checkpoint(cli.run_dir / "model").learner.named_parameters()) for cli in (straight, again))
    assert all(a[name].equal(b[name]) for name in a)


def test_what_the_parent_has_seen_is_no_test(parent, tmp_path):
    parent("own/class0", "own/class1")
    splits = "--data.splits={train: [class2, class3], val: [class4, class5], test: [class0, class1]}"
    with pytest.raises(SystemExit, match=r"was trained or chosen on \['own/class0', 'own/class1'\].* test split"):
        run(command(tmp_path, splits))
    parent("own/class0", "own/class1", "own/class2")
    with pytest.raises(SystemExit, match=r"takes 2 or more, as others keep the splits.*'class0', 'class1', 'class2'"):
        run(command(tmp_path))
    parent("own/class4", "own/class5")
    cli = run(["fit", *command(tmp_path, "--trainer.max_steps=1")])
    assert cli.datamodule.class_splits["train"] == ["class4", "class5"], "they would be drawn for another split"


def test_a_checkpoint_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SystemExit, match="is no checkpoint"):
        run(command(tmp_path))


@pytest.mark.parametrize("shapes", [{"image": (3, 16, 16)}, {"tabular": (5,)}])
def test_data_of_another_shape_is_refused(parent, tmp_path, shapes):
    parent("old/a")
    with pytest.raises(ValueError, match=r"reads .*image"):
        FineTuned(str(tmp_path / "parent"), input_shapes=shapes)


def memory_command(tmp_path, *further):
    """Fine-tuning of a patch memory on five categories of inspection images."""
    torch.manual_seed(0)
    learner = PatchMemory(backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": [1, 16, 16]}, top=0.1)
    save_checkpoint(tmp_path / "parent", Checkpoint(learner, ["old/a"], {}))
    for name in ("bolt", "nut", "pin", "rod", "screw"):
        category(tmp_path / "own" / name, n=6, size=(16, 16))
    return command(tmp_path, "--data.episode.support_normal=2", "--model.train=full", *further)


def test_a_patch_memory_becomes_a_learned_metric_shown_before_and_after(tmp_path, capsys):
    cli = run(memory_command(tmp_path, "--trainer.max_steps=4"))
    learner = load_checkpoint(cli.run_dir / "model").learner
    assert isinstance(learner, PatchMetric)
    assert learner.top == 0.1
    assert learner.change.abs().max() > 0
    assert (cli.run_dir / "model" / "config.yaml").is_file(), "written before the validation of the weights at start"
    results = json.loads((cli.run_dir / "results.json").read_text())
    assert list(results["methods"])[:2] == ["patch_metric", "before fine-tuning"]
    assert results["protocol"]["fine_tuned_from"]["checkpoint"] == str(tmp_path / "parent")
    held_out = {task["task"].partition("/")[2] for task in results["methods"]["patch_metric"]["tasks"]}
    assert held_out == set(cli.datamodule.class_splits["test"])
    printed = capsys.readouterr().out
    assert "patch_metric" in printed
    assert "before fine-tuning" in printed
    mz.load_detector(cli.run_dir)


def test_a_metric_that_chooses_worse_gives_way_to_the_memory(tmp_path, capsys, monkeypatch):
    """A loss with the wrong sign lowers the validation AUROC."""
    right = PatchMetric.ranking_loss
    monkeypatch.setattr(PatchMetric, "ranking_loss", lambda self, *task: -right(self, *task))
    cli = run(memory_command(tmp_path, "--trainer.max_steps=40", "--model.optimizer.lr=0.1", "--data.val_episodes=8"))
    learner = load_checkpoint(cli.run_dir / "model").learner
    assert isinstance(learner, PatchMetric)
    assert learner.change.abs().max() == 0
    results = json.loads((cli.run_dir / "results.json").read_text())
    assert results["protocol"]["weights"].startswith("as before training: validation AUROC")
    assert "note: the weights stay as before training" in capsys.readouterr().err
    before, after = (results["methods"][name]["mean"]["auroc"] for name in ("before fine-tuning", "patch_metric"))
    assert before == after

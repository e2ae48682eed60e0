"""`train.py` and `metaad evaluate` on a folder that has got new classes: splits stay, nothing seen is forgotten."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.cli.command_line import main
from metaad_zoo.cli.train import run
from metaad_zoo.episodes import SPLITS
from metaad_zoo.zoo import load_checkpoint
from tests.cli.short import CONFIGS

TINY = [
    *("--config", str(CONFIGS / "bring_your_own" / "image.yaml"), "--name", "own", "--model.schedule=constant"),
    *("--model.backbone_options={width: 4}", "--data.image_size=16", "--data.episodes_per_epoch=8"),
    *("--data.val_episodes=4", "--data.calibration_episodes=4", "--data.test_episodes=4"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
]


def put(root, names, n=14):
    for name in names:
        rng = np.random.default_rng(ord(name[-1]))
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(root / name / f"{i}.png")


def test_new_classes_join_over_every_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "pictures"
    own = [*TINY, "--data.root", str(root)]
    put(root, [f"c{i}" for i in range(8)])
    first = run(["fit", *own, "--trainer.max_epochs=1"])
    before, seen = first.datamodule.class_splits, load_checkpoint(first.run_dir / "model").trained_on
    for i, new in enumerate((["a", "b"], ["d"])):
        put(root, new)
        capsys.readouterr()
        resumed = run(["fit", *own, "--ckpt_path=last", f"--trainer.max_epochs={i + 2}"])
        assert capsys.readouterr().err.count("new since the checkpoint") == 1
        after = resumed.datamodule.class_splits
        assert all(set(before[split]) <= set(after[split]) for split in SPLITS)
        checkpoint = load_checkpoint(resumed.run_dir / "model")
        assert set(seen) < set(checkpoint.trained_on)
        assert {s: sorted(of) for s, of in checkpoint.splits.items()} == {
            s: sorted(f"pictures/{c}" for c in of) for s, of in after.items()
        }
        before, seen = after, checkpoint.trained_on
    put(root, ["e"])
    put(root, ["c0"], n=16)
    config = ["--config", str(resumed.run_dir / "config.yaml"), "--ckpt_path=last"]
    tested = run(["test", *config])
    assert all(set(before[split]) <= set(tested.datamodule.class_splits[split]) for split in SPLITS)
    assert set(seen) <= set(mz.load_detector(tested.run_dir).trained_on)
    said = " ".join(json.loads((tested.run_dir / "results.json").read_text())["protocol"]["changed_since_checkpoint"])
    assert "new since the checkpoint: pictures/e (" in said
    assert "pictures/c0" in said
    assert "14 -> 16 samples" in said
    for verb in ("validate", "predict"):
        assert run([verb, *config]).datamodule.class_splits == tested.datamodule.class_splits


def test_a_fine_tuning_keeps_the_splits_of_its_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "pictures"
    put(root, [f"c{i}" for i in range(8)])
    parent = run(["fit", *TINY, "--data.root", str(root), "--trainer.max_epochs=1"])
    put(root, ["a", "b", "d", "e", "f"])
    tune = ["--config", str(CONFIGS / "finetune" / "image.yaml"), *TINY[4:5], "--name=tuned", *TINY[7:]]
    tune += ["--model.checkpoint", str(parent.run_dir), "--data.root", str(root), "--trainer.max_steps=1"]
    tuned = run(["fit", *tune, "--data.seed=5"])
    before, after = parent.datamodule.class_splits, tuned.datamodule.class_splits
    assert all(set(before[split]) <= set(after[split]) for split in SPLITS)
    assert set(parent.datamodule.seen) <= set(load_checkpoint(tuned.run_dir / "model").trained_on)
    (root / before["train"][0]).rename(root / "renamed")
    train = [name for name in after["train"] if name != before["train"][0]]
    splits = json.dumps({"train": train, "val": after["val"], "test": ["renamed", *after["test"]]})
    with pytest.raises(SystemExit, match=r"trained or chosen on \['pictures/renamed'\].*holds the samples of"):
        run(["fit", *tune, f"--data.splits={splits}"])


def test_an_evaluation_keeps_the_splits_of_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "pictures"
    put(root, [f"c{i}" for i in range(8)])
    trained = run(["fit", *TINY, "--data.root", str(root), "--trainer.max_epochs=1"])
    put(root, ["a", "b", "d", "e", "f", "g"])
    model, config = str(trained.run_dir), str(trained.run_dir / "config.yaml")
    assert not main(["evaluate", model, "--data", config, "--out", str(tmp_path / "out"), "--episodes", "20"])
    splits = json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]["data"]["splits"]
    assert all(set(trained.datamodule.class_splits[split]) <= set(splits[split]) for split in SPLITS)

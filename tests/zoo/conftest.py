"""A real run, trained in seconds, and the folder of checkpoints that it was published to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metaad_zoo.cli.train import run as train_by_command_line
from metaad_zoo.zoo import publish
from tests.cli.short import CONFIGS

NAME = "sequence-gru-maml-generated"
NOTES = "Trained for a test, in seconds: not for use.\n"


def train(config: Path, runs: Path, *overrides: str) -> Path:
    """Train by a config and return the run's folder."""
    train_by_command_line(["--config", str(config), "--runs", str(runs), *overrides])
    return next(path.parent for path in runs.glob("*/*/results.json"))


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    overrides = [
        "--model.backbone_options={width: 8}",
        "--data.generated.tasks=[30,20,20]",
        "--data.episodes_per_epoch=8",
        "--data.val_episodes=10",
        "--data.calibration_episodes=10",
        "--data.test_episodes=20",
        "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
    ]
    return train(CONFIGS / "quickstart_sequence.yaml", tmp_path_factory.mktemp("runs"), *overrides)


@pytest.fixture(scope="session")
def original(run, tmp_path_factory) -> Path:
    """A folder of published checkpoints; not to be changed."""
    zoo = tmp_path_factory.mktemp("zoo")
    publish(run, NAME, zoo, NOTES)
    return zoo


@pytest.fixture
def zoo(original, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the one that names are looked up in."""
    shutil.copytree(original, tmp_path / "zoo")
    monkeypatch.setenv("METAAD_CHECKPOINTS", str(tmp_path / "zoo"))
    monkeypatch.setenv("METAAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "zoo"

"""What the tests of `train.py` share: short runs of the quickstart."""

from __future__ import annotations

import os
import sys

from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
QUICKSTART = ["--config", str(CONFIGS / "quickstart.yaml")]
SHORT = [
    "--comparisons=all",
    "--data.episodes_per_epoch=8",
    "--data.tasks_per_batch=2",
    "--data.val_episodes=10",
    "--data.calibration_episodes=10",
    "--data.test_episodes=12",
    "--data.episode.query_normal=4",
    "--data.episode.query_anomalous=4",
    "--model.backbone_options={width: 4}",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(REPOSITORY / "train.py"), *map(str, arguments)], environment

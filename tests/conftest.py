"""What several tests share: small real data, seen through the package's own readers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner

REPOSITORY = Path(__file__).resolve().parent.parent
SPLITS = {"train": ["0", "1", "2", "3"], "val": ["4", "5"], "test": ["6", "7", "8", "9"]}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def digits() -> ImageEpisodes:
    """A DataModule of small episodes over scikit-learn's digits."""
    return ImageEpisodes(
        splits=SPLITS,
        image_size=16,
        episode=EpisodeSpec(support_normal=3, query_normal=4, query_anomalous=4),
        episodes_per_epoch=8,
        val_episodes=4,
        test_episodes=24,
        tasks_per_batch=2,
    )


def small_learner(**inner_loop) -> GradientLearner:
    """A narrow Conv4 for 16 x 16 grey images."""
    settings = {"steps": 2, "lr": 0.1, **inner_loop}
    return GradientLearner("conv4", {"width": 4}, {"image": (1, 16, 16)}, InnerLoopConfig(**settings))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of larger real data; tests that need it are skipped where METAAD_DATA is not set."""
    folder = os.environ.get("METAAD_DATA")
    if not folder:
        pytest.skip("needs the real data in the folder METAAD_DATA")
    return Path(folder)

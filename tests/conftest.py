"""What several tests share: small real data, seen through the package's own readers."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

# The process of pytest-xdist that hands out the tests reads this file too, before the workers start, and runs none:
# torch is imported where it is needed.
if TYPE_CHECKING:
    from metaad_zoo.data import ImageEpisodes
    from metaad_zoo.learners import GradientLearner
    from metaad_zoo.zoo import Checkpoint

# Networks of a few numbers: threads cost more than they bring, two to three times on a shared machine. torch reads this
# when it is imported, also in processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
SPLITS = {"train": ["0", "1", "2", "3"], "val": ["4", "5"], "test": ["6", "7", "8", "9"]}


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)


@pytest.fixture
def digits() -> ImageEpisodes:
    """A DataModule of small episodes over scikit-learn's digits."""
    return digit_episodes()


def digit_episodes() -> ImageEpisodes:
    """What the fixture `digits` holds, for fixtures of a wider scope."""
    from metaad_zoo.data import ImageEpisodes
    from metaad_zoo.episodes import EpisodeSpec

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
    from metaad_zoo.inner_loop import InnerLoopConfig
    from metaad_zoo.learners import GradientLearner

    settings = {"steps": 2, "lr": 0.1, **inner_loop}
    return GradientLearner("conv4", {"width": 4}, {"image": (1, 16, 16)}, InnerLoopConfig(**settings))


_OPENED: list[Counter[str]] = []


@cache
def _count_opened_files() -> None:
    """Once a process, because a hook stays until its end."""

    def count(event: str, arguments: tuple) -> None:
        for counter in _OPENED if event == "open" else ():
            counter[str(arguments[0])] += 1

    sys.addaudithook(count)


@contextmanager
def opened_files() -> Iterator[Counter[str]]:
    """How often Python opens each path within the block."""
    _count_opened_files()
    _OPENED.append(Counter())
    try:
        yield _OPENED[-1]
    finally:
        _OPENED.pop()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of larger real data; tests that need it are skipped where METAAD_DATA is not set."""
    folder = os.environ.get("METAAD_DATA")
    if not folder:
        pytest.skip("needs the real data in the folder METAAD_DATA")
    return Path(folder)


@pytest.fixture(scope="session")
def table_model(tmp_path_factory) -> Path:
    """A model of tables of any width, with calibration scores; one for all processes of pytest-xdist."""
    from metaad_zoo.zoo import save_checkpoint

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "table_model"
    with FileLock(f"{folder}.lock"):
        if not (folder / "manifest.json").exists():  # written last
            save_checkpoint(folder, _trained_on_tables())
    return folder


def _trained_on_tables() -> Checkpoint:
    """Meta-trained on generated tables for seconds."""
    import lightning.pytorch as pl
    import torch

    from metaad_zoo.data import TabularEpisodes
    from metaad_zoo.data.generated_tables import TablePrior
    from metaad_zoo.episodes import EpisodeSpec
    from metaad_zoo.evaluation.calibration import normal_scores
    from metaad_zoo.inner_loop import InnerLoopConfig
    from metaad_zoo.learners import GradientLearner
    from metaad_zoo.learners.training import trainable
    from metaad_zoo.zoo import Checkpoint

    data = TabularEpisodes(
        dataset="sklearn_tables",
        splits={"train": ["generated"], "val": ["generated"], "test": ["wine/*"]},
        anomalies="rest",
        prior=TablePrior(min_columns=2, max_columns=16),
        episode=EpisodeSpec(support_normal=5, query_normal=10, query_anomalous=10),
        tasks_per_batch=8,
        episodes_per_epoch=1200,
        val_episodes=40,
        test_episodes=5,
    )
    config = InnerLoopConfig(engine="vectorized", steps=1, lr=0.1, learn_lr="parameter_and_step")
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=0.002)
    learner = GradientLearner("columns", {"width": 16}, {"tabular": (-1,)}, config, optimizer=adam)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(**quiet, max_epochs=1, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(trainable(learner), datamodule=data)
    calibration = normal_scores(learner.eval(), data.episodes("val", 40, epoch=1))
    return Checkpoint(learner, data.seen, {"calibration": calibration})

"""A picture of one validation episode after the first epoch, so that a long training shows early what it learns."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from metaad_zoo.atomic_write import replacing
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.evaluation.plots import episode_figure
from metaad_zoo.learners import Learner

PICTURE = "first_episode.png"


class FirstPicture(pl.Callback):
    """Draws the first validation episode with the scores of the learner after its first validation; the upper half of
    the scores counts as flagged.

    Args:
        run_dir: the run's folder, which gets ``first_episode.png``.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / PICTURE

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, unless it is done."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.sanity_checking or trainer.global_step == 0 or self._path.exists():
            return
        assert isinstance(pl_module, Learner)
        assert isinstance(data, EpisodeDataModule)
        episode = next(data.episodes("val", 1))
        support = {name: x.to(pl_module.device) for name, x in episode.support.items()}
        query = {name: x.to(pl_module.device) for name, x in episode.query.items()}
        scores = pl_module.adapt(support, episode.support_labels.to(pl_module.device)).score(query).cpu()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flagged = scores > scores.median()  # thresholds come after the training
        with replacing(self._path) as beside:
            episode_figure(episode, scores, None, flagged).savefig(beside, dpi=120)
        print(f"\nA validation episode after {trainer.global_step} outer steps: {self._path}", flush=True)

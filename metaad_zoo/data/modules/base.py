"""Base of the DataModules of all modalities: episodes of three splits, loaded batch by batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from rich.table import Table
from torch import Tensor

from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import (
    Episode,
    EpisodeLoader,
    EpisodeSampler,
    EpisodeSpec,
    Split,
    SplitRecord,
    TaskPool,
    require_disjoint,
)

ROWS_SHOWN = 12
CALIBRATION_SHOTS = (1, 2, 5, 10, 20, 50)
EPISODES_OF_OTHER_SHOTS = 500
SPLIT_DEPENDENT = ("pools", "images", "fingerprints", "class_splits", "domain_splits", "_split")
"""Cached properties of DataModules that depend on what a checkpoint's splits are."""


def _counts(normal: int, anomalous: int) -> tuple[str, str, str]:
    """Cells of the summary; a class-as-normal set has no anomalies of its own."""
    share = f"{anomalous / (normal + anomalous):.1%}" if anomalous else ""
    return f"{normal:,}" if normal else "", f"{anomalous:,}" if anomalous else "", share


class EpisodeDataModule(pl.LightningDataModule):
    """Episodes for meta-training, validation and test from task pools that share no class and no domain.

    A subclass names its pools and the shape of its samples.

    Args:
        episode: make-up of the training episodes.
        test_episode: make-up of the validation and test episodes; None takes ``episode``.
        episodes_per_epoch: training episodes of one epoch, over all processes.
        val_episodes: number of validation episodes, the same ones at each validation.
        test_episodes: number of test episodes, the same ones at each test.
        calibration_episodes: val episodes that calibrate decisions; None takes ``val_episodes``. They are of
            other tasks than those that choose the weights, as far as the split has more tasks than ``val_episodes``.
        calibration_shots: sizes of the support set that a checkpoint is calibrated for beside the test episodes' own,
            with at most 500 episodes each; those that the val split's tasks are too small for are left out. None:
            1, 2, 5, 10, 20, 50.
        tasks_per_batch: training tasks of one outer step, in each process.
        repeat_episodes: take the same training episodes in every epoch, to see whether a model can overfit them.
        num_workers: loader processes; what is drawn does not depend on it.
        seed: random seed of splits and episodes.
        train_seed: random seed of the training episodes; None takes ``seed``. Trainings that differ in it alone are
            tested on the same episodes of the same tasks.
    """

    aspect: Aspect = "squash"
    """How images are brought to the size of a sample."""

    def __init__(
        self,
        episode: EpisodeSpec = EpisodeSpec(),  # noqa: B008 - frozen
        test_episode: EpisodeSpec | None = None,
        episodes_per_epoch: int = 400,
        val_episodes: int = 100,
        test_episodes: int = 600,
        calibration_episodes: int | None = None,
        calibration_shots: list[int] | None = None,
        tasks_per_batch: int = 4,
        repeat_episodes: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        train_seed: int | None = None,
    ) -> None:
        super().__init__()
        counts = {
            "episodes_per_epoch": episodes_per_epoch,
            "val_episodes": val_episodes,
            "test_episodes": test_episodes,
            "calibration_episodes": val_episodes if calibration_episodes is None else calibration_episodes,
            "tasks_per_batch": tasks_per_batch,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"data.{name} is {value}; expected at least 1")
        self.episode, self.test_episode = episode, test_episode or episode
        self.episodes_per_epoch, self.val_episodes = episodes_per_epoch, val_episodes
        self.test_episodes, self.calibration_episodes = test_episodes, counts["calibration_episodes"]
        self.calibration_shots = list(CALIBRATION_SHOTS) if calibration_shots is None else list(calibration_shots)
        if any(n < 1 for n in self.calibration_shots):
            raise ValueError(f"data.calibration_shots is {calibration_shots}; expected numbers of samples, 1 or more")
        self.tasks_per_batch, self.repeat_episodes = tasks_per_batch, repeat_episodes
        self.num_workers, self.seed = num_workers, seed
        self.train_seed = seed if train_seed is None else train_seed
        self._train_loader: EpisodeLoader | None = None
        self._resume_at: dict[str, Any] | None = None
        self._record = SplitRecord()

    def __str__(self) -> str:  # Lightning's own makes loaders, and takes an episode for a list of them
        return type(self).__name__

    @cached_property
    @abstractmethod
    def pools(self) -> Mapping[str, TaskPool]:
        """The task pool of each split that has one."""

    @property
    @abstractmethod
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample by modality, such as ``{"image": (1, 28, 28)}``; -1 where tasks differ."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Every choice of the data that fixes a result: for the protocol of a results file."""

    def query_masks(self, episode: Episode) -> Tensor | None:
        """Masks ``(n_query, H, W)`` bool of the defects in an episode's query; None where the data has no masks.

        An anomalous sample whose mask is False throughout has none.
        """
        return None

    @property
    def _episode_settings(self) -> dict[str, Any]:
        """The end of every :meth:`description`: make-up of the episodes, and random seed."""
        return {
            "train_episode": self.episode.as_dict(),
            "test_episode": self.test_episode.as_dict(),
            "seed": self.seed,
        }

    @property
    def skipped(self) -> list[str]:
        """Parts of the data that are left out, and why: a sentence each."""
        return []

    def summary(self) -> Table:
        """Content of each split: domains or classes, samples, share of anomalies, and what was left out."""
        table = Table("split", "domain or class", "normal", "anomalous", "share", title="Data of this run")
        for split, pool in self.pools.items():
            sizes = pool.sizes()
            table.add_row(split, f"{len(pool)} tasks", *_counts(sum(s[1] for s in sizes), sum(s[2] for s in sizes)))
            for name, normal, anomalous in sizes[:ROWS_SHOWN]:
                table.add_row("", name, *_counts(normal, anomalous))
            if len(sizes) > ROWS_SHOWN:
                table.add_row("", f"and {len(sizes) - ROWS_SHOWN} more")
        for reason in self.skipped:
            table.add_row("left out", reason)
        return table

    def sampler(self, split: Split) -> EpisodeSampler:
        """The episodes of a split.

        Raises:
            ValueError: the split has no classes, or one of them is too small for an episode.
        """
        if split not in self.pools:
            raise ValueError(
                f"there is no {split} split: name its classes with data.splits, for instance "
                f"{{train: [...], val: [...], test: [...]}}; there are {sorted(self.pools)}"
                f"{'; classes keep the splits that the checkpoint gave them' if self._record.splits else ''}"
            )
        spec = self.episode if split == "train" else self.test_episode
        return EpisodeSampler(self.pools[split], spec, split, self.train_seed if split == "train" else self.seed)

    def episodes(self, split: Split, n: int, epoch: int = 0) -> Iterator[Episode]:
        """The first ``n`` episodes of a split's epoch, one after the other."""
        sampler = self.sampler(split)
        return (sampler.episode(epoch, i) for i in range(n))

    def calibration(self, n: int | None = None, shots: int | None = None) -> Iterator[Episode]:
        """Episodes of the val split to calibrate by, never those (of epoch 0) that choose the weights.

        Tasks come in the split's fixed order, from the first one on that chooses nothing, where there is one.

        Args:
            n: how many; None: ``calibration_episodes``, but of other ``shots`` no more than 500.
            shots: size of the support set; None: as the test episodes have it.

        Raises:
            ValueError: there is no val split, or a task of it is too small.
        """
        sampler, test_shots = self.sampler("val"), self.test_episode.shots
        if n is None:
            n = self.calibration_episodes
            n = n if shots in (None, test_shots) else min(n, EPISODES_OF_OTHER_SHOTS)
        if shots is not None:
            sampler = EpisodeSampler(sampler.pool, sampler.spec.with_shots(shots), "val", self.seed)
        start = self.val_episodes if len(sampler.pool) > self.val_episodes else 0
        return (sampler.episode(1, start + i) for i in range(n))

    def shots_with_room(self) -> list[int]:
        """The sizes of the support set to calibrate for, ascending: ``calibration_shots`` as far as val tasks go."""
        test_shots, sizes = self.test_episode.shots, []
        for n in sorted({test_shots, *self.calibration_shots}):
            try:
                self.pools["val"].check(self.test_episode.with_shots(n))
            except ValueError:
                if n == test_shots:
                    raise
                break  # larger ones need more room still
            sizes.append(n)
        return sizes

    @property
    def seen(self) -> list[str]:
        """Names of the classes or domains of the train and val splits, and of those a checkpoint has seen before."""
        present = {m for split in ("train", "val") if split in self.pools for m in self.pools[split].members}
        return sorted(present | self._record.seen)

    @property
    def seen_before(self) -> frozenset[str]:
        """Names that the checkpoint whose splits are kept has seen."""
        return self._record.seen

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprint of the data of each class or domain, by its name as a member of a pool; {} where all are made."""
        return {}

    @property
    def parts_of_domains(self) -> Sequence[str]:
        """Members that are some of the samples of one domain; the others of its samples are in another split."""
        return ()

    def keep_splits(self, record: SplitRecord) -> None:
        """Go on with the splits of a checkpoint: a class never changes its split, new ones join by a fixed rule.

        To be called before a training resumes from a checkpoint, starts from it or tests it. Pools are built again.
        """
        if record == self._record:
            return
        self._record = record
        for name in SPLIT_DEPENDENT:
            self.__dict__.pop(name, None)

    def _fixed_splits(self, prefix: str = "") -> dict[str, Split]:
        """Splits that the checkpoint fixes, by names as ``data.splits`` has them: members' names without ``prefix``."""
        if self._record == SplitRecord():
            return {}  # the first training: nothing is compared
        fixed = self._record.fixed(self.fingerprints)
        return {name.removeprefix(prefix): split for name, split in fixed.items() if name.startswith(prefix)}

    @property
    def split_record(self) -> SplitRecord:
        """Split and content of each class or domain, of this training and of those before it, for a checkpoint."""
        return self._record.extended(self._splits_of("recorded"), self.fingerprints, self.seen)

    def _splits_of(self, members: Literal["members", "recorded"]) -> dict[str, Split]:
        """Split of each member of the pools, or of those that a checkpoint records."""
        return {m: s for s in get_args(Split) if s in self.pools for m in getattr(self.pools[s], members)}

    @property
    def changes(self) -> list[str]:
        """Differences of the data from those of the checkpoint of :meth:`keep_splits`: a sentence each."""
        present: dict[str, Split | None] = {**dict.fromkeys(self.fingerprints), **self._splits_of("recorded")}
        return self._record.changes(present, self.fingerprints)

    def setup(self, stage: str) -> None:
        """Read the data, refuse overlapping splits and classes that are too small, before any work is lost.

        Raises:
            ValueError: as said, or the checkpoint has a class in another split.
        """
        require_disjoint(**self.pools)
        if self._record != SplitRecord():
            self._record.refuse_moves(self._splits_of("members"), self.fingerprints, self.parts_of_domains)
        for split in get_args(Split):
            if split in self.pools:
                self.sampler(split)

    def _loader(self, split: Split, n: int, batch_size: int) -> EpisodeLoader:
        on_gpu = self.trainer is not None and type(self.trainer.accelerator).__name__ == "CUDAAccelerator"
        return EpisodeLoader(
            self.sampler(split),
            n,
            batch_size,
            advance=split == "train" and not self.repeat_episodes,
            num_workers=self.num_workers,
            pin_memory=on_gpu,
        )

    def train_dataloader(self) -> EpisodeLoader:
        self._train_loader = self._loader("train", self.episodes_per_epoch, self.tasks_per_batch)
        limit = self.trainer.limit_train_batches if self.trainer is not None else None
        if isinstance(limit, float) and limit < 1:
            raise ValueError(
                f"trainer.limit_train_batches is {limit}: give whole batches, or set data.episodes_per_epoch"
            )
        if isinstance(limit, int):  # a shorter epoch ends there for the stream too, or a resumed run would go astray
            self._train_loader.n_batches = min(limit, self._train_loader.n_batches)
        if self._resume_at:
            if 0 < self._resume_at["batch"] < self._train_loader.n_batches and self.changes:
                raise ValueError(
                    f"the data changed within an epoch of this training ({'; '.join(self.changes)}): restore them, or "
                    "start a new run without --ckpt_path; new data may join between two epochs"
                )
            self._train_loader.load_state_dict(self._resume_at)
            self._resume_at = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream of training episodes, and what has been seen.

        Lightning also saves a loader's own state, but forgets to restore it where a schedule has asked for the number
        of steps, since the loader is then made before the checkpoint is read.
        """
        place = self._train_loader.state_dict() if self._train_loader else None
        record = self.split_record
        return {"place": place, "seen": sorted(record.seen), "splits": record.as_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the splits of the checkpoint, and let the next training loader continue from the saved place."""
        built = "pools" in self.__dict__
        record = SplitRecord.parse(state_dict.get("splits"), self._record.seen.union(state_dict["seen"]))
        if record != self._record:
            self.keep_splits(record)
            if built:
                self.setup("fit")
        self._resume_at = state_dict["place"]

    def val_dataloader(self) -> EpisodeLoader:
        return self._loader("val", self.val_episodes, 1)

    def test_dataloader(self) -> EpisodeLoader:
        return self._loader("test", self.test_episodes, 1)

    def predict_dataloader(self) -> EpisodeLoader:
        return self._loader("test", self.test_episodes, 1)

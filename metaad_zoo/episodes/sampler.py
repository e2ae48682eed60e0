"""Which episode comes when: a pure function of (seed, split, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from metaad_zoo.episodes.episode import Episode, EpisodeBatch
from metaad_zoo.episodes.pool import TaskPool
from metaad_zoo.episodes.spec import EpisodeSpec

SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]
Key = tuple[int, int]
"""An episode's address inside a split: (epoch, index)."""


class EpisodeSampler:
    """Episodes of one split, addressed by epoch and index.

    Training draws its tasks at random; validation and test walk through all tasks in one shuffled order, again and
    again, so that each task gets the same number of episodes (give or take one).

    Args:
        pool: the tasks.
        spec: the episodes' make-up.
        split: ``"train"``, ``"val"`` or ``"test"``; part of the seed, so that splits never share their randomness.
        seed: the run's seed.

    Raises:
        ValueError: the split is unknown, or a class of the pool is too small for the spec.

    The generator of episode ``(epoch, index)`` is numpy's PCG64 seeded by ``SeedSequence([seed, split],
    spawn_key=(epoch, index))``: nothing else enters, neither worker nor process nor what was drawn before.
    """

    def __init__(self, pool: TaskPool, spec: EpisodeSpec, split: Split, seed: int) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {SPLITS}")
        pool.check(spec)
        self.pool, self.spec, self.split, self.seed = pool, spec, split, seed
        self._walk = self._rng().permutation(len(pool))

    def _rng(self, *address: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, SPLITS.index(self.split)], spawn_key=address))

    def episode(self, epoch: int, index: int) -> Episode:
        """Episode ``index`` of ``epoch``, both counted from 0."""
        rng = self._rng(epoch, index)
        task = rng.integers(len(self.pool)) if self.split == "train" else self._walk[index % len(self._walk)]
        return self.pool.draw(int(task), self.spec, rng)


class _Episodes(Dataset[Episode]):
    """The sampler as torch's loader wants it: an item for a key."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, key: Key) -> Episode:
        return self.sampler.episode(*key)


class _Keys:
    """The keys of the batches still to come in one epoch, for one process."""

    def __init__(self) -> None:
        self.batches: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class EpisodeLoader:
    """Batches of episodes for Lightning, resumable to the batch.

    A plain iterable and not a ``DataLoader``, because Lightning rebuilds those with a sampler of its own under DDP.
    Under DDP, process r of w takes the episodes i with i % w == r: batch b of all processes together is episodes
    ``[b * w * batch_size, (b + 1) * w * batch_size)``, just what one process with a batch of ``w * batch_size`` takes.

    Args:
        sampler: the episodes.
        n_episodes: episodes of one epoch, over all processes.
        batch_size: tasks of one batch, in each process.
        advance: move on to the next epoch's episodes at each pass (training) or repeat the same ones (evaluation).
        num_workers: loader processes; the episodes do not depend on it.
        pin_memory: page-locked memory for faster copies to a GPU.

    Raises:
        ValueError: an epoch does not fill one batch in every process.
    """

    def __init__(
        self,
        sampler: EpisodeSampler,
        n_episodes: int,
        batch_size: int,
        *,
        advance: bool,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        initialised = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if initialised else 0
        self.world_size = dist.get_world_size() if initialised else 1
        self.batch_size, self.advance = batch_size, advance
        self.n_batches = n_episodes // (batch_size * self.world_size)
        if batch_size < 1 or self.n_batches < 1:
            raise ValueError(
                f"{n_episodes} episodes an epoch do not fill one batch of {batch_size} tasks in each of "
                f"{self.world_size} processes: raise the episodes or lower tasks_per_batch"
            )
        self.epoch, self.batch = 0, 0
        self._begun = False
        self._keys = _Keys()
        self._loader: DataLoader[Episode] = DataLoader(
            _Episodes(sampler),
            batch_sampler=self._keys,
            collate_fn=EpisodeBatch.collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # a loader draws a seed for its workers: not out of the training's own stream
        )

    def __len__(self) -> int:
        return self.n_batches

    def keys(self, epoch: int, batch: int) -> list[Key]:
        """Addresses of the episodes in this process's batch."""
        first = batch * self.batch_size * self.world_size + self.rank
        return [(epoch, first + i * self.world_size) for i in range(self.batch_size)]

    def __iter__(self) -> Iterator[EpisodeBatch]:
        # A pass that was cut short (a sanity check, a limit) is not taken up again; a saved place is.
        if self._begun or self.batch >= self.n_batches:
            self.epoch, self.batch = self.epoch + int(self.advance), 0
        self._begun = True
        self._keys.batches = [self.keys(self.epoch, b) for b in range(self.batch, self.n_batches)]
        for episodes in self._loader:
            self.batch += 1  # before the yield: a checkpoint written during this batch counts it as done
            yield episodes

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch will come from."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved place."""
        self.epoch, self.batch, self._begun = state["epoch"], state["batch"], False

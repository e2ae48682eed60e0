"""Deterministic sampling of episodes: a pure function of (seed, split, epoch, index)."""

from __future__ import annotations

import logging
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
"""Address of an episode within a split: (epoch, index)."""


class EpisodeSampler:
    """Episodes of one split, addressed by epoch and index.

    Training draws its tasks at random. Validation and test cycle through all tasks in one shuffled order, so that the
    numbers of episodes per task differ by at most one.

    Args:
        pool: tasks to draw from.
        spec: composition of the episodes.
        split: ``"train"``, ``"val"`` or ``"test"``; part of the seed, so that splits never share their randomness.
        seed: random seed of the run.

    Raises:
        ValueError: the split is unknown, or a class of the pool is too small for the spec.

    The generator of episode ``(epoch, index)`` is numpy's PCG64 seeded by ``SeedSequence([seed, split],
    spawn_key=(epoch, index))``. It depends neither on worker and process nor on earlier episodes.
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
    """Map-style data set over a sampler."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, key: Key) -> Episode:
        return self.sampler.episode(*key)


class EpisodeLoader:
    """Batches of episodes for Lightning, resumable to the batch.

    It is a plain iterable, because Lightning replaces the sampler of a ``DataLoader`` under DDP. Under DDP, process r
    of w takes the episodes i with i % w == r. Batch b of all processes together holds episodes
    ``[b * w * batch_size, (b + 1) * w * batch_size)``, as in one process with a batch of ``w * batch_size``.

    Args:
        sampler: source of the episodes.
        n_episodes: number of episodes in an epoch, over all processes; the last ones are left out, with a warning, if
            they fill no batch.
        batch_size: number of tasks in a batch, in each process.
        advance: whether each pass takes the next epoch's episodes (training) or the same ones (evaluation).
        num_workers: number of loader processes; the episodes do not depend on it.
        pin_memory: whether batches lie in page-locked memory, for faster copies to a GPU.

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
        tasks = batch_size * self.world_size
        if not 1 <= tasks <= n_episodes:
            raise ValueError(
                f"{n_episodes} episodes an epoch do not fill one batch of {batch_size} tasks in each of "
                f"{self.world_size} processes: raise the episodes or lower tasks_per_batch"
            )
        self.n_batches = n_episodes // tasks
        if n_episodes % tasks and self.rank == 0:
            logging.getLogger(__name__).warning(
                "the last %d of %d %s episodes fill no batch of %d tasks (over all processes): they are left out",
                n_episodes % tasks,
                n_episodes,
                sampler.split,
                tasks,
            )
        self.epoch, self.batch = 0, 0
        self._begun = False
        self._keys: list[list[Key]] = []  # of the batches still to come in this epoch, for this process
        self._loader: DataLoader[Episode] = DataLoader(
            _Episodes(sampler),
            batch_sampler=self._keys,
            collate_fn=EpisodeBatch.collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # for the workers' seed, so that the global generator stays as it is
        )

    def __len__(self) -> int:
        return self.n_batches

    def keys(self, epoch: int, batch: int) -> list[Key]:
        """Addresses of the episodes in this process's batch."""
        first = batch * self.batch_size * self.world_size + self.rank
        return [(epoch, first + i * self.world_size) for i in range(self.batch_size)]

    def __iter__(self) -> Iterator[EpisodeBatch]:
        # An interrupted pass (a sanity check, a limit) is not resumed; a restored state is.
        if self._begun or self.batch >= self.n_batches:
            self.epoch, self.batch = self.epoch + int(self.advance), 0
        self._begun = True
        self._keys[:] = [self.keys(self.epoch, b) for b in range(self.batch, self.n_batches)]
        for episodes in self._loader:
            self.batch += 1  # before the yield: a checkpoint written during this batch counts it as done
            yield episodes

    def state_dict(self) -> dict[str, Any]:
        """Epoch and index of the next batch."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state of :meth:`state_dict`."""
        self.epoch, self.batch, self._begun = state["epoch"], state["batch"], False

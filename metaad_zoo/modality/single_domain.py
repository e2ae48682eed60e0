"""Episodes out of one domain's normal samples alone, with anomalies made by corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.modules.base import EpisodeDataModule
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.episodes import Domain, DomainTaskPool, TaskPool, count, fingerprint, joint_fingerprint
from metaad_zoo.modality.base import get_modality
from metaad_zoo.modality.samples import read_support


class SingleDomainEpisodes(EpisodeDataModule):
    """Episodes of one domain of which nothing but normal samples is known: a line, a machine, a table.

    They are what `metaad adapt` takes, read as it reads them. One part trains, the rest chooses the weights and gives
    the decisions' calibration; anomalies are made of normal samples (:mod:`metaad_zoo.data.synthetic`) in both. There
    is no test: made anomalies tell nothing about real ones. A series' later part chooses, as time runs; other samples
    are dealt out at random.

    Args:
        root: a folder of images, an ``.npz``, CSV or Parquet file, a folder of series, or a manifest of several
            modalities.
        synthetic: names of synthetic anomalies, see :func:`metaad_zoo.data.synthetic.list_synthetic`.
        sample_shapes: shape of one sample by modality, -1 for any length; ``train.py`` takes a fine-tuning's from the
            checkpoint.
        val_share: share of the samples that chooses.
        aspect: how images are brought to their size; see :class:`metaad_zoo.data.ImageEpisodes`.
        kwargs: arguments of :class:`metaad_zoo.data.EpisodeDataModule`.

    Raises:
        ValueError: an option is missing or unknown, the files can't be used or hold labelled anomalies, or a part is
            too small for an episode; before any training.

    Memory: all samples are held.
    """

    def __init__(
        self,
        root: str | None = None,
        synthetic: list[str] | None = None,
        sample_shapes: dict[str, list[int]] | None = None,
        val_share: float = 0.5,
        aspect: Aspect = "squash",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not synthetic:
            raise ValueError("data.synthetic is missing: one domain of normal samples has no anomalies of its own")
        if not 0 < val_share < 1:
            raise ValueError(f"data.val_share is {val_share}; expected a share between 0 and 1")
        self.root, self.synthetic, self.sample_shapes, self.val_share = root, synthetic, sample_shapes, val_share
        self.aspect, self._account = aspect, Account()

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """All samples by modality."""
        if not self.root:
            raise ValueError("data.root names no files: set data.root=PATH")
        if not self.sample_shapes:
            raise ValueError("data.sample_shapes is missing: such as {image: [1, 28, 28]}, or fine-tune a checkpoint")
        reading = read_support(self.root, self.sample_shapes, aspect=self.aspect)
        reading.require_normal(self.root)
        self._account = reading.account
        return reading.samples

    @property
    def skipped(self) -> list[str]:
        return list(self._account)

    @property
    def domain(self) -> str:
        """Name of the domain: the stem of its file or folder."""
        return Path(str(self.root)).expanduser().resolve().stem

    @cached_property
    def pools(self) -> Mapping[str, TaskPool]:
        corrupt = create_synthetic(self.synthetic or [])
        none, reader = np.arange(0), _InMemory(self.samples)
        return {
            split: DomainTaskPool([Domain(f"{self.domain} ({split})", reader, ids, none)], corrupt, 1.0)
            for split, ids in self._parts.items()
        }

    @cached_property
    def _parts(self) -> dict[str, np.ndarray]:
        """Positions of the samples of train and val."""
        n = count(self.samples)
        in_time = any(get_modality(name).windows for name in self.samples)
        order = np.arange(n) if in_time else np.random.default_rng(self.seed).permutation(n)
        train, val = np.split(order, [n - round(n * self.val_share)])
        return {"train": train, "val": val}

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        return {
            f"{self.domain} ({split})": joint_fingerprint(fingerprint(x[ids]) for x in self.samples.values())
            for split, ids in self._parts.items()
        }

    @property
    def parts_of_domains(self) -> Sequence[str]:
        return list(self.fingerprints)

    @property
    def seen(self) -> list[str]:
        """Both parts, and the domain's own name, under which other data may hold it."""
        return sorted([*super().seen, self.domain])

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(x.shape[1:]) for name, x in self.samples.items()}

    def description(self) -> dict[str, Any]:
        return {
            "dataset": self.domain,
            "splits": {split: sorted(pool.members) for split, pool in self.pools.items()},
            "synthetic": self.synthetic,
            "val_share": self.val_share,
            "aspect": self.aspect,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            **self._episode_settings,
        }


class _InMemory:
    """Samples in memory, read by position."""

    def __init__(self, samples: Mapping[str, Tensor]) -> None:
        self._samples = samples

    def read(self, ids: np.ndarray | Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        return {name: x[torch.as_tensor(ids)] for name, x in self._samples.items()}

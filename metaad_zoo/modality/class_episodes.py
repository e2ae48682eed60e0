"""Class-as-normal episodes of any modality whose files lie in one folder a class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.splits import split_by_counts, split_by_patterns, usual_splits
from metaad_zoo.episodes import ClassTaskPool, TaskPool, fingerprints_by_class
from metaad_zoo.modality.base import get_modality


class ClassEpisodes(EpisodeDataModule):
    """Few-shot anomaly-detection tasks over samples of any modality: each class is normal in turn.

    Args:
        modality: modality of the samples, as in :func:`metaad_zoo.modality.list_modalities`.
        root: a folder of folders, at any depth; each that holds files of the modality is a class.
        dataset: ``"own"``: there are no data sets known by name.
        splits: which classes go where: for each of ``train``, ``val``, ``test`` a list of fnmatch patterns, or three
            counts or shares, drawn at random by ``seed``. None: about 60, 20 and 20 %, at least two classes each.
        split_by: what the counts count: ``"class"``, or ``"parent"``: all before the last ``/`` of a class name.
        anomalies: ``"pair"``: the anomalies of a task come from one other class; ``"rest"``: from all others.
        sample_shape: shape of one sample; None takes the modality's usual one.
        kwargs: arguments of :class:`metaad_zoo.data.EpisodeDataModule`.

    Raises:
        ValueError: the modality is unknown, files are missing or damaged, or a split is too small; before any training.

    Memory: all samples are held as float32.
    """

    def __init__(
        self,
        modality: str,
        root: str | None = None,
        dataset: Literal["own"] = "own",
        splits: dict[str, list[str]] | list[int] | list[float] | None = None,
        split_by: Literal["class", "parent"] = "class",
        anomalies: Literal["pair", "rest"] = "pair",
        sample_shape: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.modality, self.root, self.splits, self.split_by = modality, root, splits, split_by
        self.anomalies, self.dataset = anomalies, dataset
        self.sample_shape = tuple(sample_shape or get_modality(modality).shape)
        self._account = Account()

    @cached_property
    def source(self) -> _Classes:
        """All samples, and the class of each."""
        if not self.root:
            raise ValueError("data.root names no files: set data.root=FOLDER, with one folder a class")
        form, root = get_modality(self.modality), Path(self.root).expanduser()
        shapes = {self.modality: self.sample_shape}
        files = defaultdict(list)
        for file in form.source(root, shapes, account=self._account, below=True).files:
            files[Path(file).parent].append(file)
        samples = []
        for paths in files.values():
            blocks = form.source(paths, shapes, account=self._account).blocks()
            samples.append(torch.cat([block.samples[self.modality] for block in blocks]).float())
        labels = np.repeat(np.arange(len(samples)), [len(x) for x in samples])
        names = [str(folder.relative_to(root)) if folder != root else root.resolve().name for folder in files]
        return _Classes(root.resolve().name, self.modality, torch.cat(samples), labels, names)

    @cached_property
    def class_splits(self) -> dict[str, list[str]]:
        """Names of the classes of each split."""
        source = self.source
        if isinstance(self.splits, dict):
            return split_by_patterns(source.class_names, self.splits)
        fixed = self._fixed_splits(f"{source.name}/")
        if self.splits is not None:
            return split_by_counts(source.class_names, self.splits, self.split_by, self.seed, fixed)
        what = f"classes of {source.name}, {source.class_names[:20]},"
        return usual_splits(source.class_names, self.split_by, self.seed, fixed, 2, what)

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        source = self.source
        return fingerprints_by_class([f"{source.name}/{c}" for c in source.class_names], source.labels, source.samples)

    @cached_property
    def pools(self) -> Mapping[str, TaskPool]:
        chosen = self.class_splits.items()
        return {split: ClassTaskPool(self.source, names, self.anomalies) for split, names in chosen if names}

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {self.modality: tuple(self.source.samples.shape[1:])}

    @property
    def skipped(self) -> list[str]:
        return list(self._account)

    def description(self) -> dict[str, Any]:
        return {
            "dataset": self.source.name,
            "splits": self.class_splits,
            "anomalies": self.anomalies,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            **self._episode_settings,
        }


class _Classes:
    """Samples in memory, with a class each: a :class:`metaad_zoo.episodes.Source`."""

    def __init__(self, name: str, modality: str, samples: Tensor, labels: np.ndarray, class_names: list[str]) -> None:
        self.name, self.samples, self.labels, self.class_names = name, samples, labels, class_names
        self._modality = modality

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        return {self._modality: self.samples[torch.as_tensor(ids, dtype=torch.int64)]}

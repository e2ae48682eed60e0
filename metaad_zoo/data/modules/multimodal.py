"""Multimodal episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from metaad_zoo.data.joined import JoinedModalities, Modalities
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.modality_dropout import ModalityDropout
from metaad_zoo.data.modules.base import EpisodeDataModule
from metaad_zoo.data.pairing import AgreementPool, Pairing
from metaad_zoo.data.read.manifest import ManifestOptions, ManifestReader
from metaad_zoo.data.read.roles import ColumnOptions
from metaad_zoo.data.splits import split_by_counts, split_by_patterns, usual_splits
from metaad_zoo.episodes import (
    ClassTaskPool,
    DomainTaskPool,
    TaskPool,
    fingerprint,
    fingerprints_by_class,
    joint_fingerprint,
    positions_by_class,
)
from metaad_zoo.registry import unknown_name

Anomalies = Literal["mismatch", "pair", "rest", "own"]


class MultimodalEpisodes(EpisodeDataModule):
    """Few-shot anomaly-detection tasks over samples of several modalities, such as an image and a sound.

    Args:
        dataset: a known name, as in :func:`metaad_zoo.list_datasets`, or ``"own"`` for the manifest at ``root``.
        root: your own manifest (``"own"``), see :class:`metaad_zoo.data.read.manifest.ManifestReader`. For a known
            name: where its files lie (default ``METAAD_DATA``).
        splits: which classes or domains go where: for each of ``train``, ``val``, ``test`` a list of fnmatch patterns,
            or three counts, drawn at random by ``seed``. None: a fifth each to val and test, at least what a task
            needs, and the others to train.
        split_by: what the counts count: ``"class"``, or ``"parent"``: all before the last ``/`` of a class name.
        anomalies: ``"mismatch"``: samples whose modalities do not belong together
            (:class:`metaad_zoo.data.pairing.AgreementPool`); ``"pair"``: samples of one other class; ``"rest"``: of all
            other classes; ``"own"``: what the data itself says. None: ``"own"`` where there are labels, ``"mismatch"``
            where the modalities are separate sets, else ``"pair"``.
        classes_per_task: number of classes in a task of ``"mismatch"``.
        pairing: pairs of the training tasks of ``"mismatch"``: ``"any"`` draws anew for each episode which classes
            belong together, so that this must be read from the support set; ``"labelled"`` takes the same class.
        new_classes: share of the training episodes of ``"mismatch"`` whose classes are made new ones, by turned
            images and shifted channels (:func:`metaad_zoo.data.new_classes.as_new_classes`).
        one_class: share of the training episodes of ``"mismatch"`` whose normal samples are all of one class, which a
            network learns to tell before it can learn what agrees.
        modalities: what is given out; None gives all. The episodes are the same ones, so that a backbone of one
            modality can be compared with fusion.
        absent: share of the training samples in which one modality, chosen at random, is hidden (NaN). A sample that
            has nothing else given out is left alone.
        dropout: share of the training episodes in which support and query are reduced to some of their modalities,
            chosen at random (:class:`metaad_zoo.data.modality_dropout.ModalityDropout`). So a model learns to compare
            by each of them alone, as it must where either side lacks the others.
        image_size: height and width in pixels; None keeps the images' own.
        channels: 1 or 3, for ``"own"``; None keeps the images' own.
        length: steps of the sequences; None takes the data set's usual number, for ``"own"`` the longest.
        label: label column of the manifest; None looks for a usual name.
        ignore: columns of the manifest that are left out.
        columns: data columns of the manifest, where these alone are to be used.
        kwargs: arguments of :class:`metaad_zoo.data.EpisodeDataModule`.

    Raises:
        ValueError: a name is unknown, files are missing or damaged, a setting does not fit the data, or a split is too
            small; before any training.

    Memory: images are held as bytes, sequences and tables as float32.
    """

    def __init__(
        self,
        dataset: str = "digits_tones",
        root: str | None = None,
        splits: dict[str, list[str]] | list[int] | None = None,
        split_by: Literal["class", "parent"] = "class",
        anomalies: Anomalies | None = None,
        classes_per_task: int = 2,
        pairing: Pairing = "any",
        new_classes: float = 0.0,
        one_class: float = 0.0,
        modalities: list[str] | None = None,
        absent: float = 0.0,
        dropout: float = 0.0,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        length: int | None = None,
        label: str | None = None,
        ignore: list[str] | None = None,
        columns: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= dropout <= 1:
            raise ValueError(f"data.dropout is {dropout}; expected a share of the training episodes, from 0 to 1")
        if image_size is not None and image_size < 1:
            raise ValueError(f"data.image_size is {image_size}; expected pixels, at least 1")
        for name, value, choices in (("anomalies", anomalies, Anomalies), ("pairing", pairing, Pairing)):
            if value is not None and value not in get_args(choices):
                raise unknown_name(f"data.{name}", value, get_args(choices))
        if channels is not None and dataset != "own":
            raise ValueError(f"data.channels is {channels} but is for your own images: leave it out for {dataset!r}")
        self.dataset, self.root, self.splits, self.split_by = dataset, root, splits, split_by
        self.wanted_anomalies, self.classes_per_task, self.pairing = anomalies, classes_per_task, pairing
        self.new_classes, self.one_class, self.modalities, self.absent = new_classes, one_class, modalities, absent
        self.dropout = dropout
        self.image_size, self.channels, self.length = image_size, channels, length
        self.options = ColumnOptions(label, None, tuple(ignore or ()), None if columns is None else tuple(columns))

    @cached_property
    def source(self) -> Modalities:
        """All samples, with the modalities that are given out."""
        if self.dataset != "own":
            source = read_dataset(self.dataset, "multimodal", self.root, self.image_size, self.length)
            if self.length is not None and "sequence" not in source.parts:
                raise ValueError(f"data.length is {self.length} but {self.dataset} has no sequences: leave it out")
        elif not self.root:
            raise ValueError("data.dataset is 'own' but data.root names no manifest: set data.root=MANIFEST.csv")
        else:
            files = ManifestOptions(self.image_size, self.length, self.channels)
            source = ManifestReader(Path(self.root).expanduser(), self.options, files).read()
        return source.giving(self.modalities)

    @property
    def anomalies(self) -> Anomalies:
        """Where anomalies come from.

        Raises:
            ValueError: the data can't give those that were asked for.
        """
        joined = isinstance(self.source, JoinedModalities)
        labelled = isinstance(self.source, JoinedModalities) and self.source.anomalous is not None
        wanted = self.wanted_anomalies or ("own" if labelled else "pair" if joined else "mismatch")
        possible = ["mismatch"] if not joined else ["own"] if labelled else ["mismatch", "pair", "rest"]
        if wanted not in possible:
            why = "labels" if labelled else "classes without labels" if joined else "modalities that are separate sets"
            raise ValueError(f"data.anomalies is {wanted!r} but {self.source.name} has {why}: set one of {possible}")
        return wanted

    @cached_property
    def class_splits(self) -> dict[str, list[str]]:
        """Names of the classes or domains of each split."""
        names = self.source.class_names
        if isinstance(self.splits, dict):
            return split_by_patterns(names, self.splits)
        fixed = self._fixed_splits(f"{self.source.name}/")
        if self.splits is not None:
            return split_by_counts(names, self.splits, self.split_by, self.seed, fixed)
        least = {"own": 1, "mismatch": self.classes_per_task}.get(self.anomalies, 2)
        # A parent may hold many classes; what a split lacks is told by its pool.
        return usual_splits(names, self.split_by, self.seed, fixed, 1 if self.split_by == "parent" else least)

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        source, rng = self.source, np.random.default_rng(0)
        contents: dict[str, list[str]] = {f"{source.name}/{n}": [] for n in source.class_names}
        for modality, part in source.parts.items():
            for prints, ids in zip(contents.values(), positions_by_class(part.labels, len(contents)), strict=True):
                prints.append(fingerprint(part.reader.read(ids, rng)[modality]))
        if isinstance(source, JoinedModalities) and source.anomalous is not None:
            flags = fingerprints_by_class(list(contents), source.labels, source.anomalous)
            for name, prints in contents.items():
                prints.append(flags[name])
        return {name: joint_fingerprint(prints) for name, prints in contents.items()}

    @cached_property
    def pools(self) -> Mapping[str, TaskPool]:
        pools = {split: self._pool(split, names) for split, names in self.class_splits.items() if names}
        if self.dropout and "train" in pools:
            pools["train"] = ModalityDropout(pools["train"], self.dropout)
        return pools

    def _pool(self, split: str, names: Sequence[str]) -> TaskPool:
        source = self.source.giving(self.modalities, self.absent if split == "train" else 0.0)
        if self.anomalies == "mismatch":
            settings = (self.pairing, self.new_classes, self.one_class) if split == "train" else ()
            return AgreementPool(source.separate(), names, self.classes_per_task, *settings)
        for name in ("new_classes", "one_class"):
            if getattr(self, name):
                raise ValueError(f"data.{name}={getattr(self, name)} is for data.anomalies=mismatch: set it to 0")
        assert isinstance(source, JoinedModalities)
        if source.anomalous is not None:
            return DomainTaskPool.from_source(source, names, source.anomalous)
        return ClassTaskPool(source, names, "rest" if self.anomalies == "rest" else "pair")

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.source.shapes

    @property
    def skipped(self) -> list[str]:
        return self.source.skipped

    def description(self) -> dict[str, Any]:
        mismatch = {name: getattr(self, name) for name in ("classes_per_task", "pairing", "new_classes", "one_class")}
        return {
            "dataset": self.source.name,
            "splits": self.class_splits,
            "anomalies": self.anomalies,
            **(mismatch if self.anomalies == "mismatch" else {}),
            "shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            "absent": self.absent,
            **({"dropout": self.dropout} if self.dropout else {}),
            **self._episode_settings,
        }

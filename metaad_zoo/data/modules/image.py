"""Image episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.camera import RandomCamera
from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.modules.base import EpisodeDataModule
from metaad_zoo.data.read.images import read_path
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.data.splits import split_by_counts, split_by_patterns, usual_splits
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.episodes import (
    ClassTaskPool,
    DomainTaskPool,
    Episode,
    EpisodeSampler,
    NeighbourhoodTaskPool,
    Split,
    TaskPool,
    fingerprints_by_class,
)


class ImageEpisodes(EpisodeDataModule):
    """Few-shot anomaly-detection tasks over images.

    Where the data names classes, each class is normal in turn and other classes of its split give the anomalies; where
    it names defects (the MVTec layout, an npz with domains), each domain is a task.

    Args:
        dataset: a known name, as in :func:`metaad_zoo.list_datasets`, or ``"own"`` for the files at ``root``.
        root: your own files (``"own"``): a folder of one folder a class, the MVTec layout (one or many categories), an
            ``.npz``, or several plain folders of images, each a class. For a known name: where its files lie (default
            ``METAAD_DATA``).
        splits: which classes or categories go where: for each of ``train``, ``val``, ``test`` a list of fnmatch
            patterns, or three counts, drawn at random by ``seed``. None, for own files alone: about 60, 20 and 20 %,
            at least two classes or one category each; of two categories one is tested and the other's images are
            halved, one half for training, one for validation; a single category is halved for validation and test,
            for a learner that trains nothing.
        split_by: what the counts count: ``"class"``, or ``"parent"``: all before the last ``/`` of a class name.
        anomalies: ``"pair"``: the anomalies of a task come from one other class; ``"rest"``: from all others.
        image_size: height and width in pixels; None keeps the images' own, which must then be one size.
        channels: 1 or 3; None keeps the images' own.
        aspect: how own files are brought to ``image_size``: ``"squash"`` stretches them to a square, ``"pad"`` keeps
            their aspect ratio and fills the rest with the colour of their border, ``"keep"`` takes another size of
            about as many pixels in the median ratio of all images, for backbones that read any size. The checkpoint
            keeps it, so that its detectors read images in the same way.
        camera: random camera through which each sample of each split is seen.
        synthetic: names of synthetic anomalies (:func:`metaad_zoo.data.synthetic.list_synthetic`), for meta-training
            alone: in all episodes of categories without anomalies of their own, and in a share of the others'.
        synthetic_share: that share.
        finer_tasks: share of the training tasks made finer, see :class:`metaad_zoo.episodes.NeighbourhoodTaskPool`.
        kwargs: arguments of :class:`metaad_zoo.data.EpisodeDataModule`.

    Raises:
        ValueError: a name is unknown, files are missing or damaged, or a split is too small; before any training.

    Memory: all images are held as bytes, channels x height x width each.
    """

    def __init__(
        self,
        dataset: str = "digits",
        root: str | list[str] | None = None,
        splits: dict[str, list[str]] | list[int] | None = None,
        split_by: Literal["class", "parent"] = "class",
        anomalies: Literal["pair", "rest"] = "pair",
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        aspect: Aspect = "squash",
        camera: RandomCamera | None = None,
        finer_tasks: float = 0.0,
        synthetic: list[str] | None = None,
        synthetic_share: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if image_size is not None and image_size < 1:
            raise ValueError(f"data.image_size is {image_size}; expected pixels, at least 1")
        if aspect not in get_args(Aspect):
            raise ValueError(f"data.aspect is {aspect!r}; expected one of {get_args(Aspect)}")
        self.dataset, self.root, self.splits, self.split_by = dataset, root, splits, split_by
        self.anomalies, self.image_size, self.channels = anomalies, image_size, channels
        self.aspect = aspect
        self.camera, self.finer_tasks = camera, finer_tasks
        self.synthetic, self.synthetic_share = synthetic, synthetic_share

    @cached_property
    def _images(self) -> ImageArrays:
        """All images, each category whole."""
        if self.dataset != "own":
            return read_dataset(self.dataset, "image", self.root).converted(self.image_size, self.channels, self.aspect)
        if not self.root:
            raise ValueError("data.dataset is 'own' but data.root names no files: set data.root=PATH")
        roots = [self.root] if isinstance(self.root, str) else self.root
        parts = [read_path(Path(r).expanduser(), self.image_size, self.channels, self.aspect) for r in roots]
        return parts[0] if len(parts) == 1 else _joined(parts)

    @cached_property
    def images(self) -> ImageArrays:
        """All images, as they are before the camera; one of two categories is halved."""
        images = self._images
        if self.dataset != "own" or self.splits is not None or images.anomalous is None:
            return images
        recorded = {f"{images.name}/{n}" for n in images.class_names} & self._record.splits.keys()
        # A category that a checkpoint knows by halves stays halved, also among more than two.
        halve = [n for n in images.class_names if f"{images.name}/{n}{HALVES[0]}" in self._record.splits]
        if not halve and not recorded and len(images.class_names) <= 2:
            halve = [images.class_names[int(np.bincount(images.labels).argmax())]]
        return halved(images, halve[0], self.seed) if halve else images

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        images = self.images
        names = [f"{images.name}/{c}" for c in images.class_names]
        flags = [] if images.anomalous is None else [images.anomalous]
        return fingerprints_by_class(names, images.labels, images.images, *flags)

    @property
    def parts_of_domains(self) -> Sequence[str]:
        return [f"{self.images.name}/{n}" for n in self.images.class_names if n.endswith(HALVES)]

    @property
    def seen(self) -> list[str]:
        """Beside the names of train and val that of a halved category, under which other data may hold it."""
        return sorted({*super().seen, *(n.removesuffix(HALVES[0]) for n in self.parts_of_domains if HALVES[0] in n)})

    @cached_property
    def class_splits(self) -> dict[str, list[str]]:
        """Names of the classes or domains of each split."""
        names = self.images.class_names
        if isinstance(self.splits, dict):
            return split_by_patterns(names, self.splits)
        fixed = self._fixed_splits(f"{self.images.name}/")
        if self.splits is not None:
            return split_by_counts(names, self.splits, self.split_by, self.seed, fixed)
        if self.dataset != "own":
            raise ValueError(f"data.splits is not set: say which of {list(names)[:20]} go to train, val and test")
        halves = [n for n in names if n.endswith(HALVES)]
        if halves and fixed.keys().isdisjoint(halves):  # a pair of categories, see halved
            if len(names) == len(halves):
                return {"train": [], "val": halves[:1], "test": halves[1:]}
            return {"train": halves[:1], "val": halves[1:], "test": [n for n in names if n not in halves]}
        least, what = (2, "classes") if self.images.anomalous is None else (1, "categories (two will do)")
        what = f"{what} of {self.images.name}, {list(names)[:20]},"
        return usual_splits(names, "class", self.seed, fixed, least, what)

    @property
    def skipped(self) -> list[str]:
        sentences = list(self.images.account)
        halves = [n.endswith(HALVES) for n in self.images.class_names]
        if all(halves):
            sentences.append("the only category serves validation by one half of its images and the test by the other")
        elif any(halves):
            sentences.append("one of two categories serves training and validation by a half of its images each")
        return sentences

    def sampler(self, split: Split) -> EpisodeSampler:
        if split == "train" and split not in self.pools and self.parts_of_domains:
            raise ValueError(
                f"{self.images.name} is 1 category (two will do), which leaves none to train on: give more, adapt a "
                "trained model instead (`metaad adapt`), or take a learner that trains nothing (patch_memory)"
            )
        return super().sampler(split)

    @cached_property
    def pools(self) -> Mapping[str, TaskPool]:
        return {split: self._pool(split, names) for split, names in self.class_splits.items() if names}

    def _pool(self, split: str, names: Sequence[str]) -> TaskPool:
        source = self.images if self.camera is None else _Photographed(self.images, self.camera)
        if self.images.anomalous is not None and self.finer_tasks:
            raise ValueError(
                f"data.finer_tasks={self.finer_tasks} is for classes; {source.name} has domains: set it to 0"
            )
        if self.images.anomalous is not None:
            kinds = self.synthetic if split == "train" else None
            corrupt, share = (create_synthetic(kinds), self.synthetic_share) if kinds else (None, 0.0)
            return DomainTaskPool.from_source(source, names, self.images.anomalous, corrupt=corrupt, share=share)
        if self.synthetic:
            raise ValueError(
                f"data.synthetic={self.synthetic} is for categories; {source.name} has classes, of which others give "
                "the anomalies: set it to null"
            )
        pool = ClassTaskPool(source, names, self.anomalies)
        if split == "train" and self.finer_tasks:
            return NeighbourhoodTaskPool(pool, self.images.images.flatten(1).numpy(), self.finer_tasks)
        return pool

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"image": self.images.image_shape}

    def query_masks(self, episode: Episode) -> Tensor | None:
        """See :meth:`metaad_zoo.data.EpisodeDataModule.query_masks`; None with a camera, which moves the defects."""
        masks = self.images.masks
        return None if masks is None or self.camera is not None else masks[episode.query_ids]

    def description(self) -> dict[str, Any]:
        return {
            "dataset": self.images.name,
            "splits": self.class_splits,
            "anomalies": self.anomalies if self.images.anomalous is None else "the data's own",
            "image_shape": list(self.images.image_shape),
            "aspect": self.aspect,
            "camera": asdict(self.camera) if self.camera else None,
            "finer_tasks": self.finer_tasks,
            "synthetic_in_training": self.synthetic,
            **self._episode_settings,
        }


HALVES = (" (first half)", " (second half)")


def halved(images: ImageArrays, category: str, seed: int) -> ImageArrays:
    """A category made two: its images are dealt out to two halves, named by :data:`HALVES`.

    Training and validation then share a category, though no image; the test's is seen by neither.
    """
    assert images.anomalous is not None
    whole, new = list(images.class_names).index(category), len(images.class_names)
    rng, labels = np.random.default_rng(seed), images.labels.copy()
    for kind in (False, True):
        ids = rng.permutation(np.flatnonzero((labels == whole) & (images.anomalous == kind)))
        labels[ids[len(ids) // 2 :]] = new
    names = [*images.class_names, f"{category}{HALVES[1]}"]
    names[whole] += HALVES[0]
    return replace(images, labels=labels, class_names=names)


class _Photographed:
    """A source seen through a camera."""

    def __init__(self, images: ImageArrays, camera: RandomCamera) -> None:
        self.name, self.labels, self.class_names = images.name, images.labels, images.class_names
        self._images, self._camera = images, camera

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"image": self._camera(self._images.read(ids, rng)["image"], rng)}


def _joined(parts: Sequence[ImageArrays]) -> ImageArrays:
    """Several sets as one, each with classes of its own."""
    shapes = {p.name: p.image_shape for p in parts}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"data.root names images of several shapes {shapes}: set data.image_size and data.channels")
    if any(p.anomalous is not None for p in parts):
        raise ValueError(
            "several roots are joined as classes, but one of them is in the MVTec layout: give their parent"
        )
    names = [c if len(p.class_names) == 1 else f"{p.name}/{c}" for p in parts for c in p.class_names]
    if len(set(names)) != len(names):
        raise ValueError(f"two of the folders in data.root have one name: {sorted(names)}; rename one")
    offsets = np.cumsum([0, *(len(p.class_names) for p in parts)])
    labels = np.concatenate([p.labels + o for p, o in zip(parts, offsets, strict=False)])
    joined = ImageArrays("+".join(shapes), torch.cat([p.images for p in parts]), labels, names)
    for part in parts:
        joined.account.join(part.account)
    return joined

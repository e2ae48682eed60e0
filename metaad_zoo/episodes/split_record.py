"""Record of the split and content of each class and domain in a checkpoint, against leakage into later tests."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from metaad_zoo.episodes.sampler import SPLITS, Split

NAMES_SHOWN = 10


def fingerprint(*arrays: np.ndarray | Tensor) -> str:
    """Number of samples, shape of a sample and hash of the content, such as ``"14:1x16x16:0f3c..."``.

    Args:
        arrays: samples ``(n, ...)``; further arrays, such as labels, enter only the hash.

    Example:
        >>> fingerprint(np.zeros((14, 3))).rpartition(":")[0]
        '14:3'
    """
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        values = array.cpu().numpy() if isinstance(array, Tensor) else array
        digest.update(np.ascontiguousarray(values).data.cast("B") if values.size else b"")
    return f"{len(arrays[0])}:{'x'.join(map(str, arrays[0].shape[1:]))}:{digest.hexdigest()}"


def fingerprints_by_class(names: Sequence[str], labels: np.ndarray, *arrays: np.ndarray | Tensor) -> dict[str, str]:
    """Fingerprint of each class.

    Args:
        names: names of the classes.
        labels: ``(n,)`` integers into ``names``.
        arrays: each ``(n, ...)``, see :func:`fingerprint`.
    """
    ids = positions_by_class(labels, len(names))
    return {name: fingerprint(*(a[rows] for a in arrays)) for name, rows in zip(names, ids, strict=True)}


def positions_by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Positions of each class's samples, ascending."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=classes))[:-1])


def joint_fingerprint(parts: Iterable[str]) -> str:
    """Combine the fingerprints of a class in several modalities.

    Example:
        >>> joint_fingerprint(["14:1x8x8:ab", "20:32x16:cd"])
        '14+20:1x8x8+32x16:ab+cd'
    """
    return ":".join("+".join(part) for part in zip(*(p.split(":") for p in parts), strict=True))


@dataclass(frozen=True)
class SplitRecord:
    """Splits of the classes and domains of a checkpoint's data. A class never changes its split.

    Attributes:
        splits: split by name of class or domain, including those no longer in the data.
        contents: fingerprints by name, the newest last.
        seen: names used in training or validation, including generated tasks.
        parent: name of the checkpoint from which fine-tuning starts, if this is its record; None: the same training is
            resumed or tested.
    """

    splits: Mapping[str, Split] = field(default_factory=dict)
    contents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    parent: str | None = None

    @classmethod
    def parse(cls, splits: Any, seen: Iterable[str], parent: str | None = None) -> SplitRecord:
        """Read a record from the content of a file.

        Args:
            splits: result of :meth:`as_dict`; None: an older file without a record.
            seen: names used in training or validation.
            parent: see the class.

        Raises:
            ValueError: ``splits`` has another format.
        """
        by_split = {} if splits is None else splits
        owner: dict[str, Split] = {}
        contents: dict[str, tuple[str, ...]] = {}
        if not isinstance(by_split, dict) or not set(by_split) <= set(SPLITS):
            raise ValueError(f"expected splits as a mapping of {', '.join(SPLITS)}")
        for split, members in by_split.items():
            for name, prints in members.items() if isinstance(members, dict) else [(None, [])]:
                valid = isinstance(prints, list) and all(str(p).count(":") == 2 for p in prints)
                if not isinstance(name, str) or not valid or name in owner:
                    raise ValueError(f"expected the {split} split as lists of fingerprints by name, each name once")
                owner[name], contents[name] = split, tuple(map(str, prints))
        return cls(owner, contents, frozenset(seen), parent)

    @classmethod
    def joined(cls, records: Mapping[str, SplitRecord]) -> SplitRecord:
        """Merge the records of several checkpoints, by name; for each class, the split nearest to training counts."""
        splits: dict[str, Split] = {}
        contents: dict[str, tuple[str, ...]] = {}
        for record in records.values():
            splits |= {n: min(s, splits.get(n, s), key=SPLITS.index) for n, s in record.splits.items()}
            contents |= {n: (*contents.get(n, ()), *prints) for n, prints in record.contents.items()}
        return cls(splits, contents, frozenset().union(*(r.seen for r in records.values())), ", ".join(records))

    def as_dict(self) -> dict[str, dict[str, list[str]]]:
        """Fingerprints by split and name, for a file."""
        return {
            split: {n: list(self.contents.get(n, ())) for n in sorted(self.splits) if self.splits[n] == split}
            for split in SPLITS
        }

    def extended(self, splits: Mapping[str, Split], contents: Mapping[str, str], seen: Iterable[str]) -> SplitRecord:
        """Add the present data to the record; recorded classes remain, and none changes its split."""
        merged = {**splits, **self.splits}
        prints = {n: self.contents.get(n, ()) for n in merged}
        for name in prints.keys() & contents.keys():
            prints[name] = (*(p for p in prints[name] if p != contents[name]), contents[name])
        return SplitRecord(merged, prints, self.seen | frozenset(seen))

    def fixed(self, contents: Mapping[str, str]) -> dict[str, Split]:
        """Split by name of recorded classes, and of new names for the content of recorded classes.

        Args:
            contents: fingerprint by name of the present data.
        """
        splits: dict[str, Split] = dict.fromkeys(self.seen, "train") if self.parent else {}
        splits |= self.splits
        for name in contents.keys() - splits.keys():
            if origins := self.origins(name, contents):
                splits[name] = min((self.splits[o] for o in origins), key=SPLITS.index)
        return splits

    def origins(self, name: str, contents: Mapping[str, str]) -> list[str]:
        """Recorded classes of which ``name`` is a renamed or copied version, by content."""
        content = contents.get(name, "")
        if content in self.contents.get(name, ()):
            return []
        return self._by_content.get(content, [])

    @cached_property
    def _by_content(self) -> dict[str, list[str]]:
        names = defaultdict(list)
        for name, prints in self.contents.items():
            for content in prints:
                names[content].append(name)
        return dict(names)

    def refuse_moves(self, now: Mapping[str, Split], contents: Mapping[str, str], parts: Iterable[str] = ()) -> None:
        """Check that no class changes its split.

        Exception: fine-tuning may train or validate on classes that its parent was tested on.

        Args:
            now: split by name of the present data.
            contents: fingerprint by name of the present data.
            parts: members that hold a part of a domain's samples, which changes with the domain.

        Raises:
            ValueError: a class changes its split.
        """
        whose = self.parent or "the checkpoint"
        tests = [n for n, split in now.items() if split == "test"]
        tested = sorted(n for n in tests if self.seen & {n, *self.origins(n, contents)})
        if tested:
            copies = [f"{n} holds the samples of {self.origins(n, contents)[0]}" for n in tested if n not in self.seen]
            raise ValueError(
                f"{whose} was trained or chosen on {tested[:NAMES_SHOWN]}, which are in the test split"
                f"{' (' + listed(copies) + ')' if copies else ''}: meta-test classes must never be seen in "
                "meta-training; take other classes for data.splits, or another checkpoint"
            )
        moves = [
            f"{name} is in the {split} split, {origin if origin != name else 'but'} was in the {self.splits[origin]} "
            f"split{'' if origin == name else ', and holds the same samples'}"
            for name, split in sorted(now.items())
            for origin in [*([name] if name in self.splits else []), *self.origins(name, contents)]
            if self._moves(self.splits[origin], split)
        ]
        if self.parent is None:
            moves += [
                f"{n} has other samples ({_difference(self.contents[n][-1], contents[n])}), and samples of one domain "
                "are in two splits"
                for n in sorted(set(parts) & contents.keys())
                if self.contents.get(n) and contents[n] != self.contents[n][-1]
            ]
        if moves:
            raise ValueError(
                f"the data are not those of {whose}: {listed(moves)}; a class never changes its split: set data.splits "
                "as in the config.yaml of the checkpoint's run, or start a new run"
            )

    def _moves(self, before: Split, now: Split) -> bool:
        return before != now and not (self.parent and SPLITS.index(now) < SPLITS.index(before))

    def changes(self, present: Mapping[str, Split | None], contents: Mapping[str, str]) -> list[str]:
        """Describe how the present data differ from the checkpoint's, one sentence a difference.

        Args:
            present: split by name of the present data; None: in no split.
            contents: fingerprint by name of the present data.
        """
        if not self.splits:
            return []
        recorded = present.keys() & self.splits.keys()
        renamed = {n: o for n in sorted(present.keys() - recorded) if (o := self.origins(n, contents))}
        whose, sentences = self.parent or "the checkpoint", []
        if not recorded and not renamed:
            what = f"none of the {len(self.splits)} classes or domains of {whose} is in the data: new splits are drawn"
            return [] if self.parent else [what]
        if not self.parent:
            new = present.keys() - recorded - renamed.keys()
            gone = self.splits.keys() - present.keys() - {o for origins in renamed.values() for o in origins}
            sentences += [f"new since {whose}: {_by_split({n: present[n] for n in new})}"] if new else []
            sentences += [f"no longer in the data: {_by_split({n: self.splits[n] for n in gone})}"] if gone else []
        else:
            sentences.append(f"as in {whose}: {_by_split({n: self.splits[n] for n in recorded})}")
        copies = [f"{n} ({present[n] or 'no split'}) holds the samples of {o[0]}" for n, o in renamed.items()]
        sentences += [f"other names for the same data: {listed(copies)}"] if copies else []
        changed = [
            f"{n} ({self.splits[n]}: {_difference(self.contents[n][-1], contents[n])})"
            for n in sorted(recorded & contents.keys())
            if self.contents.get(n) and self.contents[n][-1] != contents[n]
        ]
        return sentences + ([f"changed since {whose}: {listed(changed)}"] if changed else [])


def listed(sentences: list[str]) -> str:
    """Join the first :data:`NAMES_SHOWN` sentences, and count the rest."""
    more = len(sentences) - NAMES_SHOWN
    return ", ".join(sentences[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _by_split(splits: Mapping[str, Split | None]) -> str:
    """Names of each split, such as ``"a, b (train), c (no split)"``."""
    return ", ".join(
        f"{listed(sorted(n for n, s in splits.items() if s == split))} ({split or 'no split'})"
        for split in (*SPLITS, None)
        if split in splits.values()
    )


def _difference(before: str, now: str) -> str:
    """Describe the difference between two fingerprints.

    Example:
        >>> _difference("14:3:ab", "16:3:cd"), _difference("14:3:ab", "14:3:cd"), _difference("9:3:ab", "9:4:cd")
        ('14 -> 16 samples', 'other content', 'samples of shape 3 -> 4')
    """
    (n_before, shape_before, _), (n_now, shape_now, _) = before.split(":"), now.split(":")
    if shape_before != shape_now:
        return f"samples of shape {shape_before} -> {shape_now}"
    return f"{n_before} -> {n_now} samples" if n_before != n_now else "other content"

"""Split of each class and domain, and what each held: the part of a checkpoint that keeps later tests honest."""

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
    """Number of samples, shape of a sample and a hash of their content, such as ``"14:1x16x16:0f3c..."``.

    Args:
        arrays: the first one is ``(n, ...)``; further ones, such as labels, enter the hash alone.

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
        names: of the classes.
        labels: ``(n,)`` integers into ``names``.
        arrays: each ``(n, ...)``, see :func:`fingerprint`.
    """
    ids = positions_by_class(labels, len(names))
    return {name: fingerprint(*(a[of] for a in arrays)) for name, of in zip(names, ids, strict=True)}


def positions_by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Positions of each class's samples, ascending."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=classes))[:-1])


def joint_fingerprint(parts: Iterable[str]) -> str:
    """One fingerprint of several modalities' samples of one class.

    Example:
        >>> joint_fingerprint(["14:1x8x8:ab", "20:32x16:cd"])
        '14+20:1x8x8+32x16:ab+cd'
    """
    return ":".join("+".join(part) for part in zip(*(p.split(":") for p in parts), strict=True))


@dataclass(frozen=True)
class SplitRecord:
    """Splits of the classes and domains that a checkpoint has met. A class never changes its split.

    Attributes:
        splits: split by name of class or domain, also of those that the data no longer hold.
        contents: fingerprints by name, the newest last.
        seen: names that training or validation has used, those of generated tasks included.
        parent: name of the checkpoint that a fine-tuning starts from, where the record is that one's; None: the
            training itself goes on or is tested.
    """

    splits: Mapping[str, Split] = field(default_factory=dict)
    contents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    parent: str | None = None

    @classmethod
    def parse(cls, splits: Any, seen: Iterable[str], parent: str | None = None) -> SplitRecord:
        """A record out of a file.

        Args:
            splits: what :meth:`as_dict` gave; None: the file is older than records, and tells ``seen`` alone.
            seen: names that training or validation has used.
            parent: see the class.

        Raises:
            ValueError: it is damaged.
        """
        by_split = {} if splits is None else splits
        owner: dict[str, Split] = {}
        contents: dict[str, tuple[str, ...]] = {}
        if not isinstance(by_split, dict) or not set(by_split) <= set(SPLITS):
            raise ValueError(f"expected splits as a mapping of {', '.join(SPLITS)}")
        for split, members in by_split.items():
            for name, prints in members.items() if isinstance(members, dict) else [(None, None)]:
                if not isinstance(name, str) or not isinstance(prints, list) or name in owner:
                    raise ValueError(f"expected the {split} split as lists of fingerprints by name, each name once")
                owner[name], contents[name] = split, tuple(map(str, prints))
        return cls(owner, contents, frozenset(seen), parent)

    @classmethod
    def joined(cls, records: Mapping[str, SplitRecord]) -> SplitRecord:
        """The records of several checkpoints, by name, as one: of a class's splits the nearest to training counts."""
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
        """The record with what the present data add; nothing is taken away, and no class changes its split."""
        of = {**splits, **self.splits}
        prints = {n: self.contents.get(n, ()) for n in of}
        for name in prints.keys() & contents.keys():
            prints[name] = (*(p for p in prints[name] if p != contents[name]), contents[name])
        return SplitRecord(of, prints, self.seen | frozenset(seen))

    def fixed(self, contents: Mapping[str, str]) -> dict[str, Split]:
        """Split by name of all that has one: recorded classes, and new names for the content of recorded ones.

        Args:
            contents: fingerprint by name of the present data.
        """
        of: dict[str, Split] = dict.fromkeys(self.seen, "train") if self.parent else {}
        of |= self.splits
        for name in contents.keys() - of.keys():
            origins = self.origins(name, contents)
            if origins:
                of[name] = min((self.splits[o] for o in origins), key=SPLITS.index)
        return of

    def origins(self, name: str, contents: Mapping[str, str]) -> list[str]:
        """Recorded classes whose content a class holds that was not recorded with it: it was renamed or copied."""
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
        """Refuse present splits that move a class.

        A fine-tuning may train on what its parent was tested on, or choose by it; nothing may move the other way.

        Args:
            now: split by name of the present data.
            contents: fingerprint by name of the present data.
            parts: members that are some of the samples of one domain: where these change, so may the parts.

        Raises:
            ValueError: names the classes, and the split of each before and now.
        """
        whose = self.parent or "the checkpoint"
        tested = sorted(n for n, split in now.items() if split == "test" and self._was_seen(n, contents))
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
                "as in the config.yaml of the checkpoint's run, or start anew"
            )

    def _was_seen(self, name: str, contents: Mapping[str, str]) -> bool:
        return name in self.seen or any(o in self.seen for o in self.origins(name, contents))

    def _moves(self, before: Split, now: Split) -> bool:
        return before != now and not (self.parent and SPLITS.index(now) < SPLITS.index(before))

    def changes(self, present: Mapping[str, Split | None], contents: Mapping[str, str]) -> list[str]:
        """Sentences on how the present data differ from those of the checkpoint; none where they are the same.

        Args:
            present: split of each class of the present data; None for one in no split.
            contents: fingerprint by name of the present data.
        """
        if not self.splits:
            return []
        recorded = present.keys() & self.splits.keys()
        renamed = {n: o for n in sorted(present.keys() - recorded) if (o := self.origins(n, contents))}
        whose, sentences = self.parent or "the checkpoint", []
        if not recorded and not renamed:
            what = f"none of the {len(self.splits)} classes or domains of {whose} is in the data: splits are drawn anew"
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
    """The first of them, and how many more there are."""
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
    """What differs between two fingerprints.

    Example:
        >>> _difference("14:3:ab", "16:3:cd"), _difference("14:3:ab", "14:3:cd"), _difference("9:3:ab", "9:4:cd")
        ('14 -> 16 samples', 'other content', 'samples of shape 3 -> 4')
    """
    (n, shape, _), (m, other, _) = before.split(":"), now.split(":")
    if shape != other:
        return f"samples of shape {shape} -> {other}"
    return f"{n} -> {m} samples" if n != m else "other content"

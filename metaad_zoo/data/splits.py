"""Assignment of classes or domains to the train, validation and test splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import get_args

import numpy as np

from metaad_zoo.episodes import SPLITS, Split
from metaad_zoo.registry import unknown_name

USUAL_SHARES = (0.6, 0.2, 0.2)
"""Shares of train, val and test where the user does not say."""


def usual_splits(
    names: Sequence[str],
    by: str,
    seed: int,
    fixed: Mapping[str, Split] | None = None,
    least: int = 1,
    what: str = "classes or domains",
) -> dict[str, list[str]]:
    """Assign names to splits where the user does not say: about 60, 20 and 20 % of the groups.

    Args:
        names: classes or domains.
        by: what makes a group, see :func:`split_by_counts`.
        seed: random seed of the assignment.
        fixed: splits of names that had one before.
        least: groups that each split needs; not asked where some are fixed, whose pools tell what they lack.
        what: plural noun for the groups, for the error.

    Raises:
        ValueError: there are not enough for three splits.

    Example:
        >>> [len(part) for part in usual_splits("abcdefghijklm", "class", seed=0).values()]
        [7, 3, 3]
    """
    groups = len({group_name(n, by) for n in names})
    counts = shares_to_counts(USUAL_SHARES, groups, least)
    if counts[0] < least and group_splits(fixed or {}, by).keys().isdisjoint(group_name(n, by) for n in names):
        raise ValueError(
            f"{groups} {what} are too few for three splits of {least} or more, because test classes are never trained "
            "on: give more, name the splits with data.splits, or adapt a trained model instead (`metaad adapt`)"
        )
    splits = split_by_counts(names, [max(0, n) for n in counts], by, seed, fixed)
    for split, members in splits.items():
        if 0 < len({group_name(n, by) for n in members}) < least:
            raise ValueError(
                f"{groups} {what} leave {members} alone for the {split} split, which takes {least} or more, as others "
                f"keep the splits that the checkpoint gave them, train: {splits['train'][:20]}; give more classes"
            )
    return splits


def shares_to_counts(shares: Sequence[float], groups: int, least: int = 1) -> list[int]:
    """Groups for train, val and test: each share rounded to the nearest number, train takes the rest.

    Args:
        shares: shares of train, val and test, which add up to 1.
        groups: number of groups.
        least: smallest number of groups for val and test, unless the share is 0.

    Example:
        >>> shares_to_counts([0.6, 0.2, 0.2], 4), shares_to_counts([0.8, 0.2, 0], 10)
        ([2, 1, 1], [8, 2, 0])
    """
    held_out = [max(least, round(share * groups)) if share else 0 for share in shares[1:]]
    return [groups - sum(held_out), *held_out]


def split_by_patterns(names: Sequence[str], patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Assign names to splits by fnmatch patterns.

    Args:
        names: classes or domains.
        patterns: fnmatch patterns of names by split (``train``, ``val``, ``test``); a split may be left out.

    Raises:
        ValueError: an unknown split, a pattern that matches nothing, or a name that two splits claim.

    Example:
        >>> split_by_patterns(["greek/a", "greek/b", "latin/a"], {"train": ["greek/*"], "test": ["latin/*"]})
        {'train': ['greek/a', 'greek/b'], 'val': [], 'test': ['latin/a']}
    """
    for split in patterns:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
    splits: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split in SPLITS:
        wanted = [str(p) for p in patterns.get(split, [])]
        for pattern in wanted:
            if not any(fnmatchcase(n, pattern) for n in names):
                raise ValueError(f"pattern {pattern!r} of the {split} split matches none of {list(names)[:20]}")
        splits[split] = [n for n in names if any(fnmatchcase(n, p) for p in wanted)]
        for name in splits[split]:
            if name in owner:
                raise ValueError(
                    f"{name!r} is in the {owner[name]} and in the {split} split: meta-test classes and domains must "
                    "never be seen in meta-training; make the patterns disjoint"
                )
            owner[name] = split
    return splits


def split_by_counts(
    names: Sequence[str],
    counts: Sequence[float],
    by: str,
    seed: int,
    fixed: Mapping[str, Split] | None = None,
) -> dict[str, list[str]]:
    """Assign names to splits at random, group by group.

    Names whose split is fixed keep it. Then each new group, in an order that its name and the seed tell, goes to the
    split that lacks most; where whole counts are reached, it goes to none.

    Args:
        names: classes or domains.
        counts: groups for train, val and test; together at most as many as there are. Or shares that add up to 1, of
            which each that is not 0 gives at least one group.
        by: ``"class"``: each name is a group; ``"parent"``: names that share the path before their last ``/`` are a
            group (the alphabet of a character), which never spreads over two splits.
        seed: random seed of the assignment.
        fixed: splits of names that had one before, also of those that are not in ``names``.

    Raises:
        ValueError: not three counts, more than there are groups, or an unknown ``by``.

    Example:
        >>> split_by_counts(["a/1", "a/2", "b/1", "c/1"], [1, 1, 1], by="parent", seed=0)["train"]
        ['c/1']
        >>> split_by_counts(["a", "b", "c", "d"], [2, 1, 1], "class", 0, {"a": "test", "b": "train", "c": "val"})
        {'train': ['b', 'd'], 'val': ['c'], 'test': ['a']}
    """
    if by not in ("class", "parent"):
        raise ValueError(f"split_by is {by!r}; expected 'class' or 'parent'")
    group_of = {n: group_name(n, by) for n in names}
    groups = sorted(set(group_of.values()))
    counts = _counted(counts, len(groups))
    fixed = fixed or {}
    owner: dict[str, str] = dict(group_splits(fixed, by))
    continued = not owner.keys().isdisjoint(groups)
    if len(counts) != len(SPLITS) or min(counts) < 0 or (sum(counts) > len(groups) and not continued):
        raise ValueError(
            f"splits is {list(counts)}; expected three counts (train, val, test) that together are at most the "
            f"{len(groups)} groups there are (split_by={by!r}), or three shares that add up to 1"
        )
    if continued:
        owner |= _new_groups(groups, counts, seed, group_splits(fixed, by))
    else:
        shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
        owner |= dict(zip(shuffled, np.repeat(SPLITS, counts).tolist(), strict=False))
    split_of = {n: fixed.get(n, owner.get(group_of[n])) for n in names}
    return {split: [n for n in names if split_of[n] == split] for split in SPLITS}


def group_name(name: str, by: str) -> str:
    """The group of a name, see :func:`split_by_counts`."""
    return name if by == "class" else name.rpartition("/")[0]


def group_splits(fixed: Mapping[str, Split], by: str) -> dict[str, Split]:
    """Split of each group whose names have one; where these differ, the one that is nearest to training."""
    owner: dict[str, Split] = {}
    for name, split in fixed.items():
        group = group_name(name, by)
        owner[group] = min(split, owner.get(group, split), key=SPLITS.index)
    return owner


def _new_groups(
    groups: Sequence[str], counts: Sequence[int], seed: int, owner: Mapping[str, Split]
) -> dict[str, Split]:
    """Split of each group that has none, see :func:`split_by_counts`.

    Args:
        groups: names of all groups of the present data.
        counts: number of groups that train, val and test should have.
        seed: random seed of the order.
        owner: split by group, for groups that have one.
    """
    present = [owner[g] for g in groups if g in owner]
    lacking: dict[Split, int] = {s: n - present.count(s) for s, n in zip(get_args(Split), counts, strict=True)}
    new: dict[str, Split] = {}
    for group in sorted(set(groups) - owner.keys(), key=lambda g: hashlib.blake2b(f"{seed}/{g}".encode()).digest()):
        most = max(lacking, key=lacking.__getitem__)
        if lacking[most] > 0:
            new[group] = most
            lacking[most] -= 1
    return new


def _counted(counts: Sequence[float], groups: int) -> list[int]:
    """Counts as they are; shares as counts."""
    if all(n == int(n) for n in counts):
        return [int(n) for n in counts]
    if abs(sum(counts) - 1) > 1e-6:
        raise ValueError(f"splits is {list(counts)}; expected whole counts, or three shares that add up to 1")
    return shares_to_counts(counts, groups)

"""Which classes or domains go into which split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from metaad_zoo.episodes import SPLITS
from metaad_zoo.registry import unknown_name


def split_by_patterns(names: Sequence[str], patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Assign names to splits by fnmatch patterns.

    Args:
        names: classes or domains.
        patterns: for each of ``train``, ``val``, ``test`` the patterns of its names; a split may be left out.

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


def split_by_counts(names: Sequence[str], counts: Sequence[float], by: str, seed: int) -> dict[str, list[str]]:
    """Assign names to splits at random, group by group.

    Args:
        names: classes or domains.
        counts: groups for train, val and test; together at most as many as there are. Or shares that add up to 1, of
            which each that is not 0 gives at least one group.
        by: ``"class"``: each name is a group; ``"parent"``: names that share the path before their last ``/`` are a
            group (the alphabet of a character), which never spreads over two splits.
        seed: of the shuffle.

    Raises:
        ValueError: not three counts, more than there are groups, or an unknown ``by``.

    Example:
        >>> split_by_counts(["a/1", "a/2", "b/1", "c/1"], [1, 1, 1], by="parent", seed=0)["train"]
        ['c/1']
    """
    if by not in ("class", "parent"):
        raise ValueError(f"split_by is {by!r}; expected 'class' or 'parent'")
    group_of = {n: n if by == "class" else n.rpartition("/")[0] for n in names}
    groups = sorted(set(group_of.values()))
    counts = _counted(counts, len(groups))
    if len(counts) != len(SPLITS) or min(counts) < 0 or sum(counts) > len(groups):
        raise ValueError(
            f"splits is {list(counts)}; expected three counts (train, val, test) that together are at most the "
            f"{len(groups)} groups there are (split_by={by!r}), or three shares that add up to 1"
        )
    shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    ends = np.cumsum([0, *counts])
    parts = {split: set(shuffled[ends[i] : ends[i + 1]]) for i, split in enumerate(SPLITS)}
    return {split: [n for n in names if group_of[n] in part] for split, part in parts.items()}


def _counted(counts: Sequence[float], groups: int) -> list[int]:
    """Counts as they are; shares as counts, the first split taking what is left.

    Example:
        >>> _counted([0.6, 0.2, 0.2], 4), _counted([0.6, 0.2, 0.2], 10), _counted([3, 1, 1], 10)
        ([2, 1, 1], [6, 2, 2], [3, 1, 1])
    """
    shares = any(n != int(n) for n in counts)
    if shares and abs(sum(counts) - 1) > 1e-6:
        raise ValueError(f"splits is {list(counts)}; expected whole counts, or three shares that add up to 1")
    if not shares:
        return [int(n) for n in counts]
    held_out = [max(1, round(share * groups)) if share else 0 for share in counts[1:]]
    return [groups - sum(held_out), *held_out]

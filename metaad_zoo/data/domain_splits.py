"""Domains with anomalies of their own, assigned to splits: who can be tested, who can only be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metaad_zoo.data.splits import (
    USUAL_SHARES,
    group_name,
    group_splits,
    shares_to_counts,
    split_by_counts,
    split_by_patterns,
)
from metaad_zoo.episodes import SPLITS, Corruption, Domain, DomainTaskPool, EpisodeSpec, Split


@dataclass(frozen=True)
class DomainSplitter:
    """Assigns domains to splits and leaves out, with a reason, those that are too small for an episode.

    Args:
        episode: make-up of the training episodes.
        test_episode: make-up of the validation and test episodes.
        corrupt: makes synthetic anomalies, for the train split alone.
        share: share of the training episodes with synthetic anomalies, where a domain has anomalies of its own.
        seed: random seed of the assignment.
    """

    episode: EpisodeSpec
    test_episode: EpisodeSpec
    corrupt: Corruption | None = None
    share: float = 0.0
    seed: int = 0

    def pools(
        self,
        domains: Sequence[Domain],
        splits: Mapping[str, Sequence[str]] | Sequence[int] | None,
        by: str,
        fixed: Mapping[str, Split] | None = None,
    ) -> tuple[dict[str, DomainTaskPool], list[str]]:
        """The pool of each split, and sentences on the domains that were left out.

        Args:
            domains: all domains; their names are distinct.
            splits: fnmatch patterns of domain names by split; or three counts over the domains that can be
                tested, while those that can't, but can be trained on with synthetic anomalies, join the train split;
                None: :meth:`usual_counts`.
            by: what the counts count, see :func:`split_by_counts`.
            fixed: splits of names that had one before, which counts do not move.

        Raises:
            ValueError: the splits can't be had, or one has no domain left; says why.
        """
        names = [d.name for d in domains]
        if splits is None:
            splits = self.usual_counts(domains, fixed)
        if isinstance(splits, Mapping):
            chosen = split_by_patterns(names, splits)
        else:
            chosen = self._by_counts(domains, splits, by, fixed or {})
        by_name = {d.name: d for d in domains}
        pools, left_out = {}, []
        if not isinstance(splits, Mapping):
            assigned = {n for split in SPLITS for n in chosen[split]}
            small = [n for n in names if n not in assigned and self._why_not("test", by_name[n])]
            left_out += _too_small("test", [by_name[n] for n in small])
        for split, members in chosen.items():
            reasons = {n: self._why_not(split, by_name[n]) for n in members}
            large_enough = [by_name[n] for n in members if reasons[n] is None]
            left_out += _too_small(split, [by_name[n] for n in members if reasons[n]])
            if large_enough:
                pools[split] = self._pool(split, large_enough)
            elif members:
                raise ValueError(f"the {split} split has no domain that is large enough: {reasons[members[0]]}")
        return pools, left_out

    def usual_counts(self, domains: Sequence[Domain], fixed: Mapping[str, Split] | None = None) -> list[int]:
        """About 60, 20 and 20 % of the domains that can be tested, at least one each.

        Where a checkpoint has fixed the splits of some, fewer will do.

        Raises:
            ValueError: there are not enough of them.
        """
        reasons = [self._why_not("test", d) for d in domains]
        n = reasons.count(None)
        only_trained = sum(
            why is not None and self._why_not("train", d) is None for d, why in zip(domains, reasons, strict=True)
        )
        train, *held_out = shares_to_counts(USUAL_SHARES, n)
        if any(d.name in (fixed or {}) for d in domains):
            return [max(0, train), *held_out]
        if train < 0 or train + only_trained < 1:
            why = next((why for why in reasons if why), "")
            raise ValueError(
                f"of {len(domains)} domains, {n} can be tested, but val and test take one each and train another"
                f"{': ' + why if why else ''}; give more series with labels, shorter windows or smaller episodes, or "
                "name the splits with data.splits, such as {test: ['*']}"
            )
        return [train, *held_out]

    def _by_counts(
        self, domains: Sequence[Domain], counts: Sequence[int], by: str, fixed: Mapping[str, Split]
    ) -> dict[str, list[str]]:
        testable = [d.name for d in domains if self._why_not("test", d) is None]
        chosen = split_by_counts(testable, counts, by, self.seed, fixed)
        held_out = {group_name(n, by) for split in ("val", "test") for n in chosen[split]}
        held_out |= {group for group, split in group_splits(fixed, by).items() if split != "train"}
        rest = [d for d in domains if d.name not in set(testable)]
        if counts[0] or self.corrupt is not None:
            free = {d.name for d in rest if d.name not in fixed and group_name(d.name, by) not in held_out}
            free |= {n for n, split in fixed.items() if split == "train"}
            chosen["train"] += [d.name for d in rest if d.name in free and self._why_not("train", d) is None]
        return chosen

    def _pool(self, split: str, domains: Sequence[Domain]) -> DomainTaskPool:
        return DomainTaskPool(domains, self.corrupt, self.share) if split == "train" else DomainTaskPool(domains)

    def _why_not(self, split: str, domain: Domain) -> str | None:
        try:
            self._pool(split, [domain]).check(self.episode if split == "train" else self.test_episode)
        except ValueError as error:
            return str(error)
        return None


def _too_small(split: str, domains: Sequence[Domain]) -> list[str]:
    """One sentence on all of them."""
    sizes = [f"{d.name} ({len(d.normal)} normal, {len(d.anomalous)} anomalous)" for d in domains]
    return [f"too small for a {split} episode: {', '.join(sizes)}"] if sizes else []

"""Account of a reader: what it took from a file, left out and guessed, one line for each reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["left out", "guessed", "changed", "damaged"]
"""``left out``: not used; ``guessed``: a choice that an option can overrule; ``changed``: converted, cut or filled;
``damaged``: can't be read, although it was asked for."""

SUBJECTS_SHOWN = 5
"""Subjects that a line names; the others are counted."""

PLACES_SHOWN = 3
"""Files that a line names; of more files, the first is named and the others are counted."""

NUMBER = re.compile(r"(?<![\w.])\d[\d.e+-]*(?!\w)")


@dataclass
class Account:
    """Lines of what was done with a file beyond reading its values as they are.

    Subjects that share kind, place and reason share a line, so that a wide account stays short; none is dropped. Files
    of which the same is said, or the same with other numbers, share a line too.

    Attributes:
        entries: subjects (column names, file names, places) by kind, place and reason.

    Example:
        >>> account = Account()
        >>> account.add("left out", "a.csv", "constant", ["x", "y"])
        >>> account.add("left out", "a.csv", "constant", ["z"])
        >>> account.add("changed", "a.csv", "3 missing values are imputed")
        >>> account.add("changed", "b.csv", "5 missing values are imputed")
        >>> for sentence in account:
        ...     print(sentence)
        a.csv: 'x', 'y', 'z' left out: constant
        a.csv: 3 missing values are imputed (likewise, with other numbers, in b.csv)
    """

    entries: dict[tuple[Kind, str, str], list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, place: str, reason: str, subjects: Sequence[str] = ()) -> None:
        """Note one thing, once.

        Args:
            kind: see :data:`Kind`.
            place: the file or folder, as the user knows it.
            reason: why, in words that follow a colon (where guessed, such as "as the label"); a whole sentence where
                there are no subjects.
            subjects: the columns or files that it is about.

        Raises:
            ValueError: the kind is unknown.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind of entry {kind!r}: expected one of {get_args(Kind)}")
        subjects_so_far = self.entries.setdefault((kind, place, reason), [])
        noted = set(subjects_so_far)  # a folder may have 100,000 files
        subjects_so_far += [subject for subject in dict.fromkeys(subjects) if subject not in noted]

    def join(self, account: Account) -> None:
        """Add all entries of another account."""
        for (kind, place, reason), subjects in account.entries.items():
            self.add(kind, place, reason, subjects)

    @property
    def damaged(self) -> list[str]:
        """Files that could not be read."""
        return [subject for (kind, _, _), subjects in self.entries.items() if kind == "damaged" for subject in subjects]

    def __iter__(self) -> Iterator[str]:
        """A sentence for each kind, reason and subjects, with the files that it is true of."""
        for entries in self._alike():
            (kind, place, reason), subjects = entries[0]
            places = [place for (_, place, _), _ in entries]
            if len({(reason, *subjects) for (_, _, reason), subjects in entries}) == 1:
                yield _sentence(kind, _named(places), reason, subjects)
            else:
                likewise = ", ".join(places[1:]) if len(places) <= PLACES_SHOWN else f"{len(places) - 1} more files"
                sentence = _sentence(kind, place, reason, subjects)
                yield f"{sentence} (likewise, with other numbers, in {likewise})"

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self._alike())

    def _alike(self) -> list[list[tuple[tuple[Kind, str, str], list[str]]]]:
        """Entries of different places that differ in numbers alone."""
        groups: dict[tuple[object, ...], list[tuple[tuple[Kind, str, str], list[str]]]] = {}
        repeats: Counter[tuple[object, ...]] = Counter()
        for entry, subjects in self.entries.items():
            kind, place, reason = entry
            texts = dict.fromkeys(NUMBER.sub("0", text) for text in (reason, *subjects))
            note = (kind, *texts)
            repeats[(place, note)] += 1  # two entries of one place have a sentence each
            groups.setdefault((repeats[(place, note)], note), []).append((entry, subjects))
        return list(groups.values())

    def as_json(self) -> list[dict[str, object]]:
        """All entries with all their subjects, for ``--json``."""
        return [
            {
                "kind": kind,
                "place": place,
                "reason": reason,
                "subjects": subjects,
                "sentence": _sentence(kind, place, reason, subjects),
            }
            for (kind, place, reason), subjects in self.entries.items()
        ]


def _named(places: Sequence[str]) -> str:
    return ", ".join(places) if len(places) <= PLACES_SHOWN else f"{places[0]} and {len(places) - 1} more files"


def _sentence(kind: Kind, place: str, reason: str, subjects: Sequence[str]) -> str:
    if not subjects:
        return f"{place}: {reason}"
    names = ", ".join(map(repr, subjects[:SUBJECTS_SHOWN]))
    more = f" and {len(subjects) - SUBJECTS_SHOWN} more" if len(subjects) > SUBJECTS_SHOWN else ""
    return f"{place}: {names}{more} {f'read {reason}' if kind == 'guessed' else f'{kind}: {reason}'}"

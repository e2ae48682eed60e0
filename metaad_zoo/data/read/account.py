"""Account of a reader: what it took from a file, left out and guessed, one line for each reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["left out", "guessed", "changed", "damaged"]
"""``left out``: not used; ``guessed``: a choice that an option can overrule; ``changed``: converted, cut or filled;
``damaged``: can't be read, although it was asked for."""

SUBJECTS_SHOWN = 5
"""Subjects that a line names; the others are counted."""


@dataclass
class Account:
    """Lines of what was done with a file beyond reading its values as they are.

    Subjects that share kind, place and reason share a line, so that a wide account stays short; none is dropped.

    Attributes:
        entries: subjects (column names, file names, places) by kind, place and reason.

    Example:
        >>> account = Account()
        >>> account.add("left out", "a.csv", "constant", ["x", "y"])
        >>> account.add("left out", "a.csv", "constant", ["z"])
        >>> account.add("changed", "a.csv", "3 missing values are imputed")
        >>> list(account)
        ["a.csv: 'x', 'y', 'z' left out: constant", 'a.csv: 3 missing values are imputed']
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
        known = set(subjects_so_far)  # a folder may have 100,000 files
        subjects_so_far += [subject for subject in dict.fromkeys(subjects) if subject not in known]

    def join(self, account: Account) -> None:
        """Add all entries of another account."""
        for (kind, place, reason), subjects in account.entries.items():
            self.add(kind, place, reason, subjects)

    @property
    def damaged(self) -> list[str]:
        """Files that could not be read."""
        return [subject for (kind, _, _), subjects in self.entries.items() if kind == "damaged" for subject in subjects]

    def __iter__(self) -> Iterator[str]:
        """A sentence for each kind, place and reason."""
        for (kind, place, reason), subjects in self.entries.items():
            yield _sentence(kind, place, reason, subjects)

    def __len__(self) -> int:
        return len(self.entries)

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


def _sentence(kind: Kind, place: str, reason: str, subjects: Sequence[str]) -> str:
    if not subjects:
        return f"{place}: {reason}"
    names = ", ".join(map(repr, subjects[:SUBJECTS_SHOWN]))
    more = f" and {len(subjects) - SUBJECTS_SHOWN} more" if len(subjects) > SUBJECTS_SHOWN else ""
    return f"{place}: {names}{more} {f'read {reason}' if kind == 'guessed' else f'{kind}: {reason}'}"

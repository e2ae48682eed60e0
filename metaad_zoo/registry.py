"""Registry: look-up by name, with suggestions for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Things that users call by name, each for one or several modalities.

    Args:
        kind: what the names stand for, as errors say it.

    Example:
        >>> distances = Registry[str]("distance")
        >>> distances.add("dtw", "dynamic time warping", ("sequence",))
        >>> distances.names("d*", modality="sequence"), distances["dtw"]
        (['dtw'], 'dynamic time warping')
        >>> distances["dwt"]
        Traceback (most recent call last):
        ValueError: unknown distance 'dwt'; did you mean 'dtw'? Known: dtw
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, tuple[T, Container[str]]] = {}

    def add(self, name: str, thing: T, modalities: Container[str] = ()) -> None:
        """Make a thing known by a name.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._things:
            raise ValueError(f"a {self.kind} named {name!r} is registered already")
        self._things[name] = thing, modalities

    def names(self, pattern: str = "*", *, modality: str | None = None) -> list[str]:
        """Names that match an fnmatch pattern, sorted; only those for a modality, where one is given."""
        return sorted(
            name
            for name, (_, modalities) in self._things.items()
            if fnmatchcase(name, pattern) and (modality is None or modality in modalities)
        )

    def __getitem__(self, name: str) -> T:
        """The thing of this name.

        Raises:
            ValueError: the name is unknown (the nearest known ones are named).
        """
        if name not in self._things:
            raise unknown_name(self.kind, name, self._things)
        return self._things[name][0]

    def __contains__(self, name: str) -> bool:
        return name in self._things


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that nothing answers to.

    Args:
        kind: what was looked for, such as ``"backbone"``.
        name: what the user wrote.
        known: the names there are.

    Example:
        >>> print(unknown_name("backbone", "convv4", ["conv4", "resnet12"]))
        unknown backbone 'convv4'; did you mean 'conv4'? Known: conv4, resnet12
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return ValueError(f"unknown {kind} {name!r}; {hint}Known: {shown or 'none'}")

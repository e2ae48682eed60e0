"""Registry: look-up by name, with suggestions for unknown names."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from metaad_zoo.plugins import load_installed

T = TypeVar("T")
Registered = TypeVar("Registered")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    modalities: Sequence[str] | None


@dataclass(frozen=True)
class _Family(Generic[T]):
    """Names with a common prefix, defined by another library."""

    builder: T
    modalities: Sequence[str] | None
    names: Callable[[str], Iterable[str]]
    check: Callable[[str], None]


class Registry(Generic[T]):
    """Objects that users call by name, each for one or several modalities.

    Plug-ins of installed packages are loaded before the first look-up.

    Args:
        kind: kind of objects, as errors name it.

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
        self._entries: dict[str, _Entry[T]] = {}
        self._families: dict[str, _Family[T]] = {}

    def add(self, name: str, value: T, modalities: Sequence[str] | None = None) -> None:
        """Register an object.

        Args:
            name: name that users type.
            value: the object.
            modalities: modalities that it reads; None: any.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"a {self.kind} named {name!r} is registered already")
        self._entries[name] = _Entry(value, modalities)

    def decorator(self, name: str, modalities: Sequence[str] | None = None) -> Callable[[Registered], Registered]:
        """A decorator that registers a class or function, and returns it.

        Raises:
            ValueError: the name is taken.
        """

        def register(value: Registered) -> Registered:
            self.add(name, value, modalities)  # type: ignore[arg-type]
            return value

        return register

    def add_family(
        self,
        prefix: str,
        builder: T,
        modalities: Sequence[str] | None,
        names: Callable[[str], Iterable[str]],
        check: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Register all names that start with a prefix.

        Args:
            prefix: such as ``"timm/"``.
            builder: called with the name without the prefix, and options.
            modalities: modalities that they read; None: any.
            names: function from an fnmatch pattern to the names that match, without the prefix.
            check: raises ValueError for an unknown name without the prefix, before options are checked.
        """
        self._families[prefix] = _Family(builder, modalities, names, check)

    def names(self, pattern: str = "*", *, modality: str | None = None) -> list[str]:
        """Names that match an fnmatch pattern, in natural order; those of a family where the pattern has its prefix.

        Args:
            pattern: fnmatch pattern.
            modality: only those that read this modality.
        """
        load_installed()
        names = [
            name for name, entry in self._entries.items() if fnmatchcase(name, pattern) and _reads(entry, modality)
        ]
        for prefix, family in self._families.items():
            if pattern.startswith(prefix) and _reads(family, modality):
                names += [prefix + name for name in family.names(pattern.removeprefix(prefix))]
        return sorted(names, key=_natural)

    def modalities(self, name: str) -> Sequence[str] | None:
        """The modalities that the object of this name reads; None: any.

        Raises:
            ValueError: the name is unknown (the nearest names are given).
        """
        family = self._family(name)
        return self._entry(name).modalities if family is None else family.modalities

    def create(self, name: str, **options: Any) -> Any:
        """Call the builder of this name.

        Raises:
            ValueError: the name or an option is unknown (the nearest ones are given), or the builder refuses an option.
        """
        builder: Any = self[name]
        family = self._family(name)
        arguments = [] if family is None else [name.partition("/")[2]]
        if family is not None:
            family.check(*arguments)
        parameters = inspect.signature(builder).parameters
        accepted = list(parameters)[len(arguments) :]
        open_ended = any(
            p.kind is p.VAR_KEYWORD for p in parameters.values()
        )  # such a builder checks its options itself
        for option in options:
            if option not in accepted and not open_ended:
                raise unknown_name(f"option of {self.kind} {name!r}:", option, accepted)
        return builder(*arguments, **options)

    def __getitem__(self, name: str) -> T:
        """The object of this name; of a name of a family its builder.

        Raises:
            ValueError: the name is unknown (the nearest names are given).
        """
        family = self._family(name)
        return self._entry(name).value if family is None else family.builder

    def __contains__(self, name: str) -> bool:
        load_installed()
        return name in self._entries

    def _family(self, name: str) -> _Family[T] | None:
        return next((family for prefix, family in self._families.items() if name.startswith(prefix)), None)

    def _entry(self, name: str) -> _Entry[T]:
        if name not in self:
            names = [*self._entries]
            for prefix, family in self._families.items():  # the user may have omitted the prefix
                names += [prefix + n for n in family.names(f"*{name}*")]
            raise unknown_name(self.kind, name, names)
        return self._entries[name]


def _reads(entry: _Entry[T] | _Family[T], modality: str | None) -> bool:
    return modality is None or entry.modalities is None or modality in entry.modalities


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which resnet9 comes before resnet12."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def unknown_name(kind: str, name: str, names: Iterable[str]) -> ValueError:
    """The error for an unknown name.

    Args:
        kind: kind of object, such as ``"backbone"``.
        name: unknown name.
        names: names that exist.

    Example:
        >>> print(unknown_name("backbone", "convv4", ["conv4", "resnet12"]))
        unknown backbone 'convv4'; did you mean 'conv4'? Known: conv4, resnet12
    """
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    listing = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return ValueError(f"unknown {kind} {name!r}; {hint}Known: {listing or 'none'}")

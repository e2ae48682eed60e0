"""Errors for unknown names that offer the nearest known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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

"""Long lists of names, told in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

SHOWN = 12
GROUPS_SHOWN = 40


def fold(names: Sequence[str]) -> str:
    """A list of names for a card: in full where it is short, else by what stands before the last slash, or begun.

    Example:
        >>> fold(["a", "b"])
        'a, b'
        >>> fold([f"set/Greek/{i:02}" for i in range(24)] + ["set/Latin/1"])
        'set/Greek (24), set/Latin (1)'
        >>> fold([f"{i}" for i in range(14)])
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 2 more'
    """
    names = list(dict.fromkeys(names))
    if len(names) <= SHOWN:
        return ", ".join(names) or "none"
    groups = Counter(name.rpartition("/")[0] for name in names)
    if "" not in groups and len(groups) <= GROUPS_SHOWN and len(groups) <= len(names) / 2:
        return ", ".join(f"{group} ({n})" for group, n in groups.items())
    return f"{', '.join(names[:SHOWN])}, and {len(names) - SHOWN} more"

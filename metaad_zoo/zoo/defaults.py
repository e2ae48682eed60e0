"""The default detector of each modality, with its reason; `benchmarks/defaults.py` writes the table from results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("defaults.json")


@dataclass(frozen=True)
class Default:
    """Default detector of a modality.

    Attributes:
        modality: name of the modality, as :func:`metaad_zoo.modality.list_modalities` lists it.
        detector: name of the detector: a learner that trains nothing, a published checkpoint, or a baseline.
        reason: why, in sentences with the figures.
        results: result files that the figures come from, relative to the repository.
    """

    modality: str
    detector: str
    reason: str
    results: tuple[str, ...]


def defaults() -> dict[str, Default]:
    """The defaults by the name that users type, such as ``"image"``, ``"series"`` or ``"table"``."""
    entries = json.loads(TABLE.read_text(encoding="utf-8"))
    return {name: Default(**{**entry, "results": tuple(entry["results"])}) for name, entry in entries.items()}


def default_of(name: str) -> Default | None:
    """The default detector of a modality, by what users call it or by its own name; None for other names.

    Example:
        >>> default_of("table").modality, default_of("maml")
        ('tabular', None)
    """
    entries = defaults()
    return entries.get(name) or next((entry for entry in entries.values() if entry.modality == name), None)

"""Warning about a support set that is unlike all tasks that a checkpoint was trained on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from metaad_zoo.cli.terminal import note

if TYPE_CHECKING:
    from metaad_zoo.detector import Detector


def note_novelty(detector: Detector) -> dict[str, Any] | None:
    """Warn if the support set of a fitted detector is unlike all training tasks.

    Returns:
        Figures for JSON output; None where the checkpoint can't tell.
    """
    novelty = detector.novelty
    if novelty is None:
        return None
    if novelty.is_novel:
        note(
            "the support is unlike all tasks that this checkpoint was trained on (its distance to them is "
            f"{novelty.distance:.1f}; unseen tasks of the same kind have at most {novelty.usual:.1f}): scores and "
            "p-values may be meaningless; compare methods with `metaad recommend --support PATH`"
        )
    return asdict(novelty) | {"novel": novelty.is_novel}

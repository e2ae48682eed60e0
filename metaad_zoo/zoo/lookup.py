"""Where a checkpoint is: a published name, a folder, an address or a repository."""

from __future__ import annotations

from pathlib import Path

from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo.defaults import defaults
from metaad_zoo.zoo.index import find_published, read_index
from metaad_zoo.zoo.manifest import is_checkpoint
from metaad_zoo.zoo.reading import CheckpointError

REPLACED = {
    "tabular-raw_columns-in_context-adbench": (
        "tabular-raw_columns-weighted_experts-unlabelled replaces it, with other scores. "
        "`metaad train tabular/adbench_in_context` trains it again"
    )
}
"""Names that were published before, and what to take instead."""


def model_folder(path: Path) -> Path | None:
    """The model that a path stands for: itself, or the folder ``model`` of a run; None where there is none."""
    return next((p for p in (path, path / "model") if is_checkpoint(p)), None)


def is_known(name: str) -> bool:
    """Whether a name stands for a checkpoint, without fetching it: an address, a folder or a published name."""
    name = published_of(name)
    return "://" in name or model_folder(Path(name).expanduser()) is not None or name in read_index()


def published_of(name: str) -> str:
    """The first published checkpoint of a learner that trains nothing; other names, and folders, unchanged.

    Example:
        >>> published_of("maml")
        'maml'
    """
    if not name.isidentifier() or model_folder(Path(name)) is not None or name not in untrained_learners():
        return name
    return next((entry for entry, fields in read_index().items() if fields.learner == name), name)


def untrained_learners() -> list[str]:
    """Names of the learners that train nothing."""
    from metaad_zoo.learners import learner_class, list_learners  # imports torch

    return [name for name in list_learners() if not learner_class(name).trains]


def refuse_replaced(name: str) -> None:
    """Refuse a name that was published before; another model in its place would silently change scores.

    Raises:
        CheckpointError: the name is one of :data:`REPLACED`; the error names the successor.
    """
    if name in REPLACED:
        raise CheckpointError(f"{name} is no longer published: {REPLACED[name]}")


def locate(name: str | Path, papers: bool = False) -> Path:
    """The folder of a checkpoint, fetched where it lies elsewhere.

    Args:
        name: a folder (a finished run, a run's ``model``, what ``detector.save`` wrote); a published name, or that of
            a learner that trains nothing; an address, see :func:`metaad_zoo.zoo.fetch_checkpoint`; or
            ``hf://owner/repository``.
        papers: fetch its card and figures too, where it has any.

    Raises:
        CheckpointError: there is none, or it can't be fetched; the error names the nearest published names,
            or the successor of a name that was published before.
    """
    name = published_of(str(name))
    if "://" in name:
        from metaad_zoo.zoo.hub import PREFIX, fetch_from_hub
        from metaad_zoo.zoo.remote import fetch_checkpoint

        return (fetch_from_hub if name.startswith(PREFIX) else fetch_checkpoint)(name, papers)
    folder = model_folder(Path(name).expanduser())
    if folder is not None:
        return folder
    published = read_index()
    if name in published:
        return find_published(name)
    refuse_replaced(name)
    from metaad_zoo.evaluation.baselines import list_baselines  # imports torch

    names = [*published, *list_baselines(), *defaults()]
    raise CheckpointError(
        f"{name} is no checkpoint: expected a finished run (runs/<name>/<time>), what detector.save wrote, an address, "
        f"or a published name; {unknown_name('checkpoint', name, names)}"
    )

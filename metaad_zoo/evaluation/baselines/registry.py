"""Baselines by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from metaad_zoo.episodes import Method
from metaad_zoo.modality import get_modality, list_modalities
from metaad_zoo.registry import Registry, unknown_name

Builder = TypeVar("Builder", bound=Callable[..., Method])

PYOD_PREFIX = "pyod/"

_BASELINES: Registry[tuple[Callable[..., Method], tuple[str, ...] | None]] = Registry("baseline")


def register_baseline(name: str, *, modalities: Iterable[str] | None = None) -> Callable[[Builder], Builder]:
    """Make a builder known by a name; the decorated function or class returns a :class:`metaad_zoo.episodes.Method`.

    Args:
        name: what users type.
        modalities: what it can read, and with it all modalities that are read as one of these; None: any, one or
            several at once.

    Raises:
        ValueError: the name is taken.
    """

    def register(builder: Builder) -> Builder:
        _BASELINES.add(name, (builder, None if modalities is None else tuple(modalities)))
        return builder

    return register


def list_baselines(pattern: str = "*", *, modality: str | None = None) -> list[str]:
    """Names of the baselines; patterns that start with ``pyod/`` list the detectors of PyOD, where it is installed.

    Args:
        pattern: fnmatch pattern.
        modality: only those that read this modality.

    Example:
        >>> list_baselines("pca*"), list_baselines("pca*", modality="image")
        (['pca', 'pca_subwindows'], ['pca'])
    """
    names = [n for n in _BASELINES.names(pattern) if modality is None or modality in modalities_of(n)]
    if pattern.startswith(PYOD_PREFIX) and modality in (None, *list_modalities()):
        from metaad_zoo.evaluation.baselines.pyod_detectors import detectors

        names += [n for c in detectors() if fnmatchcase(n := PYOD_PREFIX + c, pattern)]
    return sorted(names)


def modalities_of(name: str) -> tuple[str, ...]:
    """The modalities that a baseline can read, sorted.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    readers = None if name.startswith(PYOD_PREFIX) else _BASELINES[name][1]
    return tuple(m for m in list_modalities() if readers is None or get_modality(m).reader in readers)


def about_baseline(name: str) -> str:
    """What a baseline is, where it comes from and what its settings are, as its docstring has it.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    return _BASELINES[name][0].__doc__ or ""


def create_baseline(name: str, **options: Any) -> Method:
    """Build a baseline by its name.

    Args:
        name: one of :func:`list_baselines`, or ``pyod/<Class>`` for a detector of PyOD
            (``pip install 'metaad_zoo[pyod]'``).
        options: the baseline's own arguments.

    Raises:
        ValueError: the name or an option is unknown (the nearest known ones are named), or an option is refused.

    Example:
        >>> import torch
        >>> support = {"tabular": torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])}
        >>> scorer = create_baseline("knn", k=1, standardise="none").adapt(support, torch.zeros(3))
        >>> scorer.score({"tabular": torch.tensor([[0.0, 0.0], [4.0, 4.0]])})
        tensor([0., 5.], dtype=torch.float64)
    """
    if name.startswith(PYOD_PREFIX):
        from metaad_zoo.evaluation.baselines.pyod_detectors import PyODDetector

        return PyODDetector(name.removeprefix(PYOD_PREFIX), **options)
    builder, _ = _BASELINES[name]
    known = inspect.signature(builder).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of baseline {name!r}:", option, known)
    return builder(**options)

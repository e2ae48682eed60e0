"""Baselines by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from metaad_zoo.episodes import Method
from metaad_zoo.registry import Registry, unknown_name

Builder = TypeVar("Builder", bound=Callable[..., Method])

MODALITIES = ("image", "sequence", "tabular")
PYOD_PREFIX = "pyod/"

_BASELINES: Registry[tuple[Callable[..., Method], tuple[str, ...]]] = Registry("baseline")


def register_baseline(name: str, *, modalities: Iterable[str] = MODALITIES) -> Callable[[Builder], Builder]:
    """Make a builder known by a name; the decorated function or class returns a :class:`metaad_zoo.episodes.Method`.

    Args:
        name: what users type.
        modalities: what it can read; by default all, one or several at once.

    Raises:
        ValueError: the name is taken.
    """

    def register(builder: Builder) -> Builder:
        read = tuple(modalities)
        _BASELINES.add(name, (builder, read), read)
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
    names = _BASELINES.names(pattern, modality=modality)
    if pattern.startswith(PYOD_PREFIX) and modality in (None, *MODALITIES):
        from metaad_zoo.evaluation.baselines.pyod_detectors import detectors

        names += [n for c in detectors() if fnmatchcase(n := PYOD_PREFIX + c, pattern)]
    return sorted(names)


def modalities_of(name: str) -> tuple[str, ...]:
    """The modalities that a baseline can read.

    Raises:
        ValueError: the name is unknown (the nearest known ones are named).
    """
    if name.startswith(PYOD_PREFIX):
        return MODALITIES
    return _BASELINES[name][1]


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

"""Registry of baselines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from metaad_zoo.episodes import Method
from metaad_zoo.modality import get_modality, list_modalities
from metaad_zoo.registry import Registry

Builder = TypeVar("Builder", bound=Callable[..., Method])

PYOD_PREFIX = "pyod/"
BASELINES: Registry[Callable[..., Method]] = Registry("baseline")


def register_baseline(name: str, *, modalities: Iterable[str] | None = None) -> Callable[[Builder], Builder]:
    """Register a builder: a function or class that returns a :class:`metaad_zoo.episodes.Method`.

    Args:
        name: what users type.
        modalities: what it can read, and with it all modalities that are read as one of these; None: any, one or
            several at once.

    Raises:
        ValueError: the name is taken.
    """
    return BASELINES.decorator(name, None if modalities is None else tuple(modalities))


def list_baselines(pattern: str = "*", *, modality: str | None = None) -> list[str]:
    """Names of the baselines; patterns that start with ``pyod/`` list the detectors of PyOD, where it is installed.

    Args:
        pattern: fnmatch pattern.
        modality: only those that read this modality.

    Example:
        >>> list_baselines("pca*"), list_baselines("pca*", modality="image")
        (['pca', 'pca_subwindows'], ['pca'])
    """
    return [n for n in BASELINES.names(pattern) if modality is None or modality in modalities_of(n)]


def modalities_of(name: str) -> tuple[str, ...]:
    """The modalities that a baseline can read, sorted.

    Raises:
        ValueError: the name is unknown (the nearest names are given).
    """
    readers = BASELINES.modalities(name)
    return tuple(m for m in list_modalities() if readers is None or get_modality(m).reader in readers)


def is_baseline(name: str) -> bool:
    """Whether a name is that of a baseline or of a detector of PyOD.

    Example:
        >>> is_baseline("knn"), is_baseline("pyod/KNN"), is_baseline("maml")
        (True, True, False)
    """
    return name in BASELINES or name.startswith(PYOD_PREFIX)


def reads_unlabelled(name: str) -> bool:
    """Whether a baseline weighs unlabelled support samples by how normal they look, instead of taking them as normal:
    the attribute ``reads_unlabelled`` of its class, or of the class that its function is annotated to return.

    Raises:
        ValueError: the name is unknown (the nearest names are given).

    Example:
        >>> reads_unlabelled("knn")
        False
    """
    builder: Any = BASELINES[name]
    if not isinstance(builder, type):
        try:
            builder = inspect.signature(builder, eval_str=True).return_annotation
        except NameError:  # a name that is imported for type checking alone
            return False
    return bool(getattr(builder, "reads_unlabelled", False))


def about_baseline(name: str) -> str:
    """Description of a baseline, its source and its settings: its docstring.

    Raises:
        ValueError: the name is unknown (the nearest names are given).
    """
    return BASELINES[name].__doc__ or ""


def create_baseline(name: str, **options: Any) -> Method:
    """Build a baseline by its name.

    Args:
        name: one of :func:`list_baselines`, or ``pyod/<Class>`` for a detector of PyOD
            (``pip install 'metaad_zoo[pyod]'``).
        options: the baseline's own arguments.

    Raises:
        ValueError: the name or an option is unknown (the nearest names are given), or an option is refused.

    Example:
        >>> import torch
        >>> support = {"tabular": torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])}
        >>> scorer = create_baseline("knn", k=1, standardise="none").adapt(support, torch.zeros(3))
        >>> scorer.score({"tabular": torch.tensor([[0.0, 0.0], [4.0, 4.0]])})
        tensor([0., 5.], dtype=torch.float64)
    """
    method: Method = BASELINES.create(name, **options)
    return method

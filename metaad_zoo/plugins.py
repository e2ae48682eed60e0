"""Plug-ins: modules outside this package whose backbones, learners, data sets, modalities or baselines it can use.

A plug-in is imported where the user has installed it with an entry point of the group ``metaad_zoo.plugins``, or names
it by ``--import``. Nothing else, and no checkpoint, decides what is imported.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

GROUP = "metaad_zoo.plugins"
PACKAGE = __name__.partition(".")[0]


class MissingPluginError(ValueError):
    """A checkpoint needs a module that the user has neither installed as a plug-in nor imported."""


@cache
def load_installed() -> None:
    """Import the plug-ins of installed packages, once; one that fails is skipped with a warning."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:  # whatever a plug-in's module raises: the others must stay usable
            warnings.warn(
                f"the plug-in {entry.name} = {entry.value} can't be imported ({type(error).__name__}: {error}): mend "
                "or uninstall its package",
                stacklevel=2,
            )


def import_plugins(modules: Iterable[str]) -> None:
    """Import the modules that ``--import`` names, from the working directory too.

    Raises:
        ValueError: a module can't be found or imported.
    """
    for module in modules:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # at the end: nothing there takes the place of an installed module
        try:
            import_module(module)
        except Exception as error:  # whatever the user's module raises
            raise ValueError(
                f"--import {module}: {type(error).__name__}: {error}; expected a module in the working directory or "
                "an installed one, such as my_module"
            ) from error


def require_plugins(modules: Iterable[str], where: str) -> None:
    """Refuse a checkpoint that needs a module which is neither an installed plug-in nor imported by the user.

    Args:
        modules: names of the required modules.
        where: checkpoint that needs them, for the error.

    Raises:
        MissingPluginError: a module is missing; the message names it.
    """
    load_installed()
    for module in modules:
        if module not in sys.modules:
            raise MissingPluginError(
                f"{where} needs the module {module}, which is no part of {PACKAGE}: if you trust it, name it by "
                f"--import {module} (in Python: import {module}), or install it as a plug-in (entry point {GROUP})"
            )


def is_own(module: str) -> bool:
    """Whether a module is part of this package."""
    return module.partition(".")[0] == PACKAGE

"""Packages whose public names are imported when they are used (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: ``__name__`` of the package.
        modules: module that defines each public name; a submodule is its own module.
    """

    def get(name: str) -> Any:
        submodule = f"{package}.{name}"
        if modules.get(name, submodule) != submodule:
            return getattr(import_module(modules[name]), name)
        if name.startswith("__") or not name.isidentifier() or find_spec(submodule) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(submodule)

    return get, lambda: sorted(modules)

"""The arrows of the house: an import points to a lower floor, never up, and never in a circle; files stay readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "metaad_zoo"
FLOORS = [
    {"atomic_write", "lazy", "plugins", "version"},
    {"registry"},
    {"episodes", "backbones", "inner_loop"},
    {"data"},
    {"modality"},
    {"evaluation"},
    {"learners"},
    {"zoo"},
    {"detector"},
    {"explain", "serve", "export", "sklearn"},
    {"pyod", "experiment"},
    {"cli"},
]
MODULES = {
    ".".join(("metaad_zoo", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    at = [i for i, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert at, f"{module} is on no floor: add its room to FLOORS"
    return at[0]


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Modules and the names taken from them, of all imports of a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module), [alias.name for alias in node.names]


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports; of ``from package import module`` the module."""
    whole = {f"{module}.{name}" for module, names in imports(path) for name in names}
    packages = {module for module, names in imports(path) if not {f"{module}.{n}" for n in names} <= MODULES.keys()}
    return (whole | packages | {module for module, names in imports(path) if not names}) & MODULES.keys()


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another."""
    reach = {start: set(ends) for start, ends in arrows.items()}
    for middle in arrows:
        for start in arrows:
            if middle in reach[start]:
                reach[start] |= reach[middle]
    together = {m: frozenset(n for n in reach[m] if m in reach[n]) for m in arrows}
    return sorted(sorted(group) for group in set(together.values()) if group)


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]


@pytest.mark.parametrize("module", [m for m in MODULES if room(m)])
def test_imports_point_down(module):
    for name in imported(MODULES[module]):
        if room(name) == room(module):
            continue
        assert room(name), f"{module} imports the package itself"
        assert floor(name) < floor(module), f"{module} imports {name}"
    if room(module) in ("episodes", "backbones"):
        assert not [name for name, _ in imports(MODULES[module]) if name.startswith("lightning")]


def test_no_imports_in_circles():
    assert circles({module: imported(path) - {module} for module, path in MODULES.items()}) == []


def test_files_are_readable():
    long = {m: n for m, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 500}
    assert not long

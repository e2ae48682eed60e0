"""The arrows of the house: an import points to a lower floor, never up; and files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "metaad_zoo"
FLOORS = {
    "registry": 0,
    "episodes": 1,
    "backbones": 1,
    "inner_loop": 1,
    "data": 2,
    "modality": 2.3,
    "evaluation": 2.6,
    "learners": 3,
    "zoo": 4,
    "judging": 4,
    "detector": 5,
    "explain": 6,
    "serve": 6,
    "export": 6,
    "sklearn": 6,
    "pyod": 7,
    "experiment": 7,
    "cli": 8,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    if room(path) == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "metaad_zoo":
                modules = [f"metaad_zoo.{a.name}" for a in node.names]
        for module in modules:
            if module and module.startswith("metaad_zoo."):
                other = module.split(".")[1]
                assert other == room(path) or FLOORS[other] < FLOORS[room(path)], f"{path}: imports {module}"
            assert not (module and module.startswith("lightning") and room(path) in ("episodes", "backbones"))


def test_files_are_small():
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 500}
    assert not long

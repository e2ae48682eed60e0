"""Mutants of the mutation benchmark: what is changed, what is left alone, and that one change is made at a time."""

from __future__ import annotations

import ast
import importlib

import pytest

from tests.conftest import REPOSITORY

CODE = '''
"""Text."""
SIZE = 3

def first(values: list[int], n: int = 1) -> int | None:
    """Text."""
    if n > 2 and values:
        raise ValueError(f"{n + 1} is too many")
    values.sort()
    total = "a" + "b"
    return values[0] - n
'''
CHANGES = {
    ("n > 2", "n >= 2"),
    ("2", "3"),
    ("n > 2 and values", "n > 2 or values"),
    ("if n > 2 and values:", "if not (n > 2 and values):"),
    ("values.sort()", "pass"),
    ("0", "1"),
    ("values[0] - n", "values[0] + n"),
    ("return values[0] - n", "return None"),
    ("1", "2"),
}


@pytest.fixture
def mutation(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("mutation")


@pytest.fixture
def source(mutation, tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "REPOSITORY", tmp_path)
    (tmp_path / "a.py").write_text(CODE)
    return CODE


def test_changes_are_those_of_the_operators(mutation, source):
    assert {(m.before, m.after) for m in mutation.mutants_of("a.py")} == CHANGES


def test_one_change_is_made_at_a_time(mutation, source):
    original = ast.unparse(ast.parse(source)).splitlines()
    for mutant in mutation.mutants_of("a.py"):
        changed = ast.unparse(mutation.mutated("a.py", mutant.number)).splitlines()
        assert len(changed) == len(original)
        (different,) = [(a, b) for a, b in zip(original, changed, strict=True) if a != b]
        assert mutant.after.rstrip(":") in different[1]


def test_the_interval_is_wilsons(mutation):
    assert mutation.interval(8, 10) == [0.4902, 0.9433]


def test_the_quickest_tests_of_a_line_are_chosen(mutation, source):
    mutant = next(m for m in mutation.mutants_of("a.py") if m.before == "0")
    lines = {"a.py": {mutant.line: ["quick", "slow", "slower"]}}
    timings = {"quick": 1.0, "slow": 2.0, "slower": 9.0}
    assert mutation.chosen_tests(mutant, lines, timings, 4) == ["quick", "slow"]
    assert mutation.chosen_tests(mutant, lines, timings, 0.5) == ["quick"]
    assert mutation.chosen_tests(mutant, {}, timings, 4) == []

"""Mutants of the mutation benchmark: what is changed, one change at a time, by which tests; and its rates."""

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
def mutants(mutation):
    return importlib.import_module("mutants")


@pytest.fixture
def line_coverage(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("line_coverage")


@pytest.fixture
def source(mutants, tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "REPOSITORY", tmp_path)
    (tmp_path / "a.py").write_text(CODE)
    return CODE


def test_changes_are_those_of_the_operators(mutants, source):
    assert {(m.before, m.after) for m in mutants.mutants_of("a.py")} == CHANGES


def test_a_default_is_looked_for_where_its_function_is_executed(mutants, source):
    (default,) = (m for m in mutants.mutants_of("a.py") if m.before == "1")
    assert source.splitlines()[default.line - 1].startswith("def first")
    assert source.splitlines()[default.statement - 1].strip() == "if n > 2 and values:"


def test_one_change_is_made_at_a_time(mutants, source):
    original = ast.unparse(ast.parse(source)).splitlines()
    for mutant in mutants.mutants_of("a.py"):
        changed = ast.unparse(mutants.mutated("a.py", mutant.number)).splitlines()
        assert len(changed) == len(original)
        (different,) = [(a, b) for a, b in zip(original, changed, strict=True) if a != b]
        assert mutant.after.rstrip(":") in different[1]


def test_the_interval_is_wilsons(mutation):
    assert mutation.interval(8, 10) == [0.4902, 0.9433]


def test_tests_of_the_room_then_the_quickest_are_chosen(mutation):
    mutant = mutation.Mutant("metaad_zoo/episodes/a.py", 12, 11, 0, "0", "1", "f")
    names = ["tests/test_x.py::quick", "tests/test_x.py::slow", "tests/episodes/test_a.py::slow", "tests/x.py::slower"]
    timings = dict(zip(names, (1.0, 3.0, 3.0, 9.0), strict=True))
    quick, _, own, _ = names
    assert mutation.chosen_tests(mutant, {mutant.path: {12: names}}, timings, 6) == [own, quick]
    assert mutation.chosen_tests(mutant, {mutant.path: {11: names}}, timings, 6) == [own, quick]
    assert mutation.chosen_tests(mutant, {mutant.path: {12: names}}, timings, 0.5) == [own]
    assert mutation.chosen_tests(mutant, {}, timings, 6) == []
    default = mutation.Mutant("metaad_zoo/episodes/a.py", 12, 14, 0, "0", "1", "f")
    assert mutation.chosen_tests(default, {mutant.path: {12: names, 14: [quick]}}, timings, 6) == [quick]


def test_the_file_with_most_tests_runs_first(mutation):
    assert mutation.stages(["a.py::x", "b.py::x", "b.py::y"]) == [["b.py::x", "b.py::y"], ["a.py::x"]]
    assert mutation.stages(["a.py::x"]) == [["a.py::x"]]


def test_equivalent_mutants_count_as_survivors_in_one_of_two_rates(mutation):
    mutants = [
        mutation.Mutant(f"metaad_zoo/{room}/a.py", i, i, i, "a", "b", "f")
        for i, room in enumerate(["episodes"] * 3 + ["data/read"] * 2)
    ]
    outcomes = dict(zip(mutants, ["killed", "out of time", "survived", "no test", "killed"], strict=True))
    reasons = {mutants[2].key: "equivalent: nothing changes"}
    result = mutation.rates(outcomes, reasons)
    assert result["counts"] == {"killed": 2, "no test": 1, "out of time": 1, "survived": 1}
    assert (result["killed"], result["killed_without_equivalent"]) == (0.6, 0.75)
    assert result["by_room"]["episodes"] == {"mutants": 3, "killed": 2}
    assert [survivor["line"] for survivor in result["survivors"]] == [3, 2]


def test_files_of_low_coverage_are_listed_with_their_missing_lines(line_coverage):
    def file(covered, missing):
        n = covered + len(missing)
        counts = {"covered_lines": covered, "num_statements": n, "percent_covered": 100 * covered / n}
        return {"summary": counts, "missing_lines": missing}

    files = {"p/a/x.py": file(6, [3, 4, 5, 9]), "p/a/y.py": file(30, []), "p/z.py": file(10, [1])}
    totals = {"percent_covered": 90.196, "num_statements": 51, "missing_lines": 5, "excluded_lines": 0}
    result = line_coverage.summary({"files": files, "totals": totals})
    assert result["low_files"] == {"p/a/x.py": {"percent": 60.0, "missing": "3-5, 9"}}
    assert result["percent_by_folder"] == {"p/a": 90.0, "p/z.py": 90.91}
    assert result["percent"] == 90.2

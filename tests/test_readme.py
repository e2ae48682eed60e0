"""The README's commands and figures are true."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
RESULTS = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))
EVALUATIONS = [path for path in RESULTS if "methods" in json.loads(path.read_text())]


def test_tables_are_what_the_result_files_say():
    script = REPOSITORY / "benchmarks" / "readme_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run `python benchmarks/readme_tables.py`"


def test_every_file_named_is_there():
    for path in re.findall(r"(?:configs|benchmarks|tests)/[\w/.-]+\.\w+", README):
        assert (REPOSITORY / path).is_file(), path


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda p: p.stem)
def test_result_files_are_honest(path):
    results = json.loads(path.read_text())
    assert path.stem in README
    tasks = len(next(iter(results["methods"].values()))["tasks"])
    if "query_at_most" in results["protocol"]:  # large queries, five draws of each table
        assert tasks >= 10
        assert results["protocol"]["draws"] >= 5
        return
    episodes = results["protocol"]["episodes"]
    assert tasks == results["protocol"]["tasks"]
    if "points" in results["protocol"]:  # whole series, of which each point is scored
        assert tasks >= 12
        assert results["protocol"]["points"] > 50_000
        return
    in_full = f"<!-- results: {path.stem} -->" in README  # the overview also holds short trainings on few tasks
    assert episodes >= (600 if in_full else min(600, 10 * tasks))
    assert tasks >= (12 if in_full else 6)
    splits = results["protocol"]["data"].get("splits")
    if splits and splits["test"] != ["generated"]:
        assert not set(splits["test"]) & (set(splits["train"]) | set(splits["val"]))

"""The README is short and its links work; the published result files are honest."""

from __future__ import annotations

import json
import re

import pytest

from metaad_zoo.learners import list_learners
from metaad_zoo.zoo import list_checkpoints
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PAGES = "\n".join(page.read_text() for page in (REPOSITORY / "docs").glob("*.md"))
RESULTS = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))
EVALUATIONS = [path for path in RESULTS if "methods" in json.loads(path.read_text())]


def test_readme_is_short():
    assert len(README.splitlines()) <= 150
    assert len(README.encode()) <= 12_000


def test_readme_has_the_test_command_once():
    """`.ci/run` takes it from here."""
    assert README.count("pip install -e '.[test]' && pytest") == 1


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 20
    for link in links:
        assert link.startswith("https://") or (REPOSITORY / link).is_file(), link


def test_numbers_of_learners_and_models_are_true():
    words = {11: "eleven", 12: "twelve", 13: "thirteen", 20: "twenty", 21: "twenty-one", 22: "twenty-two"}
    assert f"[{words[len(list_learners())]}](docs/research.md#learners)" in README
    assert f"[{words[len(list_checkpoints())]} checkpoints](docs/models.md)" in README


def test_front_picture_is_small():
    assert (REPOSITORY / "docs" / "front.png").stat().st_size < 300_000


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda p: p.stem)
def test_result_files_are_honest(path):
    results = json.loads(path.read_text())
    assert path.stem in README + PAGES
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
    in_full = f"<!-- results: {path.stem} -->" in PAGES  # the overview also holds short trainings on few tasks
    assert episodes >= (600 if in_full else min(600, 10 * tasks))
    assert tasks >= (12 if in_full else 6)
    splits = results["protocol"]["data"].get("splits")
    if splits and splits["test"] != ["generated"]:
        assert not set(splits["test"]) & (set(splits["train"]) | set(splits["val"]))

"""Write the tables and figures of the README and `docs/` from result files: `python benchmarks/docs_tables.py`.

`--check` compares instead of writing. A result file comes from a run:
cp runs/<name>/<time>/results.json benchmarks/results/<name>.json

A page marks a table by `<!-- what -->` and `<!-- end -->`. What is a key of `judging_tables.TABLES` or `TABLES`,
`results: NAME`, `trainings: NAME` (joined by `metaad train --seeds`) or `overview: NAME NAME ...`; within a sentence
`auroc: NAME ours`, `auroc: NAME 1-NN` or `tasks: NAME`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import adapt_and_score  # these six beside this script
import judging_tables
import many_devices
import peers
import reliability_tables
from result_tables import (
    REPOSITORY,
    RESULTS,
    attempt_rows,
    defaults_rows,
    engine_rows,
    evaluation_rows,
    front_rows,
    leaderboard_rows,
    live_rows,
    memory_rows,
    nearest_neighbour,
    overview_rows,
    quality_rows,
    read_json,
    results_by_name,
    runs,
    speed_rows,
    table_speed_rows,
    training_rows,
    tsb_ad_rows,
    zoo_rows,
)

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TABLES: dict[str, Callable[[], list[str]]] = {
    "front": front_rows,
    "every run": leaderboard_rows,
    "defaults": defaults_rows,
    "zoo": zoo_rows,
    "inner loop: speed": lambda: speed_rows(read_json(RESULTS / "inner_loop.json")),
    "inner loop: compiled": lambda: engine_rows(read_json(RESULTS / "inner_loop_compiled.json")),
    "inner loop: engines": lambda: engine_rows(read_json(RESULTS / "inner_loop_engines.json")),
    "inner loop: attempts": lambda: attempt_rows(read_json(RESULTS / "inner_loop_attempts.json")),
    "inner loop: memory": lambda: memory_rows(read_json(RESULTS / "inner_loop.json")),
    "peers": lambda: peers.table([read_json(RESULTS / f"peer_{name}.json") for name in peers.PEERS]),
    "training to quality": lambda: quality_rows(read_json(RESULTS / "training_to_quality.json")),
    "unlabelled": lambda: judging_tables.unlabelled(_results("unlabelled"), "adbench"),
    "unlabelled, other tables": lambda: judging_tables.unlabelled(_results("unlabelled"), "extra"),
    "unlabelled, 5 rows": lambda: judging_tables.unlabelled(_results("unlabelled_shots"), "adbench", 5),
    "unlabelled, 50 rows": lambda: judging_tables.unlabelled(_results("unlabelled_shots"), "adbench", 50),
    "unlabelled, own units": lambda: judging_tables.unlabelled(
        _results("unlabelled_own_units"), "adbench", of="weighted_experts"
    ),
    "unlabelled alarms": lambda: judging_tables.unlabelled_alarms(_results("unlabelled")),
    "series leads": lambda: judging_tables.series_leads(_results("series_families")),
    "series windows": lambda: judging_tables.series_windows(
        [_results(name) for name in ("series_families_16", "series_families", "series_families_64")]
    ),
    "live series": lambda: live_rows(read_json(RESULTS / "live_series.json")),
    "series incidents": lambda: judging_tables.series_incidents(_results("series_alarms")),
    "tsb-ad": lambda: tsb_ad_rows(read_json(RESULTS / "tsb_ad.json")),
    "patch series": lambda: judging_tables.patch_series(_results("patch_series")["rows"]),
    "patch series adapted": lambda: judging_tables.patch_series(_results("patch_series")["adapted"]),
    "reliability: files and requests": reliability_tables.files_and_requests,
    "reliability: trainings": reliability_tables.trainings,
    "reliability: versions": reliability_tables.versions,
    "reliability: mutants": reliability_tables.mutants,
    "table speed": lambda: table_speed_rows(read_json(RESULTS / "table_speed.json")),
    "commands": lambda: adapt_and_score.command_rows(_results("adapt_and_score")),
    "adapt and score": lambda: adapt_and_score.contest_rows(_results("adapt_and_score")),
    "many devices": lambda: many_devices.rows(_results("many_devices")),
}


def _results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = read_json(RESULTS / f"{name}.json")
    return content


def rows_of(what: str) -> list[str] | None:
    """The rows of the table that a marker names; None where it names a figure within a sentence.

    Raises:
        ValueError: nothing has this name.
    """
    kind, _, names = what.partition(": ")
    if what in TABLES:
        return TABLES[what]()
    if what in judging_tables.TABLES:
        return judging_tables.TABLES[what](read_json(RESULTS / f"{what.replace(' ', '_')}.json"))
    if kind == "results":
        return evaluation_rows(read_json(RESULTS / f"{names}.json"))
    if kind == "trainings":
        return training_rows(read_json(RESULTS / f"{names}.json"))
    if kind == "overview":
        return overview_rows(names.split())
    if kind in ("auroc", "tasks"):
        return None
    raise ValueError(
        f"<!-- {what} -->: expected one of {sorted({*TABLES, *judging_tables.TABLES})}, results: NAME, ..."
    )


def figure_of(what: str) -> str:
    """AUROC in per cent or number of tasks, for a sentence."""
    kind, _, rest = what.partition(": ")
    name, _, whose = rest.partition(" ")
    if kind == "tasks":
        return str(runs()[name]["protocol"]["tasks"])
    results = results_by_name()[name]
    method = {"ours": next(iter(results["methods"])), "1-NN": nearest_neighbour(results)}[whose]
    return f"{100 * results['methods'][method]['mean']['auroc']:.1f}"


def with_figures(text: str) -> str:
    """The page with all tables and figures written anew."""

    def fill(match: re.Match[str]) -> str:
        rows = rows_of(match[1])
        content = figure_of(match[1]) if rows is None else "\n" + "\n".join(rows) + "\n"
        return f"<!-- {match[1]} -->{content}<!-- end -->"

    return re.sub(r"<!-- (?!end)([\w:, -]+?) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    """Exit status 1 where `--check` finds a difference."""
    different = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = with_figures(text)
        if new != text:
            different = 1
            print(f"{page.relative_to(REPOSITORY)} is not what the result files say", file=sys.stderr)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    return different if "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())

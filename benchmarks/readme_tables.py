"""Write the README's tables from the result files: `python benchmarks/readme_tables.py` (`--check` only compares).

A result file comes from a run: cp runs/<name>/<time>/results.json benchmarks/results/<name>.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
METRICS = {"auroc": "AUROC", "ap": "AP", "f1": "F1", "fpr": "false alarms"}


def table(results: dict[str, Any]) -> str:
    """A Markdown table in per cent, with intervals over tasks."""
    lines = [
        f"| method | {' | '.join(METRICS.values())} | AUROC behind ours |",
        "|---" * (len(METRICS) + 2) + "|",
    ]
    for name, figures in results["methods"].items():
        cells = [_cell(figures["mean"][m], figures["ci95"][m]) for m in METRICS]
        behind = figures["auroc_behind_first"]
        cells.append("" if not lines[2:] else _cell(behind["mean"], behind["ci95"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(mean: float, interval: list[float]) -> str:
    return f"{100 * mean:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def with_tables(text: str) -> str:
    """The text with what stands between each pair of `<!-- results: NAME -->` and `<!-- end -->` written anew."""

    def fill(match: re.Match[str]) -> str:
        results = json.loads((RESULTS / f"{match[1]}.json").read_text(encoding="utf-8"))
        return f"<!-- results: {match[1]} -->\n{table(results)}\n<!-- end -->"

    return re.sub(r"<!-- results: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    """Exit status 1 where `--check` finds a difference."""
    readme = REPOSITORY / "README.md"
    text = readme.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        return int(with_tables(text) != text)
    readme.write_text(with_tables(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

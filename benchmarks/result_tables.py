"""Write the README's tables from the result files: `python benchmarks/readme_tables.py` (`--check` only compares).

A result file comes from a run: cp runs/<name>/<time>/results.json benchmarks/results/<name>.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from judging_tables import TABLES, cell  # beside this script

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
METRICS = {"auroc": "AUROC", "ap": "AP", "f1": "F1", "fpr": "false alarms"}
POINT_METRICS = {"auroc": "AUROC", "ap": "AP", "vus_pr": "VUS-PR", "vus_roc": "VUS-ROC"}


def table(results: dict[str, Any]) -> str:
    """A Markdown table in per cent, with intervals over tasks; of points where they were scored one by one."""
    methods = results["methods"]
    metrics = POINT_METRICS if "vus_pr" in next(iter(methods.values()))["mean"] else METRICS
    decided = all({"recall", "fpr"} <= set(figures["mean"]) for figures in methods.values())
    header = ["method", *metrics.values(), *["balanced accuracy"] * decided, "AUROC behind ours"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, figures in methods.items():
        mean = figures["mean"]
        cells = [cell(mean[m], figures["ci95"][m]) for m in metrics]
        if decided:
            cells.append(f"{50 * (mean['recall'] + 1 - mean['fpr']):.1f}")
        behind = figures["auroc_behind_first"]
        cells.append("" if not lines[2:] else cell(behind["mean"], behind["ci95"]))
        lines.append(f"| {name.partition('/20')[0]} | {' | '.join(cells)} |")  # a run without its time
    return "\n".join(lines)


def speed_rows(measured: dict[str, Any]) -> list[str]:
    """Speed over `higher` at 16 tasks, a row a case and order."""
    rows = [row for row in measured["speed"] if row["tasks"] == 16]
    names = [name for name in dict.fromkeys(n for row in rows for n in row["over_higher"]) if name != "higher"]
    lines = [f"| 16 tasks | order | higher, s | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        ratios = [f"{row['over_higher'][n]:.2f}x" if n in row["over_higher"] else "" for n in names]
        lines.append(f"| {row['case']} | {row['order']} | {row['seconds']['higher']:.2f} | {' | '.join(ratios)} |")
    return lines


def memory_rows(measured: dict[str, Any]) -> list[str]:
    """Peak memory of one outer step of Conv4, in MiB."""
    lines = ["| Conv4-32, 16 tasks, second order unless said | 1 step | 5 steps | 10 steps |", "|---|---|---|---|"]
    for row in measured["memory"]:
        if row["case"].startswith("Conv4"):
            peaks = (f"{row['mib_by_steps'][steps]:.0f}" for steps in ("1", "5", "10"))
            lines.append(f"| {row['setting']} | {' | '.join(peaks)} |")
    return lines


OTHERS = {
    "1-NN, raw": ("1-NN on raw inputs", "1-NN on pixels"),
    "1-NN, standardised": ("1-NN on standardised inputs", "1-NN on standardised pixels"),
    "from scratch": ("same network, from scratch",),
}


def overview_rows(names: list[str]) -> list[str]:
    """A row a result file: AUROC of the learner beside the baselines', then its F1 and false alarms."""
    header = ["run", "unseen tasks", "ours", *OTHERS, "F1", "F1, flag everything", "false alarms"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in names:
        results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        methods = results["methods"]
        shown = [next(iter(methods)), *(next((m for m in alike if m in methods), "") for alike in OTHERS.values())]
        cells = [cell(methods[m]["mean"]["auroc"], methods[m]["ci95"]["auroc"]) if m else "" for m in shown]
        first, all_flagged = next(iter(methods.values())), methods["flag everything"]
        decided = (first["mean"]["f1"], all_flagged["mean"]["f1"], first["mean"]["fpr"])
        cells += [f"{100 * value:.1f}" for value in decided]
        lines.append(f"| `{name}` | {results['protocol']['tasks']} | {' | '.join(cells)} |")
    return lines


def zoo_rows() -> list[str]:
    """The overview of the published checkpoints, which is made from their cards' figures."""
    lines = (REPOSITORY / "checkpoints" / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.replace("](", "](checkpoints/") for line in lines if line.startswith("|")]


def put(text: str, name: str, rows: list[str]) -> str:
    """The text with these rows behind the marker of this name; as it is where it has no such marker."""
    before, marker, behind = text.partition(f"<!-- {name} -->")
    body = "\n".join(rows)
    return f"{before}{marker}\n{body}\n<!-- end -->{behind.partition('<!-- end -->')[2]}" if marker else text


def with_tables(text: str) -> str:
    """The text with what stands between each pair of `<!-- results: NAME -->` and `<!-- end -->` written anew."""

    def fill(match: re.Match[str]) -> str:
        results = json.loads((RESULTS / f"{match[1]}.json").read_text(encoding="utf-8"))
        return f"<!-- results: {match[1]} -->\n{table(results)}\n<!-- end -->"

    def fill_timing(match: re.Match[str]) -> str:
        measured = json.loads((RESULTS / "inner_loop.json").read_text(encoding="utf-8"))
        rows = {"speed": speed_rows, "memory": memory_rows}[match[1]](measured)
        return f"<!-- inner loop: {match[1]} -->\n" + "\n".join(rows) + "\n<!-- end -->"

    def fill_overview(match: re.Match[str]) -> str:
        rows = overview_rows(match[1].split())
        return f"<!-- overview: {match[1]} -->\n" + "\n".join(rows) + "\n<!-- end -->"

    for name, rows_of in TABLES.items():
        if f"<!-- {name} -->" in text:
            measured = json.loads((RESULTS / f"{name.replace(' ', '_')}.json").read_text(encoding="utf-8"))
            text = put(text, name, rows_of(measured))
    text = put(text, "zoo", zoo_rows())
    text = re.sub(r"<!-- overview: ([\w ]+?) -->.*?<!-- end -->", fill_overview, text, flags=re.DOTALL)
    text = re.sub(r"<!-- results: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)
    return re.sub(r"<!-- inner loop: (\w+) -->.*?<!-- end -->", fill_timing, text, flags=re.DOTALL)


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

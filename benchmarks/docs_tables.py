"""Write the tables and figures of `docs/` out of result files: `python benchmarks/docs_tables.py` (`--check` compares).

Between `<!-- what -->` and `<!-- end -->` a page may have what `readme_tables.py` writes; `every run`, `zoo` and
`inspection speed`; and within a sentence `auroc: RUN ours`, `auroc: RUN 1-NN`, `tasks: RUN`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from judging_tables import cell  # these two beside this script
from readme_tables import REPOSITORY, RESULTS, with_tables

from metaad_zoo.zoo.overview import zoo_table

PAGES = sorted((REPOSITORY / "docs").glob("*.md"))


@cache
def results_by_name() -> dict[str, dict[str, Any]]:
    """All results of methods, by name of the result file or of the published checkpoint."""
    paths = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    paths |= {path.parent.name: path for path in sorted((REPOSITORY / "checkpoints").glob("*/metrics.json"))}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    return {name: r for name, r in found.items() if "methods" in r and _nearest(r)}


def runs() -> dict[str, dict[str, Any]]:
    """Results that `train.py` wrote on episodes of unseen tasks; one that was published as it was, once."""
    found: dict[str, dict[str, Any]] = {}
    for name, results in results_by_name().items():
        by_training = isinstance(results["protocol"].get("learner"), dict) and "tasks" in results["protocol"]
        if by_training and not any(_means(results) == _means(r) for r in found.values()):
            found[name] = results
    return found


def _means(results: dict[str, Any]) -> list[float]:
    return [round(m["mean"]["auroc"], 6) for m in results["methods"].values()]


def _nearest(results: dict[str, Any]) -> str | None:
    """The better of the nearest neighbours."""
    names = [name for name in results["methods"] if name.startswith("1-NN")]
    return max(names, key=lambda name: results["methods"][name]["mean"]["auroc"], default=None)


def every_run() -> str:
    """A row a run, the largest difference to the nearest neighbour first."""
    lines = ["| run | learner | backbone | unseen tasks | ours | 1-NN | ours minus 1-NN |", "|---" * 7 + "|"]
    rows = []
    for name, results in runs().items():
        learner, nearest = results["protocol"]["learner"], results["methods"][_nearest(results)]
        ours, behind = next(iter(results["methods"].values())), nearest["auroc_behind_first"]
        figures = [cell(m["mean"]["auroc"], m["ci95"]["auroc"]) for m in (ours, nearest)]
        cells = [f"`{name}`", f"`{learner['name']}`", f"`{learner['backbone']}`", str(results["protocol"]["tasks"])]
        rows.append((behind["mean"], [*cells, *figures, cell(behind["mean"], behind["ci95"])]))
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for _, cells in sorted(rows, reverse=True)])


def zoo() -> str:
    """The published checkpoints."""
    index = json.loads((REPOSITORY / "checkpoints" / "index.json").read_text(encoding="utf-8"))
    return re.sub(r"\[(.+?)\]\(.+?\)", r"`\1`", zoo_table(index["checkpoints"]))


def auroc(name: str, whose: str) -> str:
    """One figure in per cent."""
    results = results_by_name()[name]
    method = {"ours": next(iter(results["methods"])), "1-NN": _nearest(results)}[whose]
    return f"{100 * results['methods'][method]['mean']['auroc']:.1f}"


def inspection_speed() -> str:
    """Seconds of each step of an inspection."""
    measured = json.loads((RESULTS / "inspection_speed.json").read_text(encoding="utf-8"))
    titles = {
        "import": "import the package",
        "load": "load the model",
        "adapt": f"adapt to {measured['shots']} pictures",
        "score": f"score {measured['scored']} pictures",
    }
    rows = [f"| {titles[name]} | {s['clock']:.2f} | {s['processor']:.2f} |" for name, s in measured["seconds"].items()]
    rate = measured["pictures_per_second"]
    rows.append(f"| pictures a second | {rate['clock']:.1f} | {rate['processor']:.1f} |")
    return "\n".join(["| step | seconds by the clock | seconds of one core |", "|---|---|---|", *rows])


TABLES: dict[str, Callable[[], str]] = {"every run": every_run, "zoo": zoo, "inspection speed": inspection_speed}


def with_figures(text: str) -> str:
    """The page with all tables and figures written anew, `zoo` without the README's links, which lead outside."""
    text = with_tables(text)
    for what, table in TABLES.items():
        filled = f"<!-- {what} -->\n{{}}\n<!-- end -->"
        if f"<!-- {what} -->" in text:
            new = filled.format(table())
            text = re.sub(rf"<!-- {what} -->.*?<!-- end -->", lambda _, new=new: new, text, flags=re.DOTALL)
    text = re.sub(
        r"(<!-- auroc: ([\w-]+) (ours|1-NN) -->)[^<]*(<!-- end -->)",
        lambda m: m[1] + auroc(m[2], m[3]) + m[4],
        text,
    )
    return re.sub(
        r"(<!-- tasks: ([\w-]+) -->)[^<]*(<!-- end -->)",
        lambda m: m[1] + str(runs()[m[2]]["protocol"]["tasks"]) + m[3],
        text,
    )


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

"""Rows of the tables of evaluations: one result file, several side by side, engines, and the README's own table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from judging_tables import cell, head  # beside this script

from metaad_zoo.evaluation.protocol import interval

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
METRICS = {"auroc": "AUROC", "ap": "AP", "f1": "F1", "fpr": "false alarms"}
POINT_METRICS = {"auroc": "AUROC", "ap": "AP", "vus_pr": "VUS-PR", "vus_roc": "VUS-ROC"}
BASELINES = {
    "1-NN, raw": ("1-NN on raw inputs", "1-NN on pixels"),
    "1-NN, standardised": ("1-NN on standardised inputs", "1-NN on standardised pixels"),
    "from scratch": ("same network, from scratch",),
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@cache
def results_by_name() -> dict[str, dict[str, Any]]:
    """All evaluations, by name of the result file or of the published checkpoint."""
    paths = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    paths |= {path.parent.name: path for path in sorted((REPOSITORY / "checkpoints").glob("*/metrics.json"))}
    contents = {name: read_json(path) for name, path in paths.items()}
    return {name: results for name, results in contents.items() if "methods" in results}


def runs() -> dict[str, dict[str, Any]]:
    """Evaluations that a training wrote on episodes of unseen tasks; one that was also published counts once."""
    chosen: dict[str, dict[str, Any]] = {}
    for name, results in results_by_name().items():
        by_training = isinstance(results["protocol"].get("learner"), dict) and "tasks" in results["protocol"]
        published = any(_means(results) == _means(r) for r in chosen.values())
        if by_training and nearest_neighbour(results) and not published:
            chosen[name] = results
    return chosen


def _means(results: Mapping[str, Any]) -> list[float]:
    return [round(m["mean"]["auroc"], 6) for m in results["methods"].values()]


def nearest_neighbour(results: Mapping[str, Any]) -> str | None:
    """The better of the nearest neighbours, by AUROC."""
    names = [name for name in results["methods"] if name.startswith("1-NN")]
    return max(names, key=lambda name: results["methods"][name]["mean"]["auroc"], default=None)


def evaluation_rows(results: Mapping[str, Any]) -> list[str]:
    """A row a method, in per cent, with intervals over tasks; of points where points were scored one by one."""
    methods = results["methods"]
    metrics = POINT_METRICS if "vus_pr" in next(iter(methods.values()))["mean"] else METRICS
    decided = all({"recall", "fpr"} <= set(figures["mean"]) for figures in methods.values())
    lines = head("method", *metrics.values(), *["balanced accuracy"] * decided, "AUROC of the first minus this one")
    for name, figures in methods.items():
        mean = figures["mean"]
        cells = [cell(mean[m], figures["ci95"][m]) for m in metrics]
        if decided:
            cells.append(f"{50 * (mean['recall'] + 1 - mean['fpr']):.1f}")
        behind = figures["auroc_behind_first"]
        cells.append("" if not lines[2:] else cell(behind["mean"], behind["ci95"]))
        lines.append(f"| {name.partition('/20')[0]} | {' | '.join(cells)} |")  # a run without its time
    return lines


def training_rows(results: Mapping[str, Any]) -> list[str]:
    """A row a method: means of several trainings with intervals over trainings and tasks, and the AUROC of each."""
    methods = results["methods"]
    first = next(iter(methods.values()))
    names = list(first["trainings"])
    lines = head(
        "method", *METRICS.values(), *(f"AUROC, {name}" for name in names), "AUROC of the first minus this one"
    )
    for name, figures in methods.items():
        cells = [cell(figures["mean"][m], figures["ci95"][m]) for m in METRICS]
        cells += [f"{100 * figures['trainings'][training]['mean']['auroc']:.1f}" for training in names]
        behind = figures["auroc_behind_first"]
        cells.append("" if figures is first else cell(behind["mean"], behind["ci95"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def overview_rows(names: list[str]) -> list[str]:
    """A row a result file: AUROC of the learner beside the baselines', then its F1 and false alarms."""
    lines = head("run", "unseen tasks", "ours", *BASELINES, "F1", "F1, flag everything", "false alarms")
    for name in names:
        results = read_json(RESULTS / f"{name}.json")
        methods = results["methods"]
        shown = [next(iter(methods)), *(next((m for m in alike if m in methods), "") for alike in BASELINES.values())]
        cells = [cell(methods[m]["mean"]["auroc"], methods[m]["ci95"]["auroc"]) if m else "" for m in shown]
        first, all_flagged = next(iter(methods.values())), methods["flag everything"]
        decided = (first["mean"]["f1"], all_flagged["mean"]["f1"], first["mean"]["fpr"])
        cells += [f"{100 * value:.1f}" for value in decided]
        lines.append(f"| `{name}` | {results['protocol']['tasks']} | {' | '.join(cells)} |")
    return lines


def leaderboard_rows() -> list[str]:
    """A row a training, the largest difference to the nearest neighbour first."""
    lines = head("run", "learner", "backbone", "unseen tasks", "ours", "1-NN", "ours minus 1-NN")
    rows = []
    for name, results in runs().items():
        learner, nearest = results["protocol"]["learner"], results["methods"][nearest_neighbour(results)]
        ours, behind = next(iter(results["methods"].values())), nearest["auroc_behind_first"]
        figures = [cell(m["mean"]["auroc"], m["ci95"]["auroc"]) for m in (ours, nearest)]
        cells = [f"`{name}`", f"`{learner['name']}`", f"`{learner['backbone']}`", str(results["protocol"]["tasks"])]
        rows.append((behind["mean"], [*cells, *figures, cell(behind["mean"], behind["ci95"])]))
    return lines + [f"| {' | '.join(cells)} |" for _, cells in sorted(rows, reverse=True)]


class Judged(NamedTuple):
    """A row of the README's table.

    Attributes:
        data: what the user has.
        support: what the detector is adapted to.
        learner: the method of ours.
        results: name of the result file or of the published checkpoint.
    """

    data: str
    support: str
    learner: str
    results: str


FRONT = (
    Judged("written characters (Omniglot)", "10 drawings", "protonet", "omniglot_three_trainings"),
    Judged("servers and space probes, 19 to 38 channels", "50 windows", "in_context", "servers_in_context_points"),
    Judged("single channels (NAB)", "50 windows", "in_context", "nab_points"),
    Judged("an image and a pen track", "5 pairs", "protonet", "omniglot_image_stroke_protonet"),
    Judged("a written and a spoken digit that agree", "10 pairs", "maml", "digits_audio_image"),
)
AFTER_SERIES = 6
"""Line of the table of the front page at which the row of tables comes."""
_NOT_SIMPLE = ("same network", "flag everything")


def front_rows() -> list[str]:
    """A row a kind of data: ours beside the best simple method of the same evaluation, AUROC in per cent."""
    lines = head("data", "adapted to", "unseen tasks", "ours", "best simple method", "difference")
    lines.append(_picture_row())
    for row in FRONT:
        results = results_by_name()[row.results]
        methods = results["methods"]
        first, *rest = methods
        simple = [name for name in rest if not name.startswith(_NOT_SIMPLE)]
        best = max(simple, key=lambda name: methods[name]["mean"]["auroc"])
        behind = methods[best]["auroc_behind_first"]
        tasks = results["protocol"].get("tasks") or len(methods[first]["tasks"])
        cells = [row.data, row.support, str(tasks)]
        cells += [f"`{row.learner}` {100 * methods[first]['mean']['auroc']:.1f}"]
        cells += [f"{best} {100 * methods[best]['mean']['auroc']:.1f}", _difference(behind["mean"], behind["ci95"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines[AFTER_SERIES:AFTER_SERIES] = [_series_row(), _table_row()]
    return lines


def _picture_row() -> str:
    """Five good images, with the settings that were chosen on other families."""
    measured = read_json(RESULTS / "image_bank.json")
    by_method = {row["method"]: row for row in measured["rows"] if row["shots"] == 5}
    ours, nearest = by_method["chosen on the other families"], by_method["1-NN on the embedding"]
    ahead, domains = ours["ahead of 1-NN on the embedding"], len(by_method["plain memory"]["domains"])
    cells = ["images of products, plants and medicine", "5 images", str(domains)]
    cells += [f"`patch_memory` {100 * ours['auroc']:.1f}", f"1-NN on the embedding {100 * nearest['auroc']:.1f}"]
    return f"| {' | '.join([*cells, _difference(ahead['mean'], ahead['ci95'])])} |"


def _series_row() -> str:
    """Experts without training beside the best simple method on whole series, means over all series."""
    measured = read_json(RESULTS / "series_families.json")
    part = measured["summary"]["auroc"]
    ours, best = "series_experts", part["best_simple"]
    means = {n: float(np.mean([row["methods"][n]["auroc"] for row in measured["rows"]])) for n in (ours, best)}
    cells = ["servers, probes, plants, traffic, without any training", f"{measured['protocol']['shots']} windows"]
    cells += [
        str(part["ahead"][ours]["series"]),
        f"`{ours}` {100 * means[ours]:.1f}",
        f"{best} {100 * means[best]:.1f}",
    ]
    return f"| {' | '.join([*cells, _difference(part['ahead'][ours]['mean'], part['ahead'][ours]['ci95'])])} |"


def _table_row() -> str:
    """Ten normal rows and 500 unlabelled ones, means over the shares of anomalies among these."""
    measured = read_json(RESULTS / "unlabelled.json")
    (by_method,) = (block["methods"] for block in measured["together"] if block["shots"] == 10)
    tables = measured["protocol"]["data"]["tables"]
    areas = {n: np.array([m["tables"][t] for t in tables]) for n, m in by_method.items() if not n.startswith("oracle")}
    (ours,) = (name for name in areas if name.endswith("-weighted_experts-unlabelled"))
    simple = [name for name in areas if not name.startswith(ours)]
    best = max(simple, key=lambda name: float(areas[name].mean()))
    ahead = areas[ours] - areas[best]
    around = interval(ahead)
    assert around is not None
    cells = ["tables (ADBench)", "10 rows and 500 unlabelled ones", str(len(tables))]
    cells += [f"`weighted_experts` {100 * areas[ours].mean():.1f}", f"{best} {100 * areas[best].mean():.1f}"]
    return f"| {' | '.join([*cells, _difference(float(ahead.mean()), around)])} |"


def _difference(mean: float, interval: list[float]) -> str:
    """In points; in bold where the interval lies on one side of 0."""
    text = f"{100 * mean:+.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"**{text}**" if interval[0] > 0 or interval[1] < 0 else text


def speed_rows(measured: Mapping[str, Any]) -> list[str]:
    """Speed over `higher` at 16 tasks, a row a case and order."""
    rows = [row for row in measured["speed"] if row["tasks"] == 16]
    names = [name for name in dict.fromkeys(n for row in rows for n in row["over_higher"]) if name != "higher"]
    lines = head("16 tasks", "order", "higher, s", *names)
    for row in rows:
        ratios = [f"{row['over_higher'][n]:.2f}x" if n in row["over_higher"] else "" for n in names]
        lines.append(f"| {row['case']} | {row['order']} | {row['seconds']['higher']:.2f} | {' | '.join(ratios)} |")
    return lines


def engine_rows(measured: Mapping[str, Any]) -> list[str]:
    """Speed of our engines over `higher`, and the share of the limit that the faster of them reaches."""
    names = ["vectorized", "compiled", "plain descent", "limit"]
    lines = head("case", "tasks", "order", "higher, s", *names, "share of the limit")
    for row in sorted(measured["speed"], key=lambda row: (row["case"], -row["tasks"], row["order"])):
        over = row["over_higher"]
        ratios = [f"{over[n]:.2f}x" if n in over else "" for n in names]
        share = max(over["vectorized"], over.get("compiled", 0.0)) / over["limit"]
        first = f"| {row['case']} | {row['tasks']} | {row['order']} | {row['seconds']['higher']:.2f} |"
        lines.append(f"{first} {' | '.join(ratios)} | {share:.2f} |")
    return lines


def attempt_rows(recorded: Mapping[str, Any]) -> list[str]:
    """What was tried to speed up the engines: share of the limit before and after."""
    columns = ("attempt", "before", "after", "used")
    return [*head(*columns), *(f"| {' | '.join(row[c] for c in columns)} |" for row in recorded["attempts"])]


def quality_rows(measured: Mapping[str, Any]) -> list[str]:
    """Episodes and time until the AUROC on validation episodes is reached, a row a contestant, the quickest first."""
    lines = head("training", "episodes", "seconds", "over the quickest peer", "milliseconds a step")
    rows, peer = measured["contestants"], measured["best_peer_seconds"]
    for name in sorted(rows, key=lambda n: rows[n]["median_seconds"] or float("inf")):
        row, seconds = rows[name], rows[name]["median_seconds"]
        whose = name if name.startswith("learn2learn") else f"metaad_zoo, {name}"
        if seconds is None:
            figures = [f"not in {max(row['steps']):,} steps", f"more than {min(row['seconds']):.0f}", ""]
        else:
            figures = [f"{row['median_episodes']:,.0f}", f"{seconds:.0f}", f"{seconds / peer:.2f}" if peer else ""]
        lines.append(f"| {whose} | {' | '.join(figures)} | {row['milliseconds_a_step']:.0f} |")
    return lines


def memory_rows(measured: Mapping[str, Any]) -> list[str]:
    """Peak memory of one outer step of Conv4, in MiB."""
    lines = head("Conv4-32, 16 tasks, second order unless stated", "1 step", "5 steps", "10 steps")
    for row in measured["memory"]:
        if row["case"].startswith("Conv4"):
            peaks = (f"{row['mib_by_steps'][steps]:.0f}" for steps in ("1", "5", "10"))
            lines.append(f"| {row['setting']} | {' | '.join(peaks)} |")
    return lines


def table_speed_rows(measured: Mapping[str, Any]) -> list[str]:
    """Rows a second of one core that are scored, and seconds to fit."""
    rows = [
        f"| score, rows a second | {name} | {seconds['rows_per_second_of_processor']:,.0f} |"
        for name, seconds in measured["scoring"].items()
    ]
    for n, block in measured["fitting"].items():
        work = f"fit {int(n):,} rows, seconds"
        rows += [f"| {work} | {name} | {seconds['processor']:.2f} |" for name, seconds in block.items()]
    return [*head("work", "method", "processor"), *rows]


def live_rows(results: Mapping[str, Any]) -> list[str]:
    """Rows a second of live series by method and by rows at once, with the fixed threshold."""
    rows = head("method", "one by one", "ten at once", "a hundred at once")
    for name, figures in results["measured"].items():
        speeds = [figures["rows_per_cpu_second"][f"fixed, {n} at once"] for n in (1, 10, 100)]
        rows.append(f"| {name} | " + " | ".join(f"{speed:,.0f}" for speed in speeds) + " |")
    return rows


def tsb_ad_rows(results: Mapping[str, Any]) -> list[str]:
    """Means of the metrics of TSB-AD by method, VUS-PR also by data set; a star where the method was trained on it."""
    methods = results["measured"]
    sets = list(next(iter(methods.values()))["vus_pr_by_set"])
    others = ("VUS-ROC", "AUC-PR", "AUC-ROC", "Affiliation-F")
    rows = head("method", "VUS-PR", *(f"VUS-PR, {name}" for name in sets), *others, "seconds a file")
    for name, figures in methods.items():
        low, high = figures["ci95_vus_pr"]
        seen = figures["trained_on_sets"]
        mark = " *" if seen else ""
        volumes = [f"{100 * figures['mean']['VUS-PR']:.1f} [{100 * low:.1f}, {100 * high:.1f}]{mark}"]
        volumes += [f"{100 * figures['vus_pr_by_set'][of]:.1f}{' *' if of in seen else ''}" for of in sets]
        means = [f"{100 * figures['mean'][metric]:.1f}{mark}" for metric in others]
        rows.append(f"| {' | '.join([name, *volumes, *means, format(figures['cpu_seconds_per_file'], '.2f')])} |")
    return rows


def defaults_rows() -> list[str]:
    """The default detector of each modality, with its reason."""
    entries = read_json(REPOSITORY / "metaad_zoo" / "zoo" / "defaults.json")
    rows = (f"| `{name}` | `{entry['detector']}` | {entry['reason']} |" for name, entry in entries.items())
    return [*head("you type", "detector", "why"), *rows]


def zoo_rows() -> list[str]:
    """The overview of the published checkpoints, whose names lead to the pages of their cards."""
    lines = (REPOSITORY / "checkpoints" / "README.md").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\]\(([\w-]+)/README\.md\)", r"](models/\1.md)", line) for line in lines if line.startswith("|")]

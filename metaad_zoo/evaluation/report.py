"""Results as a table in the terminal and as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.evaluation.conclusion import readable_names
from metaad_zoo.evaluation.pixel_metrics import LIMIT
from metaad_zoo.evaluation.protocol import LEAST_TASKS
from metaad_zoo.evaluation.titles import TITLES

POINT_TITLES = {"auroc": "AUROC", "ap": "AP", "vus_pr": "VUS-PR", "vus_roc": "VUS-ROC"}
# Of decisions about points; present where a threshold was asked for. Precision and recall are in the file.
RANGE_TITLES = {"range_precision": "range precision", "range_recall": "range recall", "range_f1": "range F1"}
# Of heat maps against masks; present where the data has masks, in a table of their own: the first has no room.
PIXEL_TITLES = {"pixel_auroc": "pixel AUROC", "aupro": "AUPRO", "pixel_f1": "pixel F1"}

NAME_WIDTH = 12
FULL_WIDTH = 118
"""Width in characters from which on tables have all columns."""


@dataclass(frozen=True)
class _Fitting:
    """A table that leaves out columns where the terminal is narrower than :data:`FULL_WIDTH`.

    Args:
        build: function from whether there is room for all columns to the table.
    """

    build: Callable[[bool], Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.build(options.max_width >= FULL_WIDTH)


def results_table(results: dict[str, Any]) -> Group:
    """A row for each method: mean over tasks and its 95 % interval, in per cent; below it, heat maps against masks.

    Args:
        results: ``methods`` and ``protocol`` as in ``results.json``. Of ``joined`` runs, their means take their place.
    """
    shown = results | {"methods": results["joined"]["methods"]} if "joined" in results else results
    return Group(_Fitting(partial(_results_table, shown)), *_pixel_tables(shown))


def _pixel_tables(results: dict[str, Any]) -> list[Table]:
    """A table of the methods with heat maps; none where the data has no masks."""
    mapped = {name: figures for name, figures in results["methods"].items() if "pixel_auroc" in figures["mean"]}
    if not mapped:
        return []
    table = Table(
        title="heat maps against the masks of the defects, in %",
        show_lines=True,
        caption=f"AUPRO up to {LIMIT:.0%} false positives; pixel F1 at the threshold that is best on the masks.",
    )
    return [_fill(table, mapped, PIXEL_TITLES, ())]


def _results_table(results: dict[str, Any], is_wide: bool) -> Table:
    protocol = results["protocol"]
    enough = protocol["tasks"] >= LEAST_TASKS
    trainings = f" and {protocol['trainings']} trainings" if protocol.get("trainings", 1) > 1 else ""
    over = f"with 95 % intervals over tasks{' and trainings' if 'joined' in results else trainings}"
    intervals = over if enough else "with 95 % intervals over draws of the support, which say nothing about other tasks"
    table = Table(
        title=f"{protocol['data']['dataset']}: {protocol['episodes']} episodes of {protocol['tasks']} unseen tasks, "
        f"in %, {intervals}",
        show_lines=True,
        caption=f"Thresholds aim at {protocol['alpha']:.0%} false alarms, set for each method without test labels.",
    )
    titles = TITLES if is_wide else _some(table, TITLES, ("auroc", "f1", "fpr"))
    return _fill(table, results["methods"], titles, ("auroc",))


def _some(table: Table, titles: Mapping[str, str], metrics: Sequence[str]) -> dict[str, str]:
    """Titles of some metrics; the caption says where the others are."""
    omitted = ", ".join(title for metric, title in titles.items() if metric not in metrics)
    table.caption = f"{table.caption} {omitted}: in results.json, or from {FULL_WIDTH} columns on."
    return {metric: titles[metric] for metric in metrics}


def points_table(results: dict[str, Any]) -> Group:
    """A row for each method of an evaluation point by point: mean over series and its 95 % interval, in per cent.

    Args:
        results: ``methods`` and ``protocol`` as in ``results.json``.
    """
    return Group(_Fitting(partial(_points_table, results)))


def _points_table(results: dict[str, Any], is_wide: bool) -> Table:
    protocol = results["protocol"]
    decided = "alpha" in protocol
    cut = f"thresholds aim at {protocol['alpha']:.0%} false alarms" if decided else "no threshold is set"
    table = Table(
        title=f"{protocol['data']['dataset']}: {protocol['points']:,} points of {protocol['tasks']} unseen series, "
        "in %, with 95 % intervals over series",
        show_lines=True,
        caption=f"Point by point, without point adjustment; {cut}.",
    )
    titles = dict(POINT_TITLES)
    if decided:  # one more column would not fit
        del titles["vus_roc"]
        titles |= {"range_f1": "range F1", "fpr": "false alarms"}
    if not is_wide:
        return _fill(table, results["methods"], _some(table, titles, ("auroc", "vus_pr")), ("auroc", "vus_pr"))
    return _fill(table, results["methods"], titles, ("auroc", "vus_pr"))


def _fill(table: Table, methods: Mapping[str, Any], titles: Mapping[str, str], compared: Sequence[str]) -> Table:
    """Add a row for each method; ``compared`` metrics also get a column of differences to the first method."""
    table.add_column("method", overflow="fold", min_width=NAME_WIDTH)  # two truncated names could look the same
    for title in [*titles.values(), *(f"{titles[m]}: first\nminus this" for m in compared)]:
        table.add_column(title, justify="right", no_wrap=True)
    names = readable_names(methods)
    if compared and len(methods) > 1:
        first = next(iter(names.values()))
        table.caption = f"{table.caption} Last column: positive if {first} is better than the row."
    for name, figures in methods.items():
        behind = [figures[f"{m}_behind_first"] for m in compared]
        cells = [_cell(figures["mean"][m], figures["ci95"][m]) for m in titles]
        differences = ["", ""] if name == next(iter(methods)) else [_cell(b["mean"], b["ci95"]) for b in behind]
        table.add_row(names[name], *cells, *differences[: len(compared)])
    return table


def _cell(mean: float, interval: list[float] | None) -> str:
    if interval is None:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f}\n{100 * interval[0]:.1f} - {100 * interval[1]:.1f}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file as a whole; infinities become null."""
    write_whole(path, json.dumps(finite(content), indent=2) + "\n")


def finite(value: Any) -> Any:
    """The same with numbers that JSON does not know replaced by None."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""What a missing modality costs: `python benchmarks/missing_modalities.py FUSION [MODALITY=SINGLE ...]`.

FUSION and each SINGLE are published names or folders of models (RUN/model); the singles are trained alike on one
modality (`--data.modalities`). All score the same episodes of the fusion's test tasks or of its validation tasks, which
chose the epoch of each model. A modality is hidden in the query, in the support, in both, or in every other sample of
both. METAAD_DATA names the folder of the data.
benchmarks/results/missing_modalities_omniglot.json and _digits.json are its results (--json), and _within.json those of
`--calibrate within --shots 10 --sides query --episodes 66` on the omniglot fusion.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from judging_tables import cell  # beside this script
from rich.console import Console
from rich.table import Table

from metaad_zoo.data.modality_dropout import without
from metaad_zoo.episodes import Episode, Samples
from metaad_zoo.evaluation.calibration import ROUNDING
from metaad_zoo.evaluation.decisions import Calibrate, SupportDecisions
from metaad_zoo.evaluation.metrics import all_metrics
from metaad_zoo.evaluation.protocol import environment, paired_difference, summarise
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.zoo import Checkpoint, find_published, load_checkpoint
from metaad_zoo.zoo.detector_tensors import calibration_by_shots, shown_calibration

ALPHA = 0.1


class Condition(NamedTuple):
    """Which modality is missing, and on which side."""

    missing: str
    side: str


SIDES = ("query", "support", "both", "every other sample")


def conditions(modalities: Sequence[str], sides: Sequence[str]) -> list[Condition]:
    """Nothing missing, then each modality on each side."""
    return [Condition("", ""), *(Condition(m, side) for m in modalities for side in sides)]


def hidden(samples: Samples, condition: Condition, side: str) -> dict[str, torch.Tensor]:
    """One side of an episode with a modality missing."""
    if condition.side in (side, "both"):
        return without(samples, [condition.missing])
    if condition.side == "every other sample":
        lost = without(samples, [condition.missing])
        return {
            name: torch.cat([lost[name][i : i + 1] if i % 2 else x[i : i + 1] for i in range(len(x))])
            for name, x in samples.items()
        }
    return dict(samples)


def figures(
    checkpoint: Checkpoint, episode: Episode, condition: Condition, calibrate: Calibrate = "across"
) -> dict[str, float]:
    """AUROC and realised false alarms of one episode."""
    names = checkpoint.learner.arguments()["input_shapes"]
    support, query = ({m: x[m] for m in names} for x in (episode.support, episode.query))
    reduced, query = hidden(support, condition, "support"), hidden(query, condition, "query")
    scores = checkpoint.learner.adapt(reduced, episode.support_labels).score(query).double()
    decisions = SupportDecisions(
        checkpoint.learner,
        reduced,
        episode.support_labels,
        calibration_by_shots(checkpoint.tensors),
        across_shown=shown_calibration(checkpoint.tensors),
    )
    p = decisions.p_values(scores, calibrate, None, decisions.compared_in(query))
    return all_metrics(scores, episode.query_labels, p <= ALPHA + ROUNDING)


Figures = dict[str, list[dict[str, float]]]
"""Figures of each episode by task."""


def measure(
    fusion: Checkpoint,
    singles: Mapping[str, Checkpoint],
    episodes: Sequence[Episode],
    sides: Sequence[str] = SIDES,
    calibrate: Calibrate = "across",
) -> tuple[dict[Condition, Figures], dict[str, Figures]]:
    """Figures of the fusion by condition, and of each single by its modality."""
    chosen = conditions(sorted(fusion.learner.arguments()["input_shapes"]), sides)
    by_condition: dict[Condition, Figures] = {condition: defaultdict(list) for condition in chosen}
    alone: dict[str, Figures] = {m: defaultdict(list) for m in singles}
    for episode in episodes:
        for name, single in singles.items():
            alone[name][episode.task].append(figures(single, episode, chosen[0]))
        for condition, by_task in by_condition.items():
            by_task[episode.task].append(figures(fusion, episode, condition, calibrate))
    return by_condition, alone


def judged(by_condition: Mapping[Condition, Figures], alone: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """A row a condition: figures of the fusion, and its difference to the model of each modality that is left."""
    single_results = {name: summarise(by_task) for name, by_task in alone.items()}
    rows = []
    for condition, by_task in by_condition.items():
        result = summarise(by_task)
        whole = not condition.missing or condition.side == "every other sample"
        compared = [m for m in single_results if whole or m != condition.missing]
        rows.append(
            {
                **condition._asdict(),
                "tasks": len(by_task),
                **{key: {m: result[key][m] for m in ("auroc", "fpr")} for key in ("mean", "ci95")},
                "singles": {m: {k: single_results[m][k]["auroc"] for k in ("mean", "ci95")} for m in compared},
                "minus_single": {m: paired_difference(result["tasks"], single_results[m]["tasks"]) for m in compared},
            }
        )
    return rows


def together(parts: Sequence[tuple[dict[Condition, Figures], dict[str, Figures]]]) -> list[dict[str, Any]]:
    """The rows over the tasks of several splits, which share none."""
    by_condition = {c: {t: rows for part in parts for t, rows in part[0][c].items()} for c in parts[0][0]}
    alone = {m: {t: rows for part in parts for t, rows in part[1][m].items()} for m in parts[0][1]}
    return judged(by_condition, alone)


def opened(name: str) -> tuple[Checkpoint, Path]:
    """A published model or the folder of one, and the folder."""
    folder = Path(name) if Path(name).is_dir() else find_published(name)
    return load_checkpoint(folder), folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fusion")
    parser.add_argument("singles", nargs="*", metavar="MODALITY=SINGLE")
    parser.add_argument("--episodes", type=int, default=220, help="episodes of each split")
    parser.add_argument("--splits", nargs="+", choices=("test", "val"), default=["test"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--calibrate", choices=("across", "within"), default="across")
    parser.add_argument("--shots", type=int, help="support samples, if not those of the training's test")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    fusion, folder = opened(options.fusion)
    data = data_of_config(folder / "config.yaml", {options.fusion: fusion})
    singles = {m: opened(path)[0] for m, _, path in (text.partition("=") for text in options.singles)}
    if options.shots:
        data.test_episode = data.test_episode.with_shots(options.shots)
    how = options.sides, options.calibrate
    parts = {x: measure(fusion, singles, list(data.episodes(x, options.episodes)), *how) for x in options.splits}
    rows = {split: judged(*part) for split, part in parts.items()}
    if len(parts) > 1:
        rows["all"] = together(list(parts.values()))
    for split, of_split in rows.items():
        table = Table("missing", "side", "AUROC", "false alarms", *(f"minus {m} alone" for m in singles), title=split)
        for row in of_split:
            differences = (row["minus_single"].get(m) for m in singles)
            own = (cell(row["mean"][m], row["ci95"][m]) for m in ("auroc", "fpr"))
            cells = (cell(d["mean"], d["ci95"]) if d else "" for d in differences)
            table.add_row(row["missing"], row["side"], *own, *cells)
        Console(width=150).print(table)
    if options.json:
        protocol = {"data": data.description(), "episodes": options.episodes, "alpha": ALPHA, "fusion": folder.name}
        protocol["calibrate"] = options.calibrate
        protocol["singles"] = {m: single.learner.arguments() for m, single in singles.items()}
        content = {"protocol": protocol, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Realised false-alarm rates on unseen tasks, and power.

    python train.py --config configs/quickstart_sequence.yaml
    python train.py --config configs/quickstart_tabular.yaml --name generated_tables --data.dataset generated \\
        --data.splits '{train: [generated], val: [generated], test: [generated]}'
    python train.py --config configs/quickstart_tabular.yaml
    python benchmarks/calibration.py runs/quickstart_sequence/<time> runs/generated_tables/<time> \\
        runs/quickstart_tabular/<time> --json benchmarks/results/calibration.json

Each RUN is a finished training. Its model and nearest neighbour score unseen test episodes; p-values come from
validation tasks that were neither trained on nor used to choose the weights (across), from those of them whose scores
the checkpoint itself holds for supports of this size (as shipped), and from each support set (within). For each aimed
rate: the share of normal queries that are flagged, with a 95 % interval over tasks, and of anomalies (the power). With
--shots, supports of other sizes; "across" then stays with the scores of the size trained with, where its promise ends.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.calibration import normal_scores
from metaad_zoo.evaluation.decisions import ROUNDING, AcrossTasks, Calibrator, WithinTask, scores_for_shots
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.experiment.methods import data_of_config, model_folder
from metaad_zoo.zoo import calibration_by_shots, load_checkpoint

ALPHAS = (0.05, 0.1, 0.2)


def measure(run: Path, episodes: int, calibration_episodes: int, shots: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of one run: method, calibration, support size, and by alpha the realised rates."""
    folder = model_folder(run)
    if folder is None:
        raise SystemExit(f"{run} is no finished run")
    checkpoint, data = load_checkpoint(folder), data_of_config(run / "config.yaml")
    ours = checkpoint.learner.registered_name
    methods: dict[str, Method] = {ours: checkpoint.learner, "knn": create_baseline("knn")}
    calibrating = list(data.calibration(calibration_episodes))
    shipped = calibration_by_shots(checkpoint.tensors)
    ways: dict[tuple[str, str], Calibrator] = {}
    for name, method in methods.items():
        ways[name, "across"] = AcrossTasks(normal_scores(method, calibrating))
        ways[name, "within"] = WithinTask(method)
    trained = data.test_episode.support_normal
    about = {"run": run.parent.name, "episodes": episodes, "calibration_tasks": len({e.task for e in calibrating})}
    rows: list[dict[str, Any]] = []
    for k in [trained, *(k for k in shots if k != trained)]:
        data.test_episode = replace(data.test_episode, support_normal=k)
        ways[ours, "as shipped"] = AcrossTasks(scores_for_shots(shipped, k))
        # Leaving one out adapts k times: of a learner it is measured for one size alone.
        fitting = {way: c for way, c in ways.items() if k == trained or way[1] != "within" or way[0] != ours}
        rows += [
            about | row | {"shots": k} for row in one_size(methods, fitting, data, episodes, f"{run.parent.name}, {k}")
        ]
    return rows


def one_size(
    methods: dict[str, Method], ways: dict[tuple[str, str], Calibrator], data: EpisodeDataModule, n: int, title: str
) -> list[dict[str, Any]]:
    """Realised rates for supports of one size."""
    flagged: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {way: defaultdict(list) for way in ways}
    for e in track(data.episodes("test", n, epoch=2), description=title, total=n):
        adapted = {name: method.adapt(e.support, e.support_labels) for name, method in methods.items()}
        scores = {name: one.score(e.query).double().cpu() for name, one in adapted.items()}
        for (name, kind), way in ways.items():
            p = way.p_values(adapted[name], e.support, e.support_labels, scores[name])
            calls = p[:, None] <= torch.tensor(ALPHAS) + ROUNDING
            shares = [calls[e.query_labels == label].double().mean(0).numpy() for label in (0, 1)]
            flagged[name, kind][e.task].append(np.stack(shares))
    rows = []
    for (name, kind), by_task in flagged.items():
        tasks = np.stack([np.mean(parts, 0) for parts in by_task.values()])  # task, label, alpha
        rates = {
            str(a): {"fpr": float(tasks[:, 0, i].mean()), "ci95": interval(tasks[:, 0, i]), "power": power}
            for i, a in enumerate(ALPHAS)
            for power in [float(tasks[:, 1, i].mean())]
        }
        rows.append({"method": name, "calibration": kind, "tasks": len(tasks), "rates": rates})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--calibration-episodes", type=int, default=2000)
    parser.add_argument("--shots", type=int, nargs="*", default=[2, 20], help="other sizes of the support set")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        row
        for run in options.runs
        for row in measure(run, options.episodes, options.calibration_episodes, options.shots)
    ]
    aimed = [f"{a:.0%}: flagged / power" for a in ALPHAS]
    columns = ("run", "method", "calibration", "tasks", "shots", *aimed)
    table = Table(*columns, title=f"{options.episodes} unseen episodes")
    for row in rows:
        cells = (f"{100 * r['fpr']:.1f} / {100 * r['power']:.1f} %" for r in row["rates"].values())
        table.add_row(row["run"], row["method"], row["calibration"], str(row["tasks"]), str(row["shots"]), *cells)
    Console(width=130).print(table)
    if options.json:
        content = {"alphas": ALPHAS, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

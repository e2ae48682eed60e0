"""Realised false-alarm rates: `python benchmarks/calibration.py RUN ... --json benchmarks/results/calibration.json`.

Each RUN is a finished training. Its model and nearest neighbour score unseen test episodes; p-values come from the
validation tasks (across) and from each support set (within). Printed for each aimed rate: the share of normal queries
that are flagged, and of anomalies (the power).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from metaad_zoo.cli.contestants import data_of_config, model_folder
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.calibration import normal_scores
from metaad_zoo.evaluation.decisions import AcrossTasks, Calibrator, WithinTask
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.zoo import load_checkpoint

ALPHAS = (0.05, 0.1, 0.2)


def measure(run: Path, episodes: int, calibration_episodes: int) -> list[dict[str, Any]]:
    """Rows of one run: method, calibration, and by alpha the realised rates."""
    folder = model_folder(run)
    if folder is None:
        raise SystemExit(f"{run} is no finished run")
    learner, data = load_checkpoint(folder).learner, data_of_config(run / "config.yaml")
    methods: dict[str, Method] = {learner.registered_name: learner, "knn": create_baseline("knn")}
    calibrating = list(data.episodes("val", calibration_episodes, epoch=2))
    ways: dict[tuple[str, str], Calibrator] = {}
    for name, method in methods.items():
        ways[name, "across"] = AcrossTasks(normal_scores(method, calibrating))
        ways[name, "within"] = WithinTask(method)
    found: dict[tuple[str, str], list[tuple[torch.Tensor, torch.Tensor]]] = {way: [] for way in ways}
    for e in track(data.episodes("test", episodes, epoch=2), description=run.name, total=episodes):
        adapted = {name: method.adapt(e.support, e.support_labels) for name, method in methods.items()}
        scores = {name: one.score(e.query).double().cpu() for name, one in adapted.items()}
        for (name, kind), way in ways.items():
            p = way.p_values(adapted[name], e.support, e.support_labels, scores[name])
            found[name, kind].append((p, e.query_labels))
    rows = []
    for (name, kind), pairs in found.items():
        p, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        rates = {
            str(a): {
                "fpr": float((p[labels == 0] <= a + 1e-12).double().mean()),
                "power": float((p[labels == 1] <= a + 1e-12).double().mean()),
            }
            for a in ALPHAS
        }
        rows.append({"run": run.parent.name, "method": name, "calibration": kind, "episodes": episodes, "rates": rates})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--calibration-episodes", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row for run in options.runs for row in measure(run, options.episodes, options.calibration_episodes)]
    aimed = [f"{a:.0%}: flagged / power" for a in ALPHAS]
    table = Table("run", "method", "calibration", *aimed, title=f"{options.episodes} unseen episodes")
    for row in rows:
        cells = (f"{100 * r['fpr']:.1f} % / {100 * r['power']:.1f} %" for r in row["rates"].values())
        table.add_row(row["run"], row["method"], row["calibration"], *cells)
    Console(width=120).print(table)
    if options.json:
        content = {"alphas": ALPHAS, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

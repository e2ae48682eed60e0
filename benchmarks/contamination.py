"""Scores without labels against contamination: `python benchmarks/contamination.py RUN --json FILE`.

RUN is a finished training whose learner reads unlabelled samples. Two questions, on its own unseen test classes:

- batch: normal samples and a few anomalies, none of them labelled, are read and scored themselves, as in ACR.
- held out: an unlabelled batch is read, of which a share is anomalous; other samples are scored.

Printed: mean AUROC over tasks with a 95 % interval, beside baselines that are given the same samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from judging_tables import cell  # beside this script
from rich.console import Console
from rich.progress import track
from rich.table import Table

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import Episode, EpisodeSpec, Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.experiment.curves import auroc_by_task
from metaad_zoo.experiment.methods import data_of_config, model_folder
from metaad_zoo.zoo import load_checkpoint

NORMALS, ANOMALIES = 20, (1, 2, 5)
HELD_OUT_BATCH, SHARES = 15, (0.0, 0.067, 0.133, 0.2, 0.267, 0.333, 0.4)
BASELINES = ("mahalanobis", "iforest")


def within_batch(episode: Episode) -> Episode:
    """The query read without labels and scored itself; the drawn support is left aside."""
    labels = torch.full_like(episode.query_labels, -1)
    return replace(episode, support=episode.query, support_labels=labels, support_ids=episode.query_ids)


def figures(methods: Mapping[str, Method], episodes: Iterable[Episode]) -> dict[str, Any]:
    """By method the mean AUROC over tasks, and its interval."""
    drawn, figures_by_name = list(episodes), {}
    for name, method in methods.items():
        values = auroc_by_task(method, drawn)
        figures_by_name[name] = {"mean": float(values.mean()), "ci95": interval(values), "tasks": len(values)}
    return figures_by_name


def draw(data: EpisodeDataModule, spec: EpisodeSpec, n: int) -> Iterable[Episode]:
    """Test episodes of a make-up."""
    data.test_episode = spec
    return data.episodes("test", n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = model_folder(options.run)
    if folder is None:
        raise SystemExit(f"{options.run} is no finished run")
    learner, data = load_checkpoint(folder).learner, data_of_config(options.run / "config.yaml")
    methods: dict[str, Method] = {learner.registered_name: learner, **{n: create_baseline(n) for n in BASELINES}}
    # A sample that is read itself is its own nearest neighbour, and may have some more among the other anomalies.
    methods["knn, k=10"] = create_baseline("knn", k=10)
    rows: list[dict[str, Any]] = []
    for a in track(ANOMALIES, description="batch"):
        # Something must be drawn as support, and 20 normals are all that a class has: an anomaly, left aside.
        spec = EpisodeSpec(support_normal=0, support_anomalous=1, query_normal=NORMALS, query_anomalous=a)
        episodes = map(within_batch, draw(data, spec, options.episodes))
        rows.append({"kind": "batch", "normal": NORMALS, "anomalous": a, "methods": figures(methods, episodes)})
    for share in track(SHARES, description="held out"):
        spec = EpisodeSpec(
            support_normal=0,
            support_unlabelled=HELD_OUT_BATCH,
            contamination=share,
            query_normal=NORMALS - HELD_OUT_BATCH,
            query_anomalous=10,
        )
        by_method = figures(methods, draw(data, spec, options.episodes))
        rows.append({"kind": "held out", "contamination": spec.realised_contamination, "methods": by_method})
    _print(rows, list(methods))
    if options.json:
        content = {"episodes": options.episodes, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _print(rows: list[dict[str, Any]], methods: list[str]) -> None:
    table = Table("unlabelled batch", *methods, title="AUROC in %, mean over unseen tasks [95 %]")
    for row in rows:
        batch = row["kind"] == "batch"
        name = (
            f"{row['normal']} + {row['anomalous']}, scored itself" if batch else f"{row['contamination']:.0%} anomalous"
        )
        cells = [cell(m["mean"], m["ci95"]) for m in row["methods"].values()]
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

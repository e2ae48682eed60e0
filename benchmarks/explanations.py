"""Explanations put to the test.

    python benchmarks/explanations.py runs/quickstart/<time> runs/quickstart_sequence/<time> \\
        runs/quickstart_tabular/<time> runs/quickstart_multimodal/<time> --json benchmarks/results/explanations.json

For each finished run: test episodes are drawn as its config says, the model adapts to each support set, all queries are
explained by every method, and a tenth of their cells is replaced by the support's usual values: those named most
important, as many at random, and those that another query's map names (which tells whether a map is about its sample or
only about the middle of the image). A figure is the mean absolute change of the score, in logits, over tasks; the gain
is by attribution minus at random, with a 95 % interval over tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from metaad_zoo.episodes import Episode
from metaad_zoo.evaluation.attribution import deletion_test
from metaad_zoo.evaluation.explanation import Explainer, Explanation
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.learners import Learner
from metaad_zoo.zoo import is_checkpoint, load_checkpoint

METHODS: tuple[Explanation, ...] = ("integrated_gradients", "occlusion", "nearest")


def one_episode(learner: Learner, episode: Episode, share: float, rng: np.random.Generator) -> dict[str, Any]:
    """By method: changes of the score by attribution, at random and by another query's map, and the seconds taken."""
    adapted = learner.adapt(episode.support, episode.support_labels)
    explainer = Explainer(adapted, episode.support, episode.support_labels)
    samples = explainer.units(episode.query)
    baseline = explainer.baseline(samples)
    figures = {}
    for method in METHODS:
        start = time.perf_counter()
        maps = explainer.attribute(episode.query, method)
        seconds = time.perf_counter() - start
        if method == "nearest":  # a difference's sign tells nothing of the score
            maps = {name: x.abs() for name, x in maps.items()}
        shifted = {name: x.roll(1, 0) for name, x in maps.items()}
        by_map, at_random = deletion_test(explainer.score, samples, maps, baseline, share, rng)
        by_other, _ = deletion_test(explainer.score, samples, shifted, baseline, share, rng, repeats=1)
        figures[method] = {"by_attribution": by_map, "at_random": at_random, "by_others_map": by_other, "s": seconds}
    return figures


def measure(folder: Path, episodes: int, share: float) -> dict[str, Any]:
    """All figures of a run or checkpoint folder."""
    checkpoint = load_checkpoint(folder if is_checkpoint(folder) else folder / "model")
    data, rng = data_of_config(folder / "config.yaml"), np.random.default_rng(0)
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for episode in data.episodes("test", episodes):
        tasks[episode.task].append(one_episode(checkpoint.learner, episode, share, rng))
    methods: dict[str, Any] = {}
    for method in METHODS:
        by_task = [{k: np.mean([row[method][k] for row in rows]) for k in rows[0][method]} for rows in tasks.values()]
        columns = {key: np.array([row[key] for row in by_task]) for key in by_task[0]}
        gain = columns["by_attribution"] - columns["at_random"]
        methods[method] = {key: {"mean": float(x.mean()), "ci95": interval(x)} for key, x in columns.items()}
        methods[method]["gain"] = {"mean": float(gain.mean()), "ci95": interval(gain)}
    arguments = checkpoint.learner.arguments()
    model = f"{checkpoint.learner.registered_name} {arguments['backbone']}"
    shapes = arguments["input_shapes"]
    about = {
        "run": folder.parent.name,
        "model": model,
        "input_shapes": shapes,
        "episodes": episodes,
        "tasks": len(tasks),
    }
    return {**about, "methods": methods}


def result_table(results: list[dict[str, Any]], share: float) -> Table:
    """For the eye."""
    table = Table(title=f"Change of the score when {share:.0%} of the cells are deleted")
    for column in ("model", "method", "by attribution", "at random", "by another's map", "gain over random", "s"):
        table.add_column(column, justify="left" if column in ("model", "method") else "right")
    for result in results:
        for method, figures in result["methods"].items():
            cells = [f"{figures[k]['mean']:.3f}" for k in ("by_attribution", "at_random", "by_others_map")]
            gain, ci = figures["gain"]["mean"], figures["gain"]["ci95"]
            cells.append(f"{gain:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else ""))
            table.add_row(f"{result['model']} ({result['run']})", method, *cells, f"{figures['s']['mean']:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="finished runs, or their model folders")
    parser.add_argument("--episodes", type=int, default=20, help="test episodes of each")
    parser.add_argument("--share", type=float, default=0.1, help="of the cells that are deleted")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="(?s).*(jsonargparse|Jsonargparse|instantiate_classes).*")
    results = [measure(folder, args.episodes, args.share) for folder in args.folders]
    Console(width=None if sys.stdout.isatty() else 140).print(result_table(results, args.share))
    if args.json:
        content = {
            "protocol": {"share": args.share, "episodes": args.episodes, "split": "test", "random_draws": 10},
            "runs": results,
            "environment": environment("cpu"),
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

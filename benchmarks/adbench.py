"""A model on unseen tables of ADBench beside classical methods, each table with as many queries as it has.

    METAAD_DATA=FOLDER python benchmarks/adbench.py RUN --json benchmarks/results/adbench_in_context.json

RUN is the folder of a training; its own config says which tables it has not seen. An episode has 10 normal rows as
support and at most 500 normal and 500 anomalous rows as query, all columns, 5 draws a table; rows are drawn without
replacement from the tables as they are. Of every classical method a few settings are tried on the tables that the model
was trained and chosen on, and the best one enters. With `--split val` the same is told of the validation tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from metaad_zoo.cli.contestants import data_of_config, model_folder
from metaad_zoo.data import TabularEpisodes
from metaad_zoo.data.mixed_tables import MixedTables
from metaad_zoo.episodes import DomainTaskPool, Episode, EpisodeSpec, Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.protocol import across_tasks, environment, evaluate
from metaad_zoo.zoo import load_checkpoint

SUPPORT, QUERY, ALPHA = 10, 500, 0.05
STANDARDISE = ("support", "none")
SETTINGS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "knn": {"k": (1, 3, 5), "standardise": STANDARDISE},
    "mahalanobis": {"standardise": STANDARDISE},
    "ocsvm": {"nu": (0.01, 0.1, 0.5), "standardise": STANDARDISE},
}


def episodes(data: TabularEpisodes, split: str, draws: int) -> Iterator[Episode]:
    """The draws of each table of a split; which rows are drawn depends on the table and the draw alone."""
    pool = data.pools[split]
    pool = pool.real if isinstance(pool, MixedTables) else pool
    assert isinstance(pool, DomainTaskPool)
    for domain in pool.domains:
        spec = EpisodeSpec(
            support_normal=SUPPORT,
            query_normal=min(QUERY, len(domain.normal) - SUPPORT),
            query_anomalous=min(QUERY, len(domain.anomalous)),
        )
        for draw in range(draws):
            yield domain.draw(spec, np.random.default_rng([data.seed, draw]))


def settings_of(method: str) -> list[dict[str, Any]]:
    """All settings that are tried of a classical method."""
    options = SETTINGS[method]
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


def mean_auroc(
    methods: Mapping[str, Method], tables: Sequence[Episode], chosen_on: Sequence[Episode]
) -> dict[str, Any]:
    """Figures of the project's evaluation, decisions at a threshold across the tables of ``chosen_on``."""
    return evaluate(methods, tables, across_tasks(methods, chosen_on), ALPHA)


def tuned(seen: Sequence[Episode], progress: Progress) -> dict[str, dict[str, Any]]:
    """For each classical method the setting with the best mean AUROC over the tables that are not tested."""
    bar = progress.add_task("settings of classical methods", total=len(SETTINGS))
    best = {}
    for name in SETTINGS:
        methods = {str(o): create_baseline(name, **o) for o in settings_of(name)}
        figures = mean_auroc(methods, seen, seen[:1])
        tried = {key: value["mean"]["auroc"] for key, value in figures.items()}
        chosen = max(tried, key=lambda key: tried[key])
        options = next(o for o in settings_of(name) if str(o) == chosen)
        best[name] = {"options": options, "auroc_where_chosen": tried[chosen], "tried": tried}
        progress.advance(bar)
    return best


def result_table(results: Mapping[str, Any], best: str) -> Table:
    table = Table("method", "AUROC", "95 %", "behind the first", "95 %", "Wilcoxon p", title="unseen tables of ADBench")
    for name, row in results.items():
        behind = row["auroc_behind_first"]
        table.add_row(
            f"{name} (best of these)" if name == best else name,
            f"{100 * row['mean']['auroc']:.2f}",
            _interval(row["ci95"]["auroc"]),
            f"{100 * behind['mean']:.2f}",
            _interval(behind["ci95"]),
            "" if behind["wilcoxon_p"] is None else f"{behind['wilcoxon_p']:.3f}",
        )
    return table


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = model_folder(args.run)
    if folder is None:
        parser.error(f"{args.run} holds no model: give the folder of a training")
    data = data_of_config(args.run / "config.yaml")
    if not isinstance(data, TabularEpisodes):
        parser.error(f"{args.run} was not trained on tables")
    checkpoint = load_checkpoint(folder)
    if shared := set(checkpoint.trained_on) & data.pools["test"].members:
        parser.error(f"the model has seen {sorted(shared)}, which are in the test split")
    torch.set_num_threads(1)
    with Progress(transient=True) as progress:
        seen = [e for split in ("train", "val") for e in episodes(data, split, args.draws)]
        best = tuned(seen, progress)
        methods: dict[str, Method] = {checkpoint.learner.registered_name: checkpoint.learner}
        methods |= {name: create_baseline(name, **found["options"]) for name, found in best.items()}
        methods |= {"1-NN, standardised": create_baseline("knn")}
        val = list(episodes(data, "val", args.draws))
        results = mean_auroc(methods, list(episodes(data, args.split, args.draws)), val)
    strongest = max(list(results)[1:], key=lambda name: results[name]["mean"]["auroc"])
    Console(width=110).print(result_table(results, strongest))
    if args.json:
        protocol = {
            "data": data.description(),
            "split": args.split,
            "draws": args.draws,
            "support": SUPPORT,
            "query_at_most": [QUERY, QUERY],
            "alpha": ALPHA,
            "learner": {"name": checkpoint.learner.registered_name, **checkpoint.learner.arguments()},
            "classical": best,
            "strongest": strongest,
        }
        content = {"protocol": protocol, "methods": results, "environment": environment("cpu")}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""A model on unseen tables of ADBench beside classical methods, each table with as many queries as it has.

    METAAD_DATA=FOLDER python benchmarks/adbench.py RUN --json FILE
    METAAD_DATA=FOLDER python benchmarks/adbench.py RUN --shots 2 5 10 20 50 --json FILE

RUN is the folder of a training or of a published model; its own config says which tables it has not seen. An episode
has 10 normal rows as support and at most 500 normal and 500 anomalous rows as query, all columns, 5 draws a table; rows
are drawn without replacement from the tables as they are. Of every classical method a few settings are tried on the
tables that the model was trained and chosen on, and the best one enters; the model untrained is the control. With
`--split val` the same is told of the validation tables. `--shots` gives AUROC alone, by the number of support rows;
settings are chosen anew for each number. FILE is adbench_in_context.json and adbench_shots.json in benchmarks/results.
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
from rich.progress import Progress
from rich.table import Table

from metaad_zoo.data import TabularEpisodes
from metaad_zoo.data.mixed_tables import MixedTables
from metaad_zoo.episodes import DomainTaskPool, Episode, EpisodeSpec, Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.protocol import across_tasks, environment, evaluate
from metaad_zoo.experiment.methods import data_of_config, model_folder
from metaad_zoo.learners import EmbeddingLearner, GradientLearner, untrained
from metaad_zoo.zoo import Checkpoint, load_checkpoint

SUPPORT, QUERY, ALPHA = 10, 500, 0.05
LEAST_QUERY = 10
"""Tables that have fewer normal rows left beside the support are left out."""
UNTRAINED = "same network, untrained"
STANDARDISE = ("support", "none")
SETTINGS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "knn": {"k": (1, 3, 5), "standardise": STANDARDISE},
    "mahalanobis": {"standardise": STANDARDISE},
    "ocsvm": {"nu": (0.01, 0.1, 0.5), "standardise": STANDARDISE},
}


def episodes(data: TabularEpisodes, split: str, draws: int, support: int = SUPPORT) -> Iterator[Episode]:
    """The draws of each table of a split; which rows are drawn depends on table, draw and number of support rows."""
    pool = data.pools[split]
    pool = pool.real if isinstance(pool, MixedTables) else pool
    assert isinstance(pool, DomainTaskPool)
    for domain in pool.domains:
        if len(domain.normal) < support + LEAST_QUERY:
            continue
        spec = EpisodeSpec(
            support_normal=support,
            query_normal=min(QUERY, len(domain.normal) - support),
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
    bar = progress.add_task(f"settings of classical methods, {len(seen[0].support_labels)} rows", total=len(SETTINGS))
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


def judged(
    checkpoint: Checkpoint, data: TabularEpisodes, split: str, draws: int, support: int, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Figures of all methods, what was chosen of the classical ones, and which of these is the strongest."""
    seen = [e for split in ("train", "val") for e in episodes(data, split, draws, support)]
    best = tuned(seen, progress)
    methods: dict[str, Method] = {checkpoint.learner.registered_name: checkpoint.learner}
    methods |= {name: create_baseline(name, **choice["options"]) for name, choice in best.items()}
    assert isinstance(checkpoint.learner, (GradientLearner, EmbeddingLearner))
    methods |= {"1-NN, standardised": create_baseline("knn"), UNTRAINED: untrained(checkpoint.learner, seed=0)}
    val = list(episodes(data, "val", draws, support))
    results = mean_auroc(methods, list(episodes(data, split, draws, support)), val)
    rivals = [name for name in methods if name not in (checkpoint.learner.registered_name, UNTRAINED)]
    return results, best, max(rivals, key=lambda name: float(results[name]["mean"]["auroc"]))


def auroc_alone(support: int, results: Mapping[str, Any], best: Mapping[str, Any], strongest: str) -> dict[str, Any]:
    """A point of the curve over the number of support rows."""
    methods = {
        name: {
            "mean": row["mean"]["auroc"],
            "ci95": row["ci95"]["auroc"],
            "tables": {task["task"]: task["auroc"] for task in row["tasks"]},
            "behind_first": row["auroc_behind_first"],
        }
        for name, row in results.items()
    }
    return {"support": support, "methods": methods, "strongest": strongest, "classical": dict(best)}


def result_table(results: Mapping[str, Any], best: str, support: int) -> Table:
    title = f"unseen tables of ADBench, {support} normal rows"
    table = Table("method", "AUROC", "95 %", "behind the first", "95 %", "Wilcoxon p", title=title)
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
    parser.add_argument("--shots", type=int, nargs="+", help="numbers of support rows, for a curve of AUROC")
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
    by_support = {}
    with Progress(transient=True) as progress:
        for support in args.shots or [SUPPORT]:
            by_support[support] = judged(checkpoint, data, args.split, args.draws, support, progress)
            results, _, strongest = by_support[support]
            progress.console.print(result_table(results, strongest, support))
    if args.json:
        protocol = {
            "data": data.description(),
            "split": args.split,
            "draws": args.draws,
            "query_at_most": [QUERY, QUERY],
            "learner": {"name": checkpoint.learner.registered_name, **checkpoint.learner.arguments()},
        }
        if args.shots:
            content = {"protocol": protocol, "rows": [auroc_alone(k, *row) for k, row in by_support.items()]}
        else:
            results, best, strongest = by_support[SUPPORT]
            protocol |= {"support": SUPPORT, "alpha": ALPHA, "classical": best, "strongest": strongest}
            content = {"protocol": protocol, "methods": results}
        content["environment"] = environment("cpu")
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

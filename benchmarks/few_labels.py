r"""What a few labelled anomalies are worth: `python benchmarks/few_labels.py RUN RUN ... --json FILE`.

Each RUN is a finished training, all on the same data, such as those of

    python train.py --config configs/quickstart.yaml --config configs/learners/deep_sad.yaml \
        --config configs/few_labels.yaml

likewise deviation, pairwise, protonet, and for maml no learner's config; with `--trainer.max_epochs 2` for
benchmarks/results/few_labels.json. A support holds ten unlabelled samples, one of them anomalous, and 0 to 5 labelled
anomalies. These are of the class that the query's anomalies are of, as in training; or, in the last column, of a class
that the query has none of. Beside the runs: classical methods, which leave labelled anomalies out, and two that
use them. Printed and written: mean AUROC over the unseen tasks with a 95 % interval, the same queries in every column.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging_tables import cell  # beside this script
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, Adapted, Episode, Method, Samples
from metaad_zoo.evaluation.baselines import NearestNeighbour, create_baseline
from metaad_zoo.evaluation.baselines.features import SupportFeatures
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.experiment.curves import auroc_by_task
from metaad_zoo.experiment.methods import data_of_config, model_folder, refuse_unfit
from metaad_zoo.zoo import load_checkpoint

LABELS = (0, 1, 2, 5)


@dataclass(frozen=True)
class BothKinds:
    """A classical method that uses labelled anomalies, on images standardised one by one.

    Args:
        regression: scikit-learn's logistic regression, both kinds weighing the same; else how much farther the nearest
            labelled anomaly is than the nearest of the others. Without labelled anomalies, always the latter.
    """

    regression: bool

    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        features = SupportFeatures({}, "sample")
        x, is_anomaly = features(support), support_labels == ANOMALOUS
        if self.regression and is_anomaly.any():
            model = LogisticRegression(class_weight="balanced").fit(x.numpy(), is_anomaly.numpy())
            return _Scorer(lambda query: torch.as_tensor(model.decision_function(features(query).numpy())))
        usual, anomalies = x[~is_anomaly], x[is_anomaly]

        def score(query: Samples) -> Tensor:
            q = features(query)
            near = torch.cdist(q, usual).amin(1)
            return near - torch.cdist(q, anomalies).amin(1) if len(anomalies) else near

        return _Scorer(score)


@dataclass(frozen=True)
class _Scorer:
    score: Callable[[Samples], Tensor]


def with_labels(episode: Episode, n: int) -> Episode:
    """With so many of its labelled anomalies; the others are left out."""
    anomalies = (episode.support_labels == ANOMALOUS).nonzero().flatten()
    mask = torch.ones(len(episode.support_labels), dtype=torch.bool)
    mask[anomalies[n:]] = False
    return replace(
        episode,
        support={name: x[mask] for name, x in episode.support.items()},
        support_labels=episode.support_labels[mask],
        support_ids=episode.support_ids[mask],
    )


def of_another_class(episodes: Sequence[Episode]) -> list[Episode]:
    """With the labelled anomalies of an episode of the same normal class against another one.

    Raises:
        ValueError: a normal class has one task among the episodes.
    """
    swapped = []
    for i, episode in enumerate(episodes):
        normal = episode.task.partition("-vs-")[0]
        same_normal = (e for e in (*episodes[i:], *episodes[:i]) if e.task.partition("-vs-")[0] == normal)
        other = next((e for e in same_normal if e.task != episode.task), None)
        if other is None:
            raise ValueError(f"{episode.task} is the only task of {normal}: draw more --episodes, of pairs of classes")
        is_anomaly = episode.support_labels == ANOMALOUS
        support = {name: x.clone() for name, x in episode.support.items()}
        for name, x in support.items():
            x[is_anomaly] = other.support[name][is_anomaly]
        ids = torch.where(is_anomaly, other.support_ids, episode.support_ids)
        swapped.append(replace(episode, support=support, support_ids=ids))
    return swapped


def figures(methods: Mapping[str, Method], episodes: Sequence[Episode]) -> dict[str, Any]:
    """By method its AUROC over tasks, and what it is behind the first one's."""
    figures: dict[str, Any] = {}
    first: np.ndarray | None = None
    for name, method in methods.items():
        values = auroc_by_task(method, episodes)
        first = values if first is None else first
        figures[name] = {"mean": float(values.mean()), "ci95": interval(values), "tasks": values.tolist()}
        figures[name]["behind_first"] = {"mean": float((first - values).mean()), "ci95": interval(first - values)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folders = {run: model_folder(run) for run in options.runs}
    if unfinished := [run for run, folder in folders.items() if folder is None]:
        parser.error(f"{', '.join(map(str, unfinished))}: no finished run")
    checkpoints = {str(run): load_checkpoint(folder) for run, folder in folders.items() if folder is not None}
    data = data_of_config(options.runs[0] / "config.yaml")
    refuse_unfit(checkpoints, data)
    learners = {c.learner.registered_name: c.learner for c in checkpoints.values()}
    if len(learners) < len(checkpoints):
        parser.error(f"two runs are of one learner ({', '.join(learners)}): give one run of each")
    methods: dict[str, Method] = {
        **learners,
        "1-NN": NearestNeighbour("sample"),
        **{name: create_baseline(name, standardise="sample") for name in ("mahalanobis", "ocsvm")},
        "1-NN, both kinds": BothKinds(regression=False),
        "logistic regression": BothKinds(regression=True),
    }
    drawn = list(data.episodes("test", options.episodes))
    cases = [(n, False) for n in LABELS] + [(LABELS[-1], True)]
    rows = []
    for n, another in track(cases, description="labelled anomalies"):
        episodes = [with_labels(e, n) for e in (of_another_class(drawn) if another else drawn)]
        rows.append({"labelled": n, "of_another_class": another, "methods": figures(methods, episodes)})
    table = Table("method", *(_title(row) for row in rows), title="AUROC in %, mean over unseen tasks [95 %]")
    for name in methods:
        of = [row["methods"][name] for row in rows]
        table.add_row(name, *(cell(f["mean"], f["ci95"]) for f in of))
    Console(width=150).print(table)
    if options.json:
        protocol = {
            "data": data.description(),
            "episode": data.test_episode.as_dict(),
            "episodes": len(drawn),
            "learners": {name: learner.arguments() for name, learner in learners.items()},
        }
        content = {"protocol": protocol, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['labelled']} labelled" + (", of another class" if row["of_another_class"] else "")


if __name__ == "__main__":
    main()

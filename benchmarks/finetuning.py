"""What fine-tuning on a new field gives, against the number of normal samples of a new domain in it.

    METAAD_DATA=FOLDER python benchmarks/finetuning.py --json benchmarks/results/finetuning.json \
        --images image-conv4-protonet-omniglot --series sequence-window_statistics-in_context-servers \
        --tables runs/adbench_in_context/TIME

A published checkpoint or a run each, of Omniglot (grey images of 28 x 28), of servers (windows of 32 steps, any number
of channels) and of tables of any width. The new fields: paper inspection (six paper types train, the two of
`raw/paper_defects` test), NAB's series (half of those with labelled anomalies train, the others test) and ADBench
tables that the checkpoint has not seen (the first half by name train, the others test). No choice is made on the test
domains: all trainings take a fixed number of steps, the last weights count.

- adapt: the checkpoint as it is, adapted to the K normal samples.
- full, head, low_rank: meta-training goes on over the field's training domains, then as above.
- scratch: the same learner from random weights, as many steps on the same tasks, its rate four times as high.
- support only: the same network from random weights, trained by Adam on the K samples alone.
- single: low rank on the K normal samples alone with synthetic anomalies (no other domain of the field), then adapted
  to them; on fewer episodes, beside `adapt` on the same ones (single, before).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metaad_zoo.data import EpisodeDataModule, ImageEpisodes, SequenceEpisodes, TabularEpisodes
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.episodes import Domain, DomainTaskPool, Episode, EpisodeBatch, EpisodeSpec, Method, TaskPool
from metaad_zoo.evaluation.baselines import NearestNeighbour
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.report import write_json
from metaad_zoo.learners import Learner, can_start_from_scratch, from_scratch, untrained
from metaad_zoo.learners.training import trainable
from metaad_zoo.zoo import FineTuned

STEPS, TASKS, LR, SCRATCH_LR = 150, 4, 5e-4, 2e-3
SINGLE_STEPS, SINGLE_LR, SINGLE_RANK = 40, 1e-3, 2
EPISODES, SINGLE_EPISODES = 12, 1
PAPER_TESTED = ("PA_BFT01_TL", "PA_FLR02_TL")


@dataclass(frozen=True)
class Field:
    """A new field: its training and its test tasks, the numbers of samples, and kinds of synthetic anomalies."""

    train: TaskPool
    test: TaskPool
    episode: EpisodeSpec
    query: tuple[int, int]
    shots: tuple[int, ...]
    kinds: list[str]


def paper(parent: Learner) -> Field:
    """Paper types in the checkpoint's image shape."""
    names = ImageEpisodes("piped128", splits={"train": ["*"]}).images
    types = [n for n in dict.fromkeys(names.class_names) if n not in PAPER_TESTED]
    usable = [n for n in types if (names.anomalous[names.labels == list(names.class_names).index(n)]).any()]
    shape: dict[str, Any] = {"image_size": 28, "channels": 1}
    train = ImageEpisodes("piped128", splits={"train": usable}, **shape)
    folder = str(Path(os.environ["METAAD_DATA"]) / "raw" / "paper_defects")
    test = ImageEpisodes("own", folder, splits={"test": ["*"]}, **shape)
    # 48 good images a type: no 50.
    return Field(
        train.pools["train"],
        test.pools["test"],
        EpisodeSpec(5, query_normal=5, query_anomalous=5),
        (10, 10),
        (1, 2, 5, 10, 20, 38),
        ["cut_paste", "patch_swap", "scar"],
    )


def nab(parent: Learner) -> Field:
    """NAB's series, half and half."""
    episode = EpisodeSpec(10, query_normal=10, query_anomalous=5)
    tested = EpisodeSpec(50, query_normal=10, query_anomalous=5)
    given: dict[str, Any] = {"window": 32, "stride": 8, "episode": episode, "test_episode": tested}
    every = SequenceEpisodes("nab", splits={"test": ["*"]}, **given).pools["test"]
    assert isinstance(every, DomainTaskPool)
    usable = sorted(d.name for d in every.domains)
    half = {"train": usable[::2], "test": usable[1::2]}
    data = SequenceEpisodes("nab", splits=half, **given)
    kinds = ["spike", "level_shift", "drift", "noise"]
    return Field(data.pools["train"], data.pools["test"], episode, (10, 5), (1, 2, 5, 10, 20, 50), kinds)


def tables(parent: Learner) -> Field:
    """ADBench tables that the checkpoint has not seen; the widest one takes too long."""
    assert parent.parent is not None
    data: EpisodeDataModule = TabularEpisodes("adbench", splits={"test": ["*"]})
    names = sorted(data.pools["test"].members - set(parent.parent.trained_on) - {"adbench/17_InternetAds"})
    half = {"train": names[: len(names) // 2], "test": names[len(names) // 2 :]}
    pools = TabularEpisodes("adbench", splits=half).pools
    episode = EpisodeSpec(10, query_normal=10, query_anomalous=10)
    kinds = ["copula", "outlier"]
    return Field(pools["train"], pools["test"], episode, (10, 10), (1, 2, 5, 10, 20, 50), kinds)


FIELDS = {"images": paper, "series": nab, "tables": tables}


def train(learner: Learner, pool: TaskPool, spec: EpisodeSpec, steps: int, seed: int = 0) -> Learner:
    """So many outer steps on a pool's tasks."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer = trainable(learner.train()).configure_optimizers()
    for _ in range(steps):
        chosen = rng.integers(len(pool), size=TASKS)
        batch = EpisodeBatch.collate([pool.draw(int(task), spec, rng) for task in chosen])
        learner.zero_grad()
        learner.outer_loss(batch).backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 10.0)
        optimizer.step()
    return learner.eval()


def tuned(checkpoint: str, how: str, lr: float, rank: int = 4) -> Learner:
    """The checkpoint, ready to go on."""
    return FineTuned(checkpoint, how, rank, partial(torch.optim.Adam, lr=lr), "constant")  # type: ignore[arg-type, return-value]


def episodes(field: Field, k: int, n: int) -> list[Episode]:
    """``n`` of each test task with ``k`` normal support samples: the same ones for every method."""
    spec = EpisodeSpec(k, query_normal=field.query[0], query_anomalous=field.query[1])
    tasks = range(len(field.test))
    return [field.test.draw(t, spec, np.random.default_rng([0, t, k, i])) for t in tasks for i in range(n)]


def by_task(method: Method, drawn: Sequence[Episode]) -> dict[str, float]:
    """Mean AUROC in % of each task."""
    by_name: dict[str, list[float]] = {}
    for e in drawn:
        scores = method.adapt(e.support, e.support_labels).score(e.query)
        by_name.setdefault(e.task, []).append(100 * auroc(scores, e.query_labels))
    return {task: float(np.mean(values)) for task, values in by_name.items()}


class _Held:
    def __init__(self, samples: Mapping[str, Tensor]) -> None:
        self._samples = samples

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        return {name: x[torch.as_tensor(ids)] for name, x in self._samples.items()}


def single(checkpoint: str, field: Field, drawn: Sequence[Episode]) -> dict[str, float]:
    """Fine-tuned on each support set alone, and adapted to it."""
    figures = {}
    for e in drawn:
        domain = Domain(e.task, _Held(e.support), np.arange(len(e.support_labels)), np.arange(0))
        pool = DomainTaskPool([domain], create_synthetic(field.kinds), 1.0)
        learner = tuned(checkpoint, "low_rank", SINGLE_LR, SINGLE_RANK)
        train(learner, pool, EpisodeSpec(5, query_normal=3, query_anomalous=3), SINGLE_STEPS)
        figures |= by_task(learner, [e])
    return figures


def measure(name: str, checkpoint: str) -> dict[str, Any]:
    """All figures of one field."""
    parent = tuned(checkpoint, "full", LR)
    assert parent.parent is not None
    field = FIELDS[name](parent)
    methods: dict[str, Any] = {"adapt": parent.eval()}
    seconds: dict[str, float] = {}
    for how in ("full", "head", "low_rank"):
        start = time.perf_counter()
        methods[how] = train(tuned(checkpoint, how, LR), field.train, field.episode, STEPS)
        seconds[how] = time.perf_counter() - start
    fresh = untrained(parent, 0)  # type: ignore[type-var]
    fresh.set_optimizer(partial(torch.optim.Adam, lr=SCRATCH_LR), "constant")
    methods["scratch"] = train(fresh, field.train, field.episode, STEPS)
    if can_start_from_scratch(parent):  # type: ignore[arg-type]
        methods["support only"] = from_scratch(parent, 0)  # type: ignore[arg-type]
    methods["1-NN"] = NearestNeighbour("sample" if name == "images" else "support")
    shots: dict[str, Any] = {}
    for k in field.shots:
        drawn = episodes(field, k, EPISODES)
        shots[str(k)] = {method: by_task(m, drawn) for method, m in methods.items()}
        if k >= 20:
            few = episodes(field, k, SINGLE_EPISODES)
            shots[str(k)]["single, before"] = by_task(methods["adapt"], few)
            shots[str(k)]["single"] = single(checkpoint, field, few)
    return {
        "learner": parent.registered_name,
        "sha256": parent.parent.sha256,
        "trained_on_tasks": sorted(field.train.members),
        "tested_on": sorted(field.test.members),
        "steps": STEPS,
        "seconds": {how: round(s, 1) for how, s in seconds.items()},
        "shots": shots,
    }


def show(results: Mapping[str, Any], console: Console) -> None:
    """A table for each field: mean AUROC over the test tasks."""
    for name, figures in results.items():
        title = f"{name}: AUROC in % over {len(figures['tested_on'])} test domains"
        table = Table("method", *figures["shots"], title=title)
        methods = list(dict.fromkeys(m for by in figures["shots"].values() for m in by))
        for method in methods:
            cells = [by.get(method) for by in figures["shots"].values()]
            table.add_row(method, *("" if c is None else f"{np.mean(list(c.values())):.1f}" for c in cells))
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in FIELDS:
        parser.add_argument(f"--{name}", help="a checkpoint; left out: this field's earlier figures stay")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.json.read_text()) if given.json.is_file() else {}
    for name in FIELDS:
        if getattr(given, name):
            results[name] = measure(name, getattr(given, name))
            write_json(given.json, results)
    show(results, Console(width=110))


if __name__ == "__main__":
    main()

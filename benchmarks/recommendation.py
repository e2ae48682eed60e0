"""How well `metaad recommend` picks, and the prior that it picks by.

    METAAD_DATA=FOLDER python benchmarks/recommendation.py --json benchmarks/results/recommendation.json --write-prior

Tasks of tables (ADBench, scikit-learn's), images (digits, Omniglot, paper inspection) and series (generated, servers,
traffic) give support sets of 10 and 50 normal samples, alone or (50) with 5 labelled anomalies. All baselines are
cross-validated inside each as `metaad recommend` does it, and scored on other samples with the task's own anomalies.
The prior is the mean over data sets; the weight of cross-validation is the one that loses the least AUROC over data
sets that the mean was taken without. Both are learned anew for each judged data set without it (a data set is a table,
a set of images, or a set of series). Rows are kept in --rows, so that a run that was stopped goes on. --write-prior
puts the prior over all of them into the package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from metaad_zoo.data import EpisodeDataModule, ImageEpisodes, SequenceEpisodes, TabularEpisodes
from metaad_zoo.data.generated_series import KINDS, GeneratedOptions
from metaad_zoo.episodes import Episode, EpisodeSpec, TaskPool
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.choosing import PRIOR, WITHIN, Prior
from metaad_zoo.evaluation.cross_validation import Trial, try_methods
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.experiment.recommend import baselines_for, synthetic_for

SIZES = (50, 10)
ANOMALIES = 5
QUERIES = (200, 100, 60, 40, 20, 10, 5)
"""Normal and anomalous queries: the most that a task has room for."""
LABELLED_AT = 50
BORROWED = 5
"""Data sets that the means over all modalities count as, beside a modality's own ones."""
WEIGHTS = (0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Of cross-validation, to choose from: a few, for there are few data sets."""
ALL = {"test": ["*"]}
CASES = (("synthetic", 10), ("synthetic", 50), ("labels", 50))


def sources() -> Iterator[tuple[str, EpisodeDataModule, int]]:
    """Modality, data, and how many of its tasks."""
    yield "tabular", TabularEpisodes("adbench", splits=ALL), 99
    yield "tabular", TabularEpisodes("sklearn_tables", splits=ALL, anomalies="rest"), 18
    yield "image", ImageEpisodes("digits", splits=ALL, anomalies="rest"), 6
    yield "image", ImageEpisodes("omniglot28", splits=ALL, anomalies="rest"), 6
    yield "image", ImageEpisodes("piped128", splits=ALL, image_size=32), 9
    laws = GeneratedOptions((1, 1, 20), test_anomalies=tuple(KINDS))
    yield "sequence", SequenceEpisodes("generated", window=32, generated=laws), 6
    for name in ("asd", "smd", "nab"):
        yield "sequence", SequenceEpisodes(name, splits=ALL, window=32), 5


def draw(pool: TaskPool, task: int, n: int, which: int) -> Episode | None:
    """The largest episode that the task has room for; None where there is no room for the smallest."""
    for normal in QUERIES[:-1]:
        for anomalous in QUERIES:
            spec = EpisodeSpec(n, ANOMALIES, query_normal=normal, query_anomalous=anomalous)
            try:
                return pool.draw(task, spec, np.random.default_rng([task, n, which]))
            except ValueError:
                continue
    return None


def collect(rows_path: Path, draws: int) -> list[dict[str, Any]]:
    """A row for each task, size of the support and draw; those in the file are not made again."""
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()] if rows_path.is_file() else []
    done = {(row["task"], row["n"], row["draw"]) for row in rows}
    for modality, data, limit in sources():
        pool = data.pools["test"]
        for task in track(np.random.default_rng(0).permutation(len(pool))[:limit].tolist(), modality):
            for n, which in product(SIZES, range(draws)):
                episode = None if (pool.task_name(task), n, which) in done else draw(pool, task, n, which)
                if episode is not None:
                    rows.append({"modality": modality, "n": n, "draw": which} | measure(episode, n))
                    with rows_path.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    return rows


def measure(episode: Episode, n: int) -> dict[str, Any]:
    """AUROC of each baseline on the task's own anomalies and inside its support."""
    normal = episode.support_labels == 0
    support = {m: x[normal] for m, x in episode.support.items()}
    unlabelled = torch.zeros(n, dtype=torch.long)
    tried = baselines_for(support, n)
    real = {}
    for name in tried:  # as they are, not as they are tried
        scores = create_baseline(name).adapt(support, unlabelled).score(episode.query).double()
        real[name] = round(auroc(scores, episode.query_labels), 4)
    row: dict[str, Any] = {"task": episode.task, "real": real}
    row["synthetic"] = _means(try_methods(tried, support, unlabelled, synthetic_for(support)))
    if n == LABELLED_AT:
        row["labels"] = _means(try_methods(tried, episode.support, episode.support_labels, {}))
    return row


def _means(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    return {t.name: {k: round(float(np.mean(x)), 4) for k, x in t.by_kind.items()} for t in trials if not t.reason}


def dataset_of(row: dict[str, Any]) -> str:
    """What a row is left out with: a table, or a set of images or of series."""
    first, second, *_ = row["task"].split("/")
    return f"{first}/{second}" if first == "adbench" else str(first)


def advantages(every: Sequence[dict[str, Any]], modality: str) -> dict[int, dict[str, float]]:
    """By size of the support and method, its AUROC on real anomalies less the mean of all methods.

    All data sets weigh alike. A modality of few data sets borrows: means over all modalities count as :data:`BORROWED`
    data sets beside its own ones, method by method, of the same size of the support.
    """
    rows = [row for row in every if row["modality"] == modality]
    names = sorted(set.intersection(*(set(row["real"]) for row in rows)))
    real = np.array([[row["real"][m] for m in names] for row in rows])
    real -= real.mean(1, keepdims=True)
    sizes = np.array([row["n"] for row in rows])
    advantage = {}
    for n in sorted(set(sizes.tolist())):
        same_size = [row for row in rows if row["n"] == n]
        own = np.average(real[sizes == n], axis=0, weights=shares_of(same_size))
        datasets = len({dataset_of(row) for row in same_size})
        mean = (datasets * own + BORROWED * _everywhere(every, n, names)) / (datasets + BORROWED)
        advantage[n] = {m: round(float(x), 4) for m, x in zip(names, mean, strict=True)}
    return advantage


def best_weights(every: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What cross-validation counts, by the anomalies that it knows: out of :data:`WEIGHTS` what loses the least AUROC.

    Each data set is picked for by the advantages over all others; all data sets of all modalities weigh alike.
    """
    lost: dict[str, dict[float, list[float]]] = {by: {w: [] for w in WEIGHTS} for by, _ in CASES}
    for name in sorted({dataset_of(row) for row in every}):
        mine = [row for row in every if dataset_of(row) == name]
        rest = [row for row in every if dataset_of(row) != name]
        if mine[0]["modality"] not in {row["modality"] for row in rest}:
            continue
        advantage = advantages(rest, mine[0]["modality"])
        for by, n in CASES:
            usable = [row for row in mine if row["n"] == n and by in row and n in advantage]
            for w in WEIGHTS if usable else ():
                lost[by][w].append(float(np.mean([behind(row, pick_of(row, advantage[n], by, w)) for row in usable])))
    return {by: min(WEIGHTS, key=lambda w: np.mean(regrets[w])) if regrets[0] else 0.0 for by, regrets in lost.items()}


def pick_of(row: dict[str, Any], advantage: dict[str, float], by: str, weight: float) -> str:
    """The pick that :class:`metaad_zoo.evaluation.choosing.Prior` makes."""
    trials = [Trial(m, {k: [x] for k, x in kinds.items()}) for m, kinds in row[by].items() if m in row["real"]]
    expected = Prior(advantage, {by: weight}, 0).expected(trials, by)
    return max(expected, key=lambda m: expected[m])


def behind(row: dict[str, Any], method: str) -> float:
    """AUROC by which a method is behind the best of a row."""
    return max(row["real"].values()) - float(row["real"][method])


def _everywhere(every: Sequence[dict[str, Any]], n: int, names: Sequence[str]) -> np.ndarray:
    """Advantage of methods over data sets of all modalities; 0 for those that do not read all of them."""
    rows = [row for row in every if row["n"] == n]
    common = set.intersection(*(set(row["real"]) for row in rows))
    means = {row_id: np.mean([row["real"][m] for m in common]) for row_id, row in enumerate(rows)}
    share = shares_of(rows)
    return np.array(
        [
            np.average([row["real"][m] - means[i] for i, row in enumerate(rows)], weights=share) if m in common else 0.0
            for m in names
        ]
    )


def shares_of(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Weight of each row: each data set has 1 in all."""
    names = np.array([dataset_of(row) for row in rows])
    return np.array([1 / (names == name).sum() for name in names])


def judge(every: Sequence[dict[str, Any]], modality: str, by: str, n: int) -> dict[str, Any]:
    """How far the pick and every fixed choice are behind the best; each data set without its own rows."""
    usable = [row for row in every if row["modality"] == modality and row["n"] == n and by in row]
    learned = {}
    for name in {dataset_of(row) for row in usable}:
        rest = [other for other in every if dataset_of(other) != name]
        learned[name] = advantages(rest, modality)[n], best_weights(rest)[by]
    picks, losses = [], []
    for row in usable:
        advantage, weight = learned[dataset_of(row)]
        named = {"recommend": pick_of(row, advantage, by, weight)}
        named["cross_validation_alone"] = pick_of(row, dict.fromkeys(row["real"], 0.0), by, 1.0)
        picks.append({"task": row["task"], "draw": row["draw"], **named})
        losses.append({who: behind(row, m) for who, m in (named | {m: m for m in row["real"]}).items()})
    share = shares_of(usable)
    choices = {}
    for who in losses[0]:
        gaps = np.array([one[who] for one in losses])
        mean, good = (float(np.average(x, weights=share)) for x in (gaps, gaps <= WITHIN))
        choices[who] = {"mean_behind_best": round(mean, 4), "within_one_point": round(good, 3)}
    about = {"by": by, "n": n, "tasks": len({row["task"] for row in usable}), "episodes": len(usable)}
    about["datasets"] = len(learned)
    about["weights"] = sorted({weight for _, weight in learned.values()})
    return about | {"choices": choices, "picks": picks}


def overall(cases: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How far each choice is behind the best over all cases without labels, each data set and size alike."""
    shown = [case for case in cases if case["by"] == "synthetic"]
    common = set.intersection(*(set(case["choices"]) for case in shown))
    sizes = [case["datasets"] for case in shown]
    return {
        who: round(float(np.average([case["choices"][who]["mean_behind_best"] for case in shown], weights=sizes)), 4)
        for who in sorted(common)
    }


def show(console: Console, modality: str, case: dict[str, Any]) -> None:
    """For the eye."""
    title = f"{modality}: {case['n']} normal, {case['by']}; {case['episodes']} episodes of {case['datasets']} data sets"
    table = Table("choice", "behind the best, points", "within a point of it", title=title)
    for who, figures in sorted(case["choices"].items(), key=lambda x: x[1]["mean_behind_best"]):
        table.add_row(who, f"{100 * figures['mean_behind_best']:.1f}", f"{figures['within_one_point']:.0%}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("runs/recommendation.jsonl"))
    parser.add_argument("--draws", type=int, default=5, help="episodes of each task and size")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write-prior", action="store_true")
    options = parser.parse_args()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    every, console = collect(options.rows, options.draws), Console(width=100)
    weights = best_weights(every)
    cases: dict[str, list[dict[str, Any]]] = {}
    priors: dict[str, Any] = {}
    for modality in ("tabular", "image", "sequence"):
        rows = [row for row in every if row["modality"] == modality]
        priors[modality] = {
            "advantage": {str(n): by_method for n, by_method in advantages(every, modality).items()},
            "weights": weights,
            "datasets": len({dataset_of(row) for row in rows}),
        }
        cases[modality] = [
            judge(every, modality, by, n)
            for by, n in CASES
            if len({dataset_of(r) for r in rows if r["n"] == n and by in r}) > 1
        ]
        for case in cases[modality]:
            show(console, modality, case)
    together = overall([case for by_size in cases.values() for case in by_size])
    console.print("Behind the best over all, without labels:", {m: f"{100 * x:.1f}" for m, x in together.items()})
    if options.json:
        content = {
            "overall_without_labels": together,
            "cases": cases,
            "prior": priors,
            "rows": every,
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if options.write_prior:
        PRIOR.write_text(json.dumps(priors, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

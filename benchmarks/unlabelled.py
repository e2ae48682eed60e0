"""What unlabelled samples are worth on unseen tables, by the share of anomalies among them.

    METAAD_DATA=FOLDER python benchmarks/unlabelled.py [MODEL ...] --json FILE
    METAAD_DATA=FOLDER python benchmarks/unlabelled.py [MODEL ...] --shots 5 10 50 --extra --json FILE

MODEL is the folder or the name of a trained model, or the name of a baseline. Tables are those of ADBench, split as in
configs/tabular/adbench_in_context.yaml; `--extra` judges those of bank/tables_extra.npz too. A support holds a few
normal rows, and 500 unlabelled ones or as many as a small table has at that contamination. The query holds up to 150
normal and 150 anomalous rows, at most half of a table's rows of each kind. Rows are drawn without replacement. A draw
of a table has the same query and the same normal rows at each contamination.

Beside the models: the nearest of the normal rows, the baselines `knn`, `experts` and `pile_knn` with several shares,
and an oracle, the third nearest of the normal rows and of those unlabelled rows that are normal. Methods that do not
weigh unlabelled rows are adapted to the normal rows alone. Printed and written: mean AUROC over tables; the paired
difference to the nearest normal row with a 95 % interval over tables; and how well the labels of the unlabelled rows
are guessed, as the AUROC of the method's leave-one-out scores of these rows. Where 10 % false alarms are aimed at, the
realised ones: a model decides by the calibration scores that it holds, a method on normal rows alone by their
leave-one-out scores. FILE is unlabelled.json in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.data import TabularEpisodes
from metaad_zoo.data.known.images import data_folder
from metaad_zoo.data.modules.tabular import GENERATED
from metaad_zoo.episodes import NORMAL, UNLABELLED, Adapted, Domain, DomainTaskPool, Episode, EpisodeSpec, Method
from metaad_zoo.episodes.draw import assemble
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.decisions import ROUNDING, AcrossTasks, Calibrator, WithinTask
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.experiment.leakage import refuse_seen
from metaad_zoo.experiment.methods import build_methods, describe_methods
from metaad_zoo.zoo import Checkpoint, calibration_by_shots

SPLITS, SEED = [17, 3, 10], 0
QUERY = 150
SHARES = (0.5, 0.7, 0.9, 1.0)
ALPHA = 0.1
NEAR_ALPHA, HIGH = (0.05, 0.15), 0.3
"""Realised rates of false alarms that count as kept, and above which one counts as high."""
NEAREST, ORACLE = "1-NN", "oracle: the normal ones among the unlabelled rows"
EXTRA = Path("bank", "tables_extra.npz")

Support = Literal["normal", "all", "truly normal"]
"""Which support rows a method is adapted to; "truly normal" leaves out the anomalies among the unlabelled ones."""


@dataclass(frozen=True)
class Drawn:
    """An episode and the truth about its support.

    Attributes:
        episode: normal and unlabelled support rows, and the query.
        anomalous: ``(n_support,)`` whether a support row is an anomaly.
    """

    episode: Episode
    anomalous: Tensor

    def support(self, kind: Support) -> tuple[dict[str, Tensor], Tensor]:
        """Support rows of a kind, and their labels."""
        labels = self.episode.support_labels
        rows = {"normal": labels == NORMAL, "all": labels < 1, "truly normal": ~self.anomalous}[kind]
        return {name: x[rows] for name, x in self.episode.support.items()}, labels[rows]

    @property
    def unlabelled(self) -> tuple[dict[str, Tensor], Tensor]:
        """The unlabelled rows, and which are anomalies ``(m,)``, 0 or 1."""
        rows = self.episode.support_labels == UNLABELLED
        return {name: x[rows] for name, x in self.episode.support.items()}, self.anomalous[rows].long()


@dataclass(frozen=True)
class Contestant:
    """A method, the support rows that it is adapted to, and calibration scores by the number of normal rows."""

    method: Method
    support: Support
    calibration: Mapping[int, Tensor] = field(default_factory=dict)

    def flags(self, drawn: Drawn, adapted: Adapted, scores: Tensor) -> Tensor | None:
        """Decisions ``(m,)`` on the query at :data:`ALPHA`; None without a calibration."""
        support = drawn.support(self.support)
        shots = int((support[1] == NORMAL).sum())
        calibrator: Calibrator = WithinTask(self.method)
        if fitting := [n for n in self.calibration if n <= shots]:
            calibrator = AcrossTasks(self.calibration[max(fitting)])
        elif self.support != "normal" or shots < math.ceil(1 / ALPHA) - 1:
            return None
        return calibrator.p_values(adapted, *support, scores) <= ALPHA + ROUNDING


@dataclass
class Figures:
    """Figures of a method by table, one for each draw.

    Attributes:
        auroc: of the query.
        guesses: AUROC of the scores of the unlabelled rows; none without both kinds of rows, or if the method does not
            score the rows that it was adapted to.
        false_alarms: share of the normal rows of the query that are flagged; none without a calibration.
        power: share of its anomalies that are flagged.
        seconds: to adapt and to score the query.
    """

    false_alarms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    power: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    auroc: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    guesses: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: list[float] = field(default_factory=list)


Cell = dict[str, Figures]
"""Figures by method, at one number of normal rows and one contamination."""


def draw(domain: Domain, shots: int, unlabelled: int, contamination: float, number: int) -> Drawn:
    """A draw of a table; of several contaminations, each has the same query and the same normal rows.

    Raises:
        ValueError: the table has too few rows for the normal ones.
    """
    rng = np.random.default_rng([SEED, number])
    normals, anomalies = rng.permutation(domain.normal), rng.permutation(domain.anomalous)
    query_normal, query_anomalous = (min(QUERY, (len(x) + 1) // 2) for x in (normals, anomalies))
    spec = EpisodeSpec(
        support_normal=shots,
        support_unlabelled=unlabelled,
        contamination=contamination if unlabelled else 0.0,
        query_normal=query_normal,
        query_anomalous=query_anomalous,
        fewer_unlabelled=True,
    ).drawn(rng, domain.check)
    # The query takes the first rows, so that it does not depend on the size of the support.
    normals = np.roll(normals[: spec.normal_needed], -query_normal)
    anomalies = np.roll(anomalies[: spec.anomalous_needed], -query_anomalous)
    episode = assemble(domain.reader, domain.name, spec, normals, anomalies, rng)
    return Drawn(episode, torch.as_tensor(np.isin(episode.support_ids.numpy(), domain.anomalous)))


def beside_query(domain: Domain) -> int:
    """Number of normal rows that may be support."""
    return len(domain.normal) - min(QUERY, (len(domain.normal) + 1) // 2)


def contestants(
    models: Mapping[str, Method], checkpoints: Mapping[str, Checkpoint] | None = None
) -> dict[str, Contestant]:
    """All methods, the nearest normal row first and the oracle last."""
    calibration = {name: calibration_by_shots(c.tensors) for name, c in (checkpoints or {}).items()}
    methods = {NEAREST: Contestant(create_baseline("pile_knn"), "normal")}
    methods["knn"] = Contestant(create_baseline("knn"), "normal")
    methods["knn, unlabelled rows taken as normal"] = Contestant(create_baseline("knn"), "all")
    for name, method in {"experts": create_baseline("experts"), **models}.items():
        weighs = bool(getattr(method, "reads_unlabelled", False))
        if weighs:
            methods[f"{name}, normal rows alone"] = Contestant(method, "normal")
        methods[name] = Contestant(method, "all" if weighs else "normal", calibration.get(name, {}))
    for share in SHARES:
        methods[f"pile_knn, {share:.0%}"] = Contestant(create_baseline("pile_knn", share=share), "all")
    methods[ORACLE] = Contestant(create_baseline("pile_knn", share=1.0), "truly normal")
    return methods


def judge(contestant: Contestant, drawn: Drawn, figures: Figures) -> None:
    """Add a method's figures on one draw."""
    start = time.perf_counter()
    adapted = contestant.method.adapt(*drawn.support(contestant.support))
    scores = adapted.score(drawn.episode.query).double().cpu()
    figures.seconds.append(time.perf_counter() - start)
    labels = drawn.episode.query_labels
    figures.auroc[drawn.episode.task].append(auroc(scores, labels))
    flags = contestant.flags(drawn, adapted, scores)
    if flags is not None:
        figures.false_alarms[drawn.episode.task].append(float(flags[labels == NORMAL].double().mean()))
        figures.power[drawn.episode.task].append(float(flags[labels != NORMAL].double().mean()))
    rows, truth = drawn.unlabelled
    if not 0 < int(truth.sum()) < len(truth):
        return
    own = adapted.score(rows) if contestant.support == "normal" else getattr(adapted, "unlabelled_scores", None)
    if own is not None and contestant.support != "truly normal":
        figures.guesses[drawn.episode.task].append(auroc(own.double().cpu(), truth))


def means(by_table: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean over draws by table."""
    return {table: float(np.mean(values)) for table, values in sorted(by_table.items())}


def summary(figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """By method the mean over tables, its 95 % interval, and the paired differences to the nearest normal row and to
    the best share of ``pile_knn``.

    Args:
        figures: AUROC by table, by method.
    """
    arrays = {name: np.array(list(by_table.values())) for name, by_table in figures.items()}
    fixed = max((name for name in arrays if name.startswith("pile_knn, ")), key=lambda name: float(arrays[name].mean()))

    def over(values: np.ndarray, name: str) -> dict[str, Any]:
        difference = values - arrays[name]
        return {"mean": float(difference.mean()), "ci95": interval(difference)}

    return {
        name: {
            "auroc": float(values.mean()),
            "ci95": interval(values),
            "over_nearest": over(values, NEAREST),
            "over_best_pile_knn": {"method": fixed, **over(values, fixed)},
            "tables": dict(figures[name]),
        }
        for name, values in arrays.items()
    }


def figures_row(shots: int, contamination: float, cell: Cell, unlabelled: Mapping[str, list[int]]) -> dict[str, Any]:
    """A row of the result file.

    Args:
        shots: number of normal rows.
        contamination: share of anomalies that is aimed at.
        cell: the figures.
        unlabelled: by table the numbers of unlabelled rows and of anomalies among them.
    """
    methods = summary({name: means(figures.auroc) for name, figures in cell.items()})
    for name, figures in cell.items():
        by_table = means(figures.guesses)
        methods[name]["guesses"] = {"auroc": float(np.mean(list(by_table.values())))} if by_table else None
        if by_table:
            methods[name]["guesses"]["tables"] = by_table
        if figures.false_alarms:
            methods[name]["alarms"] = alarms(figures)
        methods[name]["seconds_per_task"] = float(np.mean(figures.seconds))
    return {"shots": shots, "contamination": contamination, "unlabelled": dict(unlabelled), "methods": methods}


def alarms(figures: Figures) -> dict[str, Any]:
    """Realised false alarms and power at :data:`ALPHA`; shares of the supports, one for each draw of a table."""
    rates = np.concatenate([np.asarray(values) for values in figures.false_alarms.values()])
    return {
        "alpha": ALPHA,
        "false_alarms": float(np.mean(list(means(figures.false_alarms).values()))),
        "power": float(np.mean(list(means(figures.power).values()))),
        "within_5_to_15": float(((rates >= NEAR_ALPHA[0]) & (rates <= NEAR_ALPHA[1])).mean()),
        "above_30": float((rates > HIGH).mean()),
        "tables": means(figures.false_alarms),
    }


def together(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of means over contaminations, for rows of one number of normal rows."""
    by_method: dict[str, dict[str, list[float]]] = {}
    for r in rows:
        for name, figures in r["methods"].items():
            for table, value in figures["tables"].items():
                by_method.setdefault(name, {}).setdefault(table, []).append(value)
    return summary({name: means(by_table) for name, by_table in by_method.items()})


def measure(
    domains: Sequence[Domain], methods: Mapping[str, Contestant], options: argparse.Namespace, progress: Progress
) -> list[dict[str, Any]]:
    """A row for each number of normal rows and each contamination; tables with too few normal rows are left out."""
    bar = progress.add_task("tables", total=len(options.shots) * len(domains) * options.draws)
    rows = []
    for shots in options.shots:
        cells: dict[float, Cell] = {c: {name: Figures() for name in methods} for c in options.contamination}
        unlabelled: dict[float, dict[str, list[int]]] = {c: {} for c in options.contamination}
        for domain in domains:
            if beside_query(domain) < shots:
                progress.console.print(f"{domain.name} is left out: fewer than {shots} normal rows beside the query")
                progress.advance(bar, options.draws)
                continue
            for number in range(options.draws):
                for c, cell in cells.items():
                    drawn = draw(domain, shots, options.unlabelled, c, number)
                    truth = drawn.unlabelled[1]
                    unlabelled[c][domain.name] = [len(truth), int(truth.sum())]
                    for name, contestant in methods.items():
                        judge(contestant, drawn, cell[name])
                progress.advance(bar)
        rows += [figures_row(shots, c, cell, unlabelled[c]) for c, cell in cells.items()]
    return rows


def judged_data(options: argparse.Namespace) -> tuple[list[Domain], list[TabularEpisodes], dict[str, Any]]:
    """Tables to judge by, the data of which no model may have seen the test split, and a description."""
    data = TabularEpisodes(dataset="adbench", splits=SPLITS, seed=SEED)
    domains, unseen = _domains(data, options.split), [data]
    description: dict[str, Any] = {"dataset": "adbench", "splits": data.domain_splits, "split": options.split}
    description["tables"] = [d.name for d in domains]
    if options.extra:
        extra = TabularEpisodes(dataset="adbench", root=str(data_folder(None) / EXTRA), splits={"test": ["*"]})
        more = [replace(d, name=f"extra/{d.name.partition('/')[2]}") for d in _domains(extra, "test")]
        description["extra"] = [d.name for d in more]
        domains, unseen = domains + more, [*unseen, extra]
    return domains, unseen, description


def _domains(data: TabularEpisodes, split: str) -> list[Domain]:
    pool = data.pools[split]
    assert isinstance(pool, DomainTaskPool)
    return pool.domains


def result_tables(rows: Sequence[Mapping[str, Any]], shots: int) -> list[Table]:
    """Mean AUROC with the difference to the nearest normal row, and how well labels are guessed."""
    chosen = [r for r in rows if r["shots"] == shots]
    heads = [f"{r['contamination']:.0%}" for r in chosen]
    scores = Table("method", *heads, "together", title=f"AUROC in %, {shots} normal rows (over {NEAREST} [95 %])")
    guesses = Table("method", *heads, title="AUROC in % of guesses which unlabelled rows are anomalies")
    rates = Table("method", *heads, title="realised false alarms at 10 % aimed (5 to 15 % / above 30 % of supports)")
    all_together = together(chosen)
    for name in chosen[0]["methods"]:
        methods = [*(r["methods"][name] for r in chosen), all_together[name]]
        scores.add_row(name, *(_score(figures, name) for figures in methods))
        by_row = [figures["guesses"] for figures in methods[:-1]]
        if any(by_row):
            guesses.add_row(name, *("" if g is None else f"{100 * g['auroc']:.1f}" for g in by_row))
        decided = [figures.get("alarms") for figures in methods[:-1]]
        if any(decided):
            rates.add_row(name, *("" if a is None else _rates(a) for a in decided))
    return [scores, guesses, rates]


def _rates(a: Mapping[str, Any]) -> str:
    return f"{100 * a['false_alarms']:.1f} ({100 * a['within_5_to_15']:.0f} / {100 * a['above_30']:.0f})"


def _score(figures: Mapping[str, Any], name: str) -> str:
    over = figures["over_nearest"]
    if name == NEAREST:
        return f"{100 * figures['auroc']:.1f}"
    around = "" if over["ci95"] is None else " [{:+.1f}, {:+.1f}]".format(*(100 * x for x in over["ci95"]))
    return f"{100 * figures['auroc']:.1f} ({100 * over['mean']:+.1f}{around})"


def result_file(
    rows: list[dict[str, Any]],
    options: argparse.Namespace,
    data: Mapping[str, Any],
    methods: Mapping[str, Contestant],
    checkpoints: Mapping[str, Checkpoint],
) -> str:
    """The content of the result file."""
    settings = describe_methods({name: c.method for name, c in methods.items()}, checkpoints)
    protocol = {
        "data": data,
        "shots": options.shots,
        "unlabelled": options.unlabelled,
        "contamination": options.contamination,
        "query_at_most": [QUERY, QUERY],
        "draws": options.draws,
        "seed": SEED,
        "methods": {name: {"adapted_to": c.support, "settings": settings[name]} for name, c in methods.items()},
        "trained_or_chosen_on": {name: _real(checkpoint) for name, checkpoint in checkpoints.items()},
    }
    by_shots = [{"shots": k, "methods": together(r for r in rows if r["shots"] == k)} for k in options.shots]
    content = {"protocol": protocol, "rows": rows, "together": by_shots, "environment": environment("cpu")}
    return json.dumps(content, indent=1) + "\n"


def _real(checkpoint: Checkpoint) -> list[str]:
    """Names of the tables that a model has seen, without thousands of generated ones."""
    return sorted(name for name in checkpoint.trained_on if not name.startswith(f"{GENERATED}/"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="folder or name of a model, or name of a baseline")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--extra", action="store_true", help=f"judge the tables of {EXTRA} too")
    parser.add_argument("--shots", type=int, nargs="+", default=[10], help="numbers of normal support rows")
    parser.add_argument("--contamination", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--unlabelled", type=int, default=500, help="maximum number of unlabelled support rows")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    domains, unseen, description = judged_data(options)
    if (most := max(map(beside_query, domains))) < max(options.shots):
        parser.error(f"--shots {max(options.shots)}: the largest table has {most} normal rows beside the query")
    try:
        models, checkpoints = build_methods(options.models)
        for name, checkpoint in checkpoints.items():
            for data in unseen:
                refuse_seen(name, checkpoint, data)
    except ValueError as error:
        parser.error(str(error))
    methods = contestants(models, checkpoints)
    with Progress(transient=True) as progress:
        rows = measure(domains, methods, options, progress)
    console = Console(width=200)
    for shots in options.shots:
        for table in result_tables(rows, shots):
            console.print(table)
    if options.json:
        write_whole(options.json, result_file(rows, options, description, methods, checkpoints))


if __name__ == "__main__":
    main()

"""Whole families of series left out: `METAAD_DATA=FOLDER python benchmarks/series_families.py --json FILE`.

Each series of smap, smd and asd, tep and nab is scored point by point after adaptation to normal windows of its own
training part. Compared are `series_experts` with equal weights, the same with weights that are trained on the other
families, and simple methods: 1-NN on windows as they are and standardised one by one, linear AR, PCA over sub-windows,
matrix profile, Mahalanobis. The oracle takes for each series the best of all methods, by its labels.

Printed: mean AUROC and VUS-PR by family, and the difference to the best simple method with a Wilcoxon test over series.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import wilcoxon
from torch import Tensor

from metaad_zoo.data import SequenceEpisodes
from metaad_zoo.data.labelled_series import LabelledSeries
from metaad_zoo.data.windows import window_starts
from metaad_zoo.episodes import EpisodeSpec, Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.baselines.series import ScoreSequences, SequenceMethod
from metaad_zoo.evaluation.baselines.series_experts import EXPERTS, SeriesExperts
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.evaluation.series_protocol import point_metrics

FAMILIES: dict[str, list[str]] = {"smap": ["smap"], "smd+asd": ["smd", "asd"], "tep": ["tep"], "nab": ["nab"]}
JUDGED = ("smap", "smd", "asd", "tep", "nab")
SIMPLE = ("knn", "knn, standardised windows", "linear_ar", "pca_subwindows", "matrix profile", "mahalanobis")
CONTROL, TRAINED = "series_experts", "series_experts, trained weights"
PIECE = 16
"""Steps of the sub-windows of the matrix profile."""
PAIRS = 300
STEPS = 200


class MatrixProfile(SequenceMethod):
    """Mean distance of a window's standardised sub-windows to their nearest ones in the support, channel by channel.

    A sub-window's deviation is taken as at least 0.1 of the support's, or noise on a flat stretch would count as shape.

    Source: Yeh et al., "Matrix Profile I", ICDM 2016, as an AB-join of the query with the support; without that floor
    it is what stumpy's ``stump`` computes.
    """

    title = "matrix profile"

    def fit_units(self, x: Tensor) -> ScoreSequences:
        support = standard_pieces(x)

        def score(x: Tensor) -> Tensor:
            pieces = standard_pieces(x)
            nearest = [torch.cdist(a, b).amin(1) for a, b in zip(pieces, support, strict=True)]
            return torch.stack(nearest).view(x.shape[2], len(x), -1).mean((0, 2))

        return score


def standard_pieces(x: Tensor, floor: float = 0.1) -> Tensor:
    """Sub-windows ``(C, n * m, PIECE)`` of windows ``(n, T, C)``, each at mean 0 and about deviation 1."""
    pieces = x.nan_to_num(0.0).unfold(1, PIECE, 2).permute(2, 0, 1, 3).flatten(1, 2)
    spread, mean = torch.std_mean(pieces, -1, correction=0, keepdim=True)
    return (pieces - mean) / (spread + floor)


def simple_methods() -> dict[str, Method]:
    """The methods that need no training, by name."""
    return {
        CONTROL: create_baseline("series_experts"),
        "knn": create_baseline("knn"),
        "knn, standardised windows": create_baseline("knn", standardise="sample"),
        "linear_ar": create_baseline("linear_ar"),
        "pca_subwindows": create_baseline("pca_subwindows"),
        "matrix profile": MatrixProfile(),
        "mahalanobis": create_baseline("mahalanobis"),
        **{f"{name} alone": SeriesExperts({name: 1.0}) for name in ("nearest", "forecast_channels", "spectrum")},
    }


def labelled_series(family: str, window: int, shots: int, longest: int) -> list[LabelledSeries]:
    """The series of a family that can be tested on so many windows."""
    data = SequenceEpisodes(
        dataset=FAMILIES[family],
        splits={"test": ["*"]},
        window=window,
        stride=window // 4,
        episode=EpisodeSpec(support_normal=1, query_normal=1, query_anomalous=1),
        test_episode=EpisodeSpec(support_normal=1, query_normal=1, query_anomalous=1),
    )
    series = [s.first(longest) for s in data.labelled_series(window // 4)]
    usable = [s for s in series if len(s.support) >= shots and 0 < s.labels.sum() < len(s.labels)]
    return [s for s in usable if len(s.labels) >= window]


@dataclass
class Scored:
    """One series and draw: scores of the experts on its windows and whether they hold anomalies."""

    family: str
    experts: Tensor
    anomalous: np.ndarray


def expert_scores(family: str, series: LabelledSeries, support: Mapping[str, Tensor]) -> Scored:
    """The experts' scores ``(n, experts)`` of all windows of a series."""
    adapted = SeriesExperts().adapt(support, torch.zeros(len(support["sequence"])))
    experts = SeriesExperts().fit_experts(adapted.scaling.apply(support["sequence"]).double())
    starts = window_starts(len(series.values), series.window, series.stride)
    values = torch.as_tensor(series.values).unfold(0, series.window, 1)[starts].transpose(1, 2)
    sums = np.concatenate([[0], np.cumsum(series.labels)])
    return Scored(family, experts(adapted.scaling.apply(values).double()), sums[starts + series.window] > sums[starts])


def trained_weights(scored: Sequence[Scored]) -> dict[str, float]:
    """Weights that leave the fewest pairs of a normal and an anomalous window in the wrong order, families alike."""
    rng = np.random.default_rng(0)
    logits = torch.zeros(len(EXPERTS), dtype=torch.float64, requires_grad=True)
    usable = [s for s in scored if 0 < s.anomalous.sum() < len(s.anomalous)]
    pairs = []
    for s in usable:
        high, low = (rng.choice(np.flatnonzero(s.anomalous == kind), PAIRS) for kind in (True, False))
        pairs.append(s.experts[high] - s.experts[low])
    shares = {name: sum(s.family == name for s in usable) for name in {s.family for s in usable}}
    weights = torch.tensor([1 / shares[s.family] for s in usable], dtype=torch.float64)
    differences, optimiser = torch.stack(pairs), torch.optim.Adam([logits], lr=0.05)
    for _ in range(STEPS):
        optimiser.zero_grad()
        wrong = torch.sigmoid(-6 * differences @ logits.softmax(0)).mean(1)
        ((wrong * weights).sum() / weights.sum() + 0.01 * logits.square().mean()).backward()
        optimiser.step()
    return dict(zip(EXPERTS, logits.softmax(0).tolist(), strict=True))


def measure(
    methods: Mapping[str, Method], series: LabelledSeries, supports: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, float]]:
    """AUROC and VUS-PR of each method, means over the supports."""
    figures: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        rows = []
        for support in supports:
            adapted = method.adapt(support, torch.zeros(len(support["sequence"]), dtype=torch.long))
            scores = series.score_points(lambda windows, adapted=adapted: adapted.score(windows).double().cpu())
            rows.append(point_metrics(scores, series.labels, series.window))
        figures[name] = {key: float(np.mean([row[key] for row in rows])) for key in ("auroc", "vus_pr")}
    return figures


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All methods on all series."""
    tasks: list[tuple[str, LabelledSeries, list[Mapping[str, Tensor]]]] = []
    for family in FAMILIES:
        for series in labelled_series(family, options.window, options.shots, options.longest):
            generators = [np.random.default_rng([0, len(tasks), draw]) for draw in range(options.draws)]
            tasks.append((family, series, [series.draw_support(options.shots, rng) for rng in generators]))
    scored = [expert_scores(f, s, supports[0]) for f, s, supports in track(tasks, description="experts")]
    weights = {f: trained_weights([s for s in scored if s.family != f]) for f in FAMILIES}
    methods, rows = simple_methods(), []
    for family, series, supports in track(tasks, description="methods"):
        figures = measure(methods | {TRAINED: SeriesExperts(weights[family])}, series, supports)
        rows.append({"series": series.name, "family": series.name.split("/")[0], "methods": figures})
    return {
        "protocol": {
            "support": f"{options.shots} normal windows of {options.window} steps out of each series' training part",
            "scored": f"the first {options.longest:,} points of the rest, windows every {options.window // 4} steps",
            "shots": options.shots,
            "draws": options.draws,
            "series": {f: sum(row["family"] == f for row in rows) for f in JUDGED},
            "weights": weights,
        },
        "summary": {key: summary(rows, key) for key in ("auroc", "vus_pr")},
        "rows": rows,
        "environment": environment("cpu"),
    }


def summary(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Means by family, means over families, and the difference to the best simple method."""
    names = list(rows[0]["methods"])
    by_family = {f: [row["methods"] for row in rows if row["family"] == f] for f in JUDGED}
    means = {
        name: {f: float(np.mean([m[name][key] for m in of_family])) for f, of_family in by_family.items()}
        for name in names
    }
    oracle = {f: float(np.mean([max(m[n][key] for n in names) for m in ms])) for f, ms in by_family.items()}
    overall = {name: float(np.mean(list(values.values()))) for name, values in means.items()}
    best = max(SIMPLE, key=overall.__getitem__)
    return {
        "by_family": means | {"oracle": oracle},
        "mean": overall | {"oracle": float(np.mean(list(oracle.values())))},
        "best_simple": best,
        "best_simple_by_family": {f: max(means[n][f] for n in SIMPLE) for f in JUDGED},
        "ahead": {name: difference(rows, name, best, key) for name in (CONTROL, TRAINED)},
        "trained_over_equal": difference(rows, TRAINED, CONTROL, key),
    }


def difference(rows: Sequence[Mapping[str, Any]], name: str, reference: str, key: str) -> dict[str, Any]:
    """Paired difference over all series, with a 95 % interval and Wilcoxon's signed-rank test."""
    values = np.array([row["methods"][name][key] - row["methods"][reference][key] for row in rows])
    p = float(wilcoxon(values).pvalue) if values.any() else 1.0
    return {"mean": float(values.mean()), "ci95": interval(values), "p": p, "series": len(values)}


def show(content: Mapping[str, Any]) -> None:
    """Print the means by family."""
    for key, part in content["summary"].items():
        table = Table("method", *JUDGED, "mean", title=f"{key}, whole families left out, in %")
        for name, values in part["by_family"].items():
            table.add_row(name, *(f"{100 * values[f]:.1f}" for f in JUDGED), f"{100 * part['mean'][name]:.1f}")
        Console().print(table)
        for name, ahead in part["ahead"].items():
            low, high = (100 * x for x in ahead["ci95"])
            Console().print(
                f"{name} over {part['best_simple']}: {100 * ahead['mean']:+.1f} [{low:.1f}, {high:.1f}], "
                f"p = {ahead['p']:.2g} over {ahead['series']} series"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--shots", type=int, default=30)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--longest", type=int, default=10_000, help="largest number of scored points of a series")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    content = compare(options)
    show(content)
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Realised false alarms on later data of the same machine: `METAAD_DATA=FOLDER python benchmarks/series_alarms.py`.

Series of smd, asd, smap and nab: each method is adapted to all windows of 32 steps, one behind the other, of the
history (the training part, or the first 30 %; windows with labelled anomalies are left out), and scores every point of
the later part by windows eight steps apart. The published model is judged on series alone that it has not seen. Points
are flagged at alpha .01 and .05 by

- ``whole windows``: leave-one-out scores of single windows (of the published model: scores of validation tasks), which
  was the default before;
- ``blocks``: point scores of blocks of the history, left out with their neighbours (`metaad score --points
  --no-adaptive`);
- ``adaptive``: the same, followed by adaptive conformal inference (`metaad score --points`, the default);
- ``oracle``: the fixed threshold that flags alpha of the normal points in the first half of the later part, judged on
  its second half, by labels that no user has.

For each way: the share of series whose rate of flagged normal points is within a factor of 2 of alpha, the rate, and
the share of labelled incidents with a flagged point, inside or up to a window around them, beside the share that the
same flags reach when they are moved in time (chance). benchmarks/results/series_alarms.json is the result.

The settings of the adaptive threshold were chosen on knn and linear_ar with asd, nab and three quarters of smap. The
other methods, smd and the rest of smap had hardly any part in it: one series of smd was looked at, and early settings
were compared on all methods. --scores FOLDER keeps scores for another run.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaad_zoo.data.known import catalog
from metaad_zoo.data.series import Series
from metaad_zoo.data.windows import score_series
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.adaptive import AdaptiveThreshold
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.blocks import block_scores
from metaad_zoo.evaluation.calibration import threshold
from metaad_zoo.evaluation.decisions import scores_for_shots
from metaad_zoo.evaluation.leave_one_out import leave_one_out_scores
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.zoo import calibration_by_shots, load_checkpoint

WINDOW, STRIDE, HISTORY = 32, 8, 0.3
SETS = ("smd", "asd", "smap", "nab")
BASELINES = ("series_experts", "knn", "mahalanobis", "linear_ar", "pca_subwindows")
PUBLISHED = "sequence-window_statistics-in_context-servers"
ALPHAS = (0.01, 0.05)
LEAST_NORMAL = 100
"""Number of normal later points from which on a series is judged."""

Scores = dict[str, np.ndarray]
"""``test`` and ``labels`` ``(T,)`` of the later points; ascending scores of the history: ``loo`` of single windows and
``blocks`` of points; its number of windows ``n``."""


def scores_of(method: Method, series: Series) -> Scores:
    """Scores of a series' history and of its later part."""
    until = round(HISTORY * len(series.values)) if series.support_until is None else series.support_until
    labels = np.zeros(len(series.values)) if series.labels is None else series.labels
    starts = np.arange(0, until - WINDOW + 1, WINDOW)
    starts = starts[[not labels[a : a + WINDOW].any() for a in starts]]
    support = {"sequence": torch.as_tensor(np.stack([series.values[a : a + WINDOW] for a in starts]))}
    normal, places = torch.zeros(len(starts), dtype=torch.long), torch.as_tensor(np.stack([0 * starts, starts], 1))
    adapted = method.adapt(support, normal)
    return {
        "test": score_series(lambda x: adapted.score(x).double().cpu(), series.values[until:], WINDOW, STRIDE),
        "labels": labels[until:],
        "blocks": block_scores(method, support, normal, places, STRIDE).numpy(),
        "loo": leave_one_out_scores(method, support, normal).numpy(),
        "n": np.array(len(starts)),
    }


def all_scores(sets: list[str], folder: Path | None, shipped: Path) -> Iterator[tuple[str, str, Scores]]:
    """Series, method and scores, which a folder keeps."""
    checkpoint = load_checkpoint(shipped)
    methods: dict[str, Method] = {name: create_baseline(name) for name in BASELINES}
    methods[PUBLISHED] = checkpoint.learner
    for name in sets:
        for series in catalog.read_dataset(name, "sequence").series:
            for method_name, method in methods.items():
                if method_name == PUBLISHED and series.name in checkpoint.trained_on:
                    continue
                path = None if folder is None else folder / f"{series.name.replace('/', '__')}@{method_name}.npz"
                if path is not None and path.exists():
                    scores = dict(np.load(path))
                else:
                    scores = scores_of(method, series)
                    if path is not None:
                        np.savez(path, allow_pickle=False, **scores)
                yield series.name, method_name, scores


def flags_by_way(scores: Scores, across: dict[int, torch.Tensor], alpha: float) -> dict[str, np.ndarray]:
    """Flags ``(T,)`` of the later points by each way to decide."""
    test, blocks = scores["test"], torch.as_tensor(scores["blocks"])
    before = scores_for_shots(across, int(scores["n"])) if across else torch.as_tensor(scores["loo"])
    return {
        "whole windows": test > threshold(before, alpha),
        "blocks": test > threshold(blocks, alpha),
        "adaptive": AdaptiveThreshold(blocks.numpy(), alpha).decide(test).flagged,
    }


def oracle(scores: Scores, alpha: float) -> float:
    """Rate of flagged normal points in the second half, by the threshold that holds alpha in the first."""
    normal = scores["test"][scores["labels"] == 0]
    half = len(normal) // 2
    return float((normal[half:] > np.quantile(normal[:half], 1 - alpha)).mean())


def figures(flagged: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Rate of flagged normal points, and shares of incidents with a flagged point; NaN without incidents."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], labels, [0]]))).reshape(-1, 2)

    def reached(flags: np.ndarray, around: int) -> float:
        hits = [flags[max(0, a - around) : b + around].any() for a, b in borders]
        return float(np.mean(hits)) if hits else np.nan

    moved = [np.roll(flagged, len(flagged) * i // 8) for i in range(1, 8)]
    return {
        "rate": float(flagged[labels == 0].mean()),
        "detected": reached(flagged, 0),
        "chance": float(np.mean([reached(x, 0) for x in moved])),
        "detected_around": reached(flagged, WINDOW),
        "chance_around": float(np.mean([reached(x, WINDOW) for x in moved])),
    }


def summary(by_series: dict[str, dict[str, float]], alpha: float) -> dict[str, Any]:
    """Figures over series, and each series' rate."""
    rates = {name: row["rate"] for name, row in by_series.items()}
    held = {name: alpha / 2 <= rate <= 2 * alpha for name, rate in rates.items()}
    values = np.array(list(rates.values()))
    sets = {name.partition("/")[0] for name in rates}
    row: dict[str, Any] = {
        "series": len(rates),
        "within_factor_2": float(np.mean(list(held.values()))),
        "within_factor_2_ci95": interval(np.array(list(held.values()), float)),
        "by_set": {s: float(np.mean([ok for n, ok in held.items() if n.partition("/")[0] == s])) for s in sorted(sets)},
        "below": float((values < alpha / 2).mean()),
        "above": float((values > 2 * alpha).mean()),
        "mean_rate": float(values.mean()),
        "median_rate": float(np.median(values)),
    }
    for name in ("detected", "chance", "detected_around", "chance_around"):
        shares = [one[name] for one in by_series.values() if not np.isnan(one.get(name, np.nan))]
        row[name] = float(np.mean(shares)) if shares else None
    return row | {"rates": {name: round(rate, 5) for name, rate in sorted(rates.items())}}


def measure(sets: list[str], folder: Path | None, shipped: Path, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows by method, alpha and way to decide."""
    by_way: dict[tuple[str, float, str], dict[str, dict[str, float]]] = defaultdict(dict)
    across = calibration_by_shots(load_checkpoint(shipped).tensors)
    for name, method, scores in all_scores(sets, folder, shipped):
        tick(f"{name} {method}")
        labels = (scores["labels"] == 1).astype(np.int64)
        if (labels == 0).sum() < LEAST_NORMAL:
            continue
        for alpha in ALPHAS:
            ways = flags_by_way(scores, across if method == PUBLISHED else {}, alpha)
            for way, flagged in ways.items():
                by_way[method, alpha, way][name] = figures(flagged, labels)
            by_way[method, alpha, "oracle"][name] = {"rate": oracle(scores, alpha)}
    return [
        {"method": method, "alpha": alpha, "way": way} | summary(by_series, alpha)
        for (method, alpha, way), by_series in by_way.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--scores", type=Path, help="folder of scores, which are computed where it lacks them")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints") / PUBLISHED)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/series_alarms.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.scores is not None:
        options.scores.mkdir(parents=True, exist_ok=True)
    rows = measure(options.sets, options.scores, options.checkpoint, lambda text: print(text, flush=True))
    for row in rows:
        detected = "" if row["detected"] is None else f", {row['detected']:.0%} of incidents"
        print(f"{row['method']:48} {row['alpha']} {row['way']:14} {row['within_factor_2']:.0%} of series{detected}")
    content = {"alphas": ALPHAS, "sets": options.sets, "rows": rows, "environment": environment("cpu")}
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

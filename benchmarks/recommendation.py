"""How often `metaad recommend` picks well without labels.

    python benchmarks/recommendation.py --json benchmarks/results/recommendation.json

Of each table of ADBench (in METAAD_DATA), normal rows alone are the support set; baselines are tried on it with
synthetic anomalies. Then all of them are fitted to the support and scored on other rows, with the table's own
anomalies: the pick is good where it is within one AUROC point of the best.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from metaad_zoo.data.sources.known_tables import read_known_tables
from metaad_zoo.data.synthetic import create_synthetic, list_synthetic
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines
from metaad_zoo.evaluation.choosing import WITHIN, recommend
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment

NOT_TRIED = ("flag_everything", "random")
QUERY = 500


def one_table(name: str, values: np.ndarray, labels: np.ndarray, support: int, seed: int) -> dict[str, Any]:
    """Pick, best, and every method's AUROC."""
    rng = np.random.default_rng(seed)
    normal, anomalous = (rng.permutation(np.flatnonzero(labels == kind)) for kind in (0, 1))
    methods = {n: create_baseline(n) for n in list_baselines(modality="tabular") if n not in NOT_TRIED}
    rows = {"tabular": torch.as_tensor(values[normal[:support]])}
    unlabelled = torch.zeros(support, dtype=torch.long)
    synthetic = [create_synthetic([kind]) for kind in list_synthetic(modality="tabular")]
    found = recommend(methods, rows, unlabelled, synthetic)
    query = np.concatenate([normal[support : support + QUERY], anomalous[:QUERY]])
    kinds = torch.as_tensor(labels[query].astype(np.int64))
    samples = {"tabular": torch.as_tensor(values[query])}
    real = {n: auroc(m.adapt(rows, unlabelled).score(samples).double(), kinds) for n, m in methods.items()}
    best = max(real, key=lambda n: real[n])
    return {"table": name, "pick": found.choice, "best": best, "behind": real[best] - real[found.choice], "auroc": real}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--support", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables = [t for t in read_known_tables("adbench") if (t.labels == 0).sum() >= options.support + 20]
    rows = [
        one_table(t.name, t.values, t.labels, options.support, options.seed)
        for t in track(tables, description="tables")
    ]
    shown = Table("table", "pick", "best", "behind, points", title=f"{options.support} normal rows, no labels")
    for row in rows:
        shown.add_row(row["table"], row["pick"], row["best"], f"{100 * row['behind']:.1f}")
    good = sum(row["behind"] <= WITHIN for row in rows)
    fixed = {n: float(np.mean([max(r["auroc"].values()) - r["auroc"][n] for r in rows])) for n in rows[0]["auroc"]}
    picked = float(np.mean([row["behind"] for row in rows]))
    console = Console(width=110)
    console.print(shown)
    console.print(
        f"within one point of the best: {good} of {len(rows)}; behind it by {100 * picked:.1f} points on average"
    )
    console.print({name: f"{100 * value:.1f}" for name, value in sorted(fixed.items(), key=lambda x: x[1])})
    if options.json:
        content = {
            "support": options.support,
            "within_one_point": good,
            "tables": rows,
            "mean_behind_best": {"recommend": picked, **fixed},
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

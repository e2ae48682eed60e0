"""Realised false-alarm rates of the patch memory on unseen domains: `python benchmarks/inspection_thresholds.py DATA`.

DATA is the folder that holds piped128.npz and bank/. Nothing is trained. A threshold for a domain comes from normal
images of the other families of domains (leave one family out), as a published checkpoint holds them:

- distances: scores are distances between features;
- support units: scores are in units of the support's leave-one-out scores (score_unit=support);
- within: no other domain is used, only the support's leave-one-out scores (from nine images on).

For each domain and support size: the share of normal images that are flagged at alpha = 0.1, as the mean over supports
and its range over them, and the share of anomalies (power), beside that of a threshold with exactly this rate.
benchmarks/results/inspection_thresholds.json is its result (--json).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_families import N_DOMAINS, Domain, RememberedPatches, domains
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from metaad_zoo.evaluation.calibration import ROUNDING, p_values
from metaad_zoo.evaluation.leave_one_out import leave_one_out_scores
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.learners import PatchMemory

ALPHA, LOWEST, HIGHEST = 0.1, 0.03, 0.17
"""Aimed rate, and bounds within which a realised rate counts as held."""
SHOTS = (1, 2, 5, 10)
WITHIN_FROM = 9
CALIBRATING = 12
"""Normal images of each support's domain that calibrate other families: as many of every domain."""


@dataclass
class Measured:
    """What was measured on one domain, by the support size."""

    name: str
    family: str
    draws: dict[int, list[Draw]]


@dataclass
class Draw:
    """Scores of one support: distances of normal and anomalous queries, the unit, and p-values within the support."""

    normal: Tensor
    anomalous: Tensor
    unit: float
    within: tuple[Tensor, Tensor] | None


def measure(memory: PatchMemory, domain: Domain, shots: int, draws: int) -> list[Draw]:
    """Scores of the domain's images by memories of random supports."""
    measured = []
    rng = np.random.default_rng(shots)
    labels = torch.zeros(shots, dtype=torch.long)
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(domain.normal)))
        support = {"image": domain.normal[order[:shots]]}
        adapted = memory.adapt(support, labels)
        queries = domain.normal[order[shots:]], domain.anomalous
        normal, anomalous = (adapted.score({"image": x}).double() for x in queries)
        within = None
        if shots >= WITHIN_FROM:
            own = leave_one_out_scores(memory, support, labels)
            within = p_values(normal, own), p_values(anomalous, own)
        unit = float(adapted.unit)
        measured.append(Draw(normal * unit, anomalous * unit, unit, within))
    return measured


def flagged(all_domains: list[Measured], shots: int, way: str) -> list[dict[str, Any]]:
    """Realised rates of each domain by one way to calibrate."""
    rows = []
    for domain in all_domains:
        calibrating = [d for d in all_domains if d.family != domain.family]
        draws = domain.draws[shots]
        calibration = (
            torch.cat([_scores(x, way)[0][:CALIBRATING] for d in calibrating for x in d.draws[shots]]).sort().values
        )
        rates = []
        for draw in draws:
            p = draw.within if way == "within" else [p_values(x, calibration) for x in _scores(draw, way)]
            assert p is not None
            exact = draw.anomalous > draw.normal.quantile(1 - ALPHA)
            rates.append([float((x <= ALPHA + ROUNDING).double().mean()) for x in p] + [float(exact.double().mean())])
        fpr, power, best = np.array(rates).T
        about = {"domain": domain.name, "family": domain.family, "shots": shots, "way": way, "supports": len(draws)}
        spread = np.quantile(fpr, [0.1, 0.9]).tolist()
        held = float(np.mean((fpr >= LOWEST) & (fpr <= HIGHEST)))
        figures = {"fpr": fpr.mean(), "power": power.mean(), "power_at_exactly_alpha": best.mean()}
        rows.append(about | {k: float(v) for k, v in figures.items()} | {"fpr_10_90": spread, "supports_held": held})
    return rows


def _scores(draw: Draw, way: str) -> tuple[Tensor, Tensor]:
    unit = draw.unit if way == "support units" else 1.0
    return draw.normal / unit, draw.anomalous / unit


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of domains and of single supports whose rate is held, and mean rates, by support size and way."""
    table = []
    for shots, way in dict.fromkeys((row["shots"], row["way"]) for row in rows):
        mine = [row for row in rows if (row["shots"], row["way"]) == (shots, way)]
        fpr = np.array([row["fpr"] for row in mine])
        line = {"shots": shots, "way": way, "domains": len(mine)}
        line |= {"domains_held": float(np.mean((fpr >= LOWEST) & (fpr <= HIGHEST))), "fpr_ci95": interval(fpr)}
        line |= {"fpr_lowest": float(fpr.min()), "fpr_highest": float(fpr.max())}
        means = ("supports_held", "fpr", "power", "power_at_exactly_alpha")
        table.append(line | {name: float(np.mean([row[name] for row in mine])) for name in means})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=10, help="supports of each domain and size")
    parser.add_argument("--images", type=int, nargs=2, default=(50, 25), help="normal and anomalous images of a domain")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shape = (3, options.size, options.size)
    memory = RememberedPatches(input_shapes={"image": shape}, score_unit="support")
    memory.computed = {}
    measured = []
    read = domains(options.data, options.size, tuple(options.images))
    for domain in track(read, "domains", N_DOMAINS, update_period=5):
        draws = {shots: measure(memory, domain, shots, options.draws) for shots in options.shots}
        measured.append(Measured(domain.name, domain.family, draws))
        memory.computed.clear()
    rows = []
    for shots in options.shots:
        for way in ("distances", "support units", *(["within"] if shots >= WITHIN_FROM else [])):
            rows += flagged(measured, shots, way)
    title = (
        f"alpha = {ALPHA}, {len(measured)} domains of {len({d.family for d in measured})} families, each family unseen"
    )
    table = Table(
        "images", "way", "domains held", "supports held", "flagged", "lowest", "highest", "power", title=title
    )
    for r in summary(rows):
        cells = [r[k] for k in ("domains_held", "supports_held", "fpr", "fpr_lowest", "fpr_highest")]
        best = f"{100 * r['power']:.0f} of {100 * r['power_at_exactly_alpha']:.0f} %"
        table.add_row(str(r["shots"]), r["way"], *(f"{100 * x:.0f} %" for x in cells), best)
    Console(width=120).print(table)
    if options.json:
        about = {"alpha": ALPHA, "held": [LOWEST, HIGHEST], "draws": options.draws, "images": list(options.images)}
        content = about | {
            "learner": memory.arguments(),
            "summary": summary(rows),
            "rows": rows,
        }
        content |= {"environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

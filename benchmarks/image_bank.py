"""Settings of the patch memory on families left out: `python benchmarks/image_bank.py DATA --json FILE`.

DATA is the folder that holds piped128.npz and bank/. Nothing is trained. For supports of 1, 2, 5 and 10 normal images:
the AUROC of each setting on each domain, its mean over families with a 95 % interval, and the difference from the plain
memory (patches of the coarsest map, no rotated copies, distance to the memory alone) on the same draws. A row "chosen
on the other families" takes for each family the setting that is best on all others. Where a domain has masks of its
defects, the AUROC of pixels and AUPRO of the heat maps. benchmarks/results/image_bank.json is its result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_families import Domain, RememberedPatches, domains, once
from rich.console import Console
from rich.table import Table

from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.baselines.embedding import OnNetwork
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.pixel_metrics import aupro, pixel_auroc
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.learners import PatchMemory

SIZE, MOST, SHOTS = 224, 30, (1, 2, 5, 10)
PLAIN, EMBEDDING, CHOSEN = "plain memory", "1-NN on the embedding", "chosen on the other families"
PLAIN_SETTINGS: dict[str, Any] = {"grid": "coarsest", "turns": False, "subspace": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "subspace 0.9": {"subspace": 0.9},
    "subspace 0.95": {"subspace": 0.95},
    "subspace 0.95, turns": {"subspace": 0.95, "turns": True},
    "strides 16 and 32": {"layers": [3, 4]},
    "strides 8, 16 and 32": {"layers": [2, 3, 4]},
}
"""What each setting changes of the plain memory."""
FINE: dict[str, dict[str, Any]] = {
    "finest grid": {"grid": "finest"},
    "finest grid, subspace 0.95": {"grid": "finest", "subspace": 0.95},
    "strides 4 and 8": {"layers": [1, 2]},
}
"""Settings with sixteen times as many distances, measured on the first draws alone."""

Scores = dict[tuple[str, int], dict[str, list[float]]]
"""AUROC of each draw by setting and shots, and by domain."""


def memories() -> dict[str, RememberedPatches]:
    """A memory of each setting, over one network; those of one grid and the same layers share the features."""
    built: dict[str, RememberedPatches] = {}
    computed: dict[Any, dict[bytes, torch.Tensor]] = defaultdict(dict)
    for name, settings in (SETTINGS | FINE).items():
        memory = RememberedPatches(input_shapes={"image": (3, SIZE, SIZE)}, **{**PLAIN_SETTINGS, **settings})
        memory.computed = computed[(memory.grid, *memory.layers)]
        built[name] = memory
    network = built[PLAIN].network
    backbone: Any = network.backbone
    backbone.last_map = max(max(memory.layers) for memory in built.values())
    for memory in built.values():
        memory.network = network
    return built


def judge(domain: Domain, methods: Mapping[str, Method], draws: int, scores: Scores) -> None:
    """Add the AUROC of every method for each of some random supports of the domain."""
    labels = torch.cat([torch.zeros(len(domain.normal)), torch.ones(len(domain.anomalous))]).long()
    for k in SHOTS:
        for draw in range(draws):
            order = np.random.default_rng([k, draw]).permutation(len(domain.normal))
            support = {"image": domain.normal[order[:k]]}
            query = {"image": torch.cat([domain.normal[order[k:]], domain.anomalous])}
            for name, method in methods.items():
                values = method.adapt(support, torch.zeros(k, dtype=torch.long)).score(query)
                scores[name, k][domain.name].append(float(auroc(values, labels[k:])))


def pixels(domain: Domain, memory: PatchMemory, shots: int) -> dict[str, Any]:
    """AUROC of pixels and AUPRO on the anomalous images that have a mask."""
    assert domain.masks is not None
    marked = domain.masks.flatten(1).any(1)
    adapted = memory.adapt({"image": domain.normal[:shots]}, torch.zeros(shots, dtype=torch.long))
    heat = adapted.heat_map(adapted.units({"image": domain.anomalous[marked]}))
    size = domain.masks.shape[-2:]
    maps = torch.nn.functional.interpolate(heat[:, None], size, mode="bilinear", antialias=True)[:, 0].numpy()
    masks = domain.masks[marked].numpy()
    figures = {"pixel_auroc": float(pixel_auroc(maps, masks)), "aupro": float(aupro(maps, masks, limit=0.3))}
    return {"domain": domain.name, "shots": shots, "images": int(marked.sum()), **figures}


def summarise(scores: Scores, families: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of setting and shots: the mean over families, its interval, and the differences on the same draws."""
    kinds = sorted(set(families.values()))

    def by_family(name: str, k: int, draws: int | None = None) -> np.ndarray:
        means = {d: np.mean(values[:draws]) for d, values in scores[name, k].items()}
        return np.array([np.mean([m for d, m in means.items() if families[d] == kind]) for kind in kinds])

    chosen = [
        max(SETTINGS, key=lambda s: np.mean([np.delete(by_family(s, k), i) for k in SHOTS])) for i in range(len(kinds))
    ]
    rows = []
    for k in SHOTS:
        for name in [*(n for n, shots in scores if shots == k), CHOSEN]:
            draws = len(next(iter(scores[PLAIN if name == CHOSEN else name, k].values())))
            if name == CHOSEN:
                values = np.array([by_family(setting, k)[i] for i, setting in enumerate(chosen)])
            else:
                values = by_family(name, k)
            row: dict[str, Any] = {"method": name, "shots": k, "draws": draws}
            row |= {"auroc": float(values.mean()), "ci95": interval(values)}
            for other in (PLAIN, EMBEDDING):
                ahead = values - by_family(other, k, draws)
                row[f"ahead of {other}"] = {"mean": float(ahead.mean()), "ci95": interval(ahead)}
            row["families"] = dict(zip(kinds, values.tolist(), strict=True))
            if name == CHOSEN:
                row["settings"] = dict(zip(kinds, chosen, strict=True))
            else:
                row |= {"domains": {d: float(np.mean(v)) for d, v in scores[name, k].items()}}
            rows.append(row)
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=10, help="supports of each domain and size")
    parser.add_argument("--fine-draws", type=int, default=3, help="the same for the settings of a finer grid")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    built = memories()
    methods: dict[str, Method] = {name: built[name] for name in SETTINGS}
    embeddings: dict[bytes, torch.Tensor] = {}
    backbone: Any = built[PLAIN].network.backbone
    backbone.forward = partial(once, backbone.forward, computed=embeddings)
    methods[EMBEDDING] = OnNetwork(create_baseline("knn", standardise="none"), built[PLAIN].network)
    scores: Scores = defaultdict(lambda: defaultdict(list))
    families, by_pixel = {}, []
    for domain in domains(options.data, SIZE, (MOST, MOST)):
        print(domain.name, file=sys.stderr)
        families[domain.name] = domain.family
        judge(domain, methods, options.draws, scores)
        judge(domain, {name: built[name] for name in FINE}, options.fine_draws, scores)
        if domain.masks is not None:
            tried = [PLAIN, "subspace 0.95", "finest grid, subspace 0.95"]
            by_pixel += [{"method": m, **pixels(domain, built[m], k)} for m in tried for k in (1, 5)]
        for memory in built.values():
            memory.computed.clear()
        embeddings.clear()
    rows = summarise(scores, families)
    _show(rows, by_pixel)
    if options.json:
        content = {"families": families, "rows": rows, "pixels": by_pixel}
        options.json.write_text(json.dumps(content | {"environment": environment("cpu")}, indent=1) + "\n", "utf-8")


def _show(rows: list[dict[str, Any]], by_pixel: list[dict[str, Any]]) -> None:
    table = Table(
        "setting", *(f"K={k}" for k in SHOTS), title="AUROC in %, mean over families, and points ahead of plain"
    )
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        table.add_row(name, *(f"{100 * r['auroc']:.1f} ({100 * r[f'ahead of {PLAIN}']['mean']:+.1f})" for r in mine))
    Console(width=140).print(table)
    for row in by_pixel:
        print(
            f"{row['domain']}, {row['method']}, K={row['shots']}: AUROC of pixels {100 * row['pixel_auroc']:.1f}, "
            f"AUPRO {100 * row['aupro']:.1f}"
        )


if __name__ == "__main__":
    main()

"""Change head on families of images that it has not seen: `python benchmarks/patch_change.py DATA --json FILE`.

DATA is the folder that holds piped128.npz and bank/. The families of defect sets fall into groups; for each group, a
change decoder (`patch_change`) is trained on the other families and on steel surfaces, once with synthetic defects
alone and once with the anomalies of those families too. It is judged on the group's real anomalies beside the plain
patch memory on the same draws, alone and added to it (both standardised over the queries). As a bound, a logistic
regression on the same differences is fitted to the judged domain itself, by cross-validation. Features, decoders and
judged domains are kept in the folder `--cache`: an interrupted run goes on from there.
benchmarks/results/patch_change.json is its result.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metaad_zoo.atomic_write import replacing, write_whole
from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.synthetic import draw_defect
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.learners import ChangeDecoder, PatchMemory
from metaad_zoo.learners.network import anomaly_loss
from metaad_zoo.learners.patch_change import COVERED, compared, mask_loss, top_share
from metaad_zoo.learners.patches import patch_features

SHOTS = (1, 2, 5)
SIZE, GRID = 224, 14
GROUPS = [
    ["paper", "ballscrew", "leaf", "brain"],
    ["circuit", "brick", "fruit", "insulator"],
    ["biscuit", "print", "blood"],
]
"""Families that are left out of the training together."""
LEAF_DISEASES = ("miner", "rust", "phoma", "cercospora")
WIDTH, NEIGHBOURS, TOP, BY_IMAGE = 48, 3, 0.01, 0.3
"""Settings of the decoder, the defaults of `patch_change`."""
GOOD, BAD, CLASS_IMAGES = 100, 60, 14
"""Largest numbers of good and of anomalous images of a domain, and of images of a class."""
DRAWN_ON = {"paper": 20, "leaf": 20, "blood": 24, "steel": 8}
"""Number of good images of a domain that get two defects each, by family; 36 in others, which have fewer domains."""


@dataclass
class Images:
    """Images of one domain ``(n, 3, S, S)`` in bytes, with labels ``(n,)`` of 0 and 1."""

    family: str
    name: str
    images: Tensor
    labels: np.ndarray


@dataclass
class Domain:
    """Patches of one domain ``(n, 14, 14, d)`` with labels ``(n,)``, and those of synthetic defects.

    Attributes:
        changed: patches of good images with a synthetic defect ``(m, 14, 14, d)``.
        covered: share of each patch that its defect covers ``(m, 14, 14)``.
        sources: index of the good image that each was drawn into ``(m,)``.
    """

    family: str
    name: str
    labels: np.ndarray
    patches: Tensor
    changed: Tensor
    covered: Tensor
    sources: np.ndarray

    def places(self, label: int) -> np.ndarray:
        """Indices of the images with this label."""
        return np.flatnonzero(self.labels == label)


def defect_sets(data: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Family, name, images and labels of each domain with real anomalies."""
    paper = read_archive(data / "piped128.npz")
    for t in np.unique(paper["t"]):
        rows = paper["t"] == t
        if (paper["y"][rows] > 0).sum() >= 10:
            yield "paper", f"paper_{paper['names'][t]}", paper["x"][rows], paper["y"][rows] > 0
    for family, domain, name, groups in (
        ("circuit", "pcb", "pcb_deeppcb", ("group00041", "group12100")),
        ("biscuit", "cookies", "cookies_aws", ()),
        ("ballscrew", "ballscrew", "ballscrew_bsdata", ("01", "KG")),
        ("insulator", "insulator_cplid", "insulator_cplid", ()),
        ("brick", "brick_crack", "brick_crack", ()),
        ("brain", "brain_mri", "brain_mri", ()),
        ("print", "fdm_print", "fdm_print", ()),
    ):
        arrays = read_archive(data / "bank" / f"{name}.npz")
        for group in groups:
            rows = arrays["group"].astype(str) == group
            yield family, f"{domain}_{group}", arrays["x"][rows], arrays["y"][rows] > 0
        if not groups:
            yield family, domain, arrays["x"], arrays["y"] > 0
    for family, name, kinds in (
        (
            "leaf",
            "coffee_leaf",
            {"coffee_miner": [1], "coffee_rust": [2], "coffee_phoma": [3], "coffee_cercospora": [4]},
        ),
        ("fruit", "tomato_fgrade", {"tomato": [7, 8, 9]}),
        ("blood", "malaria_fiocruz", {"malaria_falciparum": [1], "malaria_vivax": [2]}),
    ):
        arrays = read_archive(data / "bank" / f"{name}.npz")
        for domain, anomalous in kinds.items():
            rows = (arrays["y"] == 0) | np.isin(arrays["y"], anomalous)
            yield family, domain, arrays["x"][rows], arrays["y"][rows] > 0


def domains(data: Path) -> Iterator[Images]:
    """All domains: those with real anomalies, then surfaces of steel, for training on synthetic defects alone."""
    rng = np.random.default_rng(0)
    for family, name, x, anomalous in defect_sets(data):
        good, bad = (rng.permutation(np.flatnonzero(anomalous == kind)) for kind in (False, True))
        rows = np.concatenate([np.sort(good[:GOOD]), np.sort(bad[:BAD])])
        yield Images(family, name, _bytes(x[rows]), anomalous[rows].astype(int))
    arrays = read_archive(data / "bank" / "steel_xsdd.npz")
    for k in np.unique(arrays["y"]):
        x = arrays["x"][arrays["y"] == k][:CLASS_IMAGES]
        yield Images("steel", f"steel_{k}", _bytes(x), np.zeros(len(x), int))


def _bytes(x: np.ndarray) -> Tensor:
    images = torch.from_numpy(np.ascontiguousarray(x))
    return images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None].expand(-1, 3, -1, -1)


class Features:
    """Patches of a frozen EfficientNet-Lite0 on a 14 x 14 grid, computed once for each domain."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.memory = PatchMemory(input_shapes={"image": (3, SIZE, SIZE)})

    def read(self, domain: Images) -> Domain:
        """Patches of its images, and of good images with synthetic defects."""
        path = self.cache / f"{domain.name}.safetensors"
        if not path.is_file():
            rng = np.random.default_rng(zlib.crc32(domain.name.encode()))
            good = np.flatnonzero(domain.labels == 0)
            count = min(DRAWN_ON.get(domain.family, 36), len(good))
            chosen = good[np.linspace(0, len(good) - 1, count).astype(int)].repeat(2)
            pairs = [draw_defect(domain.images[i].float() / 255, rng) for i in chosen]
            covered = F.adaptive_avg_pool2d(torch.stack([mask for _, mask in pairs]).unsqueeze(1).float(), GRID)
            tensors = {
                "patches": self._patches(domain.images.float() / 255),
                "changed": self._patches(torch.stack([image for image, _ in pairs])),
                "covered": covered.squeeze(1),
                "sources": torch.from_numpy(chosen),
            }
            with replacing(path) as beside:
                save_file(tensors, beside)
        tensors = load_file(path)
        patches, changed, covered = (tensors[k] for k in ("patches", "changed", "covered"))
        return Domain(domain.family, domain.name, domain.labels, patches, changed, covered, tensors["sources"].numpy())

    @torch.no_grad()
    def _patches(self, images: Tensor) -> Tensor:
        """Features of patches in half precision ``(n, 14, 14, d)``."""
        backbone: Any = self.memory.network.backbone
        parts = []
        for x in images.split(8):
            large = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
            maps = backbone.feature_maps(large)
            fine, coarse = (maps[i] for i in self.memory.layers)
            parts.append(patch_features([F.adaptive_avg_pool2d(fine, GRID), coarse], unit_length=True).half())
        return torch.cat(parts)


def trained(chosen: list[Domain], real: bool, steps: int, seed: int) -> ChangeDecoder:
    """A decoder trained on episodes of domains, families being equally frequent.

    Args:
        chosen: domains of the training.
        real: train on real anomalies too, by their labels.
        steps: number of episodes, one a step.
        seed: seed of the first weights and of the episodes.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    decoder = ChangeDecoder(chosen[0].patches.shape[-1], WIDTH)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    families = sorted({d.family for d in chosen})
    for _ in range(steps):
        family = families[rng.integers(len(families))]
        members = [d for d in chosen if d.family == family]
        loss = _episode_loss(decoder, members[rng.integers(len(members))], real, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return decoder


def _episode_loss(decoder: ChangeDecoder, domain: Domain, real: bool, rng: np.random.Generator) -> Tensor:
    """Loss of `patch_change` on one to eight support images and up to twelve queries, of four good images each."""
    good = rng.permutation(domain.places(0))
    shots = min(int(rng.choice([1, 1, 2, 3, 5, 8])), len(good) // 2)
    support, query = good[:shots], good[shots : shots + 4]
    synthetic = rng.permutation(np.flatnonzero(~np.isin(domain.sources, support)))[:4]
    anomalous = rng.permutation(domain.places(1))[: 4 * real]
    patches = torch.cat([domain.patches[query], domain.changed[synthetic], domain.patches[anomalous]]).float()
    logits = decoder(*compared(patches, domain.patches[support].float().flatten(0, 2), NEIGHBOURS))
    with_mask = len(query) + len(synthetic)
    covered = torch.cat([torch.zeros(len(query), GRID, GRID), domain.covered[synthetic]]) > COVERED
    labels = (torch.arange(len(patches)) >= len(query)).long()
    return mask_loss(logits[:with_mask], covered) + BY_IMAGE * anomaly_loss(top_share(logits, TOP), labels)


@torch.no_grad()
def judged(domain: Domain, decoders: dict[str, list[ChangeDecoder]], draws: int) -> dict[str, dict[str, float]]:
    """Mean AUROC over draws, by the number of shots and the method."""
    rows: dict[str, dict[str, float]] = {}
    for shots in SHOTS:
        values = [_draw(domain, decoders, shots, np.random.default_rng([shots, draw])) for draw in range(draws)]
        rows[str(shots)] = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
    return rows


def _draw(
    domain: Domain, decoders: dict[str, list[ChangeDecoder]], shots: int, rng: np.random.Generator
) -> dict[str, float]:
    """AUROC by method on one support, and up to 25 queries of each kind."""
    good, bad = (rng.permutation(domain.places(label)) for label in (0, 1))
    query = np.concatenate([good[shots : shots + 25], bad[:25]])
    labels = torch.from_numpy(domain.labels[query])
    differences, spread = compared(
        domain.patches[query].float(), domain.patches[good[:shots]].float().flatten(0, 2), NEIGHBOURS
    )
    distances = differences[..., 0, :].norm(dim=-1)
    memory = top_share(distances, TOP)
    scores = {"memory": memory}
    for name, trainings in decoders.items():
        scores[name] = top_share(torch.stack([x(differences, spread) for x in trainings]).mean(0), TOP)
        scores[f"{name} + memory"] = _standardised(scores[name]) + _standardised(memory)
    scores["bound"] = _bound(differences[..., 0, :], distances, labels.numpy())
    return {name: float(auroc(x, labels)) for name, x in scores.items()}


def _standardised(scores: Tensor) -> Tensor:
    return (scores - scores.mean()) / scores.std()


def _bound(differences: Tensor, distances: Tensor, labels: np.ndarray) -> Tensor:
    """Cross-validated scores of a logistic regression on the differences of the four farthest patches."""
    places = distances.flatten(1).topk(4).indices.unsqueeze(-1)
    farthest = differences.flatten(1, 2).take_along_dim(places, 1).abs().mean(1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(model, farthest.numpy(), labels, cv=folds, method="decision_function")
    return torch.from_numpy(scores)


def measured(data: Path, cache: Path, steps: int, seeds: int, draws: int) -> dict[str, dict[str, Any]]:
    """Family and AUROC by shots and method of each domain with real anomalies."""
    cache.mkdir(parents=True, exist_ok=True)
    features = Features(cache)
    everything = [features.read(domain) for domain in domains(data)]
    rows: dict[str, dict[str, Any]] = {}
    for number, group in enumerate(GROUPS):
        rest = [d for d in everything if d.family not in group]
        decoders = {
            name: [
                _decoder(cache / f"decoder_{number}_{kind}_{steps}_{seed}", rest, real, steps, seed)
                for seed in range(seeds)
            ]
            for name, kind, real in (("synthetic", "synthetic", False), ("synthetic and real", "real", True))
        }
        for domain in everything:
            if domain.family in group:
                count = -(-draws // sum(d.family == domain.family for d in everything))
                path = cache / f"judged_{domain.name}_{steps}_{seeds}_{count}.json"
                if not path.is_file():
                    row = {"family": domain.family, "auroc": judged(domain, decoders, count), "draws": count}
                    write_whole(path, json.dumps(row))
                rows[domain.name] = json.loads(path.read_text())
    return rows


def _decoder(path: Path, rest: list[Domain], real: bool, steps: int, seed: int) -> ChangeDecoder:
    """A decoder trained now, or read from the file that an earlier run left."""
    path = path.with_suffix(".safetensors")
    if not path.is_file():
        with replacing(path) as beside:
            save_file(trained(rest, real, steps, seed).state_dict(), beside)
    decoder = ChangeDecoder(rest[0].patches.shape[-1], WIDTH)
    decoder.load_state_dict(load_file(path))
    return decoder


def summary(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """By shots and method the mean over families, its difference to the memory, and 95 % intervals over families."""
    families = sorted({row["family"] for row in rows.values()})
    out = []
    for shots in map(str, SHOTS):
        first = next(iter(rows.values()))["auroc"][shots]
        of = {
            name: np.array(
                [np.mean([r["auroc"][shots][name] for r in rows.values() if r["family"] == f]) for f in families]
            )
            for name in first
        }
        for name, values in of.items():
            minus = values - of["memory"]
            out.append(
                {
                    "shots": int(shots),
                    "method": name,
                    "auroc": float(values.mean()),
                    "ci95": interval(values),
                    "minus_memory": float(minus.mean()),
                    "minus_memory_ci95": interval(minus),
                    "families": dict(zip(families, values.tolist(), strict=True)),
                }
            )
    return out


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder of features, decoders and judged domains")
    parser.add_argument("--steps", type=int, default=400, help="training episodes of each decoder")
    parser.add_argument("--seeds", type=int, default=1, help="trainings whose masks are averaged")
    parser.add_argument("--draws", type=int, default=10, help="of support and query for each family, by shots")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measured(options.data, options.cache, options.steps, options.seeds, options.draws)
    table = Table("method", *(f"K={k}" for k in SHOTS), title="AUROC in % over families (difference to the memory)")
    results = summary(rows)
    for name in dict.fromkeys(r["method"] for r in results):
        cells = [r for r in results if r["method"] == name]
        table.add_row(name, *(f"{100 * r['auroc']:.1f} ({100 * r['minus_memory']:+.1f})" for r in cells))
    Console(width=120).print(table)
    if options.json:
        content = {
            "steps": options.steps,
            "seeds": options.seeds,
            "draws_per_family": options.draws,
            "grid": GRID,
            "groups_left_out": GROUPS,
            "rows": results,
            "domains": rows,
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a patch memory gains by a metric that is learned on sibling products.

    METAAD_DATA=FOLDER python benchmarks/finetune_inspection.py --json benchmarks/results/finetune_inspection.json

One product of a family is left out at a time: a paper type of piped128 (8 types), or a board of DeepPCB (the 2 boards
of `bank/pcb_deeppcb.npz` with 20 good images or more). Its siblings train and choose, as configs/finetune/image.yaml
has it: two other paper types choose the weights, those before training among them; of the other board, one half of the
images trains and the other half chooses. Then the memory and the learned metric are adapted to the same good images of
the product left out, and score the same other ones. AUROC is the mean over draws; its change has a 95 % interval over
products.

Images of boards are made black and white first: those with defects have about 60 grey levels, as JPEG leaves them, and
good ones about 14, which alone would tell them apart. The pixel AUROC of images with defects tells whether the metric
finds the defects.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from patch_memory import Remembered  # beside this script
from rich.console import Console
from rich.table import Table

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.modules.image import HALVES, halved
from metaad_zoo.episodes import DomainTaskPool, EpisodeBatch, EpisodeSpec
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.evaluation.report import write_json
from metaad_zoo.learners import PatchMemory, PatchMetric
from metaad_zoo.learners.training import trainable

SHOTS = (1, 2, 5, 10)
EPISODE = EpisodeSpec(5, query_normal=5, query_anomalous=5)
STEPS, TASKS, LR, CHECKS, VAL_EPISODES = 150, 4, 5e-4, 3, 20
QUERY, LEAST_GOOD, CHOOSING_TYPES = 20, 20, 2


@dataclass(frozen=True)
class Family:
    """Products of one kind, whose anomalies are labelled; masks ``(n, H, W)`` of the defects, or None."""

    images: ImageArrays
    products: list[str]
    masks: torch.Tensor | None = None

    def pool(self, names: Sequence[str]) -> DomainTaskPool:
        """Tasks of some products."""
        assert self.images.anomalous is not None
        return DomainTaskPool.from_source(self.images, names, self.images.anomalous)


def paper(size: int) -> Family:
    """Paper types with impurities."""
    images = ImageEpisodes("piped128", splits={"test": ["*"]}, image_size=size, channels=3).images
    assert images.anomalous is not None
    products = [n for i, n in enumerate(images.class_names) if images.anomalous[images.labels == i].any()]
    return Family(images, products)


def boards(size: int) -> Family:
    """Boards of DeepPCB in black and white."""
    with np.load(Path(os.environ["METAAD_DATA"]) / "bank" / "pcb_deeppcb.npz") as file:
        x, anomalous, group = file["x"], file["y"] > 0, file["group"]
        masks = np.unpackbits(file["masks"], axis=1)[:, : x[0].size].reshape(x.shape)
    names, labels = np.unique(group, return_inverse=True)
    black_white = torch.from_numpy(np.where(x > 127, 255, 0).astype(np.uint8)).unsqueeze(1)
    images = ImageArrays("pcb", black_white, labels, names.tolist(), anomalous).converted(size, 3)
    products = [n for n in names.tolist() if (~anomalous[group == n]).sum() >= LEAST_GOOD]
    return Family(images, products, torch.from_numpy(masks))


FAMILIES = {"paper": paper, "boards": boards}


def siblings(family: Family, left_out: str, seed: int) -> tuple[DomainTaskPool, DomainTaskPool]:
    """Tasks that train, and tasks that choose the weights."""
    place = family.products.index(left_out)
    siblings = [*family.products[place + 1 :], *family.products[:place]]
    if len(siblings) > CHOOSING_TYPES:
        return family.pool(siblings[CHOOSING_TYPES:]), family.pool(siblings[:CHOOSING_TYPES])
    halves = replace(family, images=halved(family.images, siblings[0], seed))
    first, second = (siblings[0] + half for half in HALVES)
    return halves.pool([first]), halves.pool([second])


def train(memory: PatchMemory, family: Family, left_out: str) -> tuple[PatchMetric, dict[str, Any]]:
    """The metric of the step with the best validation AUROC, the step 0 among them, and how it came about."""
    learner = PatchMetric.on(memory, optimizer=partial(torch.optim.Adam, lr=LR), schedule="constant")
    learner.network = memory.network
    training, choosing = siblings(family, left_out, 0)
    rng = np.random.default_rng(0)
    chosen_by = [choosing.draw(i % len(choosing), EPISODE, rng) for i in range(VAL_EPISODES)]
    optimizer = trainable(learner).configure_optimizers()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    validation, best = {0: mean_auroc(learner, chosen_by)}, learner.change.detach().clone()
    start = time.perf_counter()
    for step in range(1, STEPS + 1):
        drawn = [training.draw(int(t), EPISODE, rng) for t in rng.integers(len(training), size=TASKS)]
        optimizer.zero_grad()
        learner.outer_loss(EpisodeBatch.collate(drawn)).backward()
        optimizer.step()
        schedule.step()
        if step % (STEPS // CHECKS) == 0:
            figure, before = mean_auroc(learner, chosen_by), list(validation.values())
            if figure > max(before[1:], default=0) and figure >= before[0]:
                best = learner.change.detach().clone()
            validation[step] = figure
    seconds = time.perf_counter() - start
    with torch.no_grad():
        learner.change.copy_(best)
    about = {"validation_auroc": validation, "change": float(best.norm()), "seconds": round(seconds, 1)}
    return learner, about | {"trained_on": sorted(training.members), "chosen_on": sorted(choosing.members)}


@torch.no_grad()
def mean_auroc(learner: PatchMemory, episodes: Sequence[Any]) -> float:
    """Over episodes."""
    pairs = [(learner.adapt(e.support, e.support_labels).score(e.query), e.query_labels) for e in episodes]
    return float(np.mean([auroc(scores, labels) for scores, labels in pairs]))


@torch.no_grad()
def pixel_auroc(learner: PatchMemory, family: Family, episodes: Sequence[Any]) -> float:
    """Mean AUROC of the pixels of images with defects, by the heat map, over images."""
    assert family.masks is not None
    figures = []
    for e in episodes:
        adapted = learner.adapt(e.support, e.support_labels)
        heat = adapted.heat_map(adapted.units(e.query)).unsqueeze(1)
        heat = torch.nn.functional.interpolate(heat, family.masks.shape[-2:], mode="bilinear")[:, 0]
        for i in e.query_labels.nonzero().flatten().tolist():
            mask = family.masks[int(e.query_ids[i])].flatten().long()
            if 0 < int(mask.sum()) < len(mask):
                figures.append(auroc(heat[i].flatten(), mask))
    return float(np.mean(figures))


def measure(family: Family, memory: PatchMemory, draws: int) -> list[dict[str, Any]]:
    """A row a product left out."""
    rows = []
    for product in family.products:
        learner, about = train(memory, family, product)
        pool, row = family.pool([product]), {"product": product, **about, "shots": {}}
        for k in SHOTS:
            spec = EpisodeSpec(k, query_normal=QUERY, query_anomalous=QUERY)
            drawn = [pool.draw(0, spec, np.random.default_rng([k, i])) for i in range(draws)]
            methods = {"before": memory, "after": learner}
            row["shots"][k] = {name: mean_auroc(method, drawn) for name, method in methods.items()}
            if family.masks is not None:
                pixels = {f"pixel_{name}": pixel_auroc(m, family, drawn[:2]) for name, m in methods.items()}
                row["shots"][k] |= pixels
        print(product, row["shots"], about, flush=True)
        rows.append(row)
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over products, and the interval of the change where there are five products or more."""
    by_shots = {}
    for k in rows[0]["shots"]:
        names = rows[0]["shots"][k]
        means = {name: float(np.mean([row["shots"][k][name] for row in rows])) for name in names}
        changes = np.array([row["shots"][k]["after"] - row["shots"][k]["before"] for row in rows])
        around = interval(changes) if len(rows) >= 5 else None
        by_shots[k] = {**means, "change": float(changes.mean()), "ci95": around, "least_change": float(changes.min())}
    return by_shots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="pixels at which images are read")
    parser.add_argument("--draws", type=int, default=10, help="of support and query, for each product and support size")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="others' figures stay")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    memory = PatchMemory(input_shapes={"image": (3, options.size, options.size)})
    backbone: Any = memory.network.backbone
    backbone.feature_maps = Remembered(backbone.feature_maps)
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.is_file() else {}
    results |= {"size": options.size, "draws": options.draws, "steps": STEPS, "tasks": TASKS, "lr": LR}
    results |= {"memory": memory.arguments(), "environment": environment("cpu")}
    families = results.setdefault("families", {})
    table = Table("family", *(f"K={k}" for k in SHOTS), title="AUROC in %: memory, learned metric, change")
    for name in options.families:
        rows = measure(FAMILIES[name](options.size), memory, options.draws)
        families[name] = {"products": rows, "summary": summary(rows)}
        write_json(options.json, results)
        cells = (f"{100 * s['before']:.1f} {100 * s['after']:.1f}" for s in families[name]["summary"].values())
        table.add_row(name, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

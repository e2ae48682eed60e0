"""Feature memory on paper defects: `python benchmarks/patch_memory.py DATA --json FILE`.

DATA is the folder that holds piped128.npz and raw/paper_defects. Nothing is trained, so each of the eight paper types
is tested: AUROC by the number of good images, mean and 95 % interval over types, beside the nearest neighbour on pixels
and on the same network's embedding. With the masks of raw/paper_defects, the AUROC of single pixels by the heat map.
benchmarks/results/patch_memory.json is its result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeSpec, Method
from metaad_zoo.evaluation.baselines import NearestNeighbour, create_baseline
from metaad_zoo.evaluation.baselines.embedding import OnNetwork
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.learners import PatchMemory

SHOTS = (1, 2, 5, 10)
TYPES = ["BDP01_TL", "BFT01_TL", "BRG01_RL", "BRG02_RL", "BRG03_TL", "FLR01_TL", "FLR02_TL", "ZPB01_RL"]
SHAPE = {"image": (3, 128, 128)}


class Remembered:
    """A backbone's call that computes each image once: the same images are drawn again and again."""

    def __init__(self, compute: Callable[[Tensor], Any]) -> None:
        self._compute = compute
        self._known: dict[bytes, Any] = {}

    def __call__(self, images: Tensor) -> Any:
        keys = [x.numpy().tobytes() for x in images]
        for key, image in zip(keys, images, strict=True):
            if key not in self._known:
                self._known[key] = self._compute(image[None])
        found = [self._known[key] for key in keys]
        if isinstance(found[0], Tensor):
            return torch.cat(found)
        return [torch.cat(maps) for maps in zip(*found, strict=True)]


def contestants() -> dict[str, Method]:
    """By name; the memory's settings are its defaults, and each variant changes one of them."""
    variants: dict[str, dict[str, Any]] = {
        "": {},
        ", unit_length=false": {"unit_length": False},
        ", top=0": {"top": 0.0},
    }
    memories = {f"patch_memory{name}": PatchMemory(input_shapes=SHAPE, **given) for name, given in variants.items()}
    network = memories["patch_memory"].network
    backbone: Any = network.backbone
    backbone.feature_maps, backbone.forward = Remembered(backbone.feature_maps), Remembered(backbone.forward)
    for memory in memories.values():
        memory.network = network
    return {
        **memories,
        "1-NN on the embedding": OnNetwork(create_baseline("knn", standardise="none"), network),
        "1-NN on pixels": NearestNeighbour(),
        "1-NN on standardised pixels": NearestNeighbour("sample"),
    }


def images(data: Path, methods: dict[str, Method], draws: int) -> list[dict[str, Any]]:
    """Rows of method and shots, with the mean AUROC over types and each type's own."""
    rows = []
    for k in SHOTS:
        module = ImageEpisodes(
            "piped128",
            root=str(data),
            splits={"test": [f"PA_{name}" for name in TYPES]},
            episode=EpisodeSpec(support_normal=k, query_normal=30, query_anomalous=30),
        )
        found: dict[str, dict[str, list[float]]] = {name: {f"PA_{t}": [] for t in TYPES} for name in methods}
        n = draws * len(TYPES)
        for e in track(module.episodes("test", n), description=f"{k} good images", total=n, update_period=5):
            for name, method in methods.items():
                scores = method.adapt(e.support, e.support_labels).score(e.query)
                found[name][e.task.rpartition("/")[2]].append(auroc(scores, e.query_labels))
        for name, by_type in found.items():
            means = np.array([np.mean(values) for values in by_type.values()])
            row = {"method": name, "shots": k, "auroc": float(means.mean()), "ci95": interval(means)}
            rows.append(row | {"types": dict(zip(by_type, means.tolist(), strict=True))})
    return rows


def pixels(folder: Path, memory: PatchMemory, shots: int) -> list[dict[str, Any]]:
    """By category the AUROC of all pixels of the test images with a defect, the heat map being the score."""
    rows = []
    for category in sorted(p for p in folder.iterdir() if p.is_dir()):
        good = sorted((category / "train" / "good").glob("*.png"))[:shots]
        masks = sorted((category / "ground_truth").glob("*/*_mask.png"))
        shown = [category / "test" / m.parent.name / m.name.replace("_mask", "") for m in masks]
        adapted = memory.adapt({"image": _read(good)}, torch.zeros(len(good)))
        heat = adapted.heat_map(adapted.units({"image": _read(shown)}))
        truth = torch.stack([torch.from_numpy(np.array(Image.open(m))) > 0 for m in masks])
        value = auroc(heat.flatten().double(), truth.flatten().long())
        rows.append({"category": category.name, "shots": len(good), "images": len(masks), "pixel_auroc": float(value)})
    return rows


def _read(paths: list[Path]) -> Tensor:
    arrays = [np.array(Image.open(p).convert("RGB")) for p in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=5, help="of support and query, for each type")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    methods = contestants()
    rows = images(options.data, methods, options.draws)
    table = Table("method", *(f"K={k}" for k in SHOTS), title="AUROC in %, mean over 8 paper types")
    for name in methods:
        mine = [row for row in rows if row["method"] == name]
        table.add_row(
            name,
            *(f"{100 * r['auroc']:.1f} ({100 * r['ci95'][0]:.1f} - {100 * r['ci95'][1]:.1f})" for r in mine),
        )
    Console(width=140).print(table)
    memory = methods["patch_memory"]
    assert isinstance(memory, PatchMemory)
    by_pixel = [row for k in (1, 5) for row in pixels(options.data / "raw" / "paper_defects", memory, k)]
    for row in by_pixel:
        print(f"{row['category']}, K={row['shots']}: AUROC of pixels {100 * row['pixel_auroc']:.1f}")
    if options.json:
        content = {"draws": options.draws, "rows": rows, "pixels": by_pixel, "environment": environment("cpu")}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

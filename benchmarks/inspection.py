"""Few-shot inspection: `python benchmarks/inspection.py --data FOLDER --shots 1 2 4 8 --seeds 5 --json FILE`.

FOLDER holds MVTec AD, VisA, BTAD, MPDD or any categories in the MVTec layout; `mvtec_ad`, `visa`, `btad` and `mpdd`
name the known set in METAAD_DATA. For each category and seed, each method adapts to the first K of the shuffled good
training images and scores all test images: AUROC and average precision of images; AUROC and AUPRO (limit 0.3) of pixels
by the heat map at the size that the model reads, for methods that have one and images that are good or have a mask.

Methods: `patch_memory`, `knn` (the nearest neighbour on the same network's embedding), and any published checkpoint,
run or folder. FILE keeps each finished row; the same command goes on where it was interrupted.
benchmarks/results/inspection_paper.json is the result for the folder raw/paper_defects of METAAD_DATA.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.data.known.inspection import (
    KNOWN_SETS,
    VISA_SPLIT,
    InspectionImages,
    read_categories,
    read_inspection,
    read_visa_split,
)
from metaad_zoo.data.read.images import ImageReader
from metaad_zoo.data.read.masks import read_masks
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.baselines.embedding import OnNetwork
from metaad_zoo.evaluation.localisation import localisation
from metaad_zoo.evaluation.metrics import auroc, average_precision
from metaad_zoo.evaluation.pixel_metrics import LIMIT
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.learners import PatchMemory
from metaad_zoo.zoo import load_checkpoint, locate

METRICS = ("auroc", "ap", "pixel_auroc", "aupro")
MEMORY, NEIGHBOUR = "patch_memory", "knn"
KEY = ("method", "category", "shots", "seed")


@dataclass
class Contestant:
    """A method and how it reads images.

    Attributes:
        method: what adapts.
        shape: (C, H, W) of its images.
        aspect: how they are brought to this shape.
        settings: all that fixes its figures, for the file.
        forget: drops what is remembered of a category's images.
    """

    method: Method
    shape: Sequence[int]
    aspect: Aspect
    settings: dict[str, Any]
    forget: Callable[[], None] = lambda: None


@dataclass
class Remembered:
    """A function of images that computes each of them once: all supports and seeds share a category's images."""

    compute: Callable[..., Tensor]
    outputs: dict[bytes, Tensor] = field(default_factory=dict)

    def __call__(self, images: Tensor, *rest: Any) -> Tensor:
        keys = [x.numpy().tobytes() for x in images]
        for key, image in zip(keys, images, strict=True):
            if key not in self.outputs:
                self.outputs[key] = self.compute(image[None], *rest)
        return torch.cat([self.outputs[key] for key in keys])


def contestants(names: Sequence[str], size: int) -> dict[str, Contestant]:
    """The methods by name; those of one network share what it computes."""
    built: dict[str, Contestant] = {}
    memory = PatchMemory(input_shapes={"image": (3, size, size)}) if {MEMORY, NEIGHBOUR} & set(names) else None
    for name in names:
        if memory is not None and name in (MEMORY, NEIGHBOUR):
            built[name] = _on_memory(memory, name)
            continue
        checkpoint = load_checkpoint(locate(name))
        arguments = checkpoint.learner.arguments()
        shape = arguments["input_shapes"].get("image")
        if shape is None or len(arguments["input_shapes"]) > 1:
            raise ValueError(f"{name} reads {sorted(arguments['input_shapes'])}: expected a model of images")
        settings = {"learner": checkpoint.learner.registered_name, **arguments, "aspect": checkpoint.aspect}
        built[name] = Contestant(checkpoint.learner, shape, checkpoint.aspect, settings)
    return built


def _on_memory(memory: PatchMemory, name: str) -> Contestant:
    arguments = memory.arguments()
    aspect: Aspect = "keep" if memory.any_size else "squash"
    shape, settings = arguments["input_shapes"]["image"], {**arguments, "aspect": aspect}
    if name == NEIGHBOUR:
        backbone: Any = memory.network.backbone
        backbone.forward = embeddings = Remembered(backbone.forward)
        method = OnNetwork(create_baseline("knn", standardise="none"), memory.network)
        settings = {"baseline": "knn", "on_the_embedding_of": settings}
        return Contestant(method, shape, aspect, settings, embeddings.outputs.clear)
    features = Remembered(memory.patches)
    object.__setattr__(memory, "patches", features)
    return Contestant(memory, shape, aspect, {"learner": MEMORY, **settings}, features.outputs.clear)


@dataclass
class Category:
    """Images of one category as a method reads them, and the masks of the test images."""

    train: Tensor
    test: Tensor
    labels: Tensor
    masks: Tensor

    @classmethod
    def read(cls, images: InspectionImages, name: str, contestant: Contestant) -> Category:
        """With ``aspect="keep"`` the good training images decide the size."""
        channels, height, width = contestant.shape
        train, test = images.part(name, True), images.part(name, False)
        first = ImageReader(
            [images.files[i] for i in train], channels=channels, height=height, width=width, aspect=contestant.aspect
        )
        support = first.all()["image"]
        size, aspect = support.shape[-2:], first.aspect
        second = ImageReader(
            [images.files[i] for i in test], channels=channels, height=size[0], width=size[1], aspect=aspect
        )
        labels = torch.as_tensor(images.anomalous[test]).long()
        masks = read_masks([images.masks[i] for i in test], size, aspect)
        return cls(support, second.all()["image"], labels, masks)

    def support(self, shots: int, seed: int, name: str) -> Tensor:
        """Images that depend on the seed and the category alone; those of few shots are among those of more."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return self.train[torch.as_tensor(rng.permutation(len(self.train))[:shots])]


@torch.no_grad()
def figures(method: Method, category: Category, support: Tensor) -> dict[str, float | None]:
    """All metrics of one support set; None for those of pixels where there is no heat map or no mask."""
    start = time.perf_counter()
    query = {"image": category.test}
    adapted = method.adapt({"image": support}, torch.zeros(len(support), dtype=torch.int64))
    scores = adapted.score(query).double()
    row: dict[str, float | None] = dict.fromkeys(METRICS)
    row |= {"auroc": auroc(scores, category.labels), "ap": average_precision(scores, category.labels)}
    by_pixel = localisation(adapted, query, category.labels, category.masks)
    row |= {name: by_pixel[name] for name in METRICS if name in by_pixel}
    return row | {"seconds": time.perf_counter() - start}


class Results:
    """The rows of a file; it is written after each new one."""

    def __init__(self, file: Path | None, protocol: dict[str, Any], settings: dict[str, Any]) -> None:
        self.file, self.protocol, self.settings = file, protocol, settings
        self.rows: list[dict[str, Any]] = []
        if file is not None and file.exists():
            self._take_up(file, json.loads(file.read_text(encoding="utf-8")))
        self._done = {tuple(row[k] for k in KEY) for row in self.rows}

    def _take_up(self, file: Path, content: dict[str, Any]) -> None:
        if content["protocol"] != self.protocol:
            seen, own = content["protocol"], self.protocol
            differing = {k: (seen.get(k), own.get(k)) for k in own if seen.get(k) != own.get(k)}
            raise ValueError(f"{file} is of another evaluation (file, this one): {differing}; name another file")
        for name, settings in self.settings.items():
            if content["settings"].get(name, settings) != settings:
                raise ValueError(f"{file} holds {name} with other settings, {content['settings'][name]}: name another")
        self.rows, self.settings = content["rows"], content["settings"] | self.settings

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._done

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._done.add(tuple(row[k] for k in KEY))
        if self.file is not None:
            content = {
                "protocol": self.protocol,
                "settings": self.settings,
                "summary": summary(self.rows),
                "rows": self.rows,
                "environment": environment("cpu"),
            }
            write_whole(self.file, json.dumps(content, indent=1) + "\n")


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By method and shots: each category's mean over seeds, and the mean over categories, with 95 % intervals.

    Intervals of a category are over seeds; those of the mean are over categories, and over seeds.
    """
    out = []
    for method, shots in dict.fromkeys((row["method"], row["shots"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["shots"]) == (method, shots)]
        entry: dict[str, Any] = {"method": method, "shots": shots, "categories": {}}
        for name in sorted({row["category"] for row in mine}):
            of_category = [row for row in mine if row["category"] == name]
            entry["categories"][name] = {m: _mean([row[m] for row in of_category]) for m in METRICS}
        means = {m: [c[m]["mean"] for c in entry["categories"].values() if c[m] is not None] for m in METRICS}
        entry["mean"] = {m: _mean(x) for m, x in means.items()}
        entry["over_seeds"] = {m: _mean(_by_seed(mine, m)) for m in METRICS}
        out.append(entry)
    return out


def _by_seed(rows: Sequence[dict[str, Any]], metric: str) -> list[float]:
    """Mean over categories of each seed that has all of them."""
    categories = {row["category"] for row in rows if row[metric] is not None}
    means = []
    for seed in sorted({row["seed"] for row in rows}):
        values = [row[metric] for row in rows if row["seed"] == seed and row[metric] is not None]
        if len(values) == len(categories) and values:
            means.append(float(np.mean(values)))
    return means


def _mean(values: Sequence[float | None]) -> dict[str, Any] | None:
    numbers = np.array([x for x in values if x is not None])
    return None if not len(numbers) else {"mean": float(numbers.mean()), "ci95": interval(numbers), "n": len(numbers)}


def show(entries: Sequence[dict[str, Any]]) -> None:
    """A table a method: all metrics by category and shots, then the means over categories."""
    console = Console(width=130)
    for method in dict.fromkeys(entry["method"] for entry in entries):
        table = Table("category", "K", *METRICS, title=f"{method}, in %: mean and 95 % interval over seeds")
        mine = [entry for entry in entries if entry["method"] == method]
        for name in sorted({name for entry in mine for name in entry["categories"]}):
            for entry in [e for e in mine if name in e["categories"]]:
                cells = [_cell(entry["categories"][name][m]) for m in METRICS]
                table.add_row(name, str(entry["shots"]), *cells)
        table.add_section()
        for title, key in (("mean, over categories", "mean"), ("mean, over seeds", "over_seeds")):
            for entry in mine:
                table.add_row(title, str(entry["shots"]), *(_cell(entry[key][m]) for m in METRICS))
        console.print(table)


def _cell(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    limits = value["ci95"]
    return f"{100 * value['mean']:.1f}" + (f" ({100 * limits[0]:.1f} - {100 * limits[1]:.1f})" if limits else "")


def read(data: str) -> InspectionImages:
    """The images of a folder, or of a known set by its name."""
    folder = Path(data).expanduser()
    if not folder.is_dir() and data in KNOWN_SETS:
        return read_inspection(data)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with categories, or one of {sorted(KNOWN_SETS)}")
    return read_visa_split(folder) if (folder / VISA_SPLIT).is_file() else read_categories(folder)


def check(images: InspectionImages, categories: Sequence[str], shots: Sequence[int]) -> None:
    """Refuse categories that can't be measured, before any work."""
    for name in categories:
        train, test = len(images.part(name, True)), images.anomalous[images.part(name, False)]
        if train < max(shots):
            raise ValueError(f"{name} has {train} good training images, --shots asks for {max(shots)}")
        if test.all() or not test.any():
            raise ValueError(f"{name} has {int(test.sum())} defects among {len(test)} test images: both are needed")


def run(options: argparse.Namespace) -> Results:
    """All rows that the file does not hold yet."""
    images = read(options.data)
    categories = options.categories or images.class_names
    check(images, categories, options.shots)
    methods = contestants(options.methods, options.size)
    sizes = {n: [len(images.part(n, train)) for train in (True, False)] for n in images.class_names}
    protocol = {"data": images.name, "images": sizes, "metrics": METRICS, "aupro_limit": LIMIT}
    protocol = json.loads(json.dumps(protocol))
    settings = json.loads(json.dumps({name: c.settings for name, c in methods.items()}))
    results = Results(options.json, protocol, settings)
    for category in categories:
        for method, contestant in methods.items():
            keys = [(method, category, k, seed) for seed in range(options.seeds) for k in options.shots]
            open_keys = [key for key in keys if key not in results]
            if not open_keys:
                continue
            samples = Category.read(images, category, contestant)
            for key in open_keys:
                support = samples.support(key[2], key[3], category)
                results.add(dict(zip(KEY, key, strict=True)) | figures(contestant.method, samples, support))
            contestant.forget()
            print(f"{category}: {method} done", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of categories, or a known set's name")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=5, help="number of support sets of each size")
    parser.add_argument("--methods", nargs="+", default=[MEMORY, NEIGHBOUR])
    parser.add_argument("--categories", nargs="+", help="default: all")
    parser.add_argument("--size", type=int, default=224, help="pixels a side, of patch_memory and knn")
    parser.add_argument("--json", type=Path)
    show(summary(run(parser.parse_args()).rows))


if __name__ == "__main__":
    main()

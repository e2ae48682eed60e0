"""`metaad recommend`: which model or baseline to take for a support set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metaad_zoo.backbones import ANY
from metaad_zoo.data.samples import named_samples
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, read_columns
from metaad_zoo.data.sources.files import list_images
from metaad_zoo.data.synthetic import create_synthetic, list_synthetic
from metaad_zoo.episodes import Method, count
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines
from metaad_zoo.evaluation.choosing import Recommendation, recommend
from metaad_zoo.zoo import load_checkpoint, locate

USUAL_SHAPES: Mapping[str, tuple[int, ...]] = {"image": (3, 64, 64), "tabular": (ANY,), "sequence": (32, ANY)}
"""In which samples are read where no model says."""
NOT_TRIED = ("flag_everything", "random")


def run_recommendation(support: Path, label: str | None, models: Sequence[str], as_json: bool) -> Recommendation:
    """Try models and baselines on a support set and print which to take.

    Args:
        support: images, a table, or series.
        label: a table's column of labels.
        models: checkpoints by name or folder; those that read other samples are named as such.
        as_json: print for machines.

    Raises:
        ValueError: the support can't be read, or is too small.
    """
    learners = {name: load_checkpoint(locate(name)).learner for name in models}
    read = [x.arguments()["input_shapes"] for x in learners.values()]
    shapes: dict[str, Any] = read[0] if read else _shapes_of(support)
    _, samples = named_samples(support, shapes, label)
    modality = next(iter(samples)) if len(samples) == 1 else "multimodal"
    n = count(samples)
    found = read_columns(support, label).labels if label is not None else None
    labels: Tensor = torch.zeros(n, dtype=torch.long) if found is None else torch.as_tensor(found).long()
    methods: dict[str, Method] = {
        name: create_baseline(name) for name in list_baselines(modality=modality) if name not in NOT_TRIED
    }
    methods |= learners
    synthetic = [create_synthetic([name]) for name in list_synthetic(modality=modality)]
    recommendation = recommend(methods, samples, labels, () if bool((labels == 1).any()) else synthetic)
    _print(recommendation, as_json)
    return recommendation


def _shapes_of(support: Path) -> dict[str, tuple[int, ...]]:
    """What the files are taken for: a table, unless they are images; series are read by models alone."""
    if support.suffix.lower() in COLUMN_SUFFIXES:
        return {"tabular": USUAL_SHAPES["tabular"]}
    images = support.is_dir() and bool(list_images(support))
    return {"image": USUAL_SHAPES["image"]} if images else {"sequence": USUAL_SHAPES["sequence"]}


def _print(found: Recommendation, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found)))
        return
    table = Table("method", "AUROC", "standard error", "not tried because")
    for c in found.candidates:
        figures = ("", "") if c.reason else (f"{100 * c.auroc:.1f}", f"{100 * c.spread:.1f}")
        table.add_row(c.name, *figures, c.reason or "")
    console = Console()
    console.print(table)
    console.print(f"Take [bold]{found.choice}[/bold]: {found.why}", soft_wrap=True)

"""Pixel metrics in an evaluation: of methods with heat maps, where the data has masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from metaad_zoo.cli import main
from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation.baselines import NearestNeighbour
from metaad_zoo.evaluation.localisation import localisation
from metaad_zoo.evaluation.pixel_metrics import PIXEL_METRICS, pixel_metrics
from metaad_zoo.learners import PatchMemory
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.inspected import category

SHAPES = {"image": [1, 16, 16]}
ROWS = EpisodeSpec(3, query_normal=3, query_anomalous=3)


def memory() -> PatchMemory:
    torch.manual_seed(0)
    return PatchMemory(backbone="conv4", backbone_options={"width": 4}, input_shapes=SHAPES, layers=[1])


def episodes(root, **options):
    return ImageEpisodes("own", str(root), {"test": ["*"]}, image_size=16, channels=1, episode=ROWS, **options)


def test_figures_are_those_of_the_heat_maps(tmp_path):
    category(tmp_path / "bolt")
    data = episodes(tmp_path / "bolt")
    episode = next(data.episodes("test", 1))
    masks = data.query_masks(episode)
    adapted = memory().adapt(episode.support, episode.support_labels)
    maps = adapted.heat_map(adapted.units(episode.query))
    figures = localisation(adapted, episode.query, episode.query_labels, masks)
    assert figures == pytest.approx(pixel_metrics(maps.numpy(), masks.numpy()))
    assert figures["pixel_auroc"] > 0.8
    defect = int(masks.flatten(1).any(1).nonzero()[0])
    is_other = torch.arange(6) != defect
    masks[defect] = False
    assert localisation(adapted, episode.query, episode.query_labels, masks) == pytest.approx(
        pixel_metrics(maps[is_other].numpy(), masks[is_other].numpy())
    ), "a defect without a mask is left out"
    assert localisation(adapted, episode.query, episode.query_labels, torch.zeros_like(masks)) == {}
    nearest = NearestNeighbour().adapt(episode.support, episode.support_labels)
    assert localisation(nearest, episode.query, episode.query_labels, masks) == {}


def test_evaluate_tells_pixel_metrics_beside_those_of_the_images(tmp_path, capsys):
    names = ["bolt", "nut", "pin", "plate", "rod", "screw"]
    for name in names:
        category(tmp_path / "set" / name, n=11)
    for mask in (tmp_path / "set" / "screw" / "ground_truth" / "hole").iterdir():
        mask.unlink()
    save_checkpoint(tmp_path / "model", Checkpoint(memory(), [], {}))
    arguments = ["evaluate", str(tmp_path / "model"), "knn", "--data", str(tmp_path / "set"), "--out"]
    assert main([*arguments, str(tmp_path / "out"), "--episodes", "6"]) == 0
    output = capsys.readouterr()
    assert "AUPRO" in output.out
    assert "can't judge these defects" in output.err
    methods = json.loads((tmp_path / "out" / "results.json").read_text())["methods"]
    model = next(name for name in methods if name.endswith("model"))
    assert not set(PIXEL_METRICS) & set(methods["knn"]["mean"])
    tasks = {task["task"]: task for task in methods[model]["tasks"]}
    assert [name for name in names if "aupro" in tasks[f"set/{name}"]] == names[:-1]
    for metric in PIXEL_METRICS:
        values = [tasks[f"set/{name}"][metric] for name in names[:-1]]
        assert methods[model]["mean"][metric] == pytest.approx(np.mean(values))
        low, high = methods[model]["ci95"][metric]
        assert low <= methods[model]["mean"][metric] <= high
    assert methods[model]["mean"]["pixel_auroc"] > 0.8

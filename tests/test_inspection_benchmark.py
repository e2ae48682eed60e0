"""`benchmarks/inspection.py`: its figures against scikit-learn's, and a run that is interrupted and taken up."""

from __future__ import annotations

import argparse
import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from metaad_zoo.learners import PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.conftest import REPOSITORY

SIZE = 32


@pytest.fixture
def inspection(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("inspection")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two categories of noise, whose defects are bright squares."""
    root, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for category in ("bolt", "nut"):
        for part, n in (("train/good", 4), ("test/good", 6), ("test/spot", 6)):
            (root / category / part).mkdir(parents=True)
            (root / category / part.replace("test", "ground_truth")).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                pixels = rng.integers(60, 120, (SIZE, SIZE, 3), np.uint8)
                mask = np.zeros((SIZE, SIZE), np.uint8)
                if part == "test/spot":
                    row, column = rng.integers(0, SIZE - 10, 2)
                    mask[row : row + 10, column : column + 10] = 255
                    pixels[mask > 0] = np.minimum(pixels[mask > 0] + 10 * i, 255)
                    Image.fromarray(mask).save(root / category / "ground_truth" / "spot" / f"{i}_mask.png")
                Image.fromarray(pixels).save(root / category / part / f"{i}.png")
    return root


def options(folder, **given):
    usual = {"data": str(folder), "shots": [1, 3], "seeds": 2, "methods": ["patch_memory", "knn"], "json": None}
    return argparse.Namespace(**usual | {"categories": None, "size": SIZE} | given)


def test_figures_are_those_of_scikit_learn(inspection, folder):
    results = inspection.run(options(folder, categories=["bolt"], shots=[3], seeds=1))
    images = inspection.read(str(folder))
    contestants = inspection.contestants(["patch_memory", "knn"], SIZE)
    for row in results.rows:
        contestant = contestants[row["method"]]
        category = inspection.Category.read(images, "bolt", contestant)
        support = {"image": category.support(3, 0, "bolt")}
        adapted = contestant.method.adapt(support, torch.zeros(3, dtype=torch.int64))
        scores, labels = adapted.score({"image": category.test}), category.labels
        assert row["auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert row["ap"] == pytest.approx(average_precision_score(labels, scores))
        if row["method"] == "knn":
            assert row["pixel_auroc"] is None
            continue
        heat = adapted.heat_map(adapted.units({"image": category.test}))
        assert row["pixel_auroc"] == pytest.approx(roc_auc_score(category.masks.flatten(), heat.flatten()))
        assert 0 < row["aupro"] <= 1


def test_an_interrupted_run_goes_on_to_the_same_figures(inspection, folder, tmp_path, monkeypatch, capsys):
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    inspection.run(options(folder, json=whole, seeds=1))
    figures, calls = inspection.figures, []

    def stops(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return figures(*args)

    monkeypatch.setattr(inspection, "figures", stops)
    with pytest.raises(KeyboardInterrupt):
        inspection.run(options(folder, json=part, seeds=1))
    assert len(json.loads(part.read_text())["rows"]) == 3
    inspection.run(options(folder, json=part, seeds=1))
    assert len(calls) - 1 == 8, "no row is computed twice"

    def rows(file):
        content = json.loads(file.read_text())
        return sorted(str({k: v for k, v in row.items() if k != "seconds"}) for row in content["rows"])

    assert rows(part) == rows(whole)
    inspection.show(json.loads(whole.read_text())["summary"])
    assert "mean, over categories" in capsys.readouterr().out


def test_supports_are_nested_and_the_same_for_all_methods(inspection, folder):
    images = inspection.read(str(folder))
    contestants = inspection.contestants(["patch_memory", "knn"], SIZE)
    first, second = (inspection.Category.read(images, "bolt", c) for c in contestants.values())
    assert torch.equal(first.support(3, 0, "bolt")[:1], first.support(1, 0, "bolt"))
    assert torch.equal(first.support(3, 0, "bolt"), second.support(3, 0, "bolt"))
    assert not torch.equal(first.support(4, 0, "bolt"), first.support(4, 1, "bolt"))


def test_any_model_of_images_takes_part(inspection, folder, tmp_path):
    learner = PrototypicalNetwork(
        backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": (1, SIZE, SIZE)}
    )
    save_checkpoint(tmp_path / "model", Checkpoint(learner.eval(), [], {}))
    results = inspection.run(options(folder, methods=[str(tmp_path / "model")], seeds=1))
    assert len(results.rows) == 4
    assert all(row["pixel_auroc"] is None for row in results.rows)


def test_means_and_intervals(inspection):
    rows = [
        {"method": "m", "category": c, "shots": 1, "seed": s, "auroc": a, "ap": 0.5, "pixel_auroc": None, "aupro": None}
        for c, by_seed in {"a": (0.5, 0.7), "b": (0.9, 0.9)}.items()
        for s, a in enumerate(by_seed)
    ]
    (entry,) = inspection.summary(rows)
    assert entry["categories"]["a"]["auroc"]["mean"] == pytest.approx(0.6)
    assert entry["mean"]["auroc"] == {"mean": pytest.approx(0.75), "ci95": None, "n": 2}
    assert entry["over_seeds"]["auroc"]["mean"] == pytest.approx(0.75)
    assert entry["mean"]["aupro"] is None


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"shots": [5]}, "bolt has 4 good training images, --shots asks for 5"),
        ({"data": "nowhere"}, r"nowhere is no folder: .* one of \['btad', 'mpdd', 'mvtec_ad', 'visa'\]"),
        ({"categories": ["screw"]}, r"has the categories \['bolt', 'nut'\], not 'screw'"),
    ],
)
def test_what_can_not_be_measured_is_refused_first(inspection, folder, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        inspection.run(options(folder, **given))


def test_a_file_of_another_run_is_refused(inspection, folder, tmp_path):
    file = tmp_path / "a.json"
    inspection.run(options(folder, json=file, shots=[1], seeds=1, methods=["knn"]))
    with pytest.raises(ValueError, match="holds knn with other settings"):
        inspection.run(options(folder, json=file, methods=["knn"], size=64))
    content = json.loads(file.read_text())
    content["protocol"]["data"] = "others"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"another evaluation.*'data': \('others', 'parts"):
        inspection.run(options(folder, json=file))

"""Each file of a user's own is opened once a command, whatever the command."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from metaad_zoo.cli import main
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.conftest import opened_files


def model(folder, backbone, shapes):
    learner = GradientLearner(backbone, {"width": 4} if "image" in shapes else None, shapes, InnerLoopConfig(steps=1))
    save_checkpoint(folder / "model", Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)}))
    return str(folder / "model")


def table(folder, channels=3, rows=40):
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(rows, channels)), columns=list("abcdef")[:channels])
    frame.assign(row=range(rows), label=0).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv", [folder / "t.csv"]


def manifest(folder):
    rng = np.random.default_rng(0)
    files = []
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{i}.png")
        np.savetxt(folder / f"{i}.csv", rng.normal(size=(5, 1)), header="v", comments="")
        files += [folder / f"{i}.png", folder / f"{i}.csv"]
    lines = [f"{i}.png,{i}.csv,{rng.normal()}" for i in range(6)]
    (folder / "m.csv").write_text("\n".join(["image,sequence,x", *lines]))
    return folder / "m.csv", [*files, folder / "m.csv"]


def archive(folder):
    np.savez(folder / "t.npz", X=np.random.default_rng(0).normal(size=(40, 3)))
    return folder / "t.npz", [folder / "t.npz"]


def images(folder):
    rng, root = np.random.default_rng(0), folder / "images"
    root.mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (20, 16), np.uint8)).save(root / f"{i}.png")
    return root, list(root.iterdir())


def image_archive(folder):
    x = np.random.default_rng(0).integers(0, 255, (7, 20, 16), np.uint8)
    np.savez(folder / "x.npz", x=x, y=np.zeros(7, int))
    return folder / "x.npz", [folder / "x.npz"]


@pytest.mark.parametrize(
    ("write", "backbone", "shapes"),
    [
        (table, "mlp", {"tabular": [3]}),
        (archive, "mlp", {"tabular": [3]}),
        (table, "gru", {"sequence": [8, 3]}),
        (images, "conv4", {"image": [1, 16, 16]}),
        (image_archive, "conv4", {"image": [1, 16, 16]}),
        (manifest, "fusion_concat", {"image": [1, 16, 16], "sequence": [5, 1], "tabular": [1]}),
    ],
    ids=["table", "npz", "series", "images", "npz of images", "manifest"],
)
def test_each_file_is_opened_once_a_command(write, backbone, shapes, tmp_path):
    path, files = write(tmp_path)
    name, mine = model(tmp_path, backbone, shapes), str(tmp_path / "mine")
    commands = [
        ["adapt", name, "--support", str(path), "--out", mine],
        ["score", mine, "--data", str(path), "--out", str(tmp_path / "scores.csv")],
        ["explain", mine, "--data", str(path), "--out", str(tmp_path / "maps"), "--method", "nearest"],
    ]
    if "fusion" not in backbone:
        modality = next(iter(shapes))
        commands.append(["recommend", "--support", str(path), "--models", name, "--modality", modality])
    for command in commands:
        with opened_files() as opened:
            assert main(command) == 0
        assert {file: opened[str(file)] for file in files} == dict.fromkeys(files, 1), command[0]

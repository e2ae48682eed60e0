"""Every config of the repository, run by the command that its own first comment gives."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy.io import wavfile

from metaad_zoo.cli.train import run
from metaad_zoo.learners import InContextDetector, PrototypicalNetwork, list_learners
from metaad_zoo.modality import list_modalities
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.cli.short import CONFIGS, SHORT
from tests.conftest import REPOSITORY

LISTED = sorted(CONFIGS.rglob("*.yaml"))
ONE_STEP = [option for option in SHORT if "backbone_options" not in option]
ONE_STEP += ["--data.val_episodes=2", "--data.calibration_episodes=2", "--data.calibration_shots=[2]"]
ON_THIS_MACHINE = [f"--trainer.{name}" for name in ("accelerator=cpu", "devices=1", "num_nodes=1", "strategy=auto")]


def own_command(config: Path) -> list[str]:
    """What stands behind `train.py` in the config's first comment."""
    first = config.read_text().splitlines()[0]
    assert first.startswith("# "), "the first comment is the command that runs it"
    assert str(config.relative_to(REPOSITORY)) in first
    words = shlex.split(first.removeprefix("# "))
    return [w for w in words[words.index("train.py") + 1 :] if w != "fit"]


def needs_files(config: Path) -> bool:
    """Whether the command, or that of a config it lays itself over, says that data must lie in METAAD_DATA."""
    named = [REPOSITORY / w for w in own_command(config) if w.startswith("configs/")]
    return any("METAAD_DATA=" in path.read_text().splitlines()[0] for path in named)


def write_rows(path: Path, rows: np.ndarray, header: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows.tolist()])


def own_data(modality: str, root: Path) -> Path:
    """A user's own files as the config `bring_your_own/<modality>.yaml` takes them."""
    rng = np.random.default_rng(0)
    if modality == "tabular":
        for name in "abc":
            rows = np.column_stack([rng.normal(size=(60, 3)), np.arange(60) % 3 == 0])
            write_rows(root / f"{name}.csv", rows, ["x", "y", "z", "anomaly"])
    elif modality == "sequence":
        for name in "abcde":
            series = np.column_stack([rng.normal(size=(2000, 2)), np.arange(2000) > 1500])
            write_rows(root / f"{name}.csv", series, ["x", "y", "anomaly"])
    elif modality == "audio":
        for c in range(6):
            (root / f"class{c}").mkdir()
            for i in range(12):
                sound = np.sin((c + 1) / 5 * np.arange(4000)) + 0.1 * rng.normal(size=4000)
                wavfile.write(root / f"class{c}" / f"{i}.wav", 16000, (10000 * sound).astype(np.int16))
    else:
        for c in range(6):
            (root / f"class{c}").mkdir()
            for i in range(16):
                Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(root / f"class{c}" / f"{i}.png")
    if modality == "multimodal":
        rows = [[f"class{c}/{i}.png", rng.normal(), f"kind{c}"] for c in range(6) for i in range(16)]
        write_rows(root / "manifest.csv", np.array(rows, dtype=object), ["image", "weight", "class"])
        return root / "manifest.csv"
    return root


def single_data(modality: str, root: Path) -> Path:
    """Normal samples of one domain, as `finetune/single_<modality>.yaml` takes them."""
    rng = np.random.default_rng(0)
    if modality == "image":
        for i in range(40):
            Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(root / f"{i}.png")
        return root
    if modality == "multimodal":
        folder = own_data("multimodal", root).parent
        rows = [[f"class{c}/{i}.png", rng.normal()] for c in range(2) for i in range(16)]
        write_rows(folder / "normal.csv", np.array(rows, dtype=object), ["image", "weight"])
        return folder / "normal.csv"
    write_rows(root / "normal.csv", rng.normal(size=(800, 3)), ["x", "y", "z"])
    return root / "normal.csv"


def random_weights(config: Path, file: Path) -> str:
    """A file of weights for the timm backbone of a config."""
    backbone = yaml.safe_load(config.read_text())["model"]["init_args"]["backbone"]
    save_file(timm.create_model(backbone.removeprefix("timm/")).state_dict(), file)
    return str(file)


def parent(modality: str, folder: Path) -> Path:
    """A checkpoint that `finetune/<modality>.yaml` can go on with; it reads other shapes than the user's files have."""
    backbone, options, shapes = {
        "image": ("conv4", {"width": 4}, {"image": [1, 16, 16]}),
        "sequence": ("window_statistics", {}, {"sequence": [24, -1]}),
        "tabular": ("raw_columns", {}, {"tabular": [-1]}),
        "multimodal": ("fusion_concat", {"width": 8}, {"image": [1, 16, 16], "tabular": [1]}),
    }[modality]
    kind = InContextDetector if backbone in ("window_statistics", "raw_columns") else PrototypicalNetwork
    learner = kind(backbone=backbone, backbone_options=options, input_shapes=shapes)
    save_checkpoint(folder, Checkpoint(learner, ["seen/before"], {}))
    return folder


@pytest.mark.parametrize("config", LISTED, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_trains_a_step(config, tmp_path, monkeypatch, request):
    """As its first comment says, but for the length and the device."""
    if needs_files(config):
        request.getfixturevalue("data_folder")
    monkeypatch.chdir(REPOSITORY)
    words, modality = own_command(config), config.stem.removeprefix("single_")
    if "--data.root" in words:
        (tmp_path / "own").mkdir()
        files = single_data if config.stem.startswith("single_") else own_data
        words[words.index("--data.root") + 1] = str(files(modality, tmp_path / "own"))
    if "--model.checkpoint" in words:
        words[words.index("--model.checkpoint") + 1] = str(parent(modality, tmp_path / "parent"))
    if "WEIGHTS" in words:
        words[words.index("WEIGHTS")] = random_weights(config, tmp_path / "weights.safetensors")
        words.append("--data.image_size=112")  # a multiple of both kinds of patches
    cli = run(["fit", *words, *ON_THIS_MACHINE, "--trainer.max_steps=1", *ONE_STEP, "--runs", str(tmp_path / "runs")])
    assert cli.trainer.global_step == int(cli.model.trains)


def test_every_learner_has_a_config():
    assert {p.stem for p in (CONFIGS / "learners").iterdir()} | {"maml"} == set(list_learners())


def test_every_modality_has_a_quickstart_and_a_config_for_own_data():
    own = {p.stem for p in (CONFIGS / "bring_your_own").iterdir()}
    quick = {p.stem.removeprefix("quickstart_") for p in CONFIGS.glob("quickstart_*.yaml")} - {"clean", "full"}
    tuned = {p.stem for p in (CONFIGS / "finetune").iterdir()}
    assert own == set(list_modalities(several=True))
    assert quick | {"image"} == own - {"audio"} == {m for m in own if {m, f"single_{m}"} <= tuned}

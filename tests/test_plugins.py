"""Backbones, learners, data sets, baselines and modalities in a user's own module, and checkpoints that need them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from metaad_zoo import plugins
from metaad_zoo.backbones import list_backbones
from metaad_zoo.backbones.registry import BACKBONES
from metaad_zoo.cli import main
from metaad_zoo.cli.train import run
from metaad_zoo.data.known.registry import DATASETS
from metaad_zoo.evaluation.baselines.registry import BASELINES
from metaad_zoo.learners.registry import LEARNERS
from metaad_zoo.modality import base as modality_base
from metaad_zoo.plugins import MissingPluginError, import_plugins
from metaad_zoo.zoo import load_checkpoint
from tests.cli.short import QUICKSTART, SHORT

MODULE = """
from pathlib import Path

import numpy as np
import torch
from torch import nn
from metaad_zoo.backbones import ImageBackbone, register_backbone
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.read.rows import SampleSource
from metaad_zoo.evaluation.baselines import register_baseline
from metaad_zoo.learners import PrototypicalNetwork, register_learner
from metaad_zoo.modality import AudioModality, TabularModality, register_modality

@register_backbone("my_pixels", modality="image")
class Pixels(ImageBackbone):
    def __init__(self, in_channels=1, image_size=None, width=4):
        super().__init__()
        self.embedding_dim = width
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, width))

    def forward(self, x):
        return self.body(x)

@register_learner("my_protonet")
class Mine(PrototypicalNetwork):
    pass

@register_baseline("my_norm")
class Norm:
    '''Length of a sample.'''

    def adapt(self, support, support_labels):
        return self

    def score(self, samples):
        return sum(x.flatten(1).double().norm(dim=1) for x in samples.values())

@register_modality
class Receipts(TabularModality):
    name = "receipts"
    read_as = "tabular"

class ScanSource(SampleSource):
    def find(self, source):
        return source if isinstance(source, list) else sorted(Path(source).glob("**/*.npy"))

    def blocks(self):
        x = torch.from_numpy(np.stack([np.load(file) for file in self.files])).float()
        yield Chunk([str(file) for file in self.files], {self.name: x}, 1.0)

@register_modality
class Scans(AudioModality):
    name = "scans"
    shape = (1, 8, 8)

    def source_class(self):
        return ScanSource

    def recognises(self, path, columns):
        return any(path.glob("**/*.npy"))

@register_dataset("my_stripes", modality="image")
def read_stripes(root=None):
    labels = np.repeat(np.arange(6), 20)
    columns = torch.arange(16) // torch.as_tensor(labels + 1)[:, None] % 2 * 200
    noise = torch.as_tensor(np.random.default_rng(0).integers(0, 50, (120, 1, 16, 16)))
    images = (columns[:, None, None, :] + noise).to(torch.uint8)
    return ImageArrays("my_stripes", images, labels, [str(i) for i in range(6)])
"""
LISTS = {
    "--backbones": "my_pixels",
    "--learners": "my_protonet",
    "--datasets": "my_stripes",
    "--baselines": "my_norm",
}
REGISTRIES = (BACKBONES, LEARNERS, DATASETS, BASELINES, modality_base._FORMS)
STRIPES = ["--data.dataset=my_stripes", "--data.splits={train: ['0', '1'], val: ['2', '3'], test: ['4', '5']}"]


@pytest.fixture
def forget(tmp_path, monkeypatch):
    """Make the working directory an empty one, and undo what plug-ins registered: by this call, and at the end."""
    monkeypatch.chdir(tmp_path)
    path, entries = list(sys.path), [dict(registry._entries) for registry in REGISTRIES]

    def undo():
        for registry, before in zip(REGISTRIES, entries, strict=True):
            registry._entries = dict(before)
        sys.path[:] = path
        for name in [m for m in sys.modules if m.startswith("mine")]:
            del sys.modules[name]
        plugins.load_installed.cache_clear()

    plugins.load_installed()
    yield undo
    undo()


@pytest.fixture
def module(forget, tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    return "mine"


@pytest.mark.parametrize("kind", LISTS)
def test_every_list_has_what_a_module_registers(kind, module, capsys):
    assert main(["list", kind, "--import", module]) == 0
    assert LISTS[kind] in capsys.readouterr().out.split()


def test_a_baseline_has_a_card_and_a_modality_is_known(module, capsys):
    assert main(["info", "my_norm", "--import", module]) == 0
    assert "Length of a sample." in capsys.readouterr().out
    assert main(["list", "--baselines", "--modality", "receipts", "--import", module]) == 0
    assert "knn" in capsys.readouterr().out.split()


@pytest.mark.parametrize("option", [["--import", "nowhere"], ["--import", "broken"]])
def test_a_module_that_cannot_be_imported_is_named(option, forget, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("1 / 0")
    assert main(["list", *option]) == 1
    assert f"error: --import {option[1]}: " in capsys.readouterr().err
    with pytest.raises(SystemExit, match=f"error: --import {option[1]}: "):
        run([*option, *QUICKSTART])


def test_a_trained_plugin_is_adapted_only_where_its_module_is_imported(module, forget, tmp_path, capsys):
    own = ["--model.class_path=mine.Mine", "--model.backbone=my_pixels", "--trainer.max_steps=2", "--name=mine"]
    run(["--import", module, *QUICKSTART, *own, *SHORT])
    assert capsys.readouterr().out.rstrip().endswith("--out my_detector --import mine")
    (folder,) = (tmp_path / "runs" / "mine").iterdir()
    model = folder / "model"
    assert json.loads((model / "manifest.json").read_text())["plugins"] == ["mine"]
    (tmp_path / "good").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 255, (28, 28), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "good" / f"{i}.png")

    forget()
    (model / "mine.py").write_text("raise SystemExit('a module beside a checkpoint was imported')")
    with pytest.raises(MissingPluginError, match=r"needs the module mine, .*--import mine"):
        load_checkpoint(model)
    assert "mine" not in sys.modules
    adapt = ["adapt", str(folder), "--support", "good", "--out", "detector"]
    assert main(adapt) == 1
    assert "needs the module mine" in capsys.readouterr().err
    assert "mine" not in sys.modules

    assert main([*adapt, "--import", module]) == 0
    score = ["score", "detector", "--data", "good", "--out", "scores.csv", "--calibrate", "within", "--alpha", "0.5"]
    assert main([*score, "--import", module]) == 0
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 6


def test_a_data_set_of_a_module_is_trained_on_by_its_name(module, tmp_path):
    own = ["--trainer.max_steps=2", "--name=stripes"]
    run(["--import", module, *QUICKSTART, *STRIPES, *own, *SHORT])
    (folder,) = (tmp_path / "runs" / "stripes").iterdir()
    assert json.loads((folder / "results.json").read_text())["protocol"]["data"]["dataset"] == "my_stripes"
    seen = json.loads((folder / "model" / "manifest.json").read_text())["trained_on"]
    assert seen == [f"my_stripes/{i}" for i in range(4)]


def test_a_data_set_of_a_module_is_unknown_without_it(module):
    with pytest.raises(SystemExit, match="error: unknown image dataset 'my_stripes'"):
        run([*QUICKSTART, *STRIPES, *SHORT])


def test_a_modality_of_a_module_is_trained_on_adapted_and_scored(module, forget, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for kind in range(6):
        (tmp_path / "scans" / str(kind)).mkdir(parents=True)
        for i in range(10):
            np.save(tmp_path / "scans" / str(kind) / f"{i}.npy", rng.uniform(0, 0.2, (1, 8, 8)) + 0.1 * kind)
    learner = {"backbone": "my_pixels", "backbone_options": {"width": 4}}
    episode = {"support_normal": 4, "query_normal": 3, "query_anomalous": 3}
    data = {"modality": "scans", "root": "scans", "splits": [2, 2, 2], "episode": episode, "calibration_shots": [2]}
    sizes = ("episodes_per_epoch", "val_episodes", "calibration_episodes", "test_episodes")
    config = {
        "name": "scans",
        "model": {"class_path": "metaad_zoo.learners.PrototypicalNetwork", "init_args": learner},
        "data": {
            "class_path": "metaad_zoo.modality.ClassEpisodes",
            "init_args": {**data, **dict.fromkeys(sizes, 10)},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    }
    (tmp_path / "scans.yaml").write_text(yaml.safe_dump(config))
    run(["--import", module, "--config", "scans.yaml"])
    (folder,) = (tmp_path / "runs" / "scans").iterdir()
    assert json.loads((folder / "model" / "manifest.json").read_text())["plugins"] == ["mine"]

    forget()
    adapt = ["adapt", str(folder), "--support", "scans/0", "--out", "detector"]
    assert main(adapt) == 1
    assert "needs the module mine" in capsys.readouterr().err
    assert main([*adapt, "--import", module]) == 0
    score = ["score", "detector", "--data", "scans", "--out", "scores.csv", "--calibrate", "within", "--alpha", "0.5"]
    assert main([*score, "--import", module]) == 0
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 61


def install(folder, entry):
    """An installed package, as pip leaves it, with an entry point."""
    (folder / "mine-1.0.dist-info").mkdir()
    (folder / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (folder / "mine-1.0.dist-info" / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmine = {entry}\n")


def test_plugins_of_installed_packages_need_no_option(module, forget, tmp_path, monkeypatch):
    forget()
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, module)
    assert "my_pixels" in list_backbones()


def test_a_broken_installed_plugin_is_told_and_skipped(forget, tmp_path, monkeypatch):
    forget()
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "mine_missing")
    with pytest.warns(UserWarning, match="the plug-in mine = mine_missing can't be imported"):
        assert "conv4" in list_backbones()


def test_a_module_is_imported_once(module, tmp_path):
    import_plugins([module, module])
    assert "my_pixels" in BACKBONES

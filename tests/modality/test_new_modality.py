"""A new modality goes through training, adapt, score, explain, export and serve: `audio`, and one made up here."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packaging.version import Version
from scipy.io import wavfile

from metaad_zoo import export_detector, load_detector
from metaad_zoo.cli import main
from metaad_zoo.cli.train import run
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.read.rows import SampleSource
from metaad_zoo.evaluation.baselines import list_baselines
from metaad_zoo.experiment import recommend as recommending
from metaad_zoo.experiment.evaluate import evaluate
from metaad_zoo.export.files import load_exported
from metaad_zoo.modality import (
    ClassEpisodes,
    Modality,
    SampleForm,
    base,
    get_form,
    get_modality,
    list_modalities,
    register_modality,
)
from metaad_zoo.modality.drawing import Thumbnails
from metaad_zoo.registry import Registry

STEPS, SENSORS = 10, 3
NO_ONNX = Version(torch.__version__) < Version("2.14") or any(
    importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")
)
SERVED = importlib.util.find_spec("litserve") is not None


class Sniffs(SampleSource):
    """One ``.npy`` file a sniff."""

    def find(self, source):
        if isinstance(source, list):
            return source
        path = Path(source)
        files = sorted(path.rglob("*.npy") if self.below else path.glob("*.npy")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} holds no sniffs")
        return files

    def blocks(self):
        x = torch.from_numpy(np.stack([np.load(file) for file in self.files]).astype(np.float32))
        yield Chunk([str(file) for file in self.files], {self.name: x}, 1.0)


class Odour(Modality):
    """What an electronic nose has smelled: a row a step, a column a sensor."""

    name = "odour"
    title = "sniffs"
    axes = ("steps", "sensors")
    shape = (STEPS, SENSORS)
    scaling = "standard"
    read_as = "sequence"
    entry = "sensor"

    def data_module(self):
        return ClassEpisodes

    def source_class(self):
        return Sniffs

    def recognises(self, path, columns):
        return path.is_dir() and any(path.rglob("*.npy"))

    def usual(self, support):
        return support.nanmean(0, keepdim=True)

    def patches(self, shape):
        return torch.arange(shape[1]).expand(*shape)

    def thumbnails(self, support, query):
        return Thumbnails(support, query, lambda axes, sample: axes.plot(sample))

    def explanation_height(self, sample):
        return 2.0

    def draw_explanation(self, figure, sample, attribution, names):
        figure.subplots().bar(names, np.nansum(attribution, 0))


@pytest.fixture(scope="module", autouse=True)
def _odour():
    """Registers it for these tests alone."""
    forms: Registry[SampleForm] = Registry("modality")
    for name in list_modalities(several=True):
        forms.add(name, get_form(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_FORMS", forms)
        register_modality(Odour)
        yield


def write_recording(path, kind, rng):
    """Half a second of a tone whose pitch tells its class, in one of the usual kinds of WAV file."""
    rate = (8000, 16000, 22050)[int(rng.integers(3))]
    sound = 0.5 * np.sin(2 * np.pi * 200 * 1.4**kind * np.arange(rate // 2) / rate) + 0.01 * rng.normal(size=rate // 2)
    wavfile.write(path.with_suffix(".wav"), rate, (sound * 32767).astype(np.int16))


def write_sniff(path, kind, rng):
    np.save(path.with_suffix(".npy"), rng.normal(kind, 0.3, (STEPS, SENSORS)) * [1, -1, 0.5])


WRITERS = {"audio": write_recording, "odour": write_sniff}
MODELS = {"audio": ("conv4", {"width": 4}), "odour": ("gru", {"width": 6})}
SHAPES = {"audio": [1, 16, 16], "odour": [STEPS, SENSORS]}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def trained(request, tmp_path_factory):
    """Name of the modality, a folder of classes and a run that was trained on them."""
    name, root, rng = request.param, tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    for kind in range(6):
        folder = root / "classes" / f"kind{kind}"
        folder.mkdir(parents=True)
        for i in range(16):
            WRITERS[name](folder / f"{i}", kind, rng)
    (root / "few").mkdir()
    for i in range(5):
        WRITERS[name](root / "few" / f"{i}", 0, rng)
    backbone, options = MODELS[name]
    episode = {"support_normal": 4, "query_normal": 3, "query_anomalous": 3}
    data = {"modality": name, "root": str(root / "classes"), "splits": [2, 2, 2], "sample_shape": SHAPES[name]}
    sizes = {"episodes_per_epoch": 4, "val_episodes": 12, "calibration_episodes": 12, "test_episodes": 4}
    config = {
        "name": "new",
        "seed_everything": 0,
        "model": {
            "class_path": "metaad_zoo.learners.PrototypicalNetwork",
            "init_args": {"backbone": backbone, "backbone_options": options},
        },
        "data": {
            "class_path": "metaad_zoo.modality.ClassEpisodes",
            "init_args": {**data, **sizes, "tasks_per_batch": 2, "episode": episode, "calibration_shots": [2]},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    cli = run(["--config", str(root / "config.yaml"), "--runs", str(root / "runs")])
    return name, root, cli.run_dir


@pytest.fixture(scope="module")
def adapted(trained):
    name, root, run_dir = trained
    folder = root / "detector"
    line = ["adapt", str(run_dir), "--support", str(root / "classes" / "kind0"), "--out", str(folder)]
    assert main(line) == 0
    return name, root, folder


def test_training_tests_on_classes_never_seen_and_draws_an_episode(trained):
    name, _, run_dir = trained
    results = json.loads((run_dir / "results.json").read_text())
    assert "1-NN on raw inputs" in results["methods"]
    splits = results["protocol"]["data"]["splits"]
    assert sorted(n for names in splits.values() for n in names) == [f"kind{i}" for i in range(6)]
    assert (run_dir / "episode.png").stat().st_size > 2000
    assert load_detector(run_dir).input_shapes == {name: SHAPES[name]}


def test_files_are_scored_as_they_are_in_memory(adapted, tmp_path):
    name, root, folder = adapted
    assert main(["score", str(folder), "--data", str(root / "classes"), "--out", str(tmp_path / "s.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert len(rows) == 96
    detector = load_detector(folder)
    source = load_source(name, root / "classes" / "kind3")
    scores = detector.score(source)
    written = [float(row["score"]) for row in rows if "kind3" in row["sample"]]
    np.testing.assert_allclose(written, scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(detector.score(root / "classes" / "kind3"), scores, rtol=1e-4, atol=1e-5)
    if name == "odour":  # the untrained network tells means that are far apart
        assert np.median(written) > np.median([float(row["score"]) for row in rows if "kind0" in row["sample"]])


def load_source(name, folder):
    """Samples as a user has them in memory."""
    source = get_modality(name).source(folder, {name: SHAPES[name]})
    return torch.cat([chunk.samples[name] for chunk in source.blocks()]).numpy()


def test_scores_are_explained_and_drawn(adapted, tmp_path):
    name, root, folder = adapted
    line = ["explain", str(folder), "--data", str(root / "classes" / "kind5"), "--out", str(tmp_path / "out")]
    assert main(line) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 16
    with np.load(tmp_path / "out" / "explanations.npz") as archive:
        attribution = archive[f"attribution/{name}"]
    assert attribution.shape == (16, *SHAPES[name])
    assert np.abs(attribution).max() > 0


@pytest.mark.parametrize(
    "ending", ["pt2", pytest.param("onnx", marks=pytest.mark.skipif(NO_ONNX, reason="needs the extra export"))]
)
def test_an_exported_graph_scores_alike(adapted, tmp_path, ending):
    name, root, folder = adapted
    detector, x = load_detector(folder), load_source(name, root / "classes" / "kind2")
    export_detector(detector, tmp_path / f"graph.{ending}", calibrate="within", alpha=0.3)
    graph, about = load_exported(tmp_path / f"graph.{ending}")
    assert about.inputs == {name: SHAPES[name]}
    np.testing.assert_allclose(graph({name: x})["score"], detector.score(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not SERVED, reason="litserve is not installed")
def test_a_server_answers_with_the_detectors_scores(adapted):
    from metaad_zoo.serve import ScoringAPI, ServerSettings

    name, root, folder = adapted
    x = load_source(name, root / "classes" / "kind1")[:2]
    api = ScoringAPI(ServerSettings(folder, calibrate="within"))
    api.setup("cpu")
    batch = api.batch([api.decode_request({"samples": x.tolist()})])
    (answer,) = [api.encode_response(one) for one in api.unbatch(api.predict(batch))]
    np.testing.assert_allclose(json.loads(answer.body)["score"], load_detector(folder).score(x), atol=1e-5)


def test_baselines_and_models_are_evaluated_and_recommended_on_its_files(trained, monkeypatch):
    name, root, run_dir = trained
    monkeypatch.setattr(
        recommending, "NOT_TRIED", [b for b in list_baselines() if b != "knn"]
    )  # all take half a minute
    assert "knn" in list_baselines(modality=name)
    assert ("linear_ar" in list_baselines(modality=name)) == (name == "odour"), "as what it is read"
    results = evaluate(["knn"], root / "classes", episodes=30, shots=[5], alpha=0.2, modality=name)
    assert set(results["methods"]) == {"knn"}
    advice = recommending.recommend(root / "few", models=[str(run_dir)])
    tried = {c.name: c.reason for c in advice.candidates}
    assert len(tried) == 2
    assert set(tried.values()) == {None}, "the model reads them too"

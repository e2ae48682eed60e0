"""Every baseline as a detector: adapted, saved, read back, calibrated, explained and exported like a model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from packaging.version import Version
from sklearn.svm import OneClassSVM

import metaad_zoo as mz
from metaad_zoo.cli import main
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines, modalities_of
from metaad_zoo.export import ExportError, export_detector, load_exported
from metaad_zoo.learners import learner_class
from metaad_zoo.modality import get_modality, list_modalities
from metaad_zoo.zoo.defaults import defaults

FLOORS = ("flag_everything", "random")
TRACED = {"knn", "pile_knn", "experts", "mahalanobis", "ocsvm", "pca", "linear_ar", "pca_subwindows", "series_experts"}
UNSCALED = ("linear_ar", "pca_subwindows", "series_experts", "pile_knn", "experts")
"""Baselines without the option ``standardise``."""
PAIRS = [(name, modality) for name in list_baselines() for modality in modalities_of(name) if name not in FLOORS]


SMALLER = {"iforest": {"trees": 10}}
"""Options of a baseline that takes a fifth of a second for each sample that is left out of the support."""


def samples(modality, n=24, seed=0):
    shape = [3 if size == -1 else min(size, 40) for size in get_modality(modality).shape]
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


def small_baseline(name):
    return create_baseline(name, **SMALLER.get(name, {}))


def fitted(name, modality):
    x = {modality: torch.as_tensor(samples(modality))}
    shapes = {modality: list(x[modality].shape[1:])}
    return mz.load_detector(name, input_shapes=shapes, **SMALLER.get(name, {})).fit(
        {m: v[:12] for m, v in x.items()}
    ), x


@pytest.mark.parametrize(("name", "modality"), PAIRS)
def test_a_baseline_scores_as_a_detector_as_it_does_alone_and_after_loading(name, modality, tmp_path):
    detector, x = fitted(name, modality)
    alone = small_baseline(name).adapt({m: v[:12] for m, v in x.items()}, torch.zeros(12)).score(x)
    np.testing.assert_array_equal(detector.score(x), alone.double())
    detector.save(tmp_path)
    again = mz.load_detector(tmp_path)
    np.testing.assert_array_equal(again.score(x), detector.score(x))
    assert set(again.predict(x)) <= {0, 1}
    assert again.method == name


@pytest.mark.parametrize("name", sorted({name for name, _ in PAIRS}))
def test_the_manifest_holds_every_setting_also_the_defaults(name, tmp_path):
    detector, _ = fitted(name, modalities_of(name)[0])
    detector.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["learner"] == f"baseline/{name}"
    settings = {k: v for k, v in vars(small_baseline(name)).items() if k in manifest["arguments"]}
    assert settings == {k: v for k, v in manifest["arguments"].items() if k in settings}
    assert "standardise" in manifest["arguments"] or name in UNSCALED


@pytest.mark.parametrize("option", ["kk", "input_shape"])
def test_a_forged_manifest_with_an_unknown_setting_is_refused(option, tmp_path):
    fitted("knn", "tabular")[0].save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["arguments"][option] = 3
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(mz.CheckpointError, match="can't be built"):
        mz.load_detector(tmp_path)


@pytest.mark.parametrize(
    "name", sorted({n for n, m in PAIRS if m == "tabular"} | {"linear_ar", "pca_subwindows", "series_experts"})
)
def test_what_is_made_of_torch_operations_is_exported_and_the_rest_refused_by_name(name, tmp_path):
    modality = "tabular" if "tabular" in modalities_of(name) else "sequence"
    if name == "series_experts" and Version(torch.__version__) < Version("2.7"):
        pytest.skip("torch 2.6 can't trace a Fourier transform")
    detector, x = fitted(name, modality)
    if name not in TRACED:
        with pytest.raises(ExportError, match=rf"{name} has no operations that can be traced.*metaad serve"):
            export_detector(detector, tmp_path / "graph.pt2")
        return
    export_detector(detector, tmp_path / "graph.pt2")
    run, about = load_exported(tmp_path / "graph.pt2")
    outputs = run({modality: x[modality].numpy()})
    np.testing.assert_allclose(outputs["score"], detector.score(x), rtol=1e-4, atol=1e-5)
    assert about.calibrate == "within"
    assert np.array_equal(outputs["anomaly"], detector.predict(x))


def test_a_detector_of_a_float64_table_is_exported(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 4))
    path = tmp_path / "rows.csv"
    pd.DataFrame(rows, columns=list("abcd")).to_csv(path, index=False)
    export_detector(mz.load_detector("knn").fit(path), tmp_path / "graph.pt2")
    run, _ = load_exported(tmp_path / "graph.pt2")
    assert run({"tabular": rows.astype(np.float32)})["score"] == pytest.approx(0, abs=1e-5)


def test_the_one_class_boundary_in_torch_is_that_of_scikit_learn():
    x = torch.as_tensor(samples("tabular")).double()
    scorer = create_baseline("ocsvm", standardise="none").adapt({"tabular": x[:12]}, torch.zeros(12))
    reference = -OneClassSVM(nu=0.1, gamma="scale").fit(x[:12].numpy()).decision_function(x.numpy())
    np.testing.assert_allclose(scorer.score({"tabular": x}), reference, atol=1e-10)


def test_a_learner_of_a_baseline_is_not_listed_and_does_not_train():
    assert not any(name.startswith("baseline/") for name in mz.list_learners())
    learner = learner_class("baseline/pca")(input_shapes={"tabular": [-1]}, explained=0.5)
    assert learner.arguments()["explained"] == 0.5
    with pytest.raises(ValueError, match="pca trains nothing"):
        learner.outer_loss(None)
    with pytest.raises(ValueError, match="linear_ar reads sequence, not tabular"):
        learner_class("baseline/linear_ar")(input_shapes={"tabular": [-1]})


def test_every_default_names_a_detector_of_its_modality():
    assert {entry.modality for entry in defaults().values()} <= set(list_modalities())
    for name, entry in defaults().items():
        assert set(mz.load_detector(name).input_shapes) == {entry.modality}
        assert mz.load_detector(entry.modality).method == mz.load_detector(name).method


def test_adapt_takes_modalities_baselines_and_their_options(tmp_path, capsys):
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 3)), columns=list("abc"))
    rows.to_csv(tmp_path / "rows.csv", index=False)
    support = ["--support", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "detector")]
    assert main(["adapt", "table", *support]) == 0
    assert "the default for tabular samples is knn" in capsys.readouterr().err
    assert main(["adapt", "knn", "--option", "k=2", *support]) == 0
    assert mz.load_detector(tmp_path / "detector")._checkpoint.learner.arguments()["k"] == 2
    assert main(["adapt", "knn", "--option", "kk=2", *support]) == 1
    assert "did you mean 'k'?" in capsys.readouterr().err
    assert main(["adapt", "knn", "--backbone", "timm/resnet18", *support]) == 1
    assert "the baseline knn has no network: leave out backbone (--backbone)" in capsys.readouterr().err

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from packaging.version import Version

import metaad_zoo as mz
from metaad_zoo.cli import main
from metaad_zoo.detector import Detector
from metaad_zoo.export import ExportError, exporting, load_exported
from metaad_zoo.learners import PatchMetric
from metaad_zoo.zoo import Checkpoint
from tests.tiny import (
    EMBEDDING_LEARNERS,
    GRADIENT_LEARNERS,
    WITH_WEIGHTS,
    tiny_batch,
    tiny_embedding_learner,
    tiny_learner,
    tiny_patch_learner,
)

CALIBRATION = torch.linspace(-2, 2, 99)
QUICK = ("conv4", "gru:any", "columns", "fusion_gated")
"""One of each modality; the rest takes minutes: pytest -m slow tests/test_export.py"""
LATER = [x for x in (*GRADIENT_LEARNERS, *EMBEDDING_LEARNERS) if x not in ("maml", "in_context", "weighted_experts")]


@pytest.fixture(scope="module")
def _onnx():
    """ONNX's packages; torch.onnx reads its 1,500 translations once, and not anew for every export (a second)."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra export")
    if Version(torch.__version__) < Version("2.14"):
        pytest.skip("the extra export needs torch 2.14")
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


def patch_memory(name="patch_memory"):
    """A learner that compares patches, fitted on images of noise."""
    learner = tiny_patch_learner(name, "conv4")
    if isinstance(learner, PatchMetric):
        torch.nn.init.normal_(learner.change, std=0.05)
    return Detector(Checkpoint(learner.eval(), [], {"calibration": CALIBRATION})).fit(queries_of("conv4"))


def fitted(backbone, learner="maml", **inner_loop):
    """A detector on a support set, some of whose samples lack a modality if there are several."""
    tiny = tiny_embedding_learner if learner in EMBEDDING_LEARNERS else tiny_learner
    detector = Detector(Checkpoint(tiny(learner, backbone, **inner_loop).eval(), [], {"calibration": CALIBRATION}))
    return detector.fit({name: x.sigmoid() for name, x in support_of(backbone).items()})


def support_of(backbone):
    return {name: x[1] for name, x in tiny_batch(backbone, tasks=2, n_support=5).support.items()}


def queries_of(backbone, n=7):
    return {name: x[0].sigmoid() for name, x in tiny_batch(backbone, tasks=1, n_query=n).query.items()}


def require_equal(path, detector, samples, alpha=0.1):
    """That a file scores samples as the detector does, here by a comparison of its own."""
    run, about = load_exported(path)
    outputs = run({name: samples[name].numpy() for name in about.inputs})
    scores, p, decisions = detector.judge(samples, alpha=alpha)
    room = 1e-5 * max(1, np.abs(scores).max())
    np.testing.assert_allclose(outputs["score"], scores, atol=room, rtol=0)
    clear = np.abs(scores[:, None] - CALIBRATION.numpy()).min(1) > room
    np.testing.assert_allclose(outputs["p_value"][clear], p[clear], atol=1e-6)
    assert np.array_equal(outputs["anomaly"][clear], decisions[clear])


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize(
    "backbone",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WITH_WEIGHTS],
)
def test_every_backbone_scores_alike_in_onnxruntime(backbone, tmp_path):
    detector = fitted(backbone)
    about = mz.export_detector(detector, tmp_path / "d.onnx")
    assert about.inputs == {name: list(x.shape[1:]) for name, x in support_of(backbone).items()}
    for n in (1, 7):
        samples = {name: x[-n:] for name, x in queries_of(backbone).items()}
        require_equal(tmp_path / "d.onnx", detector, samples)


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize("learner", LATER)
def test_every_learner_scores_alike_in_onnxruntime(learner, tmp_path):
    detector = fitted("mlp", learner)
    mz.export_detector(detector, tmp_path / "d.onnx")
    require_equal(tmp_path / "d.onnx", detector, queries_of("mlp"))


@pytest.mark.usefixtures("_onnx")
def test_learners_that_keep_their_samples_score_alike_in_onnxruntime(tmp_path):
    """Distances to rows, and to patches."""
    queries = {"image": queries_of("conv4")["image"].flip(-1)}
    for detector, samples in (
        (fitted("raw_columns", "in_context"), queries_of("raw_columns")),
        (patch_memory(), queries),
        (patch_memory("patch_change"), queries),
        (patch_memory("patch_metric"), queries),
    ):
        mz.export_detector(detector, tmp_path / "d.onnx")
        require_equal(tmp_path / "d.onnx", detector, samples)


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize(
    ("learner", "kind"),
    [("in_context", "pt2"), ("knn", "pt2"), ("weighted_experts", "pt2"), ("weighted_experts", "onnx")],
)
def test_a_detector_with_unlabelled_samples_is_compared_on_some_of_them(learner, kind, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(260, 5)).astype(np.float32)
    detector = mz.load_detector("knn") if learner == "knn" else fitted("raw_columns", learner)
    detector.fit(rows[:10], unlabelled=rows[10:])
    compared = []
    probes = exporting._probes
    monkeypatch.setattr(exporting, "_probes", lambda x: compared.append(len(x["tabular"])) or probes(x))
    path = tmp_path / f"d.{kind}"
    mz.export_detector(detector, path, alpha=None)
    assert compared == [10 + exporting.PROBES]
    queries = rng.normal(size=(20, 5)).astype(np.float32)
    scores = load_exported(path)[0]({"tabular": queries})["score"]
    np.testing.assert_allclose(scores, detector.score(queries), atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("_onnx")
def test_what_onnx_has_no_word_for_is_told(tmp_path, monkeypatch):
    def no_word(*_, **__):
        raise RuntimeError("No ONNX function found for aten.cdist\nmore") from ValueError("no cdist\n and pages more")

    monkeypatch.setattr(torch.onnx, "export", no_word)
    with pytest.raises(ExportError, match=r"torch\.onnx can't translate this model: ValueError: no cdist$"):
        mz.export_detector(fitted("mlp"), tmp_path / "d.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "backbone",
    [
        "conv4",
        pytest.param(
            "tcn:any",
            marks=pytest.mark.skipif(
                Version(torch.__version__) < Version("2.7"), reason="torch 2.6 can't read promote_types, which it wrote"
            ),
        ),
        "columns",
        "fusion_gated",
        "raw_columns",
    ],
)
def test_torch_export_scores_alike(backbone, tmp_path):
    detector = fitted(backbone, "in_context" if backbone == "raw_columns" else "maml")
    mz.export_detector(detector, tmp_path / "d.pt2")
    require_equal(tmp_path / "d.pt2", detector, queries_of(backbone))


def test_a_memory_of_patches(tmp_path):
    detector = patch_memory()
    mz.export_detector(detector, tmp_path / "d.pt2")
    require_equal(tmp_path / "d.pt2", detector, {"image": queries_of("conv4")["image"].flip(-1)})


@pytest.mark.parametrize("policy", ["running", "per_step"])
def test_other_statistics_of_batch_normalisation(policy, tmp_path):
    learner = "maml_pp" if policy == "per_step" else "maml"
    detector = fitted("conv4", learner, batch_norm=policy)
    mz.export_detector(detector, tmp_path / "d.pt2")
    require_equal(tmp_path / "d.pt2", detector, queries_of("conv4"))


def test_missing_values_and_the_scaling_of_the_support_are_inside(table_model, tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(40, 6)) * [1, 10, 100, 1, 1, 1] + 5).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    rows[:10, 5] = np.nan  # a column of which the support set knows nothing
    detector = mz.load_detector(table_model).fit(rows[:10])
    mz.export_detector(detector, tmp_path / "d.pt2", alpha=0.2)
    scores = load_exported(tmp_path / "d.pt2")[0]({"tabular": rows})
    np.testing.assert_allclose(scores["score"], detector.score(rows), atol=1e-5)
    assert np.array_equal(scores["anomaly"], detector.predict(rows, alpha=0.2))


def test_what_a_file_says_of_itself(tmp_path):
    detector = fitted("mlp")
    about = mz.export_detector(detector, tmp_path / "d.pt2", alpha=0.2)
    detector.save(tmp_path / "kept")
    assert load_exported(tmp_path / "d.pt2")[1] == about
    assert about.threshold == detector.threshold(0.2)
    weights = (tmp_path / "kept" / "model.safetensors").read_bytes()
    assert about.checkpoint_sha256 == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("backbone", ["fusion_concat", "mlp", "gru"])
def test_a_sample_without_any_value_gets_no_score(backbone, tmp_path):
    detector = fitted(backbone)
    mz.export_detector(detector, tmp_path / "d.pt2")
    samples = {name: x.numpy().copy() for name, x in queries_of(backbone).items()}
    for x in samples.values():
        x[0] = np.nan
    scores = load_exported(tmp_path / "d.pt2")[0](samples)
    assert np.isnan(scores["score"]).tolist() == np.isnan(scores["p_value"]).tolist() == [True] + [False] * 6
    assert scores["anomaly"][0] == 0


def test_scores_alone_need_no_calibration(tmp_path):
    detector = Detector(Checkpoint(tiny_learner("maml", "mlp"), [], {})).fit(support_of("mlp"))
    with pytest.raises(RuntimeError, match="has no calibration"):
        mz.export_detector(detector, tmp_path / "d.pt2", calibrate="across")
    with pytest.raises(ValueError, match="5 calibration scores can't promise"):
        mz.export_detector(detector, tmp_path / "d.pt2")
    assert mz.export_detector(detector, tmp_path / "d.pt2", alpha=None).outputs == ["score"]
    scores = load_exported(tmp_path / "d.pt2")[0]({"tabular": queries_of("mlp")["tabular"].numpy()})
    np.testing.assert_allclose(scores["score"], detector.score(queries_of("mlp")), atol=1e-5)


def test_the_threshold_inside_may_come_from_the_support(tmp_path):
    detector = fitted("mlp")
    about = mz.export_detector(detector, tmp_path / "d.pt2", alpha=0.2, calibrate="within")
    assert about.calibrate == "within"
    assert about.threshold == pytest.approx(float(detector.normal_scores("within").max()), abs=1e-6)
    samples = queries_of("mlp")
    scores = load_exported(tmp_path / "d.pt2")[0]({"tabular": samples["tabular"].numpy()})
    np.testing.assert_allclose(scores["p_value"], detector.p_value(samples, "within"), atol=1e-6)
    assert np.array_equal(scores["anomaly"], detector.predict(samples, 0.2, "within"))
    with pytest.raises(ValueError, match="take alpha >= 1/6"):
        mz.export_detector(detector, tmp_path / "d.pt2", calibrate="within")
    with pytest.raises(ValueError, match="within"):
        mz.export_detector(detector, tmp_path / "d.pt2", calibrate="contamination")


def test_a_graph_that_scores_otherwise_is_not_kept(tmp_path, monkeypatch):
    detector = fitted("mlp")
    honest = exporting.DetectorGraph

    def forged(*given):
        graph = honest(*given)
        score = graph._score
        graph._score = lambda samples: score(samples) + 1e-3
        return graph

    monkeypatch.setattr(exporting, "DetectorGraph", forged)
    with pytest.raises(ExportError, match=r"scores the support set otherwise .* by up to 0\.001"):
        mz.export_detector(detector, tmp_path / "d.pt2")
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path):
    with pytest.raises(RuntimeError, match="not fitted"):
        mz.export_detector(Detector(Checkpoint(tiny_learner("maml", "mlp"), [], {})), tmp_path / "d.pt2")
    with pytest.raises(ExportError, match="batch_norm='transductive' lets a score depend"):
        mz.export_detector(fitted("conv4", batch_norm="transductive"), tmp_path / "d.pt2")
    with pytest.raises(ValueError, match=r"export format.*'onx'.*onnx"):
        mz.export_detector(fitted("mlp"), tmp_path / "d.onx")
    with pytest.raises(ValueError, match=r"can't promise 0\.001"):
        mz.export_detector(fitted("mlp"), tmp_path / "d.pt2", alpha=0.001)
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), tmp_path / "other.pt2")
    with pytest.raises(ExportError, match="was not written by `metaad export`"):
        load_exported(tmp_path / "other.pt2")


def test_the_command(tmp_path, capsys):
    fitted("mlp").save(tmp_path / "mine")
    out = tmp_path / "d.pt2"
    assert main(["export", str(tmp_path / "mine"), "--out", str(out), "--alpha", "0.2"]) == 0
    assert "d.pt2: tabular (n, 5) -> score, p_value, anomaly" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "mine"), "--out", str(out), "--scores-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["score"]
    fitted("conv4", batch_norm="transductive").save(tmp_path / "loose")
    assert main(["export", str(tmp_path / "loose"), "--out", str(tmp_path / "no.pt2")]) == 1
    assert "batch_norm='transductive'" in capsys.readouterr().err
    assert not (tmp_path / "no.pt2").exists()


def test_an_exported_file_needs_nothing_of_this_package(tmp_path):
    detector = fitted("mlp")
    mz.export_detector(detector, tmp_path / "d.pt2")
    code = (
        f"import sys, torch; y = torch.export.load({str(tmp_path / 'd.pt2')!r}).module()(torch.ones(4, 5));"
        "assert 'metaad_zoo' not in sys.modules; print(y[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), detector.score(np.ones((4, 5), np.float32)), atol=1e-5)

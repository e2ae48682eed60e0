"""`metaad evaluate`: the same episodes for all, figures that can be computed again, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import yaml
from pyarrow import parquet

from metaad_zoo.cli import main
from metaad_zoo.data.read.account import Account
from metaad_zoo.evaluation.baselines import OnNetwork, create_baseline, list_baselines
from metaad_zoo.evaluation.html_report import write_report
from metaad_zoo.evaluation.plots import episode_figure
from metaad_zoo.evaluation.protocol import interval, summarise
from metaad_zoo.evaluation.scores import figures_from_scores
from metaad_zoo.experiment import curves, evaluate
from metaad_zoo.experiment.curves import auroc_by_task
from metaad_zoo.experiment.methods import data_of_config, describe_methods, guessed_modality
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.zoo import Checkpoint, load_checkpoint, save_checkpoint
from tests.cli.test_configs import write_rows
from tests.conftest import SPLITS, small_learner


@pytest.fixture(autouse=True)
def _short_curves(monkeypatch):
    monkeypatch.setattr(curves, "CURVE_EPISODES", 24)


@pytest.fixture
def place(tmp_path):
    save_checkpoint(
        tmp_path / "model", Checkpoint(small_learner(), ["digits/0"], {"calibration": torch.linspace(-3, 3, 99)})
    )
    data = {
        "class_path": "metaad_zoo.data.ImageEpisodes",
        "init_args": {
            "splits": SPLITS,
            "image_size": 16,
            "val_episodes": 4,
            "episode": {"support_normal": 3, "query_normal": 4, "query_anomalous": 4},
        },
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"name": "small", "data": data}))
    return tmp_path


def run(place, *arguments):
    return main(["evaluate", *arguments, "--out", str(place / "out")])


@pytest.mark.parametrize("calibrate", ["across", "within"])
def test_models_and_baselines_see_the_same_episodes(place, calibrate, capsys):
    methods = [str(place / "model"), "knn", "flag_everything"]
    options = ["--data", str(place / "data.yaml"), "--episodes", "12", "--shots", "3", "2", "--calibrate", calibrate]
    assert run(place, *methods, *options, "--alpha", "0.3") == 0
    results = json.loads((place / "out" / "results.json").read_text())
    model = f"{place.name}/model"
    assert list(results["methods"]) == [model, "knn", "flag_everything"]
    assert "knn" in capsys.readouterr().out
    again = figures_from_scores(place / "out" / "scores.parquet")
    for name, figures in results["methods"].items():
        assert summarise(again[name])["mean"] == figures["mean"]
    table = parquet.read_table(place / "out" / "scores.parquet").to_pydict()
    by_method = {n: [x for x, m in zip(table["label"], table["method"], strict=True) if m == n] for n in again}
    assert by_method[model] == by_method["knn"] == by_method["flag_everything"]
    flagged = np.array(table["p_value"]) <= 0.3 + 1e-9
    assert np.array_equal(flagged, np.array(table["decision"]) == 1)
    calibration = results["calibration"]
    assert calibration["alphas"] == ([0.1, 0.2, 0.3] if calibrate == "across" else [0.3]), "none below what is promised"
    assert list(calibration["methods"]) == [model, "knn"], "flagging everything promises nothing"
    for name, line in calibration["methods"].items():
        mean = results["methods"][name]["mean"]
        assert [line["fpr"][-1], line["power"][-1]] == pytest.approx([mean["fpr"], mean["recall"]])
    curve = results["curves"]["shots"]
    assert curve["values"] == [2, 3]
    assert len(curve["methods"]["knn"]["mean"]) == 2
    assert {"best.png", "worst.svg"} <= {p.name for p in (place / "out").iterdir()}
    protocol = results["protocol"]
    assert protocol["episode"]["support_normal"] == 3
    assert protocol["trained_or_chosen_on"] == {model: ["digits/0"]}
    assert protocol["methods"][model]["inner_loop"]["batch_norm"] == "support"
    assert protocol["batch_norm"] == {model: "support"}
    assert protocol["query_ratio"] == "4 normal : 4 anomalous"
    assert protocol["realised_contamination"] == 0.0


def test_unlabelled_samples_with_a_share_of_anomalies_join_every_support(place, capsys):
    options = ["--data", str(place / "data.yaml"), "--episodes", "12", "--unlabelled", "60", "--contamination", "0.1"]
    assert run(place, str(place / "model"), "knn", *options, "--shots", "3", "2") == 0
    results = json.loads((place / "out" / "results.json").read_text())
    protocol = results["protocol"]
    assert (protocol["episode"]["support_unlabelled"], protocol["realised_contamination"]) == (60, 0.1)
    assert protocol["weigh_unlabelled"] == {f"{place.name}/model": False, "knn": False}
    assert protocol["episode"]["support_normal"] == 3
    data = data_of_config(place / "data.yaml")
    data.test_episode = replace(data.test_episode, support_unlabelled=60, contamination=0.1)
    episodes = list(data.episodes("test", 12))
    assert int((episodes[0].support_labels == -1).sum()) == 60
    by_task = auroc_by_task(create_baseline("knn"), episodes)
    assert results["methods"]["knn"]["mean"]["auroc"] == pytest.approx(by_task.mean())
    assert len(results["curves"]["shots"]["methods"]["knn"]["mean"]) == 2


def test_a_range_of_contamination_is_drawn_for_each_episode_of_one_table(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(400, 2)), np.arange(400) % 3 == 0])
    write_rows(tmp_path / "one.csv", rows, ["x", "y", "anomaly"])
    options = ["--data", str(tmp_path / "one.csv"), "--modality", "table", "--episodes", "5", "--alpha", "0.3"]
    assert run(tmp_path, "knn", *options, "--unlabelled", "100", "--contamination", "0", "0.3") == 0
    protocol = json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]
    assert protocol["episode"]["contamination"] == protocol["realised_contamination"] == [0.0, 0.3]
    capsys.readouterr()
    assert run(tmp_path, "knn", *options, "--unlabelled", "9000") == 1
    assert "one has 266 normal samples but an episode draws" in capsys.readouterr().err
    assert run(tmp_path, "knn", *options, "--contamination", "0.1") == 1
    assert "set unlabelled (--unlabelled) to their number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path, "knn", *options, "--unlabelled", "10", "--contamination", "0", "0.1", "0.2")


def test_auroc_against_inner_steps(place, capsys):
    options = ["--data", str(place / "data.yaml"), "--episodes", "12"]
    assert run(place, str(place / "model"), "knn", *options, "--inner-steps", "0", "2", "5") == 0
    results = json.loads((place / "out" / "results.json").read_text())
    curve, model = results["curves"]["inner_steps"], f"{place.name}/model"
    assert curve["values"] == [0, 2, 5]
    assert list(curve["methods"]) == [model], "nearest neighbours take no steps"
    assert curve["trained_with"] == {model: 2}
    data = data_of_config(place / "data.yaml")
    expected = auroc_by_task(load_checkpoint(place / "model").learner, list(data.episodes("test", 24))).mean()
    line = curve["methods"][model]
    assert line["mean"][1] == pytest.approx(expected), "the number it was trained with changes nothing"
    assert len({*line["mean"]}) == 3
    assert all(low <= mean <= high for mean, (low, high) in zip(line["mean"], line["ci95"], strict=True))
    assert "AUROC against inner steps" in write_report(place / "out").page.read_text()


def test_a_model_that_normalises_over_queries_needs_a_flag(place, capsys):
    save_checkpoint(place / "model", Checkpoint(small_learner(batch_norm="transductive"), [], {}))
    arguments = [str(place / "model"), "--data", str(place / "data.yaml"), "--episodes", "12"]
    assert run(place, *arguments) == 1
    assert "normalises over the queries (batch_norm=transductive)" in capsys.readouterr().err
    assert run(place, *arguments, "--allow-transductive") == 0
    results = json.loads((place / "out" / "results.json").read_text())
    assert results["protocol"]["batch_norm"] == {f"{place.name}/model": "transductive"}


def test_own_files_are_evaluated_without_a_config(tmp_path, capsys):
    learner = GradientLearner("columns", {"width": 4}, {"tabular": [-1]}, InnerLoopConfig(steps=1))
    save_checkpoint(tmp_path / "model", Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)}))
    (tmp_path / "tables").mkdir()
    rng = np.random.default_rng(0)
    for name in "abcde":
        rows = np.column_stack([rng.normal(size=(60, 3)), np.arange(60) % 3 == 0])
        write_rows(tmp_path / "tables" / f"{name}.csv", rows, ["x", "y", "z", "anomaly"])
    arguments = [str(tmp_path / "model"), "ecod", "--data", str(tmp_path / "tables"), "--episodes", "5"]
    arguments += ["--shots", "4", "--alpha", "0.3"]
    assert run(tmp_path, *arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {t["task"] for t in results["methods"]["ecod"]["tasks"]} == {*"abcde"}
    assert {"best.png", "worst.svg"} <= {p.name for p in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert run(tmp_path, "ecod", *arguments[2:], "--modality", "tabular") == 0
    notes = capsys.readouterr().err
    assert "read as tabular" not in notes
    assert [line for line in notes.splitlines() if "as the label" in line] == [
        "note: a.csv and 4 more files: 'anomaly' read as the label, 0 normal and 1 anomalous (--label, --ignore or "
        "--columns say otherwise)"
    ]
    alone = json.loads((tmp_path / "out" / "results.json").read_text())
    assert alone["methods"]["ecod"]["mean"] == results["methods"]["ecod"]["mean"]
    assert run(tmp_path, *arguments, "--calibrate", "across") == 1
    assert "calibrate (--calibrate) is 'across', which needs validation tasks" in capsys.readouterr().err


def test_baselines_alone_guess_the_modality_of_files_and_say_so(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(200, 2)), np.arange(200) % 3 == 0])
    write_rows(tmp_path / "one.csv", rows, ["x", "y", "anomaly"])
    for folder in ("series", "short"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        write_rows(tmp_path / "series" / f"{name}.csv", rows, ["x", "y", "anomaly"])
    options = ["--episodes", "5", "--shots", "3", "--alpha", "0.3", "--json"]
    assert run(tmp_path, "ecod", "pca", "--data", str(tmp_path / "one.csv"), *options) == 0
    output = capsys.readouterr()
    sentence = "one.csv: read as tabular samples; for sequence samples add --modality sequence"
    assert f"note: {sentence}" in output.err
    assert sentence in json.loads(output.out)["protocol"]["account"]
    account = Account()
    assert guessed_modality(["ecod", "pca"], tmp_path / "series", account) == "sequence"
    assert list(account) == ["series: read as sequence samples; for tabular samples add --modality tabular"]
    assert guessed_modality(["pca_subwindows", "pca"], tmp_path / "one.csv", Account()) == "sequence"
    write_rows(tmp_path / "short" / "a.csv", rows[:20], ["x", "y", "anomaly"])
    assert run(tmp_path, "ecod", "--data", str(tmp_path / "short"), "--episodes", "5") == 1
    assert "; short: read as sequence samples; for tabular samples add" in capsys.readouterr().err
    np.savez(tmp_path / "rows.npz", X=rows[:, :2], y=rows[:, 2])
    assert run(tmp_path, "ecod", "--data", str(tmp_path / "rows.npz")) == 1
    assert "set modality (--modality) to one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["knnn", "--data", "data.yaml"], "unknown method .*'knnn'; did you mean 'knn'"),
        (["knn", "knn", "--data", "data.yaml"], "two methods have one name"),
        (["knn@nothing", "--data", "data.yaml"], "unknown method .*'nothing'"),
        (["knn@ecod", "--data", "data.yaml"], "unknown method .*'ecod'"),
        (["knn", "--data", "nowhere", "--modality", "imgae"], "unknown modality 'imgae'; did you mean 'image'"),
        (
            ["knn", "--data", "nowhere"],
            r"data \(--data\) nowhere does not exist",
        ),
        (["model", "--data", "nowhere", "--modality", "image"], "the model decides"),
        (["knn", "--data", "data.yaml", "--modality", "image"], r"modality \(--modality\) image is for your own files"),
        (
            ["knn", "--data", "data.yaml", "--seed", "3"],
            r"seed \(--seed\) 3 is for your own files; data\.yaml has its own",
        ),
        (
            ["knn", "--data", "data.yaml", "--episodes", "0"],
            r"episodes \(--episodes\) is 0, and data.yaml has 12 test tasks: .* 12",
        ),
        (["knn", "--data", "data.yaml", "--episodes", "6"], "give at least 12, so that each task is tested"),
        (
            ["knn", "--data", "data.yaml", "--alpha", "2"],
            r"alpha \(--alpha\) is 2.0; expected a false-alarm rate between 0 and 1",
        ),
        (["knn", "--data", "data.yaml", "--alpha", "0.01"], "by 16 normal samples of the validation episodes no rate"),
        (["knn", "--data", "nowhere.yaml"], r"nowhere\.yaml does not exist"),
        (["lof", "--data", "data.yaml", "--shots", "3", "1"], "K=1|two|at least 2"),
        (["knn", "--data", "data.yaml", "--inner-steps", "1"], "none of .'knn'. does"),
        (["model", "--data", "data.yaml", "--inner-steps", "-1"], r"inner-steps\) -1 for .*expected whole steps >= 0"),
        (["knn", "--data", "data.yaml", "--calibrate", "within"], "no rate below 0.250 can be held"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(place, arguments, complaint, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert run(place, *arguments) == 1
    assert re.search(complaint, capsys.readouterr().err)
    assert not (place / "out").exists()


@pytest.mark.parametrize("method", ["{}", "knn@{}"])
def test_a_model_that_has_seen_the_test_classes_is_refused(place, method, capsys):
    save_checkpoint(place / "model", Checkpoint(small_learner(), ["digits/7"], {}))
    assert run(place, method.format(place / "model"), "--data", str(place / "data.yaml")) == 1
    assert "trained or chosen on ['digits/7'], which are in the test split" in capsys.readouterr().err


def test_thresholds_are_not_chosen_on_test_labels(place, capsys):
    with pytest.raises(SystemExit):
        run(place, "knn", "--data", str(place / "data.yaml"), "--calibrate", "test")
    assert "never chosen on test labels" in capsys.readouterr().err


def test_baselines_work_on_the_embedding_of_a_model(place, capsys):
    model = place / "model"
    options = ["--data", str(place / "data.yaml"), "--episodes", "12"]
    assert run(place, f"mahalanobis@{model}", "knn", *options) == 0
    results = json.loads((place / "out" / "results.json").read_text())
    name = f"mahalanobis@{place.name}/model"
    assert list(results["methods"]) == [name, "knn"]
    method = OnNetwork(create_baseline("mahalanobis", standardise="none"), load_checkpoint(model).learner.network)
    expected = auroc_by_task(method, list(data_of_config(place / "data.yaml").episodes("test", 12)))
    assert results["methods"][name]["mean"]["auroc"] == pytest.approx(expected.mean())
    assert results["methods"]["knn"]["mean"]["auroc"] != pytest.approx(expected.mean())
    protocol = results["protocol"]
    assert protocol["batch_norm"] == {name: "support"}
    assert protocol["trained_or_chosen_on"] == {name: ["digits/0"]}
    assert protocol["methods"][name]["baseline"] == {"standardise": "none"}
    assert protocol["methods"][name]["on_the_embedding_of"]["backbone"] == "conv4"


@pytest.mark.parametrize("name", [*list_baselines(), *(["pyod/KNN"] if find_spec("pyod") else [])])
def test_settings_of_every_baseline_can_be_written(name):
    settings = describe_methods({name: create_baseline(name)}, {})[name]
    assert json.loads(json.dumps(settings)) == settings
    assert not [key for key in settings if key.startswith("_")]


@pytest.mark.parametrize(("calibrate", "cut"), [("across", True), ("within", False)])
def test_pictures_show_the_threshold_that_decided(place, calibrate, cut, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        evaluate, "episode_figure", lambda *args: drawn.append((args, episode_figure(*args))) or drawn[-1][1]
    )
    options = ["--data", str(place / "data.yaml"), "--episodes", "12", "--alpha", "0.3", "--calibrate", calibrate]
    assert run(place, "knn", *options) == 0
    threshold = json.loads((place / "out" / "results.json").read_text())["methods"]["knn"]["threshold"]
    assert len(drawn) == 2
    for (_, scores, shown, flagged), figure in drawn:
        assert (shown is None) == (not cut)
        title = figure.subfigs[1].get_suptitle()
        assert ("threshold" in title) == cut
        if cut:
            assert shown == threshold
            assert torch.equal(flagged, scores > threshold)


def test_too_few_tasks_have_intervals_over_draws_of_the_support(place, capsys):
    config = yaml.safe_load((place / "data.yaml").read_text())
    config["data"]["init_args"]["splits"] = {"train": ["0", "1"], "val": ["4", "5"], "test": ["6", "7"]}
    (place / "data.yaml").write_text(yaml.safe_dump(config))
    assert run(place, "knn", "--data", str(place / "data.yaml"), "--episodes", "9") == 1
    assert "give at least 10, so that an interval over draws of the support is possible" in capsys.readouterr().err
    assert run(place, "knn", "pca", "--data", str(place / "data.yaml"), "--episodes", "20") == 0
    assert "intervals over draws of the support" in " ".join(capsys.readouterr().out.split())
    results = json.loads((place / "out" / "results.json").read_text())
    assert "draws of the support" in results["protocol"]["intervals"]
    draws = {name: [draw["auroc"] for draw in method["draws"]] for name, method in results["methods"].items()}
    assert len(draws["knn"]) == 10
    assert results["methods"]["knn"]["ci95"]["auroc"] == interval(np.array(draws["knn"]))
    behind = results["methods"]["pca"]["auroc_behind_first"]
    assert behind["mean"] == pytest.approx(np.mean(draws["knn"]) - np.mean(draws["pca"]))
    assert behind["ci95"] == interval(np.array(draws["knn"]) - np.array(draws["pca"]))


def test_a_model_of_other_data_is_refused(place, capsys):
    learner = GradientLearner("mlp", {}, {"tabular": [3]}, InnerLoopConfig(steps=1))
    save_checkpoint(place / "model", Checkpoint(learner, [], {}))
    assert run(place, str(place / "model"), "--data", str(place / "data.yaml")) == 1
    assert "reads {'tabular': [3]}, but the data gives {'image': (1, 16, 16)}" in capsys.readouterr().err


def test_more_shots_keep_the_split_and_leave_out_who_is_too_small(tmp_path):
    (tmp_path / "tables").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        n = 40 if i % 4 == 0 else 80
        rows = np.column_stack([rng.normal(size=(n, 2)), np.arange(n) % 4 == 0])
        write_rows(tmp_path / "tables" / f"t{i}.csv", rows, ["x", "y", "anomaly"])
    spec = {"support_normal": 5, "query_normal": 5, "query_anomalous": 5}
    init = {"dataset": "own", "root": str(tmp_path / "tables"), "splits": [0, 1, 11], "episode": spec}
    config = {"data": {"class_path": "metaad_zoo.data.TabularEpisodes", "init_args": init}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    arguments = ["knn", "--data", str(tmp_path / "data.yaml"), "--episodes", "12", "--calibrate", "within"]
    runs = []
    for shots in ("15", "40"):
        assert run(tmp_path, *arguments, "--shots", shots) == 0
        runs.append(json.loads((tmp_path / "out" / "results.json").read_text()))
    few, many = ({t["task"] for t in r["methods"]["knn"]["tasks"]} for r in runs)
    assert len(few) == runs[0]["protocol"]["tasks"] == 11
    assert many == few - {"t0", "t4", "t8"}
    too_small = [r["protocol"]["too_small_for_so_many_shots"] for r in runs]
    assert too_small[0] == []
    assert {"test: " + name for name in few - many} <= {sentence.split(" has ")[0] for sentence in too_small[1]}

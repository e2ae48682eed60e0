"""Whole series point by point: figures against scikit-learn, a known rule, and one support for all methods."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from pyarrow import parquet
from sklearn.metrics import average_precision_score, roc_auc_score

from metaad_zoo.cli import main
from metaad_zoo.data import SequenceEpisodes
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation.html_report import write_report
from metaad_zoo.evaluation.protocol import summarise, within_tasks
from metaad_zoo.evaluation.scores import figures_from_scores
from metaad_zoo.evaluation.series_metrics import range_precision, range_recall, vus_pr, vus_roc
from metaad_zoo.evaluation.series_protocol import evaluate_points

LEAST = EpisodeSpec(support_normal=1, query_normal=1, query_anomalous=1)
LENGTH, SHIFT = 200, 5.0


@pytest.fixture
def folder(tmp_path):
    """Six files of noise that sit at SHIFT within their anomalies; the first 30 % are normal."""
    (tmp_path / "series").mkdir()
    for i in range(6):
        rng = np.random.default_rng(i)
        labels = np.zeros(LENGTH, int)
        labels[90 + 10 * i : 100 + 12 * i] = 1
        values = rng.normal(size=(LENGTH, 2)) + SHIFT * labels[:, None]
        rows = [f"{a:.6f},{b:.6f},{label}" for (a, b), label in zip(values, labels, strict=True)]
        (tmp_path / "series" / f"{i}.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    return tmp_path


def data(folder, **given):
    options = {"window": 8, "stride": 2, "episode": LEAST} | given
    return SequenceEpisodes("own", str(folder / "series"), {"test": ["*"]}, **options)


class Mean:
    """A known rule: a window's score is the mean of its values. Remembers what it was adapted to."""

    def __init__(self):
        self.seen = []

    def adapt(self, support, support_labels):
        assert not support_labels.any()
        self.seen.append(support["sequence"])
        return self

    def score(self, samples):
        return samples["sequence"].mean((1, 2))


def test_a_method_that_gives_no_number_is_refused(folder):
    class Broken(Mean):
        def score(self, samples):
            scores = super().score(samples)
            scores[0] = torch.nan
            return scores

    with pytest.raises(ValueError, match=r"^\d: 1 windows score NaN; expected numbers"):
        evaluate_points({"broken": Broken()}, data(folder).labelled_series(1), shots=4, draws=1, buffer=3)


def test_a_known_rule_gets_the_figures_of_its_scores_and_all_methods_one_support(folder):
    series = data(folder).labelled_series(stride=1)
    rule, other, rows = Mean(), Mean(), []
    figures = evaluate_points({"rule": rule, "other": other}, series, shots=4, draws=2, buffer=3, record=rows.append)
    assert len(rule.seen) == 12
    assert all(np.array_equal(a, b) for a, b in zip(rule.seen, other.seen, strict=True))
    assert not np.array_equal(rule.seen[0], rule.seen[1])
    for one, task in zip(series, figures["rule"]["tasks"], strict=True):
        table = np.loadtxt(folder / "series" / f"{one.name.rpartition('/')[2]}.csv", delimiter=",", skiprows=1)
        until = round(0.3 * LENGTH)
        later, labels = table[until:, :2].mean(1), table[until:, 2].astype(int)
        windows = np.convolve(later, np.ones(8) / 8, mode="valid")  # and a point's score is the mean of its windows
        scores = np.array([windows[max(0, t - 7) : t + 1].mean() for t in range(len(later))])
        expected = {
            "auroc": roc_auc_score(labels, scores),
            "ap": average_precision_score(labels, scores),
            "pauroc": roc_auc_score(labels, scores, max_fpr=0.1),
            "vus_pr": vus_pr(scores, labels, 3),
            "vus_roc": vus_roc(scores, labels, 3),
        }
        assert {m: task[m] for m in expected} == pytest.approx(expected, abs=1e-4)
        assert task["episodes"] == 2
    assert figures["other"]["vus_pr_behind_first"]["mean"] == 0
    assert len(rows) == 24


def test_seconds_are_those_of_one_adaptation_and_scoring(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow(Mean):
        def adapt(self, support, support_labels):
            now[0] += 5.0
            return super().adapt(support, support_labels)

    series, ticks = data(folder).labelled_series(stride=1), []
    figures = evaluate_points(
        {"slow": Slow(), "quick": Mean()}, series, shots=4, draws=2, buffer=3, tick=lambda: ticks.append(None)
    )
    assert [figures[name]["seconds_per_task"] for name in ("slow", "quick")] == [5.0, 0.0]
    assert len(ticks) == 12, "one a draw of a series"
    for tasks, draws in (([], 1), (series, 0)):
        with pytest.raises(ValueError, match=f"saw {len(tasks)} series and {draws} draws"):
            evaluate_points({"quick": Mean()}, tasks, shots=4, draws=draws, buffer=3)


def test_support_windows_share_no_point_with_what_is_scored(folder):
    series = data(folder).labelled_series(stride=1)[0]
    assert len(series.values) == len(series.labels) == 140
    assert series.reader.starts[series.support].max() + series.window <= LENGTH - 140
    assert len(series.first(50).values) == 50


def test_the_command_writes_figures_and_every_point(folder, capsys):
    arguments = ["--data", str(folder / "series"), "--out", str(folder / "out"), "--points", "--longest", "130"]
    # windows of 64 steps, as usual for own files, don't fit the 60 steps before what is tested
    assert main(["evaluate", "knn", *arguments]) == 1
    assert "0 series that can be tested on 50 windows" in (error := capsys.readouterr().err) or "large enough" in error
    init = {"dataset": "own", "root": str(folder / "series"), "splits": {"test": ["*"]}, "window": 8, "stride": 2}
    spec = {"support_normal": 1, "query_normal": 1, "query_anomalous": 1}
    config = {"data": {"class_path": "metaad_zoo.data.SequenceEpisodes", "init_args": init | {"episode": spec}}}
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    arguments[1] = str(folder / "data.yaml")
    assert main(["evaluate", "knn", "linear_ar", *arguments, "--shots", "20", "--draws", "2"]) == 0
    assert "VUS-PR" in capsys.readouterr().out
    results = json.loads((folder / "out" / "results.json").read_text())
    rows = parquet.read_table(folder / "out" / "scores.parquet")
    assert len(rows) == 2 * 2 * 6 * 130
    method_of, task_of, episode, label, score = (
        rows[name].to_numpy() for name in ("method", "task", "episode", "label", "score")
    )
    for method, figures in results["methods"].items():
        for task in figures["tasks"]:
            mask = (method_of == method) & (task_of == task["task"])
            draws = [
                roc_auc_score(label[d], score[d]) for e in np.unique(episode[mask]) for d in [mask & (episode == e)]
            ]
            assert len(draws) == 2
            assert np.mean(draws) == pytest.approx(task["auroc"], abs=1e-6)
    assert results["protocol"]["points"] == 6 * 130
    assert "without point adjustment" in results["protocol"]["judged"]
    assert results["methods"]["knn"]["mean"]["auroc"] > 0.9
    again = figures_from_scores(folder / "out" / "scores.parquet")["knn"]
    assert set(next(iter(again.values()))[0]) == {"auroc", "ap", "pauroc"}, "nothing is said of decisions not made"
    page = write_report(folder / "out").page.read_text()
    assert "no threshold was set" in page
    assert "VUS-PR" in page


def test_points_are_flagged_by_the_support_windows_and_judged_range_by_range(folder):
    """A point's p-value sets its score beside those of the support windows, each left out once; seen by hand."""
    series, rows = data(folder).labelled_series(stride=1), []
    figures = evaluate_points(
        {"rule": Mean()}, series, 19, 1, 3, calibrators=within_tasks({"rule": Mean()}), alpha=0.1, record=rows.append
    )
    for i, (one, row, task) in enumerate(zip(series, rows, figures["rule"]["tasks"], strict=True)):
        support = one.draw_support(19, np.random.default_rng([0, i, 0]))["sequence"].mean((1, 2)).double().numpy()
        scores = row.scores.numpy()
        flagged = scores > np.sort(support)[-2]  # at most one of 19 lies at or above: p <= 2 / 20
        assert np.array_equal(row.flagged.numpy(), flagged)
        assert task["recall"] == pytest.approx(flagged[one.labels == 1].mean())
        assert task["fpr"] == pytest.approx(flagged[one.labels == 0].mean())
        precision, recall = range_precision(flagged, one.labels), range_recall(flagged, one.labels)
        assert (task["range_precision"], task["range_recall"]) == (precision, recall)
        assert task["range_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert figures["rule"]["mean"]["range_recall"] > 0.5


def test_decisions_about_points_are_kept_and_reported(folder, capsys):
    init = {"dataset": "own", "root": str(folder / "series"), "splits": {"test": ["*"]}, "window": 8, "stride": 2}
    spec = {"support_normal": 1, "query_normal": 1, "query_anomalous": 1}
    config = {"data": {"class_path": "metaad_zoo.data.SequenceEpisodes", "init_args": init | {"episode": spec}}}
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--data", str(folder / "data.yaml"), "--out", str(folder / "out"), "--points", "--shots", "19"]
    assert main(["evaluate", "knn", "flag_everything", *arguments, "--calibrate", "within", "--draws", "1"]) == 0
    output = capsys.readouterr().out
    assert "range F1" in output
    assert "knn" in output
    assert "\u2026" not in output, "no figure is cut"
    results = json.loads((folder / "out" / "results.json").read_text())
    again = figures_from_scores(folder / "out" / "scores.parquet")
    for name, figures in results["methods"].items():
        for metric, mean in summarise(again[name])["mean"].items():
            assert mean == pytest.approx(figures["mean"][metric]), metric
    assert results["methods"]["flag_everything"]["mean"]["fpr"] == 1
    assert results["protocol"]["alpha"] == 0.1
    assert "leave-one-out" in results["protocol"]["threshold"]
    page = write_report(folder / "out").page.read_text()
    assert "range recall" in page
    assert "False-alarm rate: target and result" in page


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--points", "--shots", "99"], "lower shots (--shots)"),
        (["--points", "--stride", "9"], "expected 1 to 8, the window"),
        (["--points", "--alpha", "0.2"], "points (--points) have no threshold: add calibrate='within'"),
        (["--points", "--calibrate", "across"], "points (--points) take 'within'"),
        (["--points", "--calibrate", "within", "--shots", "9", "--alpha", "0.05"], "expected 0.100 to 1"),
        (["--points", "--episodes", "20"], "--episodes: only without --points"),
        (["--draws", "2"], "--draws: only with --points"),
        (["--points", "--shots", "2", "3"], "give one number"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, arguments, complaint, capsys):
    init = {"dataset": "own", "root": str(folder / "series"), "splits": {"test": ["*"]}, "window": 8, "stride": 2}
    init["episode"] = {"support_normal": 1, "query_normal": 1, "query_anomalous": 1}
    config = {"data": {"class_path": "metaad_zoo.data.SequenceEpisodes", "init_args": init}}
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    command = ["evaluate", "knn", "--data", str(folder / "data.yaml"), "--out", str(folder / "out"), *arguments]
    assert main(command) == 1
    assert complaint in capsys.readouterr().err
    assert not (folder / "out").exists()

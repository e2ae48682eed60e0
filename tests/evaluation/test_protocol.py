from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from pyarrow import parquet
from rich.console import Console
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from metaad_zoo.episodes import Episode
from metaad_zoo.evaluation.baselines import FlagEverything, NearestNeighbour
from metaad_zoo.evaluation.calibration import can_hold, normal_scores, p_values, threshold
from metaad_zoo.evaluation.decisions import AcrossTasks, Always
from metaad_zoo.evaluation.plots import episode_figure, learning_curve
from metaad_zoo.evaluation.protocol import across_tasks, evaluate, interval, signed_rank_p, summarise
from metaad_zoo.evaluation.report import results_table, write_json
from metaad_zoo.evaluation.scores import Scored, ScoreFile, figures_from_scores


def test_a_score_file_is_written_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr("metaad_zoo.evaluation.scores.ROWS_AT_ONCE", 4)
    labels, scores = torch.tensor([0, 1]), torch.tensor([0.25, 0.5])
    with ScoreFile(tmp_path / "scores.parquet") as record:
        for i in range(5):
            flagged = scores > 0.3 if i else None
            record(Scored("knn", "a", i, labels, scores + i, scores if i else None, flagged))
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert parquet.ParquetFile(tmp_path / "scores.parquet").num_row_groups == 3
    assert table.column("score").to_pylist() == [s + i for i in range(5) for s in (0.25, 0.5)]
    assert table.column("episode").to_pylist() == [i for i in range(5) for _ in range(2)]
    assert table.column("sample").to_pylist() == [0, 1] * 5
    assert table.column("label").to_pylist() == [0, 1] * 5
    assert table.column("decision").to_pylist() == [None, None, *[0, 1] * 4]
    assert np.isnan(table.column("p_value").to_pylist()[:2]).all()
    assert table.column("p_value").to_pylist()[2:] == [0.25, 0.5] * 4


def test_nearest_neighbour_agrees_with_scikit_learn():
    g = torch.Generator().manual_seed(0)
    support, query = torch.randn(7, 1, 4, 4, generator=g), torch.randn(9, 1, 4, 4, generator=g)
    labels = torch.tensor([0, 0, -1, 1, 0, 1, 0])
    normal = support[labels != 1].flatten(1)
    for standardise in ("none", "sample"):
        a, b = (x.flatten(1).numpy() for x in (normal, query))
        if standardise == "sample":
            a, b = (stats.zscore(x, axis=1) for x in (a, b))
        expected = NearestNeighbors(n_neighbors=1).fit(a).kneighbors(b)[0][:, 0]
        scores = NearestNeighbour(standardise).adapt({"image": support}, labels).score({"image": query})
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_nearest_neighbour_needs_a_sample_that_may_be_normal():
    with pytest.raises(ValueError, match="saw anomalies only"):
        NearestNeighbour().adapt({"image": torch.zeros(2, 1, 2, 2)}, torch.tensor([1, 1]))


def test_conformal_p_values_count_by_hand():
    calibration = torch.tensor([1.0, 2.0, 2.0, 3.0])
    p = p_values(torch.tensor([0.0, 2.0, 2.5, 9.0]), calibration)
    assert p.tolist() == [5 / 5, 4 / 5, 2 / 5, 1 / 5]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_false_alarms_on_exchangeable_scores_are_at_most_alpha(alpha):
    """Over many draws of calibration and test scores the mean false-alarm rate is alpha, up to its standard error."""
    g = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(2000):
        scores = torch.randn(59, generator=g).exp()
        calibration = scores[:39].sort().values
        flagged = p_values(scores[39:], calibration) <= alpha
        assert torch.equal(flagged, scores[39:] > threshold(calibration, alpha)), "both ways decide alike"
        rates.append(flagged.double().mean())
    mean, error = torch.stack(rates).mean(), torch.stack(rates).std() / math.sqrt(2000)
    assert abs(mean - alpha) < 4 * error


def test_threshold_at_its_edges():
    assert threshold(torch.arange(8.0), 0.1) == math.inf
    assert threshold(torch.arange(9.0), 0.1) == 8.0
    with pytest.raises(ValueError, match="alpha is 1"):
        threshold(torch.arange(9.0), 1)


def test_a_rate_that_equals_the_lowest_one_up_to_rounding_flags_samples_above_all_scores():
    class Sums:
        def adapt(self, support, labels):
            return self

        def score(self, samples):
            return samples["tabular"].sum(1)

    calibration, alpha = torch.tensor([0.0, 1.0]), 0.3333333333
    rows = {"tabular": torch.tensor([[0.5], [9.0]])}
    labels, ids = torch.tensor([0, 1]), torch.arange(2)
    episode = Episode(rows, torch.tensor([0, 0]), rows, labels, "task", ids, ids + 2)
    results = evaluate({"sums": Sums()}, [episode], {"sums": AcrossTasks(calibration)}, alpha)["sums"]
    assert can_hold(alpha, 2)
    assert (results["threshold"], results["mean"]["recall"], results["mean"]["fpr"]) == (1.0, 1.0, 0.0)


def test_interval_is_about_that_of_students_t():
    x = np.random.default_rng(0).normal(0.8, 0.1, 200)
    low, high = interval(x)
    expected = stats.t.interval(0.95, 199, x.mean(), stats.sem(x))
    assert (low, high) == pytest.approx(expected, abs=0.003)
    assert interval(np.array([0.4, 0.5, 0.6, 0.7])) is None, "so few tasks tell nothing of others"
    assert interval(np.full(5, 0.5)) == [0.5, 0.5]


def test_every_method_sees_the_same_episodes(digits):
    class Spy:
        def __init__(self):
            self.seen = []

        def adapt(self, support, labels):
            self.seen.append(support["image"])
            return self

        def score(self, samples):
            self.seen.append(samples["image"])
            return samples["image"].sum((1, 2, 3))

    spies = {"a": Spy(), "b": Spy()}
    evaluate(spies, digits.episodes("test", 3), {"a": Always(), "b": Always()}, 0.1)
    assert len(spies["a"].seen) == 6
    assert all(torch.equal(x, y) for x, y in zip(spies["a"].seen, spies["b"].seen, strict=True))


@pytest.fixture
def results(digits, tmp_path):
    methods = {"1-NN": NearestNeighbour(), "flag everything": FlagEverything()}
    calibrators = across_tasks(methods, list(digits.episodes("val", 10)))
    with ScoreFile(tmp_path / "scores.parquet") as record:
        figures = evaluate(methods, digits.episodes("test", 24), calibrators, 0.1, record=record)
    protocol = {"data": digits.description(), "episodes": 24, "tasks": 12, "alpha": 0.1}
    return {"protocol": protocol, "methods": figures}


def test_results_can_be_taken_again_from_their_parts(results, digits):
    method = results["methods"]["1-NN"]
    assert len(method["tasks"]) == 12
    assert all(t["episodes"] == 2 for t in method["tasks"])
    for metric, mean in method["mean"].items():
        assert mean == pytest.approx(np.mean([t[metric] for t in method["tasks"]]))
        low, high = method["ci95"][metric]
        assert low <= mean <= high
    val_scores = normal_scores(NearestNeighbour(), digits.episodes("val", 10))
    assert method["threshold"] == threshold(val_scores, 0.1)
    everything = results["methods"]["flag everything"]
    assert everything["mean"] == pytest.approx(
        {"auroc": 0.5, "ap": 0.5, "pauroc": 0.5, "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "fpr": 1.0}
    )
    assert everything["auroc_behind_first"]["mean"] == pytest.approx(method["mean"]["auroc"] - 0.5)
    assert method["auroc_behind_first"]["ci95"] == [0.0, 0.0]
    differences = [a["auroc"] - b["auroc"] for a, b in zip(method["tasks"], everything["tasks"], strict=True)]
    assert everything["auroc_behind_first"]["wilcoxon_p"] == stats.wilcoxon(differences).pvalue


@pytest.mark.parametrize(
    "differences",
    [
        [0.1, -0.1],
        [0.0, 0.2, 0.2, -0.1, 0.0],
        [0.3, 0.3, 0.3, 0.3],
        [-0.3, 0.1, 0.2, 0.2, -0.5, 0.4, 0.0],
        [0.1, 0.2, -0.4],
        [*([0.1, -0.2] * 6), 0.3, 0.3],
        [0.1, math.nan, 0.1],
    ],
)
def test_the_signed_rank_test_is_that_of_scipy(differences):
    expected = stats.wilcoxon(differences).pvalue
    np.testing.assert_equal(signed_rank_p(np.array(differences)), expected)


def test_all_figures_can_be_computed_again_from_the_scores(results, tmp_path):
    for name, by_task in figures_from_scores(tmp_path / "scores.parquet").items():
        again = summarise(by_task)
        assert again == {key: results["methods"][name][key] for key in again}


def test_scores_that_were_cut_short_leave_no_file(tmp_path):
    with pytest.raises(RuntimeError), ScoreFile(tmp_path / "scores.parquet"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [80, 118])
def test_results_are_printed_and_written(results, width, tmp_path):
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(results_table(results))
    text = console.export_text()
    assert ("recall: in results.json" in " ".join(text.split())) == (width == 80)
    assert "1-NN" in text
    assert "\u2026" not in text, "the table fits the width that the command gives it"
    long = {f"knn@image-conv4-protonet-omniglot-{i}": figures for i, figures in enumerate(results["methods"].values())}
    console.print(results_table(results | {"methods": long}))
    folded = "".join(line.split("\u2502")[1].strip() for line in console.export_text().splitlines() if "\u2502" in line)
    assert all(name in folded for name in long), "names are never cut, for two could then look alike"
    assert f"{100 * results['methods']['1-NN']['mean']['auroc']:.1f}" in text
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "out" / "results.json", results)
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["methods"]["1-NN"]["mean"] == results["methods"]["1-NN"]["mean"]
    assert again["methods"]["flag everything"]["threshold"] is None, "JSON knows no infinity"
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "results.json"]


def test_no_episode_is_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        evaluate({"a": FlagEverything()}, [], {"a": Always()}, 0.1)


def test_pictures_are_drawn(digits, tmp_path):
    episode = next(digits.episodes("test", 1))
    scores = torch.linspace(-1, 1, 8)
    figure = episode_figure(episode, scores, threshold=0.0)
    shown = [axes for part in figure.subfigs for axes in part.axes if axes.images]
    assert len(shown) == 3 + 8
    red = sum(axes.title.get_color() == "red" for axes in shown)
    assert red == int(((scores > 0) != episode.query_labels.bool()).sum()), "mistakes are marked"
    values = [float(axes.get_title().split("\n")[1]) for axes in shown[3:]]
    assert values == sorted(values), "queries are ordered by score"
    figure.savefig(tmp_path / "episode.png")

    (tmp_path / "a.csv").write_text("step,train/loss,val/auroc\n0,3.0,\n1,2.0,\n2,9.0,0.6\n")
    (tmp_path / "b.csv").write_text("step,train/loss,val/auroc\n2,1.0,\n3,0.5,0.7\n")
    curve = learning_curve([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert curve.axes[0].lines[0].get_xydata().tolist() == [[0, 3], [1, 2], [2, 1], [3, 0.5]]
    assert curve.axes[1].lines[0].get_xydata().tolist() == [[2, 0.6], [3, 0.7]]


@pytest.mark.parametrize(("modality", "shape"), [("sequence", (12, 8)), ("tabular", (5,))])
def test_pictures_of_series_and_tables_are_drawn(modality, shape, tmp_path):
    g = torch.Generator().manual_seed(0)
    support, query = torch.randn(3, *shape, generator=g), torch.randn(7, *shape, generator=g)
    support[0], query[2, 0] = torch.nan, torch.nan  # a missing sample, a missing step or value
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 1])
    episode = Episode(
        {modality: support}, torch.zeros(3).long(), {modality: query}, labels, "t", torch.arange(3), torch.arange(7)
    )
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.3, 0.4, 0.5])
    figure = episode_figure(episode, scores, threshold=0.6)
    if modality == "sequence":
        shown = [axes for part in figure.subfigs for axes in part.axes if axes.lines]
        assert [len(axes.lines) for axes in shown] == [6] * 10
        assert sum(axes.title.get_color() == "red" for axes in shown) == 3
        raw = query[0].numpy()  # its score is the lowest; drawn is a channel of it, moved and stretched
        drawn = shown[3].lines[0].get_ydata()
        assert max(abs(np.corrcoef(raw[:, c], drawn)[0, 1]) for c in range(8)) == pytest.approx(1)
    else:
        cells, points = figure.axes[:2]
        assert cells.images[0].get_array().shape == (3 + 7, 5)
        offsets = np.concatenate([part.get_offsets() for part in points.collections])
        assert sorted(offsets[:, 0].tolist()) == sorted(scores.tolist())
        assert offsets[offsets[:, 0].argsort(), 1].tolist() == [*range(3, 10)], "queries by score, below the support"
    figure.savefig(tmp_path / "episode.svg")

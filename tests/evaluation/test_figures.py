"""What the figures show: lines, marks, colours, legends and axes, read from Matplotlib's own objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from metaad_zoo.episodes import Episode
from metaad_zoo.evaluation import plots
from metaad_zoo.evaluation.plots import episode_figure, learning_curve
from metaad_zoo.evaluation.saved import ScoreTable
from metaad_zoo.evaluation.task_curves import GRID, Band

STYLES = plots.styles_of(["ours", "_theirs"])
RISING = np.linspace(0.2, 1.0, len(GRID))


def data_of(line):
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_roc_curve_begins_at_the_origin_with_its_interval():
    figure = plots.roc_figure(
        {"ours": Band(RISING, RISING - 0.1, RISING + 0.1), "_theirs": Band(RISING, None, None)}, STYLES
    )
    (axes,) = figure.axes
    chance, ours, theirs = axes.get_lines()
    assert [x.tolist() for x in data_of(chance)] == [[0, 1], [0, 1]]
    for line, name in ((ours, "ours"), (theirs, "_theirs")):
        x, y = data_of(line)
        assert (x[0], y[0]) == (0, 0)
        np.testing.assert_array_equal(x[1:], GRID)
        np.testing.assert_array_equal(y[1:], RISING)
        assert (line.get_color(), line.get_linestyle(), line.get_marker()) == tuple(STYLES[name].line().values())[:3]
    (shaded,) = axes.collections
    y = shaded.get_paths()[0].vertices[:, 1]
    assert (y.min(), y.max()) == (0, pytest.approx(1.1))
    assert legend_of(figure) == ["ours", " _theirs"]
    assert axes.get_xlim() == (-0.01, 1.01)


def test_a_precision_recall_curve_stands_beside_chance():
    figure = plots.precision_recall_figure({"ours": Band(RISING, None, None)}, STYLES, 0.3)
    chance, ours = figure.axes[0].get_lines()
    assert set(data_of(chance)[1]) == {0.3}
    np.testing.assert_array_equal(data_of(ours), [GRID, RISING])
    assert len(figure.axes[0].collections) == 0
    assert figure.axes[0].get_xlabel() == "share of anomalies found (recall)"
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((-0.01, 1.01), (-0.01, 1.02))
    assert legend_of(figure) == ["ours"]


def test_calibration_compares_with_the_diagonal_up_to_the_largest_rate():
    bands = {
        "ours": ([0.1, 0.2], Band(np.array([0.15, 0.25]), None, None)),
        "_theirs": ([0.4], Band(np.array([0.3]), None, None)),
    }
    figure = plots.calibration_figure(bands, STYLES)
    diagonal, ours, theirs = figure.axes[0].get_lines()
    assert [x.tolist() for x in data_of(diagonal)] == [[0, 0.4], [0, 0.4]]
    assert [x.tolist() for x in data_of(ours)] == [[0.1, 0.2], [0.15, 0.25]]
    assert [x.tolist() for x in data_of(theirs)] == [[0.4], [0.3]]
    assert ours.get_markevery() == 1
    assert figure.axes[0].yaxis.get_major_formatter()(0.25) == "25%"
    assert figure.axes[0].xaxis.get_major_formatter()(0.25) == "25%"
    diagonal, *_ = plots.calibration_figure({}, STYLES).axes[0].get_lines()
    assert data_of(diagonal)[0][1] == pytest.approx(0.5)


def test_auroc_against_shots_is_evenly_spaced_and_may_have_gaps():
    curve = {
        "values": [1, 2, 8],
        "methods": {
            "ours": {"mean": [0.6, None, 0.9], "ci95": [[0.5, 0.7], None, [0.8, 1.0]]},
            "_theirs": {"mean": [0.4, 0.5, 0.6]},
        },
    }
    figure = plots.auroc_figure(curve, STYLES, "shots")
    (axes,) = figure.axes
    chance, ours, theirs = axes.get_lines()
    assert set(data_of(chance)[1]) == {0.5}
    np.testing.assert_array_equal(data_of(ours), [[0, 1, 2], [0.6, np.nan, 0.9]])
    np.testing.assert_array_equal(data_of(theirs), [[0, 1, 2], [0.4, 0.5, 0.6]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "8"]
    (shaded,) = axes.collections
    y = np.concatenate([path.vertices[:, 1] for path in shaded.get_paths()])
    assert (np.nanmin(y), np.nanmax(y)) == (0.5, 1.0)
    assert axes.get_xlabel() == "shots"


def histogram(scores, labels, threshold):
    n = len(scores)
    scores = ScoreTable(
        np.full(n, "a"), np.zeros(n, int), np.array(labels), np.array(scores, float), np.full(n, np.nan)
    )
    return plots.scores_figure(scores, threshold)


def test_histograms_are_shares_of_normal_and_of_anomalous_samples():
    figure = histogram([0.0, 0.0, 0.1, 1.0, 3.0, 3.0], [0, 0, 0, 0, 1, 1], 0.5)
    (axes,) = figure.axes
    bars = [patch for patch in axes.patches if hasattr(patch, "get_width")]
    heights = [bar.get_height() for bar in bars if bar.get_height() > 0]
    assert heights == [0.5, 0.25, 0.25], "in bins of a tenth"
    (outline,) = [patch for patch in axes.patches if not hasattr(patch, "get_width")]
    assert outline.get_path().vertices[:, 1].max() == 1.0
    assert outline.get_path().vertices[:, 0].max() == 3.0
    assert not outline.get_facecolor()[3]
    assert set(data_of(axes.get_lines()[0])[0]) == {0.5}
    assert sorted(legend_of(figure)) == ["anomalous", "normal", "threshold"]
    assert axes.get_xlabel() == "score"
    assert axes.yaxis.get_major_formatter()(0.25) == "25%"
    assert legend_of(histogram([0.0, 1.0], [0, 0], None)) == ["normal", "anomalous"]


def test_a_far_score_is_drawn_by_rank():
    axes = histogram([*range(400), 1e6], [0] * 400 + [1], 99.5).axes[0]
    assert axes.get_xlabel() == "rank of the score"
    assert data_of(axes.get_lines()[0])[0][0] == pytest.approx(100 / 401)
    (outline,) = [patch for patch in axes.patches if not hasattr(patch, "get_width")]
    assert outline.get_path().vertices[:, 0].max() == 1.0


def test_seconds_lie_on_a_logarithmic_axis_between_whole_powers():
    figure = plots.seconds_figure({"ours": 0.03, "_theirs": 2.0}, STYLES)
    (axes,) = figure.axes
    assert [[float(v[0]) for v in data_of(line)] for line in axes.get_lines()] == [[0.03, 0], [2.0, 1]]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((0.01, 10))
    assert axes.get_ylim() == (1.5, -0.5)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", " _theirs"]
    assert plots.seconds_figure({"ours": 1.0}, STYLES).axes[0].get_xlim() == pytest.approx((1, 10))


def test_long_names_are_cut_in_legends():
    names = ["a" * 56, "b" * 57, "two\n words"]
    bands = {name: Band(RISING, None, None) for name in names}
    figure = plots.roc_figure(bands, plots.styles_of(names))
    assert legend_of(figure) == ["a" * 56, "b" * 53 + "...", "two words"]


def episode(shape, n_support=4, n_query=3, name="image"):
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, -1] + [0] * (n_support - 3))
    return Episode(
        {name: torch.rand(n_support, *shape, generator=g)},
        labels,
        {name: torch.rand(n_query, *shape, generator=g)},
        torch.tensor([1, 0, 1] + [0] * (n_query - 3)),
        "letters/a",
        torch.arange(n_support),
        torch.arange(n_query) + 100,
    )


def shown(figure):
    """Title, colour of the title, and picture of each axes that is on; axes that are off."""
    on = [axes for axes in figure.get_axes() if axes.axison]
    return [(axes.get_title(), axes.title.get_color()) for axes in on], len(figure.get_axes()) - len(on)


def test_an_episode_shows_its_support_and_the_queries_by_score():
    one = episode((1, 4, 4), n_support=5)
    figure = episode_figure(one, torch.tensor([0.3, 0.2, 0.1]), 0.15, columns=4)
    titles, off = shown(figure)
    assert titles[:5] == [(kind, "black") for kind in ("normal", "anomalous", "unlabelled", "normal", "normal")]
    assert titles[5:] == [("anomalous\n0.10", "red"), ("normal\n0.20", "red"), ("anomalous\n0.30", "black")]
    assert off == 3 + 1, "empty places of two rows and of one row of four"
    pictures = [axes.get_images()[0].get_array() for axes in figure.get_axes() if axes.axison]
    for picture, sample in zip(pictures, [*one.support["image"], *one.query["image"].flip(0)], strict=True):
        assert np.corrcoef(np.asarray(picture).ravel(), sample.ravel())[0, 1] == pytest.approx(1), "up to contrast"
    top, bottom = figure.subfigs
    assert top.get_suptitle() == "letters/a: support set"
    assert bottom.get_suptitle() == "queries by score (threshold 0.15; red: mistakes)"
    colours = {to_hex(axes.spines["left"].get_edgecolor()) for axes in bottom.get_axes() if axes.axison}
    assert colours == {"#ff0000", to_hex("0.7")}


def test_a_score_at_the_threshold_is_not_flagged_and_flags_may_be_given():
    one = episode((1, 4, 4))
    scores = torch.tensor([0.3, 0.2, 0.1])
    assert [c for _, c in shown(episode_figure(one, scores, 0.2))[0][4:]] == ["red", "black", "black"]
    figure = episode_figure(one, scores, None, flagged=torch.tensor([True, False, True]))
    assert [c for _, c in shown(figure)[0][4:]] == ["black"] * 3
    assert figure.subfigs[1].get_suptitle() == "queries by score (red: mistakes)"
    with pytest.raises(ValueError, match="give the threshold"):
        episode_figure(one, scores, None)


def test_of_a_large_support_fifty_are_drawn():
    figure = episode_figure(episode((1, 2, 2), n_support=60), torch.zeros(3), 1.0)
    assert figure.subfigs[0].get_suptitle() == "letters/a: support set, 50 of 60 samples"
    assert len(figure.subfigs[0].get_axes()) == 50
    figure = episode_figure(episode((1, 2, 2), n_support=50), torch.zeros(3), 1.0)
    assert figure.subfigs[0].get_suptitle() == "letters/a: support set"


def test_of_several_modalities_the_one_with_most_axes_is_drawn():
    both, images = episode((3,), name="tabular"), episode((1, 2, 2))
    both.support |= images.support
    both.query |= images.query
    assert len(episode_figure(both, torch.zeros(3), 1.0).subfigs) == 2
    both.support["image"] = both.support["image"] * torch.nan
    assert len(episode_figure(both, torch.zeros(3), 1.0).subfigs) == 0, "the table, which the support has"


def test_a_table_shows_rows_in_the_units_of_the_support_beside_their_scores():
    one = episode((45,), name="tabular", n_query=4)
    figure = episode_figure(one, torch.tensor([0.4, 0.1, 0.2, 0.3]), 0.25)
    cells, points, bar = figure.axes
    picture = np.asarray(cells.get_images()[0].get_array())
    assert picture.shape == (8, 40)
    support = one.support["tabular"].double().numpy()
    column = (one.query["tabular"].double().numpy() - np.median(support, 0))[:, 0]
    assert np.sign(picture[4:, 0]).tolist() == np.sign(column[[1, 2, 3, 0]]).tolist()
    assert cells.get_images()[0].get_clim() == (-4, 4)
    assert set(data_of(cells.get_lines()[0])[1]) == {3.5}, "between support and queries"
    assert cells.get_title() == "letters/a: support (above), queries by score, the first 40 of 45 columns"
    normal, anomalous = points.collections
    np.testing.assert_allclose(normal.get_offsets(), [[0.1, 4], [0.3, 6]], rtol=1e-6)
    np.testing.assert_allclose(anomalous.get_offsets(), [[0.2, 5], [0.4, 7]], rtol=1e-6)
    assert [to_hex(c) for c in normal.get_facecolors()] == [to_hex("0.3"), "#ff0000"]
    assert [to_hex(c) for c in anomalous.get_facecolors()] == ["#ff0000", to_hex("0.3")]
    assert set(data_of(points.get_lines()[0])[0]) == {0.25}
    assert [text.get_text() for text in points.get_legend().get_texts()] == ["normal", "anomalous"]
    assert bar.get_ylabel().startswith("in units of the support's spread")
    narrow = episode_figure(episode((40,), name="tabular"), torch.zeros(3), np.inf)
    assert narrow.axes[0].get_title() == "letters/a: support (above), queries by score"
    assert len(narrow.axes[1].get_lines()) == 0


def test_a_learning_curve_joins_the_parts_of_a_run_and_smooths_the_loss(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("step,train/loss,val/auroc\n" + "".join(f"{i},{i},\n" for i in range(30)) + "29,,0.5\n")
    second.write_text("step,train/loss,val/auroc\n" + "".join(f"{i},{2 * i},\n" for i in range(20, 41)) + "40,,0.7\n")
    figure = learning_curve([first, second])
    loss, auroc = figure.axes
    raw, smooth = loss.get_lines()
    expected = [*range(20), *range(40, 82, 2)]
    assert [x.tolist() for x in data_of(raw)] == [list(range(41)), expected]
    np.testing.assert_allclose(data_of(smooth), [np.arange(1, 41), np.add(expected[1:], expected[:-1]) / 2])
    assert (raw.get_alpha(), auroc.get_lines()[0].get_alpha()) == (0.3, 1.0)
    assert [x.tolist() for x in data_of(auroc.get_lines()[0])] == [[29, 40], [0.5, 0.7]]
    assert (loss.get_title(), auroc.get_title(), loss.get_xlabel()) == ("train/loss", "val/auroc", "outer step")
    second.write_text("step,train/loss,val/auroc\n" + "".join(f"{i},1,\n" for i in range(19)))
    assert len(learning_curve([second]).axes[0].get_lines()) == 1, "too few steps to smooth"

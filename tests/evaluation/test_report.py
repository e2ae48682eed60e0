from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from sklearn.metrics import auc

from metaad_zoo.cli import main
from metaad_zoo.evaluation import html_report, plots, report_figures, task_curves
from metaad_zoo.evaluation.conclusion import CONTROLS, conclusion
from metaad_zoo.evaluation.plots.style import COLOURS
from metaad_zoo.evaluation.saved import ScoreTable, read_results, read_scores
from tests.evaluation.evaluated import METHODS, write_evaluation

HOSTILE = "<script>alert('$x$')</script>\" onload=\"alert(1)"


class Page(HTMLParser):
    """What stands on a page: elements with their attributes, the text, and whether tags are closed in turn."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("evaluation") / "out")


@pytest.fixture(scope="module")
def reported(evaluated, tmp_path_factory):
    """A folder with its report, for tests that only read it, and what the command printed."""
    folder = shutil.copytree(evaluated, tmp_path_factory.mktemp("report") / "out")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["report", str(folder)]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def folder(evaluated, tmp_path):
    return shutil.copytree(evaluated, tmp_path / "out")


def edit_results(folder, change):
    results = json.loads((folder / "results.json").read_text())
    change(results)
    (folder / "results.json").write_text(json.dumps(results))


def is_safe_and_alone(text):
    page = Page(text)
    assert not page.all("script")
    assert "://" not in re.sub(r"base64,[^\"]*", "", text), "no address of any kind"
    for tag, attributes in page.elements:
        assert not [a for a in attributes if a.startswith("on")], tag
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/")), (tag, attributes)
    return page


def test_a_page_of_a_real_evaluation(reported):
    folder, printed = reported
    assert "AUROC against inner steps: results.json has no such curve" in printed
    page = is_safe_and_alone((folder / "report.html").read_text(encoding="utf-8"))
    for name, method in read_results(folder)["methods"].items():
        mean, (low, high) = method["mean"]["auroc"], method["ci95"]["auroc"]
        label = f"{name} {CONTROLS[name]}" if name in CONTROLS else name
        assert f"{label} {100 * mean:.1f} {100 * low:.1f} to {100 * high:.1f}" in page.text
    assert "1-NN on <raw> pixels" in page.text
    assert "Flagging every sample (flag everything) has an F1 of 57.1 %" in page.text
    for said in (
        "aims at 10 % false alarms",
        "realised_contamination",
        "scikit-learn",
        "12 tasks",
        "shots",
        "No line: everything is flagged",
    ):
        assert said in page.text
    names = ["roc", "precision_recall", "scores_01", "scores_02", "scores_03", "auroc_shots", "calibration", "seconds"]
    assert {p.name for p in (folder / "figures").iterdir()} == {f"{n}.{kind}" for n in names for kind in ("png", "svg")}
    assert len(page.all("svg")) == len(names)
    assert len(page.all("img")) == 2


def figures(auroc, behind=0.0, interval=None, **mean):
    return {
        "mean": {"auroc": auroc, **mean},
        "ci95": {"auroc": None},
        "tasks": [{}] * 12,
        "auroc_behind_first": {"mean": behind, "ci95": interval},
    }


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            (0.7, 0.2, [0.1, 0.3]),
            "ours is better than the best other method, knn: AUROC 90.0 % against 70.0 %",
        ),
        ((0.95, -0.05, [-0.09, -0.01]), "worse than the best other method, knn: AUROC 90.0 % against 95.0 %"),
        ((0.89, 0.01, [-0.02, 0.04]), "neither clearly better nor clearly worse than the best other method, knn"),
        ((0.89, 0.01, None), "a difference of 1.0 points without an interval"),
    ],
)
def test_the_conclusion_compares_with_the_best_other_method(other, said):
    methods = {"ours": figures(0.9, fpr=0.12, recall=0.8), "weak": figures(0.5, 0.4, [0.3, 0.5])}
    methods |= {"knn": figures(*other), "flag everything": figures(0.99)}
    first, decisions = conclusion(methods, 0.1)
    assert said in first
    assert decisions == (
        "With a threshold that aims at 10 % false alarms, ours flags 12.0 % of the normal samples and "
        "80.0 % of the anomalies."
    )


def test_the_conclusion_says_what_an_interval_over_draws_is():
    ours = figures(0.9) | {"draws": [{}], "tasks": [{}]}
    first, second = conclusion({"ours": ours, "knn": figures(0.8, 0.1, [0.05, 0.15])}, None)
    assert "on one task" in first
    assert second == "The interval is over draws of the support and says nothing about other tasks."


def test_one_task_says_nothing_about_others_and_a_method_may_stand_alone():
    alone = figures(0.9) | {"tasks": [{}]}
    assert conclusion({"ours": alone}, None)[1:] == ["One task says nothing about others."]
    (sentence,) = conclusion({"ours": figures(0.9)}, None)
    assert sentence == "ours reaches an AUROC of 90.0 % on 12 unseen tasks."
    interval = figures(0.9) | {"ci95": {"auroc": [0.8, 0.95]}}
    (sentence,) = conclusion({"ours": interval, "random": figures(0.99)}, None)
    assert sentence == "ours reaches an AUROC of 90.0 % (95 % interval 80.0 to 95.0 %) on 12 unseen tasks."
    assert len(conclusion({"ours": figures(0.9, fpr=0.1)}, 0.1)) == 1, "no recall, no sentence on decisions"


def test_numbers_on_the_page():
    assert [html_report.percent(x) for x in (0.9, -0.25, None)] == ["90.0", "\u221225.0", "\u2013"]
    assert (html_report.between([0.1, 0.2]), html_report.between(None)) == ("10.0 to 20.0", "")
    assert [html_report.number(x) for x in (0.12345, -2.0, None)] == ["0.123", "\u22122", "\u2013"]
    assert [html_report.p_value(x) for x in (0.001, 0.00099, None)] == ["p = 0.001", "p < 0.001", ""]


def test_flagging_everything_is_the_floor_of_f1():
    everything = {"mean": {"recall": 1, "fpr": 1, "f1": 0.6}}
    table = score_table([0.0] * 8, [0, 1, 1, 1, 0, 1, 0, 0], tasks=["a"] * 4 + ["b"] * 4)
    assert html_report.floor({"ours": {"mean": {"recall": 1, "fpr": 0.5, "f1": 0.9}}, "all": everything}, None) == {
        "name": "all",
        "f1": 0.6,
    }
    assert html_report.floor({"ours": {"mean": {"recall": 0.5, "fpr": 1, "f1": 0.9}}}, None) is None
    expected = (2 * 0.75 / 1.75 + 2 * 0.25 / 1.25) / 2
    assert html_report.floor({"ours": {"mean": {}}}, {"ours": table}) == {"name": None, "f1": pytest.approx(expected)}


def test_heat_maps_are_those_of_the_highest_scores(tmp_path):
    for i in range(12):
        Image.new("RGB", (960, 240), (i, i, i)).save(tmp_path / f"{i}_x.png")
    rows = [f"{i}_x.png,s{i},{i / 8}" for i in range(12)] + ["gone.png,s12,9", "0_x.png,s0,"]
    (tmp_path / "boxes.csv").write_text("picture,sample,score\n" + "\n".join(rows) + "\n")
    (tmp_path / "explanations.npz").touch()
    maps = html_report._heat_maps(tmp_path)
    assert [m["caption"] for m in maps] == [f"s{i}: score {i / 8:.3g}" for i in range(11, 3, -1)]
    picture = Image.open(io.BytesIO(base64.b64decode(maps[0]["source"].partition(",")[2])))
    assert picture.size == (480, 120)
    (tmp_path / "boxes.csv").unlink()
    assert [m["caption"] for m in html_report._heat_maps(tmp_path.parent)][:2] == ["0_x", "10_x"]


def test_the_interval_of_a_loss_is_that_of_a_positive_difference():
    (sentence,) = conclusion({"ours": figures(0.9), "knn": figures(0.95, -0.05, [-0.09, -0.01])}, None)
    assert "a difference of 5.0 points (95 % interval 1.0 to 9.0)" in sentence


def test_runs_have_names_and_heat_maps_are_shown(folder):
    run = "digits/2026-11-22_17-04-25"

    def rename(results):
        tables = [results, results["curves"]["shots"], results["calibration"]]
        for table in tables:
            table["methods"] = {run if "standardised" in n else n: f for n, f in table["methods"].items()}

    edit_results(folder, rename)
    columns_of(folder, method=lambda names: [run if "standardised" in name else name for name in names])
    maps = folder / "maps"
    maps.mkdir()
    (maps / "explanations.npz").touch()
    rows = ["sample,score,p_value,anomaly,picture,x0,y0,x1,y1,peak"]
    for i, score in enumerate((1.5, 2.5)):
        Image.new("RGB", (900, 600), "grey").save(maps / f"000{i}_part{i}.png")
        rows.append(f"part{i}.png,{score},0.01,1,000{i}_part{i}.png,,,,,")
    (maps / "boxes.csv").write_text("\n".join(rows))
    html_report.write_report(folder)
    page = is_safe_and_alone((folder / "report.html").read_text(encoding="utf-8"))
    assert "2026-11-22" not in page.text
    assert "digits is " in page.text
    assert page.text.index("part1.png: score 2.5") < page.text.index("part0.png: score 1.5")
    assert sum("data:image/jpeg" in image["src"] for image in page.all("img")) == 2


def test_the_page_can_be_read_without_seeing_it(reported):
    page = Page((reported[0] / "report.html").read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) == 4
    assert all(th["scope"] in ("row", "col", "rowgroup") for th in page.all("th"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(img["alt"] for img in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        wanted = re.findall(r"url\(#([^)]*)\)", " ".join(filter(None, attributes.values())))
        wanted += [attributes.get("aria-labelledby"), attributes.get("href", "")[1:]]
        assert {w for w in wanted if w} <= set(ids)


def test_two_reports_of_one_folder_agree_to_the_byte(reported, folder):
    again = html_report.write_report(folder)
    assert len(again.figures) > 3
    for path in [again.page, *again.figures]:
        assert path.read_bytes() == (reported[0] / path.relative_to(folder)).read_bytes()


def test_svg_files_follow_the_readers_colours_and_need_nothing(reported):
    drawn = list((reported[0] / "figures").glob("*.svg"))
    assert len(drawn) > 3
    for path in drawn:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert "currentColor" in path.read_text(encoding="utf-8")
        assert "prefers-color-scheme:dark" in root[0].text
        assert path.read_text(encoding="utf-8").startswith("<svg "), "browsers draw no prefixed names in HTML"
        width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
        assert root.attrib["viewBox"] == f"0 0 {root.attrib['width'][:-2]} {root.attrib['height'][:-2]}"
        assert min(width, height) > 100
        for element in root.iter():
            assert not [v for v in element.attrib.values() if "://" in v]


def test_hostile_names_are_only_text(tmp_path):
    methods = {HOSTILE: METHODS["1-NN on <raw> pixels"], "_$\\frac": METHODS["flag everything"]}
    folder = write_evaluation(tmp_path / "out", methods, rename=lambda task: f"{task} {HOSTILE}")

    def poison(results):
        results["protocol"] |= {HOSTILE: [HOSTILE, {"a": HOSTILE}], "data": {"dataset": HOSTILE, "items": 1}}
        results["environment"][HOSTILE] = HOSTILE
        results["also"] = HOSTILE

    edit_results(folder, poison)
    html_report.write_report(folder)
    page = is_safe_and_alone((folder / "report.html").read_text(encoding="utf-8"))
    assert page.text.count(HOSTILE) > 20
    for path in (folder / "figures").glob("*.svg"):
        assert not list(ElementTree.fromstring(path.read_text(encoding="utf-8")).findall(".//{*}script"))
    roc = ElementTree.fromstring((folder / "figures" / "roc.svg").read_text(encoding="utf-8"))
    words = [element.text.strip() for element in roc.findall(".//{*}text")]
    assert {HOSTILE, "_$\\frac"} <= set(words), "the legend takes a name for no formula and hides none"


def test_a_run_without_scores_says_what_is_missing(tmp_path, capsys):
    folder = write_evaluation(tmp_path / "run", {"1-NN": METHODS["1-NN on <raw> pixels"]}, with_scores=False)
    assert main(["report", str(folder)]) == 0
    page = is_safe_and_alone((folder / "report.html").read_text(encoding="utf-8"))
    for said in ("there is no scores.parquet", "no p-values", "there is no best.png", "is unknown: no method does so"):
        assert said in page.text
    assert {p.name for p in (folder / "figures").iterdir()} == {"seconds.png", "seconds.svg"}


def test_what_is_there_only_sometimes_is_shown(folder):
    def enrich(results):
        second = list(results["methods"].values())[1]
        second["mean"]["pauroc"], second["ci95"]["pauroc"] = 0.8765, [0.7654, 0.9876]
        second["auroc_behind_first"]["wilcoxon_p"] = 0.0321
        lines = {name: {"mean": [0.5, None], "ci95": [[0.4, 0.6], None]} for name in results["methods"]}
        results["curves"]["inner_steps"] = {"values": [0, 5], "methods": lines}
        del results["methods"]["flag everything"]

    edit_results(folder, enrich)
    table = parquet.read_table(folder / "scores.parquet")
    parquet.write_table(
        table.filter(pa.compute.not_equal(table["method"], "flag everything")), folder / "scores.parquet"
    )
    (folder / "best.png").unlink()
    report = html_report.write_report(folder)
    page = Page(report.page.read_text(encoding="utf-8"))
    for said in (
        "Partial AUROC: up to 10 % false alarms",
        "87.6 76.5 to 98.8",
        "p = 0.032",
        "AUROC against inner steps",
    ):
        assert said in page.text
    assert "Flagging every sample would have an F1 of 57.1 %" in page.text
    assert report.missing == []
    assert "data:image/svg+xml" in page.all("img")[0]["src"], "best.svg stands in"


def columns_of(folder, **changed):
    table = parquet.read_table(folder / "scores.parquet")
    for name, column in changed.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(column(table[name].to_pylist())))
    parquet.write_table(table, folder / "scores.parquet")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "results.json").unlink(), "does not exist: expected the folder of a finished run"),
        (lambda f: (f / "results.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "results.json").write_text('{"protocol": {}, "methods": {}}'), "at least one method"),
        (lambda f: edit_results(f, lambda r: r["methods"]["flag everything"].pop("tasks")), "has no tasks"),
        (lambda f: edit_results(f, lambda r: r["methods"]["flag everything"]["tasks"].pop()), "other tasks than"),
        (lambda f: edit_results(f, lambda r: r["curves"]["shots"]["values"].pop()), "curves.shots has 2 values"),
        (lambda f: (f / "scores.parquet").write_text("score"), "is not a parquet file"),
        (lambda f: parquet.write_table(pa.table({"score": [1.0]}), f / "scores.parquet"), "has no column method"),
        (lambda f: columns_of(f, method=lambda x: ["b", *x[1:]]), r"scores of \['b'\]"),
        (lambda f: columns_of(f, score=lambda x: [float("nan"), *x[1:]]), "1 scores of '1-NN on standardised"),
        (lambda f: columns_of(f, label=lambda x: [0] * len(x)), r"has labels \[0\]; expected both"),
    ],
)
def test_refuses_what_no_evaluation_wrote(spoil, complaint, folder, capsys):
    spoil(folder)
    assert main(["report", str(folder)]) == 1
    assert re.search(complaint, capsys.readouterr().err)
    assert not (folder / "report.html").exists()


def test_areas_below_the_mean_curves_are_the_tables_figures(folder):
    results = read_results(folder)["methods"]
    for name, scores in read_scores(folder, list(results)).items():
        roc = task_curves.over_tasks(scores, task_curves.roc_at)
        precision = task_curves.over_tasks(scores, task_curves.precision_at)
        assert auc(task_curves.GRID, roc.mean) == pytest.approx(results[name]["mean"]["auroc"], abs=0.005)
        assert precision.mean.mean() == pytest.approx(results[name]["mean"]["ap"], abs=0.005)
        assert np.all(roc.low <= roc.mean + 1e-9)
        assert np.all(roc.mean <= roc.high + 1e-9)


def score_table(scores, labels, p_values=None, tasks=None):
    n = len(scores)
    p = np.full(n, np.nan) if p_values is None else np.array(p_values)
    return ScoreTable(np.array(tasks or ["a"] * n), np.zeros(n, int), np.array(labels), np.array(scores, float), p)


def test_false_alarms_over_tasks_by_hand():
    table = score_table([0] * 6, [0, 0, 1, 0, 0, 1], [0.1, 0.9, 0.01, 0.05, 0.1, 0.01], ["a"] * 3 + ["b"] * 3)
    curve = task_curves.over_tasks(table, task_curves.false_alarms_at)
    at = dict(zip(task_curves.ALPHAS.round(2).tolist(), curve.mean.tolist(), strict=True))
    assert [at[0.02], at[0.05], at[0.1]] == [0, 0.25, 0.75]
    alone = task_curves.over_tasks(table.take(table.tasks == "a"), task_curves.false_alarms_at)
    assert alone.low is None, "a single task tells nothing of others"


def test_infinite_scores_have_curves_and_a_histogram():
    table = score_table([0.0, 1.0, np.inf, np.inf], [0, 0, 0, 1])
    np.testing.assert_allclose(task_curves.roc_at(table)[[0, 100, 200]], [0, 1, 1])
    np.testing.assert_allclose(task_curves.precision_at(table), 0.5)
    with plots.drawing():
        axes = plots.scores_figure(table, threshold=1.0).axes[0]
    assert axes.get_xlabel() == "rank of the score"
    assert axes.lines[0].get_xdata()[0] == 0.5, "half of the scores are at or below the threshold"


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def test_colours_show_on_light_and_dark_ground(reported):
    page = (reported[0] / "report.html").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", line)) for line in page.split(":root")[1:3]]
    assert len(schemes) == 2
    for scheme in schemes:
        assert all(contrast(colour, scheme["ground"]) >= 3 for colour in COLOURS), "WCAG 1.4.11"
        for text in ("ink", "soft", "accent"):
            assert min(contrast(scheme[text], scheme[g]) for g in ("ground", "panel")) >= 4.5, "WCAG 1.4.3"


def test_methods_differ_by_more_than_colour():
    styles = list(plots.styles_of(map(str, range(8))).values())
    assert len({s.marker for s in styles}) == 8
    assert all(a.linestyle != b.linestyle for a, b in itertools.pairwise(styles))


def test_figures_and_captions_give_the_numbers_of_the_scores():
    rng = np.random.default_rng(0)
    labels, tasks = [0, 1, 1, 1, 0, 1, 0, 0, 0, 0], ["a"] * 4 + ["b"] * 6
    p_values = np.where(labels, 0.01, rng.uniform(0, 1, 10))
    tables = {
        "ours": score_table(rng.normal(size=10), labels, p_values, tasks),
        "flat": score_table([0.0] * 10, labels, p_values, tasks),
        "no p": score_table([*range(9), np.inf], labels, None, tasks),
    }
    means = [{"recall": 0.5, "fpr": 0.25}, {"recall": 1, "fpr": 1}, {}, {"recall": 0, "fpr": 0}]
    names, thresholds = [*tables, "absent"], [0.5, None, None, None]
    methods = {n: {"mean": m, "threshold": t} for n, m, t in zip(names, means, thresholds, strict=True)}
    methods["ours"]["seconds_per_task"], methods["flat"]["seconds_per_task"] = 0.25, 0.0
    curve = {"values": [1, 5], "methods": {"ours": {"mean": [0.5, 0.75]}}}
    drawn, missing = report_figures.figures_of({"methods": methods, "curves": {"shots": curve}}, tables)
    by_name = {item.name: item for item in drawn}
    assert list(by_name) == [
        *("roc", "precision_recall", "scores_01", "scores_02", "scores_03", "auroc_shots", "calibration", "seconds")
    ]
    assert missing == [
        "Curves and histogram of absent: scores.parquet has no scores of it.",
        "AUROC against inner steps: results.json has no such curve.",
    ]
    share = (3 / 4 + 1 / 6) / 2  # the mean over tasks
    assert f"the share of anomalies ({share:.0%})" in by_name["precision_recall"].caption
    chance = by_name["precision_recall"].figure.axes[0].get_lines()[0]
    assert chance.get_ydata()[0] == pytest.approx(share)
    counts = "6 normal and 4 anomalous samples of all tasks. "
    assert by_name["scores_01"].caption == f"{counts}Right of the dashed line: flagged."
    assert by_name["scores_02"].caption == f"{counts}No line: everything is flagged."
    assert by_name["scores_03"].caption == (
        f"{counts}By rank, because a few scores are far from the others. No line: no threshold was set."
    )
    assert report_figures.threshold_words(methods["absent"]) == "nothing is flagged"
    _, ours = by_name["calibration"].figure.axes[0].get_lines()
    normal = [[p for p, y, t in zip(p_values, labels, tasks, strict=True) if not y and t == task] for task in "ab"]
    expected = [np.mean([np.mean([p <= alpha for p in of_task]) for of_task in normal]) for alpha in task_curves.ALPHAS]
    np.testing.assert_allclose(ours.get_ydata(), expected)
    assert "Not shown (equal scores, or no p-values): flat, no p." in by_name["calibration"].caption
    assert "bootstrap over tasks" in by_name["calibration"].caption
    (point,) = by_name["seconds"].figure.axes[0].get_lines()
    assert point.get_xdata()[0] == 0.25
    one = {"ours": tables["ours"].take(tables["ours"].tasks == "a")}
    first, *_ = report_figures.figures_of({"methods": {"ours": methods["ours"]}}, one)[0]
    assert first.caption == "One task, so no interval over tasks. Grey: chance."


def test_without_p_values_the_calibration_is_that_of_the_results():
    methods = {name: {"mean": {}, "tasks": []} for name in ("ours", "theirs")}
    table = {"alphas": [0.1, 0.2], "methods": {n: {"fpr": [0.15, 0.3]} for n in ("ours", "unknown")}}
    drawn, missing = report_figures.figures_of({"methods": methods, "calibration": table}, None)
    (calibration,) = drawn
    diagonal, ours = calibration.figure.axes[0].get_lines()
    assert (ours.get_xdata().tolist(), ours.get_ydata().tolist()) == ([0.1, 0.2], [0.15, 0.3])
    assert diagonal.get_xdata()[1] == 0.2
    assert calibration.caption.startswith("Mean over tasks. On the grey line")
    assert "there is no scores.parquet" in missing[0]
    assert not any(sentence.startswith("Calibration") for sentence in missing)

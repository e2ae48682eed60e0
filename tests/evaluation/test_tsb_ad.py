"""Metrics of TSB-AD against its own package, and affiliation against its definition.

The constants come from the PyPI package TSB-AD 1.5, run once in a folder of its own: `get_metrics(scores, labels,
slidingWindow=window)` on the cases of test_series_metrics, and `find_length_rank(values, rank=1)`.
"""

from __future__ import annotations

import numpy as np
import pytest

from metaad_zoo.data.read.series_folder import read_own_series
from metaad_zoo.data.read.tsb_ad import read_tsb_ad, training_part, training_steps, write_tsb_ad
from metaad_zoo.evaluation import tsb_ad
from tests.evaluation.test_series_metrics import seeded

PACKAGE = {
    ("three", 12): {
        "AUC-PR": 0.5520304834185567,
        "AUC-ROC": 0.850718954248366,
        "VUS-PR": 0.5489839436368722,
        "VUS-ROC": 0.8730376937971597,
        "Standard-F1": 0.5581345457449762,
        "PA-F1": 0.898876404494382,
        "Event-based-F1": 0.7384615384615378,
        "R-based-F1": 0.3649703138252756,
        "Affiliation-F": 0.8422851357282768,
    },
    ("near, tied", 20): {
        "AUC-PR": 0.5347905631147729,
        "AUC-ROC": 0.8634076204169663,
        "VUS-PR": 0.6896010938010811,
        "VUS-ROC": 0.9341877241554319,
        "Standard-F1": 0.5714238549142133,
        "PA-F1": 0.8888888888888888,
        "Event-based-F1": 0.7499999999999994,
        "R-based-F1": 0.505175983436853,
        "Affiliation-F": 0.8963207032297504,
    },
    ("one, integers", 7): {
        "AUC-PR": 0.43830104321907604,
        "AUC-ROC": 0.7735714285714286,
        "VUS-PR": 0.45179196808437255,
        "VUS-ROC": 0.7957690026232555,
        "Standard-F1": 0.5714235828099912,
        "PA-F1": 1.0,
        "Event-based-F1": 0.9999999999999996,
        "R-based-F1": 0.43750000000000006,
        "Affiliation-F": 0.9710610932475878,
    },
}


@pytest.mark.parametrize(("name", "window"), PACKAGE)
def test_metrics_are_those_of_the_package(name, window):
    metrics = tsb_ad.tsb_ad_metrics(*seeded(name), window)
    assert tuple(metrics) == tsb_ad.METRICS
    assert metrics == pytest.approx(PACKAGE[name, window], abs=1e-12)


def test_perfect_and_constant_scores():
    labels = np.zeros(200, int)
    labels[50:60] = labels[120:150] = 1
    perfect = tsb_ad.tsb_ad_metrics(labels.astype(float), labels, 0)
    assert perfect == pytest.approx(dict.fromkeys(tsb_ad.METRICS, 1.0), abs=1e-4)
    constant = tsb_ad.tsb_ad_metrics(np.ones(200), labels, 0)
    assert constant["AUC-PR"] == pytest.approx(0.2)
    assert constant["Affiliation-F"] == constant["PA-F1"] == constant["R-based-F1"] == 0, "no threshold flags a point"


def test_affiliation_is_that_of_the_package():
    scores, labels = seeded("three")
    rates = tsb_ad.Affiliation(labels)(scores > 1)
    assert rates == pytest.approx((0.6628725514587583, 0.9960226070226069), abs=1e-12)


def affiliation_by_definition(flagged, labels, fine=32):
    """Shares of a fine grid of each zone that lie farther away."""
    times = (np.arange(len(labels) * fine) + 0.5) / fine
    start, stop = np.flatnonzero(np.diff(labels, prepend=0) == 1), np.flatnonzero(np.diff(labels, append=0) == -1) + 1
    precisions, recalls = [], []
    for j in range(len(start)):
        low = 0 if j == 0 else (stop[j - 1] + start[j]) / 2
        high = len(labels) if j == len(start) - 1 else (stop[j] + start[j + 1]) / 2
        zone = times[(times > low) & (times < high)]
        away = np.maximum(0, np.maximum(start[j] - zone, zone - stop[j]))
        chosen = flagged[zone.astype(int)]
        if chosen.any():
            beyond = [(away > d).mean() if d > 0 else 1.0 for d in away[chosen]]
            precisions.append(np.mean(beyond))
        recall = []
        for y in zone[(zone > start[j]) & (zone < stop[j])]:
            nearest = np.abs(zone[chosen] - y).min() if chosen.any() else np.inf
            inside = bool(flagged[int(y)])
            recall.append(1.0 if inside else 0.0 if np.isinf(nearest) else (np.abs(zone - y) > nearest).mean())
        recalls.append(np.mean(recall))
    return np.mean(precisions), np.mean(recalls)


@pytest.mark.parametrize("seed", range(6))
def test_affiliation_is_what_its_definition_says(seed):
    rng = np.random.default_rng(seed)
    labels, flagged = np.zeros(40, int), np.zeros(40, bool)
    for first in rng.integers(0, 38, 3):
        labels[first : first + rng.integers(1, 5)] = 1
    for first in rng.integers(0, 38, 3):
        flagged[first : first + rng.integers(1, 5)] = True
    expected = affiliation_by_definition(flagged, labels)
    assert tsb_ad.Affiliation(labels)(flagged) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.sin(np.arange(2000) * 2 * np.pi / 50), 50),
        (np.stack([np.sin(np.arange(900) * 2 * np.pi / 24), np.arange(900.0)], 1), 24),
        (np.arange(500.0), 125),  # no maximum
        (np.ones(500), 125),
        (np.tile([0.0, 1.0, 0.0, -1.0], 200), 125),  # the highest maximum is at four steps, too few
        (np.sin(np.arange(3000) * 2 * np.pi / 350), 125),  # at 350 steps, too many
    ],
)
def test_periods(values, expected):
    assert tsb_ad.period(values) == expected


def test_rates_by_events_and_points_at_the_ends_of_a_series():
    """Ranges 0-1, 4-5 and 9: the package never adjusts the first point, and does not look at the last."""
    labels = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 1])
    for flagged, event, adjusted in [
        ([0, 1, 1, 0, 0, 1, 0, 0, 0, 0], (2 / 3, 2 / 3), (3 / 4, 3 / 5)),
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], (1.0, 1 / 3), (1.0, 2 / 5)),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], (1.0, 0.0), (1.0, 1 / 5)),
        ([0, 0, 0, 0, 0, 0, 1, 0, 0, 0], (0.0, 0.0), (0.0, 0.0)),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], (0.0, 0.0), (0.0, 0.0)),
    ]:
        decision = np.array(flagged) == 1
        assert tsb_ad.event_based(decision, labels) == pytest.approx(event)
        assert tsb_ad.point_adjusted(decision, labels) == pytest.approx(adjusted)
    ends = np.array([0, 0, 0, 1, 1])
    assert tsb_ad.event_based(np.array([0, 0, 0, 1, 0]) == 1, ends) == (1.0, 1.0)
    assert tsb_ad.event_based(np.array([0, 0, 0, 0, 1]) == 1, ends) == (1.0, 0.0)


def combs(lag, height=1.0):
    """Single points, 1,000 steps from one to the next, each followed by another one after ``lag`` steps."""
    x = np.zeros(4000)
    x[::1000] = x[lag::1000] = height
    return x


def period_by_definition(x):
    """The highest local maximum of the autocorrelation, a sum for each lag."""
    x = x[:20_000] - x[:20_000].mean()
    correlation = np.array([x[: len(x) - lag] @ x[lag:] for lag in range(min(401, len(x)))])
    inner = range(4, len(correlation) - 1)
    maxima = [k for k in inner if correlation[k] > max(correlation[k - 1], correlation[k + 1])]
    best = max(maxima, key=correlation.__getitem__, default=0)
    return best if 6 <= best <= 303 else 125


@pytest.mark.parametrize("lag", [4, 5, 6, 7, 302, 303, 304, 398, 399, 400])
def test_periods_have_6_to_303_steps_and_a_stronger_lag_up_to_399_means_none(lag):
    assert tsb_ad.period(combs(lag)) == (lag if 6 <= lag <= 303 else 125)
    with_weaker = combs(lag) + combs(90, 0.4)
    assert tsb_ad.period(with_weaker) == period_by_definition(with_weaker)


def test_the_first_20000_steps_have_the_period():
    x = np.sin(np.arange(20_100) * 2 * np.pi / 50)
    x[19_000:20_000] = np.sin(np.arange(1000) * 2 * np.pi / 30)
    expected = tsb_ad.period(x[:20_000])
    x[20_000] = 1e7  # its products with the steps before it would outweigh all others
    assert tsb_ad.period(x) == expected == period_by_definition(x)
    assert tsb_ad.period(x[1:]) != expected
    short = np.array([0.0, 1.0, 0.0, 3.0, 0.0, 1.0, 0.0] * 3)
    assert tsb_ad.period(short) == period_by_definition(short) == 7


def test_metrics_refuse_what_they_cannot_use():
    labels = np.array([0, 1, 0, 0])
    for scores, message in [([0, np.inf, 0, 0], "infinite"), ([0, np.nan, 0, 0], "NaN"), ([0.0, 1.0], "labels")]:
        with pytest.raises(ValueError, match=message):
            tsb_ad.tsb_ad_metrics(np.array(scores), labels, 2)


def test_files_are_written_and_read(tmp_path):
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(3000, 3)).astype(np.float32).astype(float), np.zeros(3000, int)
    values[:, 2] = np.arange(3000)  # a counter is a channel here
    labels[2000:2030] = 1
    path = write_tsb_ad(tmp_path, 7, "SMD", 2, "Facility", values, labels)
    assert path.name == "007_SMD_id_2_Facility_tr_750_1st_2000.csv"
    series = read_tsb_ad(path)
    assert (series.name, series.support_until) == (path.stem, 750)
    np.testing.assert_allclose(series.values, values)
    np.testing.assert_array_equal(series.labels, labels)
    text = path.read_text().splitlines()
    text[5] = ",".join(["", *text[5].split(",")[1:]])
    path.write_text("\n".join(text))
    assert len(read_tsb_ad(path).values) == 2999, "rows with missing values are dropped, as the benchmark does"
    one = write_tsb_ad(tmp_path, 1, "NAB", 1, "WebService", values[:, :1], labels)
    assert one.read_text().startswith("Data,Label\n")


def test_a_folder_of_files_is_read_with_their_training_parts(tmp_path):
    values, labels = np.random.default_rng(0).normal(size=(3000, 2)), np.zeros(3000, int)
    labels[2000:2030] = 1
    name = write_tsb_ad(tmp_path, 1, "SMD", 1, "Facility", values, labels).stem
    (tmp_path / f"{name}.csv").rename(tmp_path / "machine.csv")
    write_tsb_ad(tmp_path, 1, "SMD", 1, "Facility", values, labels)
    series_set = read_own_series(tmp_path)
    assert {s.name: s.support_until for s in series_set.series} == {name: 750, "machine": None}
    np.testing.assert_array_equal(series_set.series[0].labels, labels)
    assert any("the first 750 rows are its training part" in sentence for sentence in series_set.skipped)


@pytest.mark.parametrize(
    ("length", "first", "steps"),
    [(28479, 4629, 4529), (28479, 15849, 7119), (28479, 326, 500), (901000, 500000, 50000)],
)
def test_training_parts_are_those_of_the_benchmark(length, first, steps):
    """Of the published file names 057_SMD_id_1, 184_SMD_id_7 and 078_SMD_id_22; and the upper bound."""
    labels = np.zeros(length, int)
    labels[first:] = 1
    assert training_part(labels) == steps


def test_names_without_a_training_part_are_refused(tmp_path):
    assert training_steps("machine_tr_1") is None
    for name, text, message in [
        ("a.csv", "Data,Label\n1,0\n", "gives no training part"),
        ("001_A_id_1_B_tr_500_1st_9.csv", "Label,Data\n1,0\n", "a last one 'Label'"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_tsb_ad(tmp_path / name)

import numpy as np
import pytest

from metaad_zoo.episodes import EpisodeSpec


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"support_normal": -1}, "support_normal is -1"),
        ({"query_normal": 1.5}, "query_normal is 1.5"),
        ({"support_normal": 0}, "empty support set"),
        ({"query_normal": 0, "query_anomalous": 0}, "empty query set"),
        ({"support_unlabelled": 10, "contamination": 1.0}, r"must lie in \[0, 1\)"),
        ({"support_unlabelled": 10, "contamination": (0.3, 0.1)}, r"is \[0.3, 0.1\]; a range must be \[low, high\]"),
        ({"support_unlabelled": 10, "contamination": (0.1,)}, "a range must be"),
        ({"support_unlabelled": 10, "contamination": (0.1, 1.0)}, "a range must be"),
        ({"contamination": 0.1}, "support_unlabelled is 0"),
        ({"contamination": (0.0, 0.1)}, "support_unlabelled is 0"),
    ],
)
def test_refuses_what_makes_no_episode(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        EpisodeSpec(**settings)


def test_counts_add_up():
    spec = EpisodeSpec(2, 1, 10, contamination=0.3, query_normal=5, query_anomalous=4)
    assert (spec.n_support, spec.n_query, spec.unlabelled_anomalous) == (13, 9, 3)
    assert spec.normal_needed == 2 + 7 + 5
    assert spec.anomalous_needed == 1 + 3 + 4
    assert spec.as_dict()["realised_contamination"] == 0.3


@pytest.mark.parametrize(
    ("contamination", "n", "anomalous"), [(0.29, 100, 29), (0.18, 20, 4), (0.12, 20, 2), (0.9, 1, 1)]
)
def test_contamination_is_rounded_to_the_nearest_count(contamination, n, anomalous):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    spec = EpisodeSpec(0, support_unlabelled=n, contamination=contamination)
    assert (spec.unlabelled_anomalous, spec.realised_contamination) == (anomalous, anomalous / n)


def test_a_range_of_contamination_is_drawn_per_episode():
    spec = EpisodeSpec(2, 0, 10, contamination=[0.0, 0.3])
    assert spec.realised_contamination == (0.0, 0.3)
    assert spec.as_dict()["contamination"] == [0.0, 0.3]
    with pytest.raises(ValueError, match=r"the range \[0.0, 0.3\].*EpisodeSpec.drawn"):
        _ = spec.unlabelled_anomalous
    rng = np.random.default_rng(0)
    assert {spec.drawn(rng).unlabelled_anomalous for _ in range(100)} == {0, 1, 2, 3}
    assert [e.unlabelled_anomalous for e in spec.extremes] == [0, 3]


@pytest.mark.parametrize("fewer", [False, True])
def test_a_number_takes_nothing_from_the_generator(fewer):
    spec, rng = EpisodeSpec(2, 0, 10, contamination=0.2, fewer_unlabelled=fewer), np.random.default_rng(0)
    assert spec.drawn(rng) == EpisodeSpec(2, 0, 10, contamination=0.2)
    assert rng.random() == np.random.default_rng(0).random()

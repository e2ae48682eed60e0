"""Generated tables: what they claim to be, measured on many rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from metaad_zoo.data.generated_tables import ANOMALIES, LAWS, GeneratedTables, TablePrior
from metaad_zoo.episodes import EpisodeSpec

SPEC = EpisodeSpec(support_normal=3, support_anomalous=1, query_normal=4, query_anomalous=5)


def pool(split="train", seed=0, **prior):
    return GeneratedTables(TablePrior(**prior), split, seed)


def test_a_table_is_a_function_of_seed_split_and_place():
    def rows(split, seed, task):
        return pool(split, seed, min_columns=4, max_columns=4).draw(task, SPEC, np.random.default_rng(1)).query

    first = rows("train", 0, 3)["tabular"]
    assert torch.equal(first, rows("train", 0, 3)["tabular"])
    for other in (("train", 0, 4), ("train", 1, 3), ("val", 0, 3), ("test", 0, 3)):
        assert not torch.allclose(first, rows(*other)["tabular"])


def test_episodes_have_the_asked_make_up_and_splits_share_no_table():
    train, val = pool(tables=12, min_columns=3, max_columns=5), pool("val", tables=12)
    widths = set()
    for task in range(12):
        episode = train.draw(task, SPEC, np.random.default_rng(task))
        widths.add(episode.support["tabular"].shape[1])
        assert episode.support["tabular"].dtype == torch.float32
        assert torch.isfinite(episode.query["tabular"]).all()
        assert sorted(episode.support_labels.tolist()) == [0, 0, 0, 1]
        assert int(episode.query_labels.sum()) == 5
        assert not set(episode.support_ids.tolist()) & set(episode.query_ids.tolist())
    assert widths == {3, 4, 5}
    assert train.task_name(7) == "generated/train/0007"
    assert len(train.members) == 12
    assert not train.members & val.members


def standardised(table, rng, n):
    """Reference, normal and anomalous rows, in units of the reference."""
    parts = [table.normal(500, rng), table.normal(n, rng), table.anomalous(n, rng)]
    centre, spread = np.median(parts[0], 0), parts[0].astype(float).std(0)
    varies = spread > 1e-5 * np.abs(centre)
    return [(p[:, varies] - centre[varies]) / spread[varies] for p in parts]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("anomaly", ANOMALIES)
def test_anomalies_can_be_told_from_normal_rows_by_a_nearest_neighbour(law, anomaly):
    found = []
    for task in range(12):
        table = pool(laws=(law,), anomalies=(anomaly,), min_columns=4).table(task)
        assert (table.kind, table.anomaly) == (law, anomaly)
        reference, normal, anomalous = standardised(table, np.random.default_rng(task), 60)
        distance = NearestNeighbors(n_neighbors=1).fit(reference).kneighbors(np.concatenate([normal, anomalous]))[0]
        found.append(roc_auc_score(np.repeat([0, 1], 60), distance[:, 0]))
    assert np.mean(found) > 0.7
    assert min(found) > 0.4


@pytest.mark.parametrize("law", LAWS)
def test_broken_dependency_keeps_every_column_and_loses_what_binds_them(law):
    bound, loose = [], []
    for task in range(10):
        table = pool(laws=(law,), anomalies=("dependency",), min_columns=4, max_columns=6).table(task)
        _, normal, anomalous = standardised(table, np.random.default_rng(task), 2000)
        for i in range(normal.shape[1]):
            assert kstest(normal[:, i], anomalous[:, i]).pvalue > 1e-4
        off = ~np.eye(normal.shape[1], dtype=bool)
        bound.append(np.abs(np.corrcoef(normal.T))[off].max())
        loose.append(np.abs(np.corrcoef(anomalous.T))[off].max())
    assert np.mean(bound) > 0.4
    assert max(loose) < 0.12  # 2000 rows: 5 standard errors


@pytest.mark.parametrize(
    ("prior", "complaint"),
    [
        ({"tables": 0}, "0 tables"),
        ({"min_columns": 1}, "1 to 16 columns"),
        ({"min_columns": 9, "max_columns": 8}, "9 to 8 columns"),
        ({"laws": ("mixtur",)}, "did you mean 'mixture'"),
        ({"anomalies": ()}, "has no anomaly"),
    ],
)
def test_priors_that_cannot_be_are_refused(prior, complaint):
    with pytest.raises(ValueError, match=complaint):
        TablePrior(**prior)

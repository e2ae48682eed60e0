"""Choosing a method inside a support set: it finds the one that is better, and says what it can't do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from metaad_zoo.cli import main
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.choosing import recommend
from tests.cli.test_configs import write_rows


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


METHODS = {"ecod": create_baseline("ecod"), "mahalanobis": create_baseline("mahalanobis")}


def test_labelled_anomalies_decide(support):
    found = recommend(METHODS, *support)
    assert found.choice == "mahalanobis"
    assert [c.name for c in found.candidates] == ["mahalanobis", "ecod"]
    assert found.candidates[0].auroc > found.candidates[1].auroc + 0.1
    assert "your labelled anomalies" in found.why


def test_synthetic_anomalies_decide_where_there_are_no_labels(support):
    samples, labels = support
    normal = {"tabular": samples["tabular"][:40]}
    found = recommend(METHODS, normal, labels[:40], [create_synthetic(["copula"])])
    assert found.choice == "mahalanobis", "a copula of independent columns leaves the line"
    assert "synthetic anomalies" in found.why
    assert recommend(METHODS, normal, labels[:40], [create_synthetic(["copula"])]) == found, "the seed decides"


def test_with_enough_data_the_simple_method_is_preferred_among_equals():
    rng = np.random.default_rng(0)
    x = torch.as_tensor(np.concatenate([rng.normal(size=(300, 2)), 9 + rng.normal(size=(20, 2))])).float()
    labels = torch.tensor([0] * 300 + [1] * 20)
    methods = {"knn": create_baseline("knn"), "iforest": create_baseline("iforest")}
    found = recommend(methods, {"tabular": x}, labels)
    assert found.choice == "iforest"
    assert "you have enough data (300 normal samples)" in found.why


def test_a_method_that_fails_is_listed_with_its_reason(support):
    class Fails:
        def adapt(self, support, labels):
            raise ValueError("it can't")

    found = recommend({"fails": Fails(), **METHODS}, *support)
    assert found.candidates[-1].name == "fails"
    assert found.candidates[-1].reason == "it can't"
    with pytest.raises(ValueError, match="no method could be tried: fails: it can't"):
        recommend({"fails": Fails()}, *support)


@pytest.mark.parametrize(
    ("n", "corruptions", "complaint"),
    [(3, [create_synthetic(["copula"])], "at least 4 normal samples, saw 3"), (9, [], "no labelled anomalies")],
)
def test_what_cannot_be_told_is_refused(n, corruptions, complaint):
    with pytest.raises(ValueError, match=complaint):
        recommend(METHODS, {"tabular": torch.randn(n, 2)}, torch.zeros(n, dtype=torch.long), corruptions)


def test_the_command_recommends(tmp_path, capsys, support):
    samples, labels = support
    table = tmp_path / "t.csv"
    write_rows(table, np.column_stack([samples["tabular"].numpy(), labels.numpy()]), ["a", "b", "broken"])
    assert main(["recommend", "--support", str(table), "--label", "broken", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choice"] in {c["name"] for c in found["candidates"]}
    assert "flag_everything" not in {c["name"] for c in found["candidates"]}
    assert main(["recommend", "--support", str(table), "--label", "broken"]) == 0
    assert f"Take {found['choice']}" in capsys.readouterr().out

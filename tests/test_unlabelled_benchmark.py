"""`benchmarks/unlabelled.py`: what it draws, its figures, and a whole run of it."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from metaad_zoo.data import TabularEpisodes
from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.learners import InContextDetector
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.conftest import REPOSITORY

CONTAMINATION = (0.0, 0.2)


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The script as a module, with small tables: three in the test split, three more."""
    (tmp_path / "bank").mkdir()
    names = {"adbench.npz": "abcde", "bank/tables_extra.npz": "xyz"}
    for file, tables in names.items():
        arrays = {}
        for i, name in enumerate(tables):
            rng = np.random.default_rng([ord(name)])
            normal = 8 if name == "y" else 60
            x = np.concatenate([rng.normal(size=(normal, 3)), rng.normal(3, 1, size=(17 + i, 3))])
            arrays |= {f"{name}__X": x, f"{name}__y": np.repeat([0, 1], [normal, 17 + i])}
        np.savez(tmp_path / file, **arrays)
    monkeypatch.setenv("METAAD_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    module = importlib.import_module("unlabelled")
    monkeypatch.setattr(module, "SPLITS", [1, 1, 3])
    return module


def domains(split="test"):
    return TabularEpisodes(dataset="adbench", splits=[1, 1, 3], seed=0).pools[split].domains


@pytest.mark.parametrize("contamination", [0.0, 0.1, 0.3])
def test_draws_share_their_query_and_keep_half_of_the_rows_for_it(benchmark, contamination):
    for domain in domains():
        clean, drawn = (benchmark.draw(domain, 5, 500, c, 0) for c in (0.0, contamination))
        episode = drawn.episode
        assert set(episode.query_ids.tolist()) == set(clean.episode.query_ids.tolist())
        normal = episode.support_labels == NORMAL
        assert torch.equal(
            episode.support_ids[normal], clean.episode.support_ids[clean.episode.support_labels == NORMAL]
        )
        assert not set(episode.query_ids.tolist()) & set(episode.support_ids.tolist())
        anomalies = int((episode.query_labels == ANOMALOUS).sum())
        assert (int((episode.query_labels == NORMAL).sum()), int(normal.sum())) == (30, 5)
        assert anomalies == (len(domain.anomalous) + 1) // 2
        truth = drawn.unlabelled[1]
        assert torch.equal(truth.bool(), drawn.anomalous[episode.support_labels == UNLABELLED])
        assert int(truth.sum()) == round(contamination * len(truth))
        unused_normal, unused_anomalous = (
            25 - int((truth == 0).sum()),
            len(domain.anomalous) - anomalies - int(truth.sum()),
        )
        assert 0 in (unused_normal, unused_anomalous), "as many unlabelled rows as the table has"
        assert not torch.equal(benchmark.draw(domain, 5, 500, 0.0, 1).episode.query_ids, clean.episode.query_ids)


def run(benchmark, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["unlabelled.py", *map(str, arguments)])
    benchmark.main()


def test_figures_of_every_method(benchmark, monkeypatch, tmp_path, capsys):
    model = InContextDetector(input_shapes={"tabular": (-1,)}).eval()
    save_checkpoint(tmp_path / "mine" / "model", Checkpoint(model, ["adbench/none"], {}))
    file = tmp_path / "unlabelled.json"
    options = ["--extra", "--shots", 3, 5, "--contamination", *CONTAMINATION, "--unlabelled", 20, "--draws", 2]
    run(benchmark, monkeypatch, tmp_path / "mine" / "model", "mahalanobis", *options, "--json", file)
    output = capsys.readouterr().out
    assert "extra/y is left out: fewer than 5 normal rows beside the query" in output
    results = json.loads(file.read_text())
    protocol, rows = results["protocol"], results["rows"]
    assert protocol["trained_or_chosen_on"] == {"mine/model": ["adbench/none"]}
    assert {name for name, m in protocol["methods"].items() if m["adapted_to"] == "truly normal"} == {benchmark.ORACLE}
    assert [(r["shots"], r["contamination"]) for r in rows] == [(k, c) for k in (3, 5) for c in CONTAMINATION]
    assert {len(r["unlabelled"]) for r in rows[:2]} == {6}
    for clean, contaminated in (rows[:2], rows[2:]):
        names = list(clean["methods"])
        assert {"mine/model", "mahalanobis", "experts", "experts, normal rows alone", "pile_knn, 90%"} <= set(names)
        assert names[0] == benchmark.NEAREST
        for name in names:
            a, b = (r["methods"][name] for r in (clean, contaminated))
            assert a["guesses"] is None
            same = np.allclose(list(a["tables"].values()), list(b["tables"].values()))
            assert same == (protocol["methods"][name]["adapted_to"] == "normal")
            assert (b["guesses"] is None) == (name in (benchmark.ORACLE, "knn, unlabelled rows taken as normal"))
        exact, oracle = (clean["methods"][name]["tables"] for name in ("pile_knn, 100%", benchmark.ORACLE))
        assert exact == oracle, "without anomalies all are normal"
        worst = contaminated["methods"]["pile_knn, 100%"]["auroc"]
        assert contaminated["methods"][benchmark.ORACLE]["auroc"] > worst + 0.02
    both = results["together"][1]["methods"]["experts"]
    by_row = [r["methods"]["experts"]["tables"]["extra/x"] for r in rows[2:]]
    assert both["tables"]["extra/x"] == pytest.approx(np.mean(by_row))
    over = both["auroc"] - results["together"][1]["methods"][benchmark.NEAREST]["auroc"]
    assert both["over_nearest"]["mean"] == pytest.approx(over)
    assert both["over_nearest"]["ci95"][0] <= over <= both["over_nearest"]["ci95"][1]
    assert both["over_best_pile_knn"]["method"].startswith("pile_knn, ")


def test_a_figure_is_that_of_the_method_on_the_draws(benchmark):
    domain = domains()[0]
    drawn = [benchmark.draw(domain, 5, 20, 0.2, number) for number in (0, 1)]
    figures = benchmark.Figures()
    for one in drawn:
        benchmark.judge(benchmark.Contestant(create_baseline("pile_knn"), "all"), one, figures)
    expected, guesses = [], []
    for e in (one.episode for one in drawn):
        adapted = create_baseline("pile_knn").adapt(e.support, e.support_labels)
        expected.append(auroc(adapted.score(e.query), e.query_labels))
        truth = np.isin(e.support_ids[e.support_labels == UNLABELLED], domain.anomalous)
        guesses.append(auroc(adapted.unlabelled_scores, torch.as_tensor(truth).long()))
    assert figures.auroc[domain.name] == expected
    assert figures.guesses[domain.name] == guesses


def test_a_model_that_has_seen_a_judged_table_is_refused(benchmark, monkeypatch, tmp_path, capsys):
    model = InContextDetector(input_shapes={"tabular": (-1,)}).eval()
    save_checkpoint(tmp_path / "mine", Checkpoint(model, [domains()[0].name], {}))
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, tmp_path / "mine")
    assert domains()[0].name in capsys.readouterr().err

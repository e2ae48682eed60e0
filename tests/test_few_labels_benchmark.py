"""`benchmarks/few_labels.py`: which anomalies it labels, its classical methods, and a whole run of it."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression

from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.learners import PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.conftest import REPOSITORY, SPLITS, small_learner

EPISODE = {
    "support_normal": 0,
    "support_unlabelled": 10,
    "contamination": 0.1,
    "support_anomalous": 5,
    "query_normal": 4,
    "query_anomalous": 4,
}


@pytest.fixture
def few_labels(monkeypatch):
    """The script as a module; it imports what lies beside it."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("few_labels")


@pytest.fixture
def config(tmp_path):
    data = {"splits": SPLITS, "image_size": 16, "val_episodes": 4, "episode": EPISODE}
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"data": {"class_path": "metaad_zoo.data.ImageEpisodes", "init_args": data}}))
    return path


@pytest.fixture
def episodes(config):
    return list(data_of_config(config).episodes("test", 24))


def finished_run(folder, learner, config):
    save_checkpoint(folder / "model", Checkpoint(learner.eval(), ["digits/0"], {}))
    (folder / "config.yaml").write_text(config.read_text())
    return str(folder)


@pytest.mark.parametrize("n", [0, 2, 5])
def test_labelled_anomalies_beyond_the_number_are_left_out(few_labels, episodes, n):
    for whole in episodes[:3]:
        is_anomaly = whole.support_labels == ANOMALOUS
        cut = few_labels.with_labels(whole, n)
        rows = torch.cat([is_anomaly.nonzero().flatten()[:n], (~is_anomaly).nonzero().flatten()]).sort().values
        assert torch.equal(cut.support_ids, whole.support_ids[rows])
        assert torch.equal(cut.support_labels, whole.support_labels[rows])
        assert torch.equal(cut.support["image"], whole.support["image"][rows])
        assert int((cut.support_labels == ANOMALOUS).sum()) == n
        assert cut.query is whole.query


def test_labels_of_another_class_are_of_a_class_that_the_query_has_none_of(few_labels, episodes):
    by_id = {}  # the digit of each sample that was drawn as an anomaly or as normal, by its task's name
    for e in episodes:
        normal, anomalous = e.task.removeprefix("digits/").split("-vs-")
        for ids, labels in ((e.support_ids, e.support_labels), (e.query_ids, e.query_labels)):
            for digit, label in ((normal, 0), (anomalous, 1)):
                by_id.update(dict.fromkeys(ids[labels == label].tolist(), digit))
    swapped = few_labels.of_another_class(episodes)
    assert [e.task for e in swapped] == [e.task for e in episodes]
    for e, other in zip(episodes, swapped, strict=True):
        is_anomaly = e.support_labels == ANOMALOUS
        labelled = {by_id[i] for i in other.support_ids[is_anomaly].tolist()}
        assert len(labelled) == 1
        assert not labelled & set(e.task.removeprefix("digits/").split("-vs-"))
        assert torch.equal(other.support_ids[~is_anomaly], e.support_ids[~is_anomaly])
        assert torch.equal(other.support["image"][~is_anomaly], e.support["image"][~is_anomaly])
        assert not torch.equal(other.support["image"][is_anomaly], e.support["image"][is_anomaly])
        assert other.query is e.query


def test_a_class_with_one_task_has_no_labels_of_another(few_labels, episodes):
    with pytest.raises(ValueError, match=r"is the only task of digits/\d: draw more --episodes"):
        few_labels.of_another_class([e for e in episodes if e.task == episodes[0].task])


def test_methods_that_use_both_kinds(few_labels, episodes):
    episode = episodes[0]
    flat = {part: getattr(episode, part)["image"].flatten(1) for part in ("support", "query")}
    x, q = ((v - v.mean(1, keepdim=True)) / v.std(1, correction=0, keepdim=True) for v in flat.values())
    is_anomaly = episode.support_labels == ANOMALOUS
    near, rival = (torch.cdist(q, x[rows]).amin(1) for rows in (~is_anomaly, is_anomaly))
    model = LogisticRegression(class_weight="balanced").fit(x.numpy(), is_anomaly.numpy())
    expected = {False: near - rival, True: torch.as_tensor(model.decision_function(q.numpy()))}
    for regression, scores in expected.items():
        method = few_labels.BothKinds(regression)
        result = method.adapt(episode.support, episode.support_labels).score(episode.query)
        torch.testing.assert_close(result, scores, rtol=1e-3, atol=1e-3, check_dtype=False)
        bare = few_labels.with_labels(episode, 0)
        result = method.adapt(bare.support, bare.support_labels).score(bare.query)
        torch.testing.assert_close(result, near, rtol=1e-3, atol=1e-3, check_dtype=False)


def test_every_run_is_measured_beside_the_baselines(few_labels, config, tmp_path, monkeypatch, capsys):
    shape = {"input_shapes": {"image": (1, 16, 16)}}
    prototypes = PrototypicalNetwork(backbone="conv4", backbone_options={"width": 4}, **shape)
    runs = [
        finished_run(tmp_path / "quickstart" / time, learner, config)  # the two have one name, as documented
        for time, learner in (("1", small_learner()), ("2", prototypes))
    ]
    file = tmp_path / "few_labels.json"
    monkeypatch.setattr(sys, "argv", ["few_labels.py", *runs, "--episodes", "12", "--json", str(file)])
    few_labels.main()
    rows = json.loads(file.read_text())["rows"]
    assert [(r["labelled"], r["of_another_class"]) for r in rows] == [
        *((n, False) for n in (0, 1, 2, 5)),
        (5, True),
    ]
    names = ["maml", "protonet", "1-NN", "mahalanobis", "ocsvm", "1-NN, both kinds", "logistic regression"]
    for row in rows:
        assert list(row["methods"]) == names
        assert all(len(m["tasks"]) == 12 and 0 <= m["mean"] <= 1 for m in row["methods"].values())
    for name in ("1-NN", "mahalanobis", "ocsvm"):
        assert len({r["methods"][name]["mean"] for r in rows}) == 1, (
            "what leaves labels out has the same figure throughout"
        )
    none = rows[0]["methods"]
    assert none["1-NN"] == none["1-NN, both kinds"] == none["logistic regression"], "without labels all are 1-NN"
    assert "protonet" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["few_labels.py", runs[0], f"{runs[0]}/../1"])
    with pytest.raises(SystemExit):
        few_labels.main()
    assert "two runs are of one learner (maml)" in capsys.readouterr().err

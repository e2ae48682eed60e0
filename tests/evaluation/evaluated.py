"""The folder of a real evaluation: nearest neighbours on scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path

import torch
from pyarrow import parquet

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation.baselines import FlagEverything, NearestNeighbour
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.plots import episode_figure
from metaad_zoo.evaluation.protocol import across_tasks, environment, evaluate, interval
from metaad_zoo.evaluation.report import write_json
from metaad_zoo.evaluation.scores import ScoreFile
from tests.conftest import SPLITS

ALPHA = 0.1
METHODS = {
    "1-NN on standardised pixels": NearestNeighbour("sample"),
    "1-NN on <raw> pixels": NearestNeighbour(),
    "flag everything": FlagEverything(),
}


def digits(shots: int = 3, test_episodes: int = 24) -> ImageEpisodes:
    spec = EpisodeSpec(support_normal=shots, query_normal=6, query_anomalous=4)
    return ImageEpisodes(splits=SPLITS, image_size=16, episode=spec, val_episodes=10, test_episodes=test_episodes)


def score(method, episode):
    return method.adapt(episode.support, episode.support_labels).score(episode.query).double()


def write_evaluation(folder: Path, methods=METHODS, rename=lambda task: task, with_scores: bool = True) -> Path:
    """Write what `metaad evaluate` writes: results.json, scores.parquet, best and worst pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    calibrators = across_tasks(methods, list(data.episodes("val", 10)))
    episodes = list(data.episodes("test", data.test_episodes))
    for episode in episodes:
        episode.task = rename(episode.task)
    with ScoreFile(folder / "scores.parquet") as record:
        figures = evaluate(methods, episodes, calibrators, ALPHA, record=record)
    results = {
        "protocol": {"data": data.description(), "split": "test", "episodes": 24, "tasks": 12, "alpha": ALPHA},
        "methods": figures,
        "environment": environment("cpu"),
    }
    if with_scores:
        results["curves"] = {"shots": _against_shots(methods)}
        results["calibration"] = _calibration_of(parquet.read_table(folder / "scores.parquet").to_pylist(), methods)
        first = next(iter(methods))
        _draw_extremes(folder, episodes, methods[first], figures[first]["threshold"])
    else:
        (folder / "scores.parquet").unlink()
    write_json(folder / "results.json", results)
    return folder


def _against_shots(methods):
    values = [1, 3, 6]
    lines = {name: {"mean": [], "ci95": []} for name in methods}
    for shots in values:
        episodes = list(digits(shots).episodes("test", 12))
        for name, method in methods.items():
            aurocs = torch.tensor([auroc(score(method, e), e.query_labels) for e in episodes]).numpy()
            lines[name]["mean"].append(float(aurocs.mean()))
            lines[name]["ci95"].append(interval(aurocs))
    return {"values": values, "methods": lines}


def _calibration_of(rows, methods, alphas=(0.05, 0.1, 0.2)):
    def rate(name, label, alpha):
        p = torch.tensor([row["p_value"] for row in rows if row["method"] == name and row["label"] == label])
        return float((p <= alpha).double().mean())

    columns = {
        name: {"fpr": [rate(name, 0, a) for a in alphas], "power": [rate(name, 1, a) for a in alphas]}
        for name in methods
    }
    return {"alphas": list(alphas), "methods": columns}


def _draw_extremes(folder, episodes, method, threshold):
    ordered = sorted(episodes, key=lambda e: auroc(score(method, e), e.query_labels))
    for name, episode in (("worst", ordered[0]), ("best", ordered[-1])):
        figure = episode_figure(episode, score(method, episode), threshold)
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=120)

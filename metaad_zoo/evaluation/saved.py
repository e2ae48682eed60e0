"""Read the files of an evaluation: ``results.json`` and ``scores.parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import ArrowInvalid, parquet

COLUMNS = ("method", "task", "episode", "label", "score", "p_value")


@dataclass(frozen=True)
class ScoreTable:
    """Scores of many samples, a row a sample.

    Attributes:
        tasks: ``(n,)`` str.
        episodes: ``(n,)`` int, counted over all tasks or within each.
        labels: ``(n,)`` 0 normal, 1 anomalous.
        scores: ``(n,)`` float, higher is more anomalous.
        p_values: ``(n,)`` float; NaN where a method has none.
    """

    tasks: np.ndarray
    episodes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray

    def take(self, rows: np.ndarray) -> ScoreTable:
        """Some of the rows, by position or mask."""
        return ScoreTable(
            self.tasks[rows], self.episodes[rows], self.labels[rows], self.scores[rows], self.p_values[rows]
        )

    def episodes_by_task(self) -> Iterator[list[ScoreTable]]:
        """For each task, in the order of their names, its episodes."""
        for task in _groups(self.tasks):
            rows = self.take(task)
            yield [rows.take(episode) for episode in _groups(rows.episodes)]


def _groups(values: np.ndarray) -> list[np.ndarray]:
    """Positions of the rows of each distinct value, ascending."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])


def read_results(folder: Path) -> dict[str, Any]:
    """The content of ``results.json``.

    Raises:
        ValueError: the file does not exist, or was not written by an evaluation.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: expected the folder of a finished run of train.py, or one that "
            "`metaad evaluate ... --out FOLDER` wrote"
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    methods = results.get("methods") if isinstance(results, dict) else None
    if not isinstance(methods, dict) or not methods or not isinstance(results.get("protocol"), dict):
        raise ValueError(f"{path}: expected the keys 'protocol' and 'methods', with at least one method")
    for name, figures in methods.items():
        lacking = [key for key in ("mean", "tasks") if not isinstance(figures, dict) or not figures.get(key)]
        if lacking:
            raise ValueError(f"{path}: method {name!r} has no {' and no '.join(lacking)}")
    tasks = {name: [task["task"] for task in figures["tasks"]] for name, figures in methods.items()}
    first = next(iter(tasks))
    deviating = [name for name in tasks if tasks[name] != tasks[first]]
    if deviating:
        raise ValueError(f"{path}: {deviating} have other tasks than {first!r}: methods are compared on the same ones")
    return results


def read_scores(folder: Path, methods: list[str]) -> dict[str, ScoreTable] | None:
    """Scores by method, in the order of ``methods``; None where the folder has no ``scores.parquet``.

    Raises:
        ValueError: the file is no parquet file, lacks a column, holds a method that isn't in ``methods``, a score that
            is NaN, or an episode whose samples are all normal or all anomalous.
    """
    path = folder / "scores.parquet"
    if not path.is_file():
        return None
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    lacking = [c for c in COLUMNS if c not in table.column_names]
    if lacking:
        raise ValueError(f"{path} has no column {', '.join(lacking)}; it has {', '.join(table.column_names)}")
    method, task, episode, label, score, p = (table[c].to_numpy() for c in COLUMNS)
    unknown = sorted(set(method.tolist()) - set(methods))
    if unknown:
        raise ValueError(
            f"{path} has scores of {unknown}, which are not in results.json: the files come from two evaluations"
        )
    everything = ScoreTable(task.astype(str), episode, label, score.astype(float), p.astype(float))
    by_method = {name: everything.take(np.flatnonzero(method == name)) for name in methods if (method == name).any()}
    for name, scores in by_method.items():
        _check(path, name, scores)
    return by_method


def _check(path: Path, name: str, scores: ScoreTable) -> None:
    if np.isnan(scores.scores).any():
        raise ValueError(f"{path}: {np.isnan(scores.scores).sum()} scores of {name!r} are NaN; expected numbers")
    for episodes in scores.episodes_by_task():
        for episode in episodes:
            if set(np.unique(episode.labels).tolist()) != {0, 1}:
                raise ValueError(
                    f"{path}: episode {episode.episodes[0]} of {episode.tasks[0]!r} has labels "
                    f"{np.unique(episode.labels).tolist()}; expected both 0 (normal) and 1 (anomalous)"
                )

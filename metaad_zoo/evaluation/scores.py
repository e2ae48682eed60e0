"""Scores of an evaluation as a Parquet file, from which all metrics can be recomputed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from metaad_zoo.atomic_write import replacing
from metaad_zoo.evaluation.metrics import all_metrics, rank_metrics

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("task", pa.string()),
        ("episode", pa.int32()),
        ("sample", pa.int32()),
        ("label", pa.int8()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("decision", pa.int8()),
    ]
)
ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Scored:
    """One method's scores of one episode.

    Attributes:
        method: name of the method.
        task: name of the episode's task.
        episode: number of the episode, from 0.
        labels: ``(n,)`` labels of the query.
        scores: ``(n,)`` anomaly scores.
        p: ``(n,)`` p-values; None without a calibrator.
        flagged: ``(n,)`` booleans; None without p-values.
    """

    method: str
    task: str
    episode: int
    labels: Tensor
    scores: Tensor
    p: Tensor | None
    flagged: Tensor | None


Record = Callable[[Scored], None]


def record_all(*records: Record) -> Record:
    """Combine several records into one."""

    def record(row: Scored) -> None:
        for each_record in records:
            each_record(row)

    return record


class ScoreFile:
    """Writes ``scores.parquet``, a row a score; a context manager, and itself a :data:`Record`.

    Args:
        path: file to write; it appears when the context ends without an error.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._open = path, ExitStack()
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}

    def __enter__(self) -> ScoreFile:
        beside = self._open.enter_context(replacing(self.path))
        self._writer = self._open.enter_context(parquet.ParquetWriter(beside, SCHEMA))
        return self

    def __call__(self, row: Scored) -> None:
        n = len(row.scores)
        columns: dict[str, list[Any]] = {
            "method": [row.method] * n,
            "task": [row.task] * n,
            "episode": [row.episode] * n,
            "sample": list(range(n)),
            "label": row.labels.tolist(),
            "score": row.scores.tolist(),
            "p_value": [math.nan] * n if row.p is None else row.p.tolist(),
            "decision": [None] * n if row.flagged is None else row.flagged.long().tolist(),
        }
        for name, values in columns.items():
            self._columns[name] += values
        if len(self._columns["score"]) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._columns, schema=SCHEMA))
        self._columns = {name: [] for name in SCHEMA.names}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._open.__exit__(kind, error, trace)


def figures_from_scores(path: Path) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Metrics of each episode, by method and task, recomputed from ``scores.parquet``.

    Metrics of decisions are included where there are decisions; points of a series may have only scores.
    """
    table = parquet.read_table(path)
    rows = {name: table.column(name).to_numpy() for name in ("episode", "label", "score", "decision")}
    names = list(zip(table.column("method").to_pylist(), table.column("task").to_pylist(), strict=True))
    groups: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for i, (method, task) in enumerate(names):
        groups[method, task, int(rows["episode"][i])].append(i)
    figures: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for (method, task, _), group in groups.items():
        scores, labels, flagged = (torch.as_tensor(rows[name][group]) for name in ("score", "label", "decision"))
        undecided = bool(flagged.isnan().any())
        metrics = rank_metrics(scores, labels) if undecided else all_metrics(scores, labels, flagged.bool())
        figures[method][task].append(metrics)
    return figures

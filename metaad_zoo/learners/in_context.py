"""In-context detection: a transformer that reads a support set and a query and answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch
from metaad_zoo.learners.column_choice import drop_columns, pick_columns
from metaad_zoo.learners.column_statistics import (
    CELL_FEATURES,
    STATISTICS,
    ColumnStatistics,
    cell_features,
    plain_and_logs,
    signed_log,
)
from metaad_zoo.learners.embedding import Reading
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.learners.set_attention import Attend, InducedSetAttention
from metaad_zoo.learners.soft_neighbours import LEAST, own_distances, soft_minimum
from metaad_zoo.learners.table_rows import TableRowLearner
from metaad_zoo.registry import unknown_name

UNITS = {
    "standard": (False, 1.0),
    "root": (False, 0.5),
    "raw": (False, 0.0),
    "log_standard": (True, 1.0),
    "log_root": (True, 0.5),
    "log_raw": (True, 0.0),
}
"""By name: whether values are taken as signed logarithms, and by which power of its spread a column is divided."""

CELLS_AT_ONCE = 2**25


@register_learner("in_context")
class InContextDetector(TableRowLearner):
    """Attention over columns tells how to measure distance; attention over support rows tells what distance means.

    An embedding is read as a table row of ``d`` columns; with the backbone ``raw_columns`` it is one, of any width, NaN
    for what is missing. Scores depend on the order neither of rows nor of columns, nor on columns that are not there.

    1. Each column is described by its support values (:meth:`ColumnStatistics.tokens`); attention among the columns
       puts that into the light of the table.
    2. Each head attends from the query to the support rows by their L1 distance in units of its own, a column's weight
       being a power of its spread times what the column's token says. Its read-out is the logarithm of the soft minimum
       of the distances, in units of the support rows' own nearest distances.
    3. A query's token, made of these and of its cells beside the support's, attends to the support rows once more and
       tells how much each head counts, and what to add.

    The last layers of 1 and 3 start at zero: untrained, the detector is a mean of soft nearest neighbours in several
    units, which training corrects. Labelled anomalies in the support are rivals at their own distance.

    Source: after Hollmann et al., "TabPFN", ICLR 2023 (a transformer trained over many tables that answers in one
    pass), and Shen et al., "FoMo-0D", 2024 (the same for outlier detection, on a synthetic prior); attention by
    distance follows Plötz and Roth, "Neural Nearest Neighbors Networks", NeurIPS 2018.

    Args:
        units: of the heads; out of ``standard``, ``root``, ``raw``, which divide a column by its spread, the root of it
            and not at all, and the same of signed logarithms: ``log_standard``, ``log_root``, ``log_raw``.
        width: of the tokens of columns, rows and cells.
        layers: of attention among columns.
        attention_heads: of each attention between tokens.
        correct: whether the heads' weights and the sum are corrected query by query (3.); False leaves 1. and 2.
        column_dropout: for tables in training: share of the tasks that are given a random part of their columns alone.
        max_columns: of wider tables so many are read, evenly picked out of all in the order of their spread.
        kwargs: as for :class:`TableRowLearner`.
    """

    def __init__(
        self,
        *,
        units: Sequence[str] = tuple(UNITS),
        width: int = 32,
        layers: int = 2,
        attention_heads: int = 4,
        correct: bool = True,
        column_dropout: float = 0.0,
        max_columns: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name in units:
            if name not in UNITS:
                raise unknown_name("units", name, UNITS)
        heads_fit = attention_heads > 0 and width % attention_heads == 0
        if not units or max_columns < 1 or not 0 <= column_dropout <= 1 or not heads_fit:
            raise ValueError(
                f"units={list(units)}, max_columns={max_columns}, column_dropout={column_dropout}, width={width}, "
                f"attention_heads={attention_heads}; expected at least one of each, a share in [0, 1], and heads that "
                "divide the width"
            )
        self._arguments |= {
            "units": list(units),
            "width": width,
            "layers": layers,
            "attention_heads": attention_heads,
            "correct": correct,
            "column_dropout": column_dropout,
            "max_columns": max_columns,
        }
        self.units, self.correct = list(units), correct
        self.column_dropout, self.max_columns = column_dropout, max_columns
        heads = len(self.units)
        self.powers = nn.Parameter(torch.tensor([UNITS[name][1] for name in self.units]))
        self.log_sharpness = nn.Parameter(torch.full((heads,), 3.0).log())
        self.gate = nn.Parameter(torch.zeros(heads))
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.offset = nn.Parameter(torch.tensor([-0.5, 0.0]))  # of the logit; weight of rivals, before softplus
        self.into = nn.Linear(STATISTICS, width)
        self.columns = nn.ModuleList(InducedSetAttention(width, attention_heads, 8) for _ in range(layers))
        self.column_weight = _zero(nn.Linear(width, heads))
        if correct:
            self.cell = nn.Linear(CELL_FEATURES, width)
            self.cell_column = nn.Linear(width, width, bias=False)
            self.cell_out = nn.Linear(width, width)
            self.row = nn.Linear(2 * heads, width)
            self.query = nn.Linear(heads + 3 * width + 2, width)
            self.rows = Attend(width, attention_heads)
            self.answer = _zero(nn.Linear(width, heads + 1))

    def task_losses(self, batch: EpisodeBatch) -> Tensor:
        """As the base's; in training, of tables that may have lost some of their columns."""
        if self.training and self.column_dropout:
            batch = drop_columns(batch, self.column_dropout)
        return super().task_losses(batch)

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in which both classes weigh the same, and that of every pair of one of each being in order."""
        logits, anomalous = self.compare(reading, embeddings), labels == ANOMALOUS
        each = F.binary_cross_entropy_with_logits(logits, anomalous.to(logits.dtype), reduction="none")
        share = anomalous.to(logits.dtype).mean(-1, keepdim=True)
        weight = torch.where(anomalous, 0.5 / share, 0.5 / (1 - share))
        weight = torch.where((share == 0) | (share == 1), 1, weight)
        wrong = F.softplus(logits.unsqueeze(-2) - logits.unsqueeze(-1))  # [i, j]: j above i
        pairs = (anomalous.unsqueeze(-1) & ~anomalous.unsqueeze(-2)).to(logits.dtype)
        order = (wrong * pairs).sum((-1, -2)) / pairs.sum((-1, -2)).clamp_min(1)
        return (weight * each).mean(-1) + order

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """The ``support`` itself with its ``labels``, and the ``columns``' tokens ``(..., d, width)``."""
        stats = ColumnStatistics.of(embeddings, labels != ANOMALOUS)
        bound: dict[str, Tensor] = {}
        if embeddings.shape[-1] > self.max_columns:
            bound["chosen"] = pick_columns(stats, self.max_columns)
            embeddings = _chosen(bound, embeddings)
            stats = ColumnStatistics.of(embeddings, labels != ANOMALOUS)
        tokens = self.into(stats.tokens())
        for block in self.columns:
            tokens = block(tokens, stats.there)
        return {"support": embeddings, "labels": labels, "columns": tokens, **bound}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """See the class; queries are scored independently of each other, some at a time where there are many cells."""
        at_once = max(1, CELLS_AT_ONCE // (reading["support"].shape[-1] * reading["columns"].shape[-1]))
        here = _chosen(reading, embeddings)
        if torch.compiler.is_compiling():  # a traced graph takes batches of any length, as they come
            return self._compare(reading, here)
        parts = here.split(at_once, -2)
        return torch.cat([self._compare(reading, part) for part in parts], -1)

    def _compare(self, reading: Reading, queries: Tensor) -> Tensor:
        support, labels, tokens = reading["support"], reading["labels"], reading["columns"]
        normal = labels != ANOMALOUS
        plain, logs = plain_and_logs(support, normal)
        to_rows, between = self._distances(plain, logs, tokens, queries)
        own, lonely = own_distances(between, normal)
        to_rows = to_rows / own.unsqueeze(-2).unsqueeze(-2)
        sharpness = self.log_sharpness.exp()
        near = soft_minimum(to_rows, normal, sharpness)
        gates, added = self.gate.expand_as(near), near.new_zeros(())
        if self.correct:
            told = self._corrections(plain, logs, tokens, queries, near, to_rows, lonely, normal)
            gates, added = gates + told[..., :-1], told[..., -1]
        gates = gates.softmax(-1)
        score = (gates * near).sum(-1) + added
        if torch.compiler.is_compiling() or not bool(normal.all()):  # a traced graph can't choose
            rival = soft_minimum(to_rows, ~normal, sharpness)
            apart = (gates * (near - rival)).sum(-1)
            some = (~normal).any(-1, keepdim=True)
            score = score + torch.where(some, F.softplus(self.offset[1]) * apart, 0)
        return self.log_scale.exp() * (score + self.offset[0])

    def _distances(
        self, plain: ColumnStatistics, logs: ColumnStatistics, tokens: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By head the distances of queries to support rows ``(..., m, n, heads)`` and among these ``(..., n, n,
        heads)``."""
        weights = self.column_weight(tokens).clamp(-4, 4)
        to_rows, between = [], []
        for i, name in enumerate(self.units):
            logarithmic, power = UNITS[name]
            stats = logs if logarithmic else plain
            x = stats.fill(signed_log(queries) if logarithmic else queries)
            unit = (weights[..., i] - self.powers[i] * stats.spread.log()).exp().unsqueeze(-2)
            rows, x = (stats.around(y, clipped=power == 1) * unit for y in (stats.values, x))
            rows, x = (y * stats.there.unsqueeze(-2) for y in (rows, x))
            to_rows.append(_l1(x, rows))
            between.append(_l1(rows, rows))
        return torch.stack(to_rows, -1), torch.stack(between, -1)

    def _corrections(
        self,
        plain: ColumnStatistics,
        logs: ColumnStatistics,
        tokens: Tensor,
        queries: Tensor,
        near: Tensor,
        to_rows: Tensor,
        lonely: Tensor,
        normal: Tensor,
    ) -> Tensor:
        """What is added to each head's gate, and to the sum, ``(..., m, heads + 1)``."""
        there = plain.there.unsqueeze(-1)
        width = there.sum(-2).clamp_min(1)
        table = torch.where(there, tokens, 0).sum(-2) / width
        cells = self.cell(cell_features(plain, logs, queries)) + self.cell_column(tokens).unsqueeze(-3)
        cells, here = self.cell_out(F.gelu(cells)), there.unsqueeze(-3)
        cell_mean = torch.where(here, cells, 0).sum(-2) / width.unsqueeze(-2)
        largest = torch.where(here, cells, -torch.inf).amax(-2)
        largest = torch.where(here.any(-2), largest, 0)
        size = torch.cat([width.log(), normal.sum(-1, keepdim=True).clamp_min(1).log()], -1).to(table.dtype) / 4
        about = torch.cat([table, size], -1).unsqueeze(-2).expand(*near.shape[:-1], -1)
        query = self.query(torch.cat([near, cell_mean, largest, about], -1))
        pairs = torch.cat([(to_rows + LEAST).log(), lonely.unsqueeze(-3).expand_as(to_rows)], -1)
        row_tokens = self.row(pairs)
        seen = normal.unsqueeze(-2).expand(row_tokens.shape[:-1])
        told: Tensor = self.answer(self.rows(query.unsqueeze(-2), row_tokens, seen).squeeze(-2))
        return told


def _chosen(reading: Reading, x: Tensor) -> Tensor:
    """The columns that are read, of ``(..., m, d)``."""
    if "chosen" not in reading:
        return x
    return x.gather(-1, reading["chosen"].unsqueeze(-2).expand(*x.shape[:-1], -1))


def _l1(x: Tensor, y: Tensor) -> Tensor:
    """Distances ``(..., m, n)``."""
    if torch.compiler.is_compiling():  # ONNX has no word for cdist; the other way takes m x n x d numbers
        return (x.unsqueeze(-2) - y.unsqueeze(-3)).abs().sum(-1)
    return torch.cdist(x, y, p=1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

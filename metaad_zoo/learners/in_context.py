"""In-context detection: a transformer over tables that scores queries in one forward pass, given a support set."""

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
"""By name: whether values are signed logarithms, and the power of the spread that divides a column."""

CELLS_AT_ONCE = 2**25


@register_learner("in_context")
class InContextDetector(TableRowLearner):
    """Soft nearest neighbours, with attention over columns for distances and over support rows for weights.

    An embedding is a table row of ``d`` columns, which may be NaN. With the backbone ``raw_columns`` it is the sample
    itself, of any width. Scores do not depend on the order of rows or columns, nor on absent columns.

    1. A column's token describes its support values (:meth:`ColumnStatistics.tokens`); attention among columns adds the
       context of the table.
    2. Each head computes L1 distances from the query to the support rows. A column's weight is a power of its spread
       times a factor from its token. The head's output is the logarithm of the soft minimum of the distances, relative
       to the nearest-neighbour distances within the support.
    3. A query's token, from these outputs and from its cells relative to the support, attends to the support rows, and
       yields the heads' weights and an additive correction.

    The last layers of 1 and 3 are initially zero: the untrained detector is a mean of soft nearest neighbours in
    several units. Queries close to labelled anomalies of the support get higher scores.

    Source: after Hollmann et al., "TabPFN", ICLR 2023 (a transformer trained over many tables that answers in one
    pass), and Shen et al., "FoMo-0D", 2024 (the same for outlier detection, on a synthetic prior); attention by
    distance follows Plötz and Roth, "Neural Nearest Neighbors Networks", NeurIPS 2018.

    Args:
        units: unit of each head: ``standard``, ``root`` and ``raw`` divide a column by its spread, by its square root
            and by 1; ``log_standard``, ``log_root`` and ``log_raw`` do the same with signed logarithms.
        width: length of the tokens of columns, rows and cells.
        layers: number of layers of attention among columns.
        attention_heads: number of heads of each attention between tokens.
        correct: whether step 3 is included.
        column_dropout: share of the training tasks that lose a random part of their columns.
        max_columns: maximum number of columns; wider tables are reduced to columns evenly spaced in order of spread.
        kwargs: further arguments of :class:`TableRowLearner`.
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
        self.offset = nn.Parameter(torch.tensor([-0.5, 0.0]))  # of the logit; weight of anomalies, before softplus
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
        """Query loss of each task ``(tasks,)``, with column dropout in training."""
        if self.training and self.column_dropout:
            batch = drop_columns(batch, self.column_dropout)
        return super().task_losses(batch)

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Class-balanced cross-entropy plus a pairwise ranking loss ``(tasks,)``."""
        logits, anomalous = self.compare(reading, embeddings), labels == ANOMALOUS
        entropy = F.binary_cross_entropy_with_logits(logits, anomalous.to(logits.dtype), reduction="none")
        share = anomalous.to(logits.dtype).mean(-1, keepdim=True)
        weight = torch.where(anomalous, 0.5 / share, 0.5 / (1 - share))
        weight = torch.where((share == 0) | (share == 1), 1, weight)
        violation = F.softplus(logits.unsqueeze(-2) - logits.unsqueeze(-1))  # [i, j]: j above i
        pairs = (anomalous.unsqueeze(-1) & ~anomalous.unsqueeze(-2)).to(logits.dtype)
        ranking = (violation * pairs).sum((-1, -2)) / pairs.sum((-1, -2)).clamp_min(1)
        return (weight * entropy).mean(-1) + ranking

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """The ``support``, its ``labels``, and the tokens of its ``columns`` ``(..., d, width)``."""
        stats = ColumnStatistics.of(embeddings, labels != ANOMALOUS)
        choice: dict[str, Tensor] = {}
        if embeddings.shape[-1] > self.max_columns:
            choice["chosen"] = pick_columns(stats, self.max_columns)
            embeddings = _chosen(choice, embeddings)
            stats = ColumnStatistics.of(embeddings, labels != ANOMALOUS)
        tokens = self.into(stats.tokens())
        for block in self.columns:
            tokens = block(tokens, stats.present)
        return {"support": embeddings, "labels": labels, "columns": tokens, **choice}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits ``(..., m)`` of embeddings ``(..., m, d)``, computed in parts to limit memory."""
        at_once = max(1, CELLS_AT_ONCE // (reading["support"].shape[-1] * reading["columns"].shape[-1]))
        queries = _chosen(reading, embeddings)
        if torch.compiler.is_compiling():  # a traced graph can't split batches of unknown length
            return self._compare(reading, queries)
        parts = queries.split(at_once, -2)
        return torch.cat([self._compare(reading, part) for part in parts], -1)

    def _compare(self, reading: Reading, queries: Tensor) -> Tensor:
        support, labels, tokens = reading["support"], reading["labels"], reading["columns"]
        normal = labels != ANOMALOUS
        plain, logs = plain_and_logs(support, normal)
        to_rows, between = self._distances(plain, logs, tokens, queries)
        unit, isolation = own_distances(between, normal)
        to_rows = to_rows / unit.unsqueeze(-2).unsqueeze(-2)
        sharpness = self.log_sharpness.exp()
        near = soft_minimum(to_rows, normal, sharpness)
        gates, added = self.gate.expand_as(near), near.new_zeros(())
        if self.correct:
            corrections = self._corrections(plain, logs, tokens, queries, near, to_rows, isolation, normal)
            gates, added = gates + corrections[..., :-1], corrections[..., -1]
        gates = gates.softmax(-1)
        score = (gates * near).sum(-1) + added
        if torch.compiler.is_compiling() or not bool(normal.all()):  # a traced graph has no branch
            to_anomalies = soft_minimum(to_rows, ~normal, sharpness)
            difference = (gates * (near - to_anomalies)).sum(-1)
            has_anomalies = (~normal).any(-1, keepdim=True)
            score = score + torch.where(has_anomalies, F.softplus(self.offset[1]) * difference, 0)
        return self.log_scale.exp() * (score + self.offset[0])

    def _distances(
        self, plain: ColumnStatistics, logs: ColumnStatistics, tokens: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Distances of queries to support rows ``(..., m, n, heads)``, and between these ``(..., n, n, heads)``."""
        weights = self.column_weight(tokens).clamp(-4, 4)
        to_rows, between = [], []
        for i, name in enumerate(self.units):
            logarithmic, power = UNITS[name]
            stats = logs if logarithmic else plain
            x = stats.fill(signed_log(queries) if logarithmic else queries)
            unit = (weights[..., i] - self.powers[i] * stats.spread.log()).exp().unsqueeze(-2)
            rows, x = (stats.around(y, clipped=power == 1) * unit for y in (stats.values, x))
            rows, x = (y * stats.present.unsqueeze(-2) for y in (rows, x))
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
        isolation: Tensor,
        normal: Tensor,
    ) -> Tensor:
        """Corrections of each head's gate and of the sum ``(..., m, heads + 1)``."""
        present = plain.present.unsqueeze(-1)
        width = present.sum(-2).clamp_min(1)
        table = torch.where(present, tokens, 0).sum(-2) / width
        cells = self.cell(cell_features(plain, logs, queries)) + self.cell_column(tokens).unsqueeze(-3)
        cells, mask = self.cell_out(F.gelu(cells)), present.unsqueeze(-3)
        cell_mean = torch.where(mask, cells, 0).sum(-2) / width.unsqueeze(-2)
        largest = torch.where(mask, cells, -torch.inf).amax(-2)
        largest = torch.where(mask.any(-2), largest, 0)
        size = torch.cat([width.log(), normal.sum(-1, keepdim=True).clamp_min(1).log()], -1).to(table.dtype) / 4
        context = torch.cat([table, size], -1).unsqueeze(-2).expand(*near.shape[:-1], -1)
        query = self.query(torch.cat([near, cell_mean, largest, context], -1))
        pairs = torch.cat([(to_rows + LEAST).log(), isolation.unsqueeze(-3).expand_as(to_rows)], -1)
        row_tokens = self.row(pairs)
        attended = normal.unsqueeze(-2).expand(row_tokens.shape[:-1])
        corrections: Tensor = self.answer(self.rows(query.unsqueeze(-2), row_tokens, attended).squeeze(-2))
        return corrections


def _chosen(reading: Reading, x: Tensor) -> Tensor:
    """The selected columns of ``(..., m, d)``."""
    if "chosen" not in reading:
        return x
    return x.gather(-1, reading["chosen"].unsqueeze(-2).expand(*x.shape[:-1], -1))


def _l1(x: Tensor, y: Tensor) -> Tensor:
    """L1 distances ``(..., m, n)``."""
    if torch.compiler.is_compiling():  # ONNX has no cdist; the alternative needs memory for m x n x d numbers
        return (x.unsqueeze(-2) - y.unsqueeze(-3)).abs().sum(-1)
    return torch.cdist(x, y, p=1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

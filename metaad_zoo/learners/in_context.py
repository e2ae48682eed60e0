"""In-context detection: a transformer over tables that scores queries in one forward pass, given a support set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch
from metaad_zoo.learners.column_choice import drop_columns, pick_columns, pick_rows
from metaad_zoo.learners.column_statistics import (
    CELL_FEATURES,
    STATISTICS,
    ColumnStatistics,
    cell_features,
    deviations,
    plain_and_logs,
)
from metaad_zoo.learners.embedding import Reading
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.learners.set_attention import AttendOwn, InducedSetAttention, masked
from metaad_zoo.learners.soft_neighbours import LEAST, l1_distances, own_distances, soft_minimum
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

CELLS_AT_ONCE = 2**19
FIELDS = [field.name for field in fields(ColumnStatistics)]


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
        max_rows: maximum number of support rows; larger supports are reduced to rows evenly spaced in order of their
            distance from the centre, see :func:`metaad_zoo.learners.column_choice.pick_rows`.
        kwargs: further arguments of :class:`TableRowLearner`.
    """

    cost: ClassVar[str] = "a transformer compares each sample with all support samples, column by column"

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
        max_rows: int = 2048,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name in units:
            if name not in UNITS:
                raise unknown_name("units", name, UNITS)
        heads_fit = attention_heads > 0 and width % attention_heads == 0
        if not units or max_columns < 1 or max_rows < 1 or not 0 <= column_dropout <= 1 or not heads_fit:
            raise ValueError(
                f"units={list(units)}, max_columns={max_columns}, max_rows={max_rows}, width={width}, "
                f"column_dropout={column_dropout}, attention_heads={attention_heads}; expected at least one of each, a "
                "share in [0, 1], and heads that divide the width"
            )
        self._arguments |= {
            "units": list(units),
            "width": width,
            "layers": layers,
            "attention_heads": attention_heads,
            "correct": correct,
            "column_dropout": column_dropout,
            "max_columns": max_columns,
            "max_rows": max_rows,
        }
        self.units, self.correct = list(units), correct
        self.column_dropout, self.max_columns, self.max_rows = column_dropout, max_columns, max_rows
        heads = len(self.units)
        self.powers = nn.Parameter(torch.tensor([UNITS[name][1] for name in self.units]))
        self.log_sharpness = nn.Parameter(torch.full((heads,), math.log(3.0)))
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
            self.rows = AttendOwn(width, attention_heads)
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
        """All that scores need of a support set.

        ``columns`` are the tokens of its columns ``(..., d, width)``, ``weights`` and ``rows`` the columns' weights
        ``(..., heads, d)`` and the weighted support ``(..., heads, n, d)``, in units of the mean distance to the
        nearest row; ``plain`` and ``logs`` are :class:`ColumnStatistics`; for the rest see :meth:`_constants`.
        """
        stats = ColumnStatistics.of(embeddings, labels != ANOMALOUS)
        choice: dict[str, Tensor] = {}
        if embeddings.shape[-2] > self.max_rows:
            choice["given"] = labels
            rows = pick_rows(stats, embeddings, labels, self.max_rows)
            labels = labels.gather(-1, rows)
            embeddings = embeddings.gather(-2, rows.unsqueeze(-1).expand(*rows.shape, embeddings.shape[-1]))
            stats = ColumnStatistics.of(embeddings, labels != ANOMALOUS)
        normal = labels != ANOMALOUS
        if embeddings.shape[-1] > self.max_columns:
            choice["chosen"] = pick_columns(stats, self.max_columns)
            embeddings = _chosen(choice, embeddings)
            stats = ColumnStatistics.of(embeddings, normal)
        tokens = self.into(stats.tokens())
        for block in self.columns:
            tokens = block(tokens, stats.present)
        plain, logs = plain_and_logs(embeddings, normal)
        weights = self._column_weights(plain, logs, tokens)
        rows = self._by_head(plain, logs, *deviations(plain, logs, embeddings)) * weights.unsqueeze(-2)
        unit, isolation = own_distances(rows, normal)
        reading = {"support": embeddings, "labels": labels, "columns": tokens, **choice}
        reading |= {"weights": weights / unit.unsqueeze(-1), "rows": rows / unit[..., None, None]}
        reading |= {f"{of}.{k}": x for of, stats in (("plain", plain), ("logs", logs)) for k, x in vars(stats).items()}
        return reading | (self._constants(tokens, plain.present, isolation, normal) if self.correct else {})

    def _constants(self, tokens: Tensor, present: Tensor, isolation: Tensor, normal: Tensor) -> dict[str, Tensor]:
        """What the support set adds to the token of each of a query's cells ``(..., d, width)``, of each row
        ``(..., n, width)``, and of each query ``(..., width + 2)``."""
        count = present.sum(-1, keepdim=True).clamp_min(1)
        table = torch.where(present.unsqueeze(-1), tokens, 0).sum(-2) / count
        size = torch.cat([count.log(), normal.sum(-1, keepdim=True).clamp_min(1).log()], -1).to(table.dtype) / 4
        return {
            "cell": self.cell.bias + self.cell_column(tokens),
            "row": isolation @ self.row.weight[:, len(self.units) :].T + self.row.bias,
            "query": torch.cat([table, size], -1) @ self.query.weight[:, -table.shape[-1] - 2 :].T + self.query.bias,
        }

    def notes(self, reading: Reading) -> list[str]:
        """A sentence if the support is reduced to ``max_rows``."""
        if "given" not in reading:
            return []
        return [f"samples are compared with {self.max_rows:,} of the {reading['given'].shape[-1]:,} (setting max_rows)"]

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits ``(..., m)`` of embeddings ``(..., m, d)``, computed in parts to limit memory."""
        n, d = reading["support"].shape[-2:]
        at_once = max(1, CELLS_AT_ONCE // ((n + d) * reading["columns"].shape[-1] + n * d))
        queries = _chosen(reading, embeddings)
        if torch.compiler.is_compiling():  # a traced graph can't split batches of unknown length
            return self._compare(reading, queries)
        return torch.cat([self._compare(reading, part) for part in queries.split(at_once, -2)], -1)

    def _compare(self, reading: Reading, queries: Tensor) -> Tensor:
        plain, logs = (ColumnStatistics(**{k: reading[f"{name}.{k}"] for k in FIELDS}) for name in ("plain", "logs"))
        normal = reading["labels"] != ANOMALOUS
        x, x_log = deviations(plain, logs, queries)
        weighted = self._by_head(plain, logs, x, x_log) * reading["weights"].unsqueeze(-2)
        to_rows = l1_distances(weighted, reading["rows"])  # (..., heads, m, n)
        sharpness = self.log_sharpness.exp()
        near = soft_minimum(to_rows, normal, sharpness)
        gates, added = self.gate.expand_as(near), near.new_zeros(())
        if self.correct:
            cells = cell_features(plain, logs, x, x_log)
            corrections = self._corrections(reading, plain.present, cells, near, to_rows)
            gates, added = gates + corrections[..., :-1], corrections[..., -1]
        gates = gates.softmax(-1)
        score = (gates * near).sum(-1) + added
        if torch.compiler.is_compiling() or not bool(normal.all()):  # a traced graph has no branch
            to_anomalies = soft_minimum(to_rows, ~normal, sharpness)
            difference = (gates * (near - to_anomalies)).sum(-1)
            has_anomalies = (~normal).any(-1, keepdim=True)
            score = score + torch.where(has_anomalies, F.softplus(self.offset[1]) * difference, 0)
        return self.log_scale.exp() * (score + self.offset[0])

    def _column_weights(self, plain: ColumnStatistics, logs: ColumnStatistics, tokens: Tensor) -> Tensor:
        """Weights of the columns ``(..., heads, d)``: a power of the spread times a factor from the token."""
        factors = self.column_weight(tokens).clamp(-4, 4).transpose(-1, -2)
        spreads = torch.stack([(logs if UNITS[name][0] else plain).spread for name in self.units], -2)
        return (factors - self.powers.unsqueeze(-1) * spreads.log()).exp() * plain.present.unsqueeze(-2)

    def _by_head(self, plain: ColumnStatistics, logs: ColumnStatistics, x: Tensor, x_log: Tensor) -> Tensor:
        """The deviations that each head reads ``(..., heads, m, d)``."""
        clipped = {False: plain.clipped(x), True: logs.clipped(x_log)}
        full = {False: x, True: x_log}
        return torch.stack([(clipped if UNITS[name][1] == 1 else full)[UNITS[name][0]] for name in self.units], -3)

    def _corrections(
        self, reading: Reading, present: Tensor, features: Tensor, near: Tensor, to_rows: Tensor
    ) -> Tensor:
        """Corrections of each head's gate and of the sum ``(..., m, heads + 1)``.

        Args:
            reading: result of :meth:`read`.
            present: ``(..., d)`` booleans of the columns.
            features: features of the queries' cells ``(..., m, d, CELL_FEATURES)``.
            near: logarithms of the soft minima ``(..., m, heads)``.
            to_rows: distances to the support rows ``(..., heads, m, n)``.
        """
        normal, mask = reading["labels"] != ANOMALOUS, present.unsqueeze(-1).unsqueeze(-3)
        cells = F.gelu(features @ self.cell.weight.T + reading["cell"].unsqueeze(-3)) @ self.cell_out.weight.T
        cell_mean = masked(cells, mask, 0).sum(-2) / mask.sum(-2).clamp_min(1) + self.cell_out.bias
        largest = masked(cells, mask, -torch.inf).amax(-2) + self.cell_out.bias
        of_cells = masked(torch.cat([cell_mean, largest], -1), mask.any(-2), 0)
        of_query = torch.cat([near, of_cells], -1)
        query = of_query @ self.query.weight[:, : of_query.shape[-1]].T + reading["query"].unsqueeze(-2)
        logarithms = (to_rows + LEAST).log().movedim(-3, -1)  # (..., m, n, heads)
        row_tokens = logarithms @ self.row.weight[:, : len(self.units)].T + reading["row"].unsqueeze(-3)
        corrections: Tensor = self.answer(self.rows(query, row_tokens, normal.unsqueeze(-2)))
        return corrections


def _chosen(reading: Reading, x: Tensor) -> Tensor:
    """The selected columns of ``(..., m, d)``."""
    if "chosen" not in reading:
        return x
    return x.gather(-1, reading["chosen"].unsqueeze(-2).expand(*x.shape[:-1], -1))


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

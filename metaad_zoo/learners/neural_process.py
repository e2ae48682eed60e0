"""Conditional neural process over the cells of a table, by deep sets without attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.column_statistics import CELL_FEATURES, STATISTICS, cell_features, deviations, plain_and_logs
from metaad_zoo.learners.embedding import Reading
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.learners.table_rows import TableRowLearner

LABELS = 3
"""Number of labels: -1, 0 and 1."""


@register_learner("cnp")
class ConditionalNeuralProcess(TableRowLearner):
    """Encodes the support by the mean of its encoded cells, and decodes each cell of a query given this encoding.

    An embedding is a table row of ``d`` columns, which may be NaN. With the backbone ``raw_columns`` it is the sample
    itself, of any width. A column's encoding is the mean over support rows of a network of scaled value and label; the
    table's encoding is the mean over columns. A network decodes each of a query's cells given both encodings, and the
    mean and soft maximum over cells yield the logit. Scores do not depend on the order of rows or columns, nor on
    absent columns.

    Source: Garnelo et al., "Conditional Neural Processes", ICML 2018; Zaheer et al., "Deep Sets", NeurIPS 2017.

    Args:
        width: length of the encodings and of all hidden layers.
        kwargs: further arguments of :class:`TableRowLearner`.
    """

    def __init__(self, *, width: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if width < 1:
            raise ValueError(f"width is {width}; expected 1 or more")
        self._arguments |= {"width": width}
        self.into = nn.Linear(CELL_FEATURES + LABELS, width)
        self.encode = nn.Linear(width, width)
        self.column = nn.Linear(STATISTICS + width, width)
        self.cell = nn.Linear(CELL_FEATURES + 2 * width, width)
        self.decode = nn.Linear(width, width)
        self.head = nn.Linear(2 * width, 1)

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """The ``support``, its ``labels``, and the encodings of its ``columns`` ``(..., d, width)``."""
        plain, logs = plain_and_logs(embeddings, labels != ANOMALOUS)
        cells = cell_features(plain, logs, *deviations(plain, logs, embeddings))  # (..., n, d, CELL_FEATURES)
        kinds = F.one_hot(labels + 1, LABELS).to(cells.dtype).unsqueeze(-2).expand(*cells.shape[:-1], LABELS)
        encoded = self.encode(F.gelu(self.into(torch.cat([cells, kinds], -1))))
        observed = (~embeddings.isnan()).unsqueeze(-1)
        mean = torch.where(observed, encoded, 0).sum(-3) / observed.sum(-3).clamp_min(1)
        columns = F.gelu(self.column(torch.cat([plain.tokens(), mean], -1)))
        return {"support": embeddings, "labels": labels, "columns": columns}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits ``(..., m)`` of embeddings ``(..., m, d)``."""
        columns = reading["columns"]
        plain, logs = plain_and_logs(reading["support"], reading["labels"] != ANOMALOUS)
        present = plain.present.unsqueeze(-1)
        count = present.sum(-2).clamp_min(1)
        table = torch.where(present, columns, 0).sum(-2, keepdim=True) / count.unsqueeze(-1)
        context = torch.cat([columns, table.expand_as(columns)], -1).unsqueeze(-3)
        cells = cell_features(plain, logs, *deviations(plain, logs, embeddings))
        cells = torch.cat([cells, context.expand(*cells.shape[:-1], -1)], -1)
        decoded = self.decode(F.gelu(self.cell(cells)))
        mask = present.unsqueeze(-3)
        mean = torch.where(mask, decoded, 0).sum(-2) / count.unsqueeze(-2)
        nonempty = mask.any(-2)
        energies = torch.where(mask | ~nonempty.unsqueeze(-2), decoded, -torch.inf)
        largest = torch.where(nonempty, energies.logsumexp(-2) - count.log().unsqueeze(-2), 0)
        logits: Tensor = self.head(torch.cat([mean, largest], -1)).squeeze(-1)
        return logits

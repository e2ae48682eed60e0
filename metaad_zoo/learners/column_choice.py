"""Selection of table columns: random in training, evenly spaced for very wide tables."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.learners.column_statistics import ColumnStatistics


def drop_columns(batch: EpisodeBatch, share: float) -> EpisodeBatch:
    """Drop random columns (NaN) in a share of the tasks; each task retains at least two columns."""
    for name in batch.support:
        if batch.support[name].ndim == 3:  # (tasks, rows, columns)
            batch = _drop_columns(batch, name, share)
    return batch


def _drop_columns(batch: EpisodeBatch, name: str, share: float) -> EpisodeBatch:
    table = batch.support[name]
    tasks, _, columns = table.shape
    chosen = torch.rand(tasks, 1, device=table.device) < share
    retained = torch.rand(tasks, 1, device=table.device).mul(0.8).add(0.2)
    present = ~table.isnan().all(1)
    draw = torch.where(present, torch.rand(tasks, columns, device=table.device), 2)
    second = draw.topk(min(2, columns), largest=False).values[:, -1:]
    absent = (chosen & (draw > retained.maximum(second))).unsqueeze(1)
    support, query = ({**x, name: x[name].masked_fill(absent, torch.nan)} for x in (batch.support, batch.query))
    return replace(batch, support=support, query=query)


def pick_columns(stats: ColumnStatistics, most: int) -> Tensor:
    """Positions ``(..., most)`` of present columns, evenly spaced in the order of spread.

    The choice depends on the order of columns only for columns of equal spread.
    """
    order = torch.where(stats.present, stats.spread, torch.inf).argsort(stable=True, dim=-1)
    count = stats.present.sum(-1, keepdim=True).clamp_min(most)
    places = torch.arange(most, device=order.device) * count // most
    return order.gather(-1, places)

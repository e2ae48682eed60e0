"""Selection of columns and rows: random columns in training, evenly spaced ones of very large supports."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, UNLABELLED, EpisodeBatch
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


def pick_rows(stats: ColumnStatistics, x: Tensor, labels: Tensor, most: int) -> Tensor:
    """Positions ``(..., most)`` of support rows, in ascending order.

    Known anomalies come first, up to half of the rows if there are enough others, then normal rows, then unlabelled
    ones. Of a kind with too many, rows are evenly spaced in the order of their distance from the centre, so that the
    choice depends on the order of rows only for equal distances.

    Args:
        stats: statistics of the support.
        x: support ``(..., n, D)``, NaN for missing values; ``n`` is at least ``most``.
        labels: ``(..., n)`` of 0 normal, 1 anomalous, -1 unlabelled.
        most: number of rows to pick.
    """
    kinds = torch.where(labels == ANOMALOUS, 0, torch.where(labels == UNLABELLED, 2, 1))
    order = stats.standardised(stats.deviations(x)).abs().sum(-1).argsort(stable=True, dim=-1)
    order = order.gather(-1, kinds.gather(-1, order).argsort(stable=True, dim=-1))  # by kind, then by distance
    kinds = kinds.gather(-1, order)
    counts = torch.stack([(kinds == kind).sum(-1) for kind in range(3)], -1)
    anomalies = counts[..., 0].minimum((most - counts[..., 1:].sum(-1)).clamp_min(most // 2))
    normal = counts[..., 1].minimum(most - anomalies)
    picked = torch.stack([anomalies, normal, most - anomalies - normal], -1)
    rank = torch.arange(x.shape[-2], device=x.device) - (counts.cumsum(-1) - counts).gather(-1, kinds)
    count, picked = counts.gather(-1, kinds), picked.gather(-1, kinds)
    chosen = (rank + 1) * picked // count > rank * picked // count
    places = chosen.to(torch.uint8).argsort(stable=True, dim=-1, descending=True)[..., :most]
    return order.gather(-1, places).sort(-1).values

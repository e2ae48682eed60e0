"""One few-shot anomaly-detection task, and several of them stacked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional

Samples = Mapping[str, Tensor]
"""Samples by modality, stacked on a leading axis: ``{"image": (n, C, H, W)}``, ``{"sequence": (n, T, C)}``,
``{"tabular": (n, D)}``, or several of them. NaN marks absent values: a missing value, a padded step, channel or
column, a modality that a sample lacks (all its values are NaN)."""

NORMAL, ANOMALOUS, UNLABELLED = 0, 1, -1


def count(samples: Samples) -> int:
    """Number of samples on the leading axis, which every modality must share.

    Raises:
        ValueError: there is no modality, or the numbers of samples differ.
    """
    sizes = {name: len(values) for name, values in samples.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"expected one number of samples for all modalities, saw {sizes or 'no modality at all'}")
    return next(iter(sizes.values()))


def stand_for_normal(labels: Tensor) -> Tensor:
    """Mask ``(n,)`` of the normal samples in a support set or, if there are none, of the unlabelled samples.

    Example:
        >>> stand_for_normal(torch.tensor([0, 1, -1])), stand_for_normal(torch.tensor([-1, 1]))
        (tensor([ True, False, False]), tensor([ True, False]))
    """
    normal = labels == NORMAL
    return normal if bool(normal.any()) else labels == UNLABELLED


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors, padded with NaN at the end of each axis to the largest size."""
    if len({x.shape for x in parts}) == 1:
        return torch.stack(list(parts))
    largest = [max(sizes) for sizes in zip(*(x.shape for x in parts), strict=True)]
    out = torch.full((len(parts), *largest), torch.nan, dtype=parts[0].dtype)
    for row, x in zip(out, parts, strict=True):
        row[tuple(slice(size) for size in x.shape)] = x
    return out


@dataclass
class Episode:
    """A support set to adapt on and a query set to score.

    Attributes:
        support: samples by modality, each ``(n_support, ...)``.
        support_labels: ``(n_support,)`` int64: 0 normal, 1 anomalous, -1 unlabelled.
        query: samples by modality, each ``(n_query, ...)``.
        query_labels: ``(n_query,)`` int64: 0 normal, 1 anomalous.
        task: readable, stable name, such as ``omniglot/Greek/character05``.
        support_ids: ``(n_support,)`` int64: position of each sample in its pool's source.
        query_ids: ``(n_query,)`` int64, disjoint from ``support_ids``.
        contamination: share of anomalies among the unlabelled support samples; NaN if there are none.
    """

    support: dict[str, Tensor]
    support_labels: Tensor
    query: dict[str, Tensor]
    query_labels: Tensor
    task: str
    support_ids: Tensor
    query_ids: Tensor
    contamination: float = math.nan


def _rows_of_table(samples: Samples) -> Tensor | None:
    """The samples ``(n, columns)`` if they are of one modality of one axis, a table's; else None."""
    rows = next(iter(samples.values())) if len(samples) == 1 else None
    return rows if rows is not None and rows.ndim == 2 else None


def _with_supports_of_one_size(episodes: Sequence[Episode]) -> Sequence[Episode]:
    """The same episodes, supports of tables padded with unlabelled rows of NaN.

    Raises:
        ValueError: supports that differ in their numbers of unlabelled samples are not those of tables.
    """
    sizes = {len(e.support_labels) for e in episodes}
    labelled = {tuple(sorted(e.support_labels[e.support_labels != UNLABELLED].tolist())) for e in episodes}
    if len(sizes) == 1 or len(labelled) > 1:
        return episodes
    if any(_rows_of_table(e.support) is None for e in episodes):
        raise ValueError(
            f"supports of {min(sizes)} to {max(sizes)} samples of {' and '.join(sorted(episodes[0].support))} in one "
            "batch: only those of tables are padded to one size; set fewer_unlabelled=false, or tasks_per_batch=1"
        )
    return [_padded(e, max(sizes)) for e in episodes]


def _padded(episode: Episode, n: int) -> Episode:
    missing = n - len(episode.support_labels)
    return replace(
        episode,
        support={
            name: functional.pad(rows, (0, 0, 0, missing), value=torch.nan) for name, rows in episode.support.items()
        },
        support_labels=functional.pad(episode.support_labels, (0, missing), value=UNLABELLED),
    )


@dataclass
class EpisodeBatch:
    """Episodes of one size, stacked on a leading task axis; smaller supports of tables end in padding.

    Attributes:
        support: samples by modality, each ``(tasks, n_support, ...)``.
        support_labels: ``(tasks, n_support)`` int64.
        query: samples by modality, each ``(tasks, n_query, ...)``.
        query_labels: ``(tasks, n_query)`` int64.
        tasks: names of the tasks.
        contamination: contamination of each task, see :class:`Episode`; empty if it is unknown.
    """

    support: dict[str, Tensor]
    support_labels: Tensor
    query: dict[str, Tensor]
    query_labels: Tensor
    tasks: list[str]
    contamination: list[float] = field(default_factory=list)

    @classmethod
    def collate(cls, episodes: Sequence[Episode]) -> EpisodeBatch:
        """Stack episodes with equal numbers of samples.

        Samples of different size, such as rows of tables of different width, are padded with NaN at their ends to the
        largest size. Supports of tables with different numbers of unlabelled rows (``fewer_unlabelled``) are padded
        with rows of NaN and label -1 at their ends.

        Raises:
            ValueError: there are no episodes, or their modalities, numbers of samples or of axes differ.
        """
        if not episodes:
            raise ValueError("expected at least one episode to collate, saw none")
        episodes = _with_supports_of_one_size(episodes)
        sizes = {
            tuple((name, len(x), x.ndim) for part in (e.support, e.query) for name, x in sorted(part.items()))
            for e in episodes
        }
        if len(sizes) > 1:
            raise ValueError(
                "episodes of one batch must have the same modalities, numbers of samples and of axes, saw "
                f"{sorted(sizes)}"
            )

        def stack(part: str) -> dict[str, Tensor]:
            return {name: _stack([getattr(e, part)[name] for e in episodes]) for name in getattr(episodes[0], part)}

        return cls(
            support=stack("support"),
            support_labels=torch.stack([e.support_labels for e in episodes]),
            query=stack("query"),
            query_labels=torch.stack([e.query_labels for e in episodes]),
            tasks=[e.task for e in episodes],
            contamination=[e.contamination for e in episodes],
        )

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor, dict[str, Tensor], Tensor, str]]:
        """Yield ``(support, support_labels, query, query_labels, task)``, task by task, supports without padding."""
        for i, task in enumerate(self.tasks):
            n = self._n_support(i)
            yield (
                {name: x[i, :n] for name, x in self.support.items()},
                self.support_labels[i, :n],
                {name: x[i] for name, x in self.query.items()},
                self.query_labels[i],
                task,
            )

    def _n_support(self, task: int) -> int:
        """Number of support samples of a task, without the rows with which :meth:`collate` pads tables."""
        labels, rows = self.support_labels[task], _rows_of_table({name: x[task] for name, x in self.support.items()})
        if rows is None or labels[-1] != UNLABELLED:
            return len(labels)
        present = (labels != UNLABELLED) | ~rows.isnan().all(-1)
        return int(present.nonzero().max()) + 1 if present.any() else len(labels)

    def parts(self, tasks: int) -> list[EpisodeBatch]:
        """The same batch in parts of at most ``tasks`` episodes."""
        choices = [itemgetter(slice(i, i + tasks)) for i in range(0, len(self), tasks)]
        return [self._map(choose, choose) for choose in choices]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EpisodeBatch:
        """The same batch on another device."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking), list)

    def pin_memory(self) -> EpisodeBatch:
        """The same batch in page-locked memory, for faster copies to a GPU; a DataLoader calls this."""
        return self._map(Tensor.pin_memory, list)

    def _map(self, change: Callable[[Tensor], Tensor], choose: Callable[[list], list]) -> EpisodeBatch:
        return EpisodeBatch(
            support={name: change(x) for name, x in self.support.items()},
            support_labels=change(self.support_labels),
            query={name: change(x) for name, x in self.query.items()},
            query_labels=change(self.query_labels),
            tasks=choose(self.tasks),
            contamination=choose(self.contamination),
        )

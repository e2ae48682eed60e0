"""Learners that embed a task's samples once and compare them: no gradient step is taken on the support set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from metaad_zoo.backbones import (
    ANY,
    BatchNormPolicy,
    TaskAxis,
    differentiable_recurrence,
    prefers_sample_major,
    task_axis,
)
from metaad_zoo.episodes import EpisodeBatch, Samples, Scaling, SupportScaling
from metaad_zoo.episodes.scaling import LIMIT
from metaad_zoo.inner_loop.precision import full_precision
from metaad_zoo.learners.accumulation import mean_part_by_part
from metaad_zoo.learners.base import Learner, OptimizerCallable, Schedule
from metaad_zoo.learners.network import (
    AdaptedScorer,
    EmbeddingNetwork,
    anomaly_loss,
    reads_statistics,
    require_independent_tasks,
    scaled,
    usable,
)

Reading = Mapping[str, Tensor]
"""What a learner keeps of a support set, by name; with a task axis, each tensor has it in front."""


class EmbeddingLearner(Learner):
    """A backbone, and a head that reads the support's embeddings and compares the query's with what it read.

    A subclass says what is read (:meth:`read`) and how it is compared (:meth:`compare`); both take any leading axes, so
    that all tasks of a batch are done at once. The outer loss is the binary cross-entropy of the query's logits.

    Args:
        backbone: name of the backbone, as in :func:`metaad_zoo.list_backbones`.
        backbone_options: for its builder, such as ``{"width": 32}``.
        input_shapes: shape of one sample by modality; ``train.py`` takes it from the data.
        batch_norm: ``"support"``: statistics of the support set; ``"transductive"``: of support and query together;
            ``"running"``: the backbone's stored ones. See :class:`metaad_zoo.backbones.EpisodicBatchNorm`.
        scaling: by modality ``none``, ``standard`` or ``robust``, as for ``maml``.
        optimizer: builds the outer optimiser.
        schedule: of the outer learning rate, ``"constant"`` or ``"cosine"``.
        tasks_at_once: how many of a batch's tasks have their graphs in memory together; None: all of them.

    Raises:
        ValueError: a name or a setting is unknown, or the backbone does not fit the data.
    """

    reads_missing: ClassVar[bool] = False
    """Whether the head takes embeddings with NaN as they are; others are given :class:`SupportColumns`' instead."""

    def __init__(
        self,
        backbone: str = "conv4",
        backbone_options: dict[str, Any] | None = None,
        input_shapes: dict[str, Sequence[int]] | None = None,
        batch_norm: BatchNormPolicy = "support",
        scaling: dict[str, Scaling] | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        schedule: Schedule = "cosine",
        tasks_at_once: int | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        if not input_shapes:
            raise ValueError("input_shapes is missing: give each modality's shape, such as {'image': (1, 28, 28)}")
        if batch_norm == "per_step":
            raise ValueError("batch_norm='per_step' is for inner loops; this learner takes no steps: choose 'support'")
        if tasks_at_once is not None and tasks_at_once < 1:
            raise ValueError(f"tasks_at_once is {tasks_at_once}; expected 1 or more, or nothing for all")
        self._arguments: dict[str, Any] = {
            "backbone": backbone,
            "backbone_options": dict(backbone_options or {}),
            "input_shapes": {name: list(shape) for name, shape in input_shapes.items()},
            "batch_norm": batch_norm,
            "scaling": dict(scaling or {}),
            "tasks_at_once": tasks_at_once,
        }
        self.network = EmbeddingNetwork(backbone, backbone_options or {}, input_shapes, batch_norm, scaling=scaling)
        self._tasks_are_independent = False  # not looked at yet

    @property
    def fills_columns(self) -> bool:
        """Whether embeddings of any width reach the head without NaN."""
        return self.network.backbone.embedding_dim == ANY and not self.reads_missing

    @abstractmethod
    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """What to keep of a support set.

        Args:
            embeddings: ``(..., n, d)``.
            labels: ``(..., n)`` of 0 normal, 1 anomalous, -1 unlabelled.
        """

    @abstractmethod
    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits ``(..., m)`` of embeddings ``(..., m, d)``: above 0 where an anomaly is likelier than not."""

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Each task's outer loss ``(tasks,)``.

        Args:
            reading: of the support sets.
            embeddings: of the queries, ``(tasks, m, d)``.
            labels: of the queries, ``(tasks, m)``.
        """
        return anomaly_loss(self.compare(reading, embeddings), labels)

    def arguments(self) -> dict[str, Any]:
        """As given; a rebuilt learner is given its weights, it fetches none."""
        options: dict[str, Any] = dict(self._arguments["backbone_options"])
        if "pretrained" in options:
            options["pretrained"] = False
        return {**self._arguments, "backbone_options": options}

    def trainable(self) -> list[Tensor]:
        """What the outer loop optimises."""
        return [p for p in self.parameters() if p.requires_grad]

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """The backbone's parameters, and those of the head apart, which weight decay would pull to 0."""
        network = [p for p in self.network.parameters() if p.requires_grad]
        of_network = {id(p) for p in network}
        head = [p for p in self.trainable() if id(p) not in of_network]
        groups: list[dict[str, Any]] = [{"params": network}] if network else []
        return [*groups, {"params": head, "weight_decay": 0.0}] if head else groups

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        at_once = self._arguments["tasks_at_once"] or len(batch)
        return mean_part_by_part(batch, at_once, self.task_losses, self.trainable(), self.loss_scale())

    def task_losses(self, batch: EpisodeBatch) -> Tensor:
        """Each task's query loss, ``(tasks,)``."""
        support, query = self.embed_batch(batch)
        with torch.autocast(self.device.type, enabled=False):
            return self.task_loss(self.read(support, batch.support_labels), query, batch.query_labels)

    def embed_batch(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Embeddings of a batch's support and query samples, ``(tasks, n, d)`` and ``(tasks, m, d)``, all at once."""
        batch = self.network.scaled(batch, next(self.parameters(), torch.zeros(())).dtype)
        axis = TaskAxis(len(batch), prefers_sample_major(self.network))
        if not self._tasks_are_independent and len(batch) > 1:
            with torch.autocast(self.device.type, enabled=False):
                require_independent_tasks(self.network, batch.support, axis, (), "tasks_at_once=1")
            self._tasks_are_independent = True
        with task_axis(axis):
            support, query = self.network.embed_both(batch.support, batch.query)
        assert query is not None
        if self.fills_columns:
            columns = SupportColumns.of(support)
            support, query = columns.fill(support), columns.fill(query)
        # Half a distance's digits are lost in half precision: heads compare in full.
        return _full(support), _full(query)

    @torch.no_grad()
    def adapt(self, support: Samples, support_labels: Tensor) -> AdaptedEmbedding:
        """Read a support set.

        Args:
            support: by modality ``(n, ...)``; brought to the learner's device and type.
            support_labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled.
        """
        reference = next(self.parameters(), torch.zeros((), device=self.device))
        with torch.inference_mode(False), torch.autocast(self.device.type, enabled=False):
            raw = usable(support, reference)
            scalings = self.network.scalings(raw)
            here = scaled(raw, scalings, reference.dtype)
            embeddings, columns = self.network.embed(here), None
            if self.fills_columns:
                columns = SupportColumns.of(embeddings)
                embeddings = columns.fill(embeddings)
            reading = self.read(embeddings, support_labels.to(self.device, copy=True))
        return AdaptedEmbedding(self, reading, here, scalings, columns)


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


@dataclass(frozen=True)
class SupportColumns:
    """The columns of embeddings that have no fixed width, in units in which all present ones count the same.

    Attributes:
        centre: mean of each column over the support, ``(..., 1, d)``; 0 where it is absent.
        gain: ``1 / spread``, 0 for absent columns, times the root of the share of columns that are there: means over
            features become means over present ones.
    """

    centre: Tensor
    gain: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> SupportColumns:
        """The columns of a support's embeddings ``(..., n, d)``, NaN where a value is missing."""
        scaling = SupportScaling.fit(embeddings.detach(), "standard", embeddings.ndim - 2)
        there = ~embeddings.isnan().all(-2, keepdim=True)
        share = there.double().mean(-1, keepdim=True).clamp_min(1 / there.shape[-1]).to(embeddings.dtype)
        return cls(scaling.centre.nan_to_num(0.0), torch.where(there, 1 / (scaling.spread * share.sqrt()), 0.0))

    def fill(self, embeddings: Tensor) -> Tensor:
        """Standardised, cut off as in :class:`metaad_zoo.episodes.SupportScaling`; 0 for what is missing."""
        return ((embeddings - self.centre) * self.gain).clamp(-LIMIT, LIMIT).nan_to_num(0.0)


@dataclass(frozen=True)
class AdaptedEmbedding(AdaptedScorer):
    """A learner that has read one support set.

    Attributes:
        learner: embeds and compares.
        reading: what it keeps of the support set.
        support: scaled; batch normalisation may take its statistics from it.
        scalings: what brings new samples to the support's units.
        columns: of the support's embeddings, where these have no fixed width.
    """

    learner: EmbeddingLearner
    reading: Reading
    support: Samples
    scalings: Mapping[str, SupportScaling] = field(default_factory=dict)
    columns: SupportColumns | None = None

    def logits(self, samples: Samples) -> Tensor:
        """Logits ``(n,)`` of samples in the network's :meth:`units`, by which they can be differentiated."""
        with full_precision(self.learner.device):
            return self.learner.compare(self.reading, self.embed(samples))

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of samples in the network's :meth:`units`; without any, of the support."""
        network = self.learner.network
        rows = self.support if samples is None or reads_statistics(network) else None
        with full_precision(self.learner.device), differentiable_recurrence(network):
            if rows is not None:
                found = network.embed(rows, samples)
            else:
                assert samples is not None
                found = network.embed(samples)
        return found if self.columns is None else self.columns.fill(found)

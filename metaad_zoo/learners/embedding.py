"""Base of metric-based learners, which compare embeddings and take no gradient step on the support set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from metaad_zoo.learners.base import Learner, OptimizerCallable, Schedule, without_folders
from metaad_zoo.learners.network import (
    AdaptedScorer,
    EmbeddingNetwork,
    anomaly_loss,
    reads_statistics,
    require_independent_tasks,
    require_one_part,
    scaled,
    usable,
)
from metaad_zoo.learners.shared_modalities import adapt_to_shared

Reading = Mapping[str, Tensor]
"""State of a learner after reading a support set, tensors by name; a task axis leads each tensor."""


class EmbeddingLearner(Learner):
    """A backbone with a head that reads the support's embeddings and scores the query's embeddings.

    A subclass implements :meth:`read` and :meth:`compare` for any leading axes, so that all tasks of a batch run at
    once. The outer loss is the binary cross-entropy of the query's logits.

    Args:
        backbone: name of the backbone, as in :func:`metaad_zoo.list_backbones`.
        backbone_options: options of the backbone, such as ``{"width": 32}``.
        input_shapes: shape of one sample by modality; ``train.py`` takes it from the data.
        batch_norm: ``"support"``: statistics of the support set; ``"transductive"``: of support and query together;
            ``"running"``: the backbone's stored ones. See :class:`metaad_zoo.backbones.EpisodicBatchNorm`.
        scaling: ``none``, ``standard`` or ``robust`` by modality, as for ``maml``.
        optimizer: function that builds the outer optimiser.
        schedule: schedule of the outer learning rate, ``"constant"`` or ``"cosine"``.
        tasks_at_once: number of a batch's tasks whose graphs are in memory together; None: all.

    Raises:
        ValueError: a name or a setting is unknown, or the backbone does not fit the data.
    """

    reads_missing: ClassVar[bool] = False
    """Whether the head reads embeddings with NaN; otherwise the network or :class:`SupportColumns` fill them."""
    reads_parts: ClassVar[bool] = False
    """Whether the head compares the blocks of an embedding (``Backbone.n_parts``) on their own."""

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
        self.network = EmbeddingNetwork(
            backbone,
            backbone_options or {},
            input_shapes,
            batch_norm,
            scaling=scaling,
            fill_missing=not self.reads_missing,
        )
        if not self.reads_parts:
            require_one_part(self.network.backbone)
        self._tasks_are_independent = False  # not verified yet

    @property
    def fills_columns(self) -> bool:
        """Whether embeddings of any width reach the head without NaN."""
        return self.network.backbone.embedding_dim == ANY and not self.reads_missing

    @abstractmethod
    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """Read a support set.

        Args:
            embeddings: ``(..., n, d)``.
            labels: ``(..., n)`` of 0 normal, 1 anomalous, -1 unlabelled.
        """

    @abstractmethod
    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits ``(..., m)`` of embeddings ``(..., m, d)``; above 0 if an anomaly is more likely than not."""

    def notes(self, reading: Reading) -> list[str]:
        """What a user should know of how a support set was read, as sentences; by default nothing."""
        return []

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Outer loss of each task ``(tasks,)``.

        Args:
            reading: result of :meth:`read` for the support sets.
            embeddings: embeddings of the queries ``(tasks, m, d)``.
            labels: labels of the queries ``(tasks, m)``.
        """
        return anomaly_loss(self.compare(reading, embeddings), labels)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments; a local file of pretrained weights is named without its folder."""
        return without_folders(self._arguments)

    def trainable(self) -> list[Tensor]:
        """Parameters of the outer loop."""
        return [p for p in self.parameters() if p.requires_grad]

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Parameter groups of the backbone and of the head, the latter without weight decay."""
        network = [p for p in self.network.parameters() if p.requires_grad]
        of_network = {id(p) for p in network}
        head = [p for p in self.trainable() if id(p) not in of_network]
        groups: list[dict[str, Any]] = [{"params": network}] if network else []
        return [*groups, {"params": head, "weight_decay": 0.0}] if head else groups

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        at_once = self._arguments["tasks_at_once"] or len(batch)
        return mean_part_by_part(batch, at_once, self.task_losses, self.trainable(), self.loss_scale())

    def task_losses(self, batch: EpisodeBatch) -> Tensor:
        """Query loss of each task ``(tasks,)``."""
        support, query = self.embed_batch(batch)
        with torch.autocast(self.device.type, enabled=False):
            return self.task_loss(self.read(support, batch.support_labels), query, batch.query_labels)

    def embed_batch(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Embeddings of a batch's support and query samples, ``(tasks, n, d)`` and ``(tasks, m, d)``."""
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
        # Distances are inaccurate in half precision, so heads compare in float32.
        return _full(support), _full(query)

    @torch.no_grad()
    def adapt(self, support: Samples, support_labels: Tensor) -> AdaptedScorer:
        """Read a support set; of several modalities, see :class:`SharedModalities`.

        Args:
            support: samples by modality ``(n, ...)``, on any device and of any type.
            support_labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled.
        """
        reference = next(self.parameters(), torch.zeros((), device=self.device))
        # Leaving inference mode turns gradients on again, and the reading would keep its graph.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            raw = usable(support, reference)
            scalings = self.network.scalings(raw)
            inputs = scaled(raw, scalings, reference.dtype)
            labels = support_labels.to(self.device, copy=True)
        return adapt_to_shared(partial(self._adapt_scaled, scalings), inputs, labels)

    @torch.no_grad()
    def _adapt_scaled(
        self, scalings: Mapping[str, SupportScaling], inputs: Samples, labels: Tensor
    ) -> AdaptedEmbedding:
        """Read a support set in the network's units."""
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            embeddings, columns = self.network.embed(inputs), None
            if self.fills_columns:
                columns = SupportColumns.of(embeddings)
                embeddings = columns.fill(embeddings)
            return AdaptedEmbedding(self, self.read(embeddings, labels), inputs, scalings, columns)


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


@dataclass(frozen=True)
class SupportColumns:
    """Standardisation of the columns of embeddings without a fixed width, with equal weight of all present columns.

    Attributes:
        centre: mean of each column over the support, ``(..., 1, d)``; 0 for an absent column.
        gain: ``1 / (spread * sqrt(share of present columns))``, so that means over features are means over present
            columns; 0 for an absent column.
    """

    centre: Tensor
    gain: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> SupportColumns:
        """Columns of a support's embeddings ``(..., n, d)``, NaN for missing values."""
        scaling = SupportScaling.fit(embeddings.detach(), "standard", embeddings.ndim - 2)
        present = ~embeddings.isnan().all(-2, keepdim=True)
        share = present.double().mean(-1, keepdim=True).clamp_min(1 / present.shape[-1]).to(embeddings.dtype)
        return cls(scaling.centre.nan_to_num(0.0), torch.where(present, 1 / (scaling.spread * share.sqrt()), 0.0))

    def fill(self, embeddings: Tensor) -> Tensor:
        """Standardised embeddings, clipped as in :class:`metaad_zoo.episodes.SupportScaling`; 0 for missing values."""
        return ((embeddings - self.centre) * self.gain).clamp(-LIMIT, LIMIT).nan_to_num(0.0)


@dataclass(frozen=True)
class AdaptedEmbedding(AdaptedScorer):
    """A metric-based learner adapted to a support set.

    Attributes:
        learner: the learner.
        reading: result of :meth:`EmbeddingLearner.read` for the support set.
        support: scaled support set, for the statistics of batch normalisation.
        scalings: scaling of new samples by modality.
        columns: standardisation of embeddings without a fixed width, or None.
    """

    learner: EmbeddingLearner
    reading: Reading
    support: Samples
    scalings: Mapping[str, SupportScaling] = field(default_factory=dict)
    columns: SupportColumns | None = None

    @property
    def notes(self) -> list[str]:
        """See :meth:`EmbeddingLearner.notes`."""
        return self.learner.notes(self.reading)

    def logits(self, samples: Samples) -> Tensor:
        """Logits ``(n,)`` of samples in the network's :meth:`units`, differentiable by the samples."""
        with full_precision(self.learner.device):
            return self.learner.compare(self.reading, self.embed(samples))

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of samples in the network's :meth:`units`, or of the support if None."""
        network = self.learner.network
        with full_precision(self.learner.device), differentiable_recurrence(network):
            if samples is None or reads_statistics(network):
                embeddings = network.embed(self.support, samples)
            else:
                embeddings = network.embed(samples)
        return embeddings if self.columns is None else self.columns.fill(embeddings)

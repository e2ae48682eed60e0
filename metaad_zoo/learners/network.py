"""A backbone, with or without a head, called on an episode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metaad_zoo.backbones import (
    ANY,
    MULTIMODAL,
    Backbone,
    BatchNormPolicy,
    EpisodicBatchNorm,
    TaskAxis,
    carry_task_axis,
    create_backbone,
    current_task_axis,
    differentiable_recurrence,
    episodic_batch_norm,
    modality_of,
    options_from_shapes,
    statistics_from_first,
    task_axis,
)
from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch, Samples, Scaling, SupportScaling
from metaad_zoo.inner_loop.precision import full_precision
from metaad_zoo.inner_loop.vectorized_engine import spread_over_tasks
from metaad_zoo.modality import get_modality, read_as
from metaad_zoo.registry import unknown_name

Network = TypeVar("Network", bound=nn.Module)


class EmbeddingNetwork(nn.Module):
    """A backbone that embeds samples in the light of a support set.

    Args:
        backbone: its registered name.
        backbone_options: for the backbone's builder.
        input_shapes: shape of one sample by modality, such as ``{"image": (1, 28, 28)}``; gives the backbone its
            ``in_channels``, ``image_size`` or ``in_features`` where the options do not.
        batch_norm: where batch normalisation takes its statistics from.
        steps: of the inner loop, for ``batch_norm="per_step"``.
        scaling: by modality, how its values are brought to common units by the support set; what is left out is done as
            is usual for it (:attr:`metaad_zoo.modality.Modality.scaling`).

    Raises:
        ValueError: the backbone is unknown, refuses an option, or reads a modality that the data does not have; or a
            scaling is unknown.
    """

    def __init__(
        self,
        backbone: str,
        backbone_options: Mapping[str, Any],
        input_shapes: Mapping[str, Sequence[int]],
        batch_norm: BatchNormPolicy,
        steps: int = 0,
        scaling: Mapping[str, Scaling] | None = None,
    ) -> None:
        super().__init__()
        self.modality = modality_of(backbone)
        several = self.modality == MULTIMODAL
        self.modalities = sorted(input_shapes) if several else read_as(list(input_shapes), self.modality)
        if not several and len(self.modalities) != 1:
            raise ValueError(
                f"backbone {backbone!r} reads the modality {self.modality!r} but the data has {sorted(input_shapes)}: "
                "choose another backbone (`metaad list --backbones`) or other data"
            )
        self.scaling = _complete(scaling or {}, self.modalities)
        options = options_from_shapes(backbone, {name: input_shapes[name] for name in self.modalities})
        options |= backbone_options
        own = {name: encoder for name in self.modalities if several and (encoder := get_modality(name).encoder)}
        if own:
            options["encoders"] = own | options.get("encoders", {})
        self.backbone = create_backbone(backbone, **options)
        episodic_batch_norm(self.backbone, batch_norm, steps)
        carry_task_axis(self)

    def scalings(self, support: Samples, axis: int = 0) -> dict[str, SupportScaling]:
        """By modality, what brings this support set's domain to common units.

        Args:
            support: by modality, the samples along ``axis``.
            axis: 1 where there is a leading task axis.
        """
        return {name: SupportScaling.fit(support[name], kind, axis) for name, kind in self.scaling.items()}

    def scaled(self, batch: EpisodeBatch, dtype: torch.dtype) -> EpisodeBatch:
        """A batch with each task's samples scaled by its support set, then in the learner's type."""
        by = self.scalings(batch.support, 1)
        support, query = (scaled(x, by, dtype) for x in (batch.support, batch.query))
        return replace(batch, support=support, query=query)

    def embed(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of the query, or without one of the support.

        The support always comes along, because batch normalisation may take its statistics from it. Both are scaled
        already (:meth:`scalings`). Within a :func:`metaad_zoo.backbones.task_axis`, everything has a leading task axis.
        """
        of_support, of_query = self.embed_both(support, query)
        return of_support if of_query is None else of_query

    def embed_both(self, support: Samples, query: Samples | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings of support and query in one pass; see :meth:`embed`."""
        axis = current_task_axis()
        samples_axis = 0 if axis is None else 1
        rows = support[self.modalities[0]].shape[samples_axis]
        samples = {}
        for name in self.modalities:
            x = support[name] if query is None else torch.cat([support[name], query[name]], samples_axis)
            samples[name] = x if axis is None else axis.fold(x)
        with statistics_from_first(rows):
            embeddings: Tensor = self.backbone(samples if self.modality == MULTIMODAL else samples[self.modalities[0]])
        if axis is not None:
            embeddings = axis.split(embeddings)
        if query is None:
            return embeddings, None
        of_support, of_query = embeddings.tensor_split([rows], samples_axis)
        return of_support, of_query

    def forward(self, support: Samples, query: Samples | None = None) -> Tensor:
        """As :meth:`embed`."""
        return self.embed(support, query)


def fixed_width(backbone: Backbone) -> int:
    """Length of a backbone's embedding.

    Raises:
        ValueError: it differs from domain to domain.
    """
    if backbone.embedding_dim == ANY:
        raise ValueError(
            f"{type(backbone).__name__} gives embeddings of any width, and this learner's head needs a fixed one: take "
            "a learner that compares (in_context, cnp, protonet, meta_svdd, acr), or another backbone"
        )
    return backbone.embedding_dim


class EpisodeNetwork(EmbeddingNetwork):
    """A backbone with a linear head that gives each sample one logit: the higher, the more anomalous.

    Args:
        args: as for :class:`EmbeddingNetwork`.
        kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = nn.Linear(fixed_width(self.backbone), 1)
        carry_task_axis(self)

    def forward(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Logits ``(n,)`` of the query, or without one of the support; see :meth:`embed`."""
        axis, embeddings = current_task_axis(), self.embed(support, query)
        if axis is None:
            logits: Tensor = self.head(embeddings)
        else:
            logits = axis.split(self.head(axis.fold(embeddings)))
        return logits.squeeze(-1)


def usable(samples: Samples, like: Tensor) -> dict[str, Tensor]:
    """Samples on a network's device, outside inference mode; float64 stays, for offsets are lost in less."""
    kinds = {name: x.dtype if x.dtype == torch.float64 else like.dtype for name, x in samples.items()}
    return {name: x.to(like.device, kinds[name], copy=x.is_inference()) for name, x in samples.items()}


def scaled(samples: Samples, by: Mapping[str, SupportScaling], dtype: torch.dtype) -> dict[str, Tensor]:
    """Samples in the units of a support set, then in a network's type; a modality that is not in ``by`` keeps its
    units."""
    return {name: (by[name].apply(x) if name in by else x).to(dtype) for name, x in samples.items()}


def _complete(scaling: Mapping[str, Scaling], modalities: Sequence[str]) -> dict[str, Scaling]:
    for name, kind in scaling.items():
        if name not in modalities:
            raise unknown_name("modality in scaling:", name, modalities)
        if kind not in get_args(Scaling):
            raise unknown_name(f"scaling of {name}:", kind, get_args(Scaling))
    return {name: scaling.get(name, get_modality(name).scaling) for name in modalities}


@torch.no_grad()
def require_independent_tasks(
    network: EmbeddingNetwork,
    support: Samples,
    axis: TaskAxis,
    names: Sequence[str],
    remedy: str = "inner_loop.engine=higher",
) -> None:
    """Refuse a network in which a task's output depends on the other tasks of the batch.

    A layer that compares samples of a batch, or folds another axis into it, does so unseen. Compares the support sets'
    logits in evaluation mode, with weights that differ from task to task.

    Args:
        network: as it is trained.
        support: ``(tasks, n, ...)``.
        axis: how the engine would fold them.
        names: parameters that would be given a task axis.
        remedy: the setting that the error proposes.

    Raises:
        ValueError: as said.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        apart = dict(spread_over_tasks(network, names, dict(network.named_parameters()), axis.tasks))
        for name in names:  # weights that differ, so that a task which gets another's is found out
            factors = 1 + 0.1 * torch.arange(axis.tasks, device=apart[name].device, dtype=apart[name].dtype)
            apart[name] = apart[name] * factors.view(-1, *(1,) * (apart[name].ndim - 1))
        with task_axis(axis):
            together = functional_call(network, apart, (support,))
        tasks = [({n: apart[n][i] for n in names}, {m: x[i] for m, x in support.items()}) for i in range(axis.tasks)]
        alone = torch.stack([functional_call(network, weights, (one,)) for weights, one in tasks])
    finally:
        for module, training in modes.items():
            module.training = training
    difference = float((together - alone).abs().max())
    rounding = 1e-3 if alone.device.type == "cpu" else 2e-2  # a GPU may multiply in TF32
    if difference > rounding * float(alone.abs().max()):
        raise ValueError(
            f"beside other tasks, a task gets other logits than alone (by up to {difference:.2g}): some layer of "
            f"{type(network.backbone).__name__} mixes the samples of a batch, which can't be run with all tasks at "
            f"once; set {remedy}"
        )


def with_own_modules(network: Network) -> Network:
    """A copy with modules of its own around the same tensors: weights may be swapped in it, and modes set.

    Frozen and other unadapted weights are so shared by a model and all that is adapted from it.

    Args:
        network: stays as it is.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> with_own_modules(network) is network, with_own_modules(network).weight is network.weight
        (False, True)
    """
    shared: list[Any] = [*network.parameters(), *network.buffers()]
    for module in network.modules():  # hooks are shared as well: to copy their (mostly empty) dicts takes half the time
        shared += [x for name, x in vars(module).items() if "_hooks" in name or name == "_non_persistent_buffers_set"]
    return deepcopy(network, {id(x): x for x in shared})


def load_parameters(network: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of a network's parameters, without copying them.

    Args:
        network: its modules are changed, but not the tensors that they have had.
        parameters: by name; they take no gradient there.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    by_identity = {id(p): nn.Parameter(parameters[name].detach(), False) for name, p in network.named_parameters()}
    for name, p in list(network.named_parameters(remove_duplicate=False)):  # tied weights stay tied
        owner, _, attribute = name.rpartition(".")
        modules[owner].register_parameter(attribute, by_identity[id(p)])
    for module in modules.values():
        if isinstance(module, nn.RNNBase):  # it keeps a list of its weights, which would be renewed while threads score
            module.to(next(module.parameters()).device)


class AdaptedScorer(ABC):
    """What a learner is after one support set: it brings raw samples to the support's units and scores them there.

    Scoring changes nothing that two threads may share: no weight, mode, hook or global flag.
    """

    support: Samples
    scalings: Mapping[str, SupportScaling]

    @torch.no_grad()
    def score(self, samples: Samples) -> Tensor:
        """Scores ``(n,)``: the higher, the more anomalous."""
        return self.logits(self.units(samples))

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw samples in the units that the network reads, on its device."""
        like = next(iter(self.support.values()))
        return scaled(usable(samples, like), self.scalings, like.dtype)

    @abstractmethod
    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the network's :meth:`units`, by which they can be differentiated."""


@dataclass(frozen=True)
class AdaptedNetwork(AdaptedScorer):
    """A network with one task's weights.

    Attributes:
        network: holds the adapted weights; its modules are its own, what was not adapted it shares with the learner.
        support: scaled; kept, because batch normalisation may take its statistics from it.
        scalings: what brings new samples to the support's units.
    """

    network: EpisodeNetwork
    support: Samples
    scalings: Mapping[str, SupportScaling] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The adapted network's parameters by name."""
        return dict(self.network.named_parameters())

    def logits(self, samples: Samples) -> Tensor:
        """Logits ``(n,)`` of samples in the network's :meth:`units`, by which they can be differentiated."""
        return self._call(self.network, samples)

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of samples in the network's :meth:`units`; without any, of the support."""
        return self._call(self.network.embed, samples)

    def _call(self, function: Callable[..., Tensor], samples: Samples | None) -> Tensor:
        device = next(self.network.parameters()).device
        # cuDNN's recurrent layers have no gradient in evaluation mode.
        differentiable = differentiable_recurrence(self.network) if torch.is_grad_enabled() else nullcontext()
        with full_precision(device), differentiable:
            if samples is None or reads_statistics(self.network):
                return function(self.support, samples)
            return function(samples)


def reads_statistics(network: nn.Module) -> bool:
    """Whether embeddings depend on the support set beside them."""
    layers = [m for m in network.modules() if isinstance(m, EpisodicBatchNorm)]
    return any(m.policy != "running" and (m.policy != "per_step" or m.training) for m in layers)


def anomaly_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over samples; unlabelled samples (-1) count as normal, as most of them are.

    Args:
        logits: ``(n,)``, or with a task axis ``(tasks, n)``.
        labels: of 0, 1 and -1, in the same shape.

    Returns:
        ``()``, or ``(tasks,)``.
    """
    targets = (labels == ANOMALOUS).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)

"""Networks of an episode: a backbone with or without a head, and adapted scorers."""

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
    centre_missing,
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
    """A backbone whose embeddings may depend on a support set, by scaling and batch normalisation.

    Args:
        backbone: registered name of the backbone.
        backbone_options: options of the backbone.
        input_shapes: shape of one sample by modality, such as ``{"image": (1, 28, 28)}``; it defines ``in_channels``,
            ``image_size`` or ``in_features`` unless the options do.
        batch_norm: source of the statistics of batch normalisation.
        steps: number of inner steps, for ``batch_norm="per_step"``.
        scaling: scaling by the support set, by modality; default: :attr:`metaad_zoo.modality.Modality.scaling`.
        fill_missing: whether missing values of embeddings of a fixed width count as 0, the centre of scaled samples.

    Raises:
        ValueError: the backbone is unknown, rejects an option, or reads a modality that the data lack; or a scaling is
            unknown.
    """

    def __init__(
        self,
        backbone: str,
        backbone_options: Mapping[str, Any],
        input_shapes: Mapping[str, Sequence[int]],
        batch_norm: BatchNormPolicy,
        steps: int = 0,
        scaling: Mapping[str, Scaling] | None = None,
        fill_missing: bool = True,
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
        encoders = {name: encoder for name in self.modalities if several and (encoder := get_modality(name).encoder)}
        if encoders:
            options["encoders"] = encoders | options.get("encoders", {})
        self.backbone = create_backbone(backbone, **options)
        self._fills_missing = fill_missing and self.backbone.gives_missing and self.backbone.embedding_dim != ANY
        episodic_batch_norm(self.backbone, batch_norm, steps)
        carry_task_axis(self)

    def scalings(self, support: Samples, axis: int = 0) -> dict[str, SupportScaling]:
        """Scaling of each modality by a support set.

        Args:
            support: samples by modality, along ``axis``.
            axis: position of the sample axis; 1 after a task axis.
        """
        return {name: SupportScaling.fit(support[name], kind, axis) for name, kind in self.scaling.items()}

    def scaled(self, batch: EpisodeBatch, dtype: torch.dtype) -> EpisodeBatch:
        """A batch with each task's samples scaled by its support set, then in the learner's type."""
        by = self.scalings(batch.support, 1)
        support, query = (scaled(x, by, dtype) for x in (batch.support, batch.query))
        return replace(batch, support=support, query=query)

    def embed(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of the query, or of the support if ``query`` is None.

        The support provides the statistics of batch normalisation. Both are already scaled (:meth:`scalings`). In a
        :func:`metaad_zoo.backbones.task_axis`, all tensors have a leading task axis.
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
        if self._fills_missing:
            embeddings = centre_missing(embeddings)
        if axis is not None:
            embeddings = axis.split(embeddings)
        if query is None:
            return embeddings, None
        of_support, of_query = embeddings.tensor_split([rows], samples_axis)
        return of_support, of_query

    def forward(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Same as :meth:`embed`."""
        return self.embed(support, query)


def fixed_width(backbone: Backbone) -> int:
    """Length of a backbone's embedding.

    Raises:
        ValueError: the length differs between domains.
    """
    if backbone.embedding_dim == ANY:
        raise ValueError(
            f"{type(backbone).__name__} gives embeddings of any width, and this learner's head needs a fixed one: take "
            "a learner that compares (in_context, cnp, protonet, meta_svdd, acr), or another backbone"
        )
    return backbone.embedding_dim


def require_one_part(backbone: Backbone) -> None:
    """Check that an embedding may be read as a whole.

    Raises:
        ValueError: it has blocks, which are NaN for what a sample lacks.
    """
    if backbone.n_parts > 1:
        raise ValueError(
            f"{type(backbone).__name__} with parts=True gives {backbone.n_parts} embeddings, which this learner can't "
            "compare on their own: leave out backbone_options.parts, or take the learner protonet"
        )


class EpisodeNetwork(EmbeddingNetwork):
    """A backbone with a linear head to one logit for each sample; higher is more anomalous.

    Args:
        args: arguments of :class:`EmbeddingNetwork`.
        kwargs: keyword arguments of :class:`EmbeddingNetwork`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_one_part(self.backbone)
        self.head = nn.Linear(fixed_width(self.backbone), 1)
        carry_task_axis(self)

    def forward(self, support: Samples, query: Samples | None = None) -> Tensor:
        """Logits ``(n,)`` of the query, or of the support if ``query`` is None; see :meth:`embed`."""
        axis, embeddings = current_task_axis(), self.embed(support, query)
        if axis is None:
            logits: Tensor = self.head(embeddings)
        else:
            logits = axis.split(self.head(axis.fold(embeddings)))
        return logits.squeeze(-1)


def masked_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean over samples ``(..., n, d)`` with weights ``(..., n, 1)`` of 0 or 1; 0 if all weights are 0."""
    return (x * weight).sum(-2) / weight.sum(-2).clamp_min(1)


def usable(samples: Samples, like: Tensor) -> dict[str, Tensor]:
    """Samples on a network's device, outside inference mode; float64 stays for accuracy with large offsets."""
    kinds = {name: x.dtype if x.dtype == torch.float64 else like.dtype for name, x in samples.items()}
    return {name: x.to(like.device, kinds[name], copy=x.is_inference()) for name, x in samples.items()}


def scaled(samples: Samples, by: Mapping[str, SupportScaling], dtype: torch.dtype) -> dict[str, Tensor]:
    """Scale samples by a support set and convert them to a type; a modality that is not in ``by`` is not scaled."""
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
    """Check that a task's output does not depend on the other tasks of the batch.

    Some layers mix the samples of a batch, or fold another axis into it. The check compares the logits of support sets
    in evaluation mode, with different weights for each task.

    Args:
        network: network to check.
        support: support sets ``(tasks, n, ...)`` by modality.
        axis: task axis of the engine.
        names: names of the parameters with a task axis.
        remedy: setting that the error proposes.

    Raises:
        ValueError: the output of a task depends on other tasks.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        spread = dict(spread_over_tasks(network, names, dict(network.named_parameters()), axis.tasks))
        for name in names:  # different weights, so that an exchange of tasks changes the output
            factors = 1 + 0.1 * torch.arange(axis.tasks, device=spread[name].device, dtype=spread[name].dtype)
            spread[name] = spread[name] * factors.view(-1, *(1,) * (spread[name].ndim - 1))
        with task_axis(axis):
            together = functional_call(network, spread, (support,))
        tasks = [({n: spread[n][i] for n in names}, {m: x[i] for m, x in support.items()}) for i in range(axis.tasks)]
        alone = torch.stack([functional_call(network, weights, (samples,)) for weights, samples in tasks])
    finally:
        for module, training in modes.items():
            module.training = training
    together, alone = together.nan_to_num(), alone.nan_to_num()  # NaN for what a sample lacks
    difference = float((together - alone).abs().max())
    rounding = 1e-3 if alone.device.type == "cpu" else 2e-2  # a GPU may multiply in TF32
    if difference > rounding * float(alone.abs().max()):
        raise ValueError(
            f"a task's logits change by up to {difference:.2g} if other tasks are in the batch: some layer of "
            f"{type(network.backbone).__name__} mixes the samples of a batch, so tasks can't run at once; set {remedy}"
        )


def with_own_modules(network: Network) -> Network:
    """Copy of a network's modules around the same tensors, so that weights and modes can be changed independently.

    A model and its adapted copies so share the memory of frozen and unadapted weights.

    Args:
        network: network to copy; not changed.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> with_own_modules(network) is network, with_own_modules(network).weight is network.weight
        (False, True)
    """
    shared: list[Any] = [*network.parameters(), *network.buffers()]
    for module in network.modules():  # hooks are shared too: copying their (mostly empty) dicts takes half the time
        shared += [x for name, x in vars(module).items() if "_hooks" in name or name == "_non_persistent_buffers_set"]
    return deepcopy(network, {id(x): x for x in shared})


def load_parameters(network: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Replace a network's parameters by given tensors, without a copy.

    Args:
        network: network to change; its old tensors are not changed.
        parameters: tensors by name, used without gradient.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    by_identity = {id(p): nn.Parameter(parameters[name].detach(), False) for name, p in network.named_parameters()}
    for name, p in list(network.named_parameters(remove_duplicate=False)):  # tied weights stay tied
        owner, _, attribute = name.rpartition(".")
        modules[owner].register_parameter(attribute, by_identity[id(p)])
    for module in modules.values():
        if isinstance(module, nn.RNNBase):  # refresh its list of weights now, and not while threads score
            module.to(next(module.parameters()).device)


class AdaptedScorer(ABC):
    """Base of learners adapted to a support set: scales raw samples by the support set and scores them.

    Scoring is thread-safe: it changes no weight, mode, hook or global flag.
    """

    support: Samples
    scalings: Mapping[str, SupportScaling]

    @torch.no_grad()
    def score(self, samples: Samples) -> Tensor:
        """Scores ``(n,)``; higher is more anomalous."""
        return self.logits(self.units(samples))

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw samples scaled to the network's units, on its device."""
        like = next(iter(self.support.values()))
        return scaled(usable(samples, like), self.scalings, like.dtype)

    @abstractmethod
    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the network's :meth:`units`, differentiable by the samples."""


@dataclass(frozen=True)
class AdaptedNetwork(AdaptedScorer):
    """A network with the weights of one task.

    Attributes:
        network: network with the adapted weights; it shares unadapted tensors with the learner.
        support: scaled support set, for the statistics of batch normalisation.
        scalings: scaling of new samples by modality.
    """

    network: EpisodeNetwork
    support: Samples
    scalings: Mapping[str, SupportScaling] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Parameters of the adapted network by name."""
        return dict(self.network.named_parameters())

    def logits(self, samples: Samples) -> Tensor:
        """Logits ``(n,)`` of samples in the network's :meth:`units`, differentiable by the samples."""
        return self._call(self.network, samples)

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of samples in the network's :meth:`units`, or of the support if None."""
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
    """Whether embeddings depend on the support set, by batch normalisation."""
    layers = [m for m in network.modules() if isinstance(m, EpisodicBatchNorm)]
    return any(m.policy != "running" and (m.policy != "per_step" or m.training) for m in layers)


def anomaly_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over samples; unlabelled samples (-1) count as normal.

    Args:
        logits: ``(n,)``, or with a task axis ``(tasks, n)``.
        labels: 0, 1 or -1, in the shape of ``logits``.

    Returns:
        ``()``, or ``(tasks,)``.
    """
    targets = (labels == ANOMALOUS).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)

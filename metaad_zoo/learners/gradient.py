"""Learners that adapt by gradient steps on the support set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.func import functional_call

from metaad_zoo.episodes import EpisodeBatch, Samples
from metaad_zoo.inner_loop import InnerLoop, InnerLoopConfig, adapt_parameters
from metaad_zoo.learners.base import Learner, Schedule
from metaad_zoo.learners.network import EpisodeNetwork, anomaly_loss
from metaad_zoo.learners.registry import register_learner


@register_learner("maml")
class GradientLearner(Learner):
    """Model-agnostic meta-learning: an initialisation from which a few gradient steps make a detector.

    Source: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017, algorithm 1.
    With supports of normal samples alone and queries of both kinds it is the one-class setting of Frikha et al.,
    "Few-Shot One-Class Classification via Meta-Learning", AAAI 2021 (OC-MAML).

    Args:
        backbone: name of the backbone, as in :func:`metaad_zoo.list_backbones`.
        backbone_options: for its builder, such as ``{"width": 32}``.
        input_shapes: shape of one sample by modality, such as ``{"image": [1, 28, 28]}``; ``train.py`` takes it from
            the data.
        inner_loop: what is adapted, how and to which order.
        optimizer: builds the outer optimiser.
        schedule: of the outer learning rate, ``"constant"`` or ``"cosine"``.

    Raises:
        ValueError: a name or a setting is unknown, or the backbone does not fit the data.
    """

    def __init__(
        self,
        backbone: str = "conv4",
        backbone_options: dict[str, Any] | None = None,
        input_shapes: dict[str, Sequence[int]] | None = None,
        inner_loop: InnerLoopConfig = InnerLoopConfig(),  # noqa: B008 - frozen
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        schedule: Schedule = "cosine",
    ) -> None:
        super().__init__(optimizer, schedule)
        if not input_shapes:
            raise ValueError("input_shapes is missing: give each modality's shape, such as {'image': (1, 28, 28)}")
        self._arguments: dict[str, Any] = {
            "backbone": backbone,
            "backbone_options": dict(backbone_options or {}),
            "input_shapes": {name: list(shape) for name, shape in input_shapes.items()},
            "inner_loop": inner_loop,
        }
        self.network = EpisodeNetwork(backbone, backbone_options or {}, input_shapes, inner_loop.batch_norm)
        self.inner_loop = InnerLoop(inner_loop, self.network)

    def arguments(self) -> dict[str, Any]:
        """As given, with the inner loop spelled out; a rebuilt learner is given its weights, it fetches none."""
        options: dict[str, Any] = dict(self._arguments["backbone_options"])
        if "pretrained" in options:
            options["pretrained"] = False
        return {**self._arguments, "backbone_options": options, "inner_loop": asdict(self.inner_loop.config)}

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """The network's parameters, and learned inner rates apart, which weight decay would pull to 0."""
        groups: list[dict[str, Any]] = [{"params": [p for p in self.network.parameters() if p.requires_grad]}]
        rates = list(self.inner_loop.parameters())
        return [*groups, {"params": rates, "weight_decay": 0.0}] if rates else groups

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        losses = []
        for support, support_labels, query, query_labels, task in batch:
            adapted = self._adapt_parameters(support, support_labels, task, meta_gradient=True)
            logits = functional_call(self.network, adapted, (support, query))
            losses.append(anomaly_loss(logits, query_labels))
        return torch.stack(losses).mean()

    def adapt(self, support: Samples, support_labels: Tensor) -> AdaptedNetwork:
        """Take the inner loop's steps on a support set.

        Args:
            support: by modality ``(n, ...)``; brought to the learner's device and type.
            support_labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled (taken as normal).

        Raises:
            FloatingPointError: the support loss is not finite.
        """
        # Lightning validates in inference mode, whose tensors can take no gradient.
        # Adapting and scoring run in full precision also where training is mixed: half a logit's digits tie scores.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            here = {name: self._usable(x) for name, x in support.items()}
            labels = support_labels.to(self.device, copy=support_labels.is_inference())
            adapted = self._adapt_parameters(here, labels, "this support set", meta_gradient=False)
            return AdaptedNetwork(self.network, adapted, here)

    def _usable(self, x: Tensor) -> Tensor:
        reference = next(self.network.parameters())
        return x.to(reference.device, reference.dtype, copy=x.is_inference())

    def _adapt_parameters(
        self, support: Samples, support_labels: Tensor, task: str, *, meta_gradient: bool
    ) -> dict[str, Tensor]:
        try:
            return adapt_parameters(
                self.network,
                self.inner_loop,
                lambda network: anomaly_loss(network(support), support_labels),
                meta_gradient=meta_gradient,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{task}: {error}") from error


@dataclass(frozen=True)
class AdaptedNetwork:
    """A network with one task's weights.

    Attributes:
        network: the learner's own; its weights are not changed.
        parameters: the adapted ones by name.
        support: kept, because batch normalisation may take its statistics from it.
    """

    network: EpisodeNetwork
    parameters: Mapping[str, Tensor]
    support: Samples

    @torch.no_grad()
    def score(self, samples: Samples) -> Tensor:
        """Logits ``(n,)``: the higher, the more anomalous."""
        reference = next(iter(self.parameters.values()))
        here = {name: x.to(reference.device, reference.dtype) for name, x in samples.items()}
        with torch.autocast(reference.device.type, enabled=False):
            scores: Tensor = functional_call(self.network, dict(self.parameters), (self.support, here))
        return scores

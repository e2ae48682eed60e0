"""Transfer of a trained backbone to another learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaad_zoo.backbones import Backbone, replace_pretrained
from metaad_zoo.learners.base import Learner
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.network import EmbeddingNetwork
from metaad_zoo.learners.registry import learner_class, list_learners


def with_head(learner: Learner, name: str, settings: Mapping[str, Any] | None = None) -> EmbeddingLearner:
    """Build another learner, without an inner loop, on the backbone of a trained learner.

    Args:
        learner: trained learner; not changed.
        name: name of the new learner, such as ``"protonet"``; only its backbone has trained weights.
        settings: settings of the new learner, such as ``{"distance": "cosine"}``.

    Raises:
        ValueError: the learner has no backbone, or the new one has an inner loop or does not fit the backbone.

    Example:
        >>> from metaad_zoo.learners import ContrastivePretraining
        >>> pretrained = ContrastivePretraining(backbone="conv4", input_shapes={"image": (1, 28, 28)})
        >>> with_head(pretrained, "protonet").registered_name
        'protonet'
    """
    kind = learner_class(name)
    if not issubclass(kind, EmbeddingLearner):
        suitable = [n for n in list_learners() if issubclass(learner_class(n), EmbeddingLearner)]
        raise ValueError(f"{name} can't be a head over a trained backbone: take one of {', '.join(suitable)}")
    with replace_pretrained(False):  # the trained weights follow
        built = kind(**backbone_arguments(learner, kind.reads_parts), **(settings or {}))
    take_backbone(built.network, learner)
    return built.to(learner.device)


def backbone_arguments(learner: Learner, parts: bool = False) -> dict[str, Any]:
    """Constructor arguments of a learner with the same backbone, normalisation and scaling.

    Args:
        learner: learner with a trained backbone.
        parts: keep the backbone's option ``parts``, for a learner that reads them.

    Raises:
        ValueError: the learner has no trained backbone.
    """
    if not isinstance(learner, (GradientLearner, EmbeddingLearner)):
        raise ValueError(f"{learner.registered_name} has no trained backbone: take another checkpoint")
    arguments = learner.arguments()
    source = arguments if isinstance(learner, EmbeddingLearner) else arguments["inner_loop"]
    policy = source["batch_norm"]
    shared = {name: arguments[name] for name in ("backbone", "backbone_options", "input_shapes", "scaling")}
    if not parts:
        shared["backbone_options"] = {k: v for k, v in shared["backbone_options"].items() if k != "parts"}
    return {**shared, "batch_norm": "support" if policy == "per_step" else policy}


def take_backbone(network: EmbeddingNetwork, learner: Learner) -> None:
    """Load the weights of a learner's backbone into a network built with :func:`backbone_arguments`."""
    assert isinstance(learner.network, EmbeddingNetwork)
    weights = learner.network.backbone.state_dict()
    network.backbone.load_state_dict({k: x for k, x in weights.items() if ".step_" not in k})
    for target, source in zip(network.backbone.modules(), learner.network.backbone.modules(), strict=True):
        if isinstance(target, Backbone) and isinstance(source, Backbone):
            target.source = source.source

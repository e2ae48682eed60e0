"""A trained backbone under another learner: pretrain, then compare otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaad_zoo.learners.base import Learner
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.network import EmbeddingNetwork
from metaad_zoo.learners.registry import learner_class, list_learners


def with_head(learner: Learner, name: str, settings: Mapping[str, Any] | None = None) -> EmbeddingLearner:
    """Another learner without inner loop, with the backbone of a trained one and its weights as they are.

    Args:
        learner: trained; left as it is.
        name: of the other one, such as ``"protonet"``; what it has beside the backbone is at its start.
        settings: of the other one, such as ``{"distance": "cosine"}``.

    Raises:
        ValueError: the learner has no backbone, the other one takes an inner loop, or does not fit the backbone.

    Example:
        >>> from metaad_zoo.learners import ContrastivePretraining
        >>> pretrained = ContrastivePretraining(backbone="conv4", input_shapes={"image": (1, 28, 28)})
        >>> with_head(pretrained, "protonet").registered_name
        'protonet'
    """
    kind = learner_class(name)
    if not issubclass(kind, EmbeddingLearner):
        known = [n for n in list_learners() if issubclass(learner_class(n), EmbeddingLearner)]
        raise ValueError(f"{name} can't be a head over a trained backbone: take one of {', '.join(known)}")
    built = kind(**backbone_arguments(learner), **(settings or {}))
    take_backbone(built.network, learner)
    return built.to(learner.device)


def backbone_arguments(learner: Learner) -> dict[str, Any]:
    """What the constructor of another learner needs for the same backbone, normalisation and scaling.

    Raises:
        ValueError: the learner has none that can be taken over.
    """
    if not isinstance(learner, (GradientLearner, EmbeddingLearner)):
        raise ValueError(f"{learner.registered_name} has no trained backbone: take another checkpoint")
    given = learner.arguments()
    policy = given["batch_norm"] if isinstance(learner, EmbeddingLearner) else given["inner_loop"]["batch_norm"]
    shared = {name: given[name] for name in ("backbone", "backbone_options", "input_shapes", "scaling")}
    return {**shared, "batch_norm": "support" if policy == "per_step" else policy}


def take_backbone(network: EmbeddingNetwork, learner: Learner) -> None:
    """Load the weights of a learner's backbone into one that was built by :func:`backbone_arguments`."""
    assert isinstance(learner.network, EmbeddingNetwork)
    weights = learner.network.backbone.state_dict()
    network.backbone.load_state_dict({k: x for k, x in weights.items() if ".step_" not in k})

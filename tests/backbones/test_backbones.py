"""Duties of every backbone, over the registry and one of timm's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metaad_zoo.backbones import (
    ANY,
    Backbone,
    create_backbone,
    episodic_batch_norm,
    list_backbones,
    register_backbone,
)
from tests.tiny import REGISTERED, TIMM, TINY, registered_name, shape_options, tiny_modality

NAMES = [*REGISTERED, *TIMM]


def build(name: str, **options) -> Backbone:
    return create_backbone(registered_name(name), **{**shape_options(name), **TINY[name][0], **options})


@pytest.mark.parametrize("name", NAMES)
class TestEveryBackbone:
    @pytest.fixture
    def backbone(self, name) -> Backbone:
        return build(name)

    @pytest.fixture
    def x(self, name) -> torch.Tensor:
        return torch.rand(3, *TINY[name][1])

    def test_gives_the_embedding_it_announces(self, name, backbone, x):
        assert backbone(x).shape == (3, backbone.embedding_dim)
        assert backbone.modality == tiny_modality(name)

    def test_every_parameter_gets_a_gradient(self, backbone, x):
        backbone(x).square().sum().backward()
        for name, p in backbone.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name

    def test_comes_back_from_its_weights(self, name, backbone, x):
        twin = build(name)
        twin.load_state_dict(backbone.state_dict())
        assert torch.equal(twin.eval()(x), backbone.eval()(x))

    def test_half_precision(self, backbone, x):
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone.eval()(x).float()
        assert torch.isfinite(half).all()
        assert torch.nn.functional.cosine_similarity(half, backbone(x)).min() > 0.95

    def test_refuses_other_shapes(self, name, backbone, x):
        kind = {"image": "images", "sequence": "sequences", "tabular": "table rows"}[tiny_modality(name)]
        others = [x[0], torch.cat([x, x], 1) if tiny_modality(name) == "image" else x[:, None]]
        for other in others if ANY in TINY[name][0].values() else [*others, x[..., :-1]]:
            with pytest.raises(ValueError, match=rf"expected {kind} of shape \(n, .*saw \({other.shape[0]},"):
                backbone(other)

    def test_second_order_gradient_in_float64(self, name, backbone, x):
        """The derivative of an inner gradient's size along a direction, against finite differences."""
        backbone = episodic_batch_norm(backbone, "support").double().eval()
        x, p = x.double(), next(p for n, p in backbone.named_parameters() if p.ndim > 1)
        g = torch.Generator().manual_seed(0)
        weights = torch.randn(backbone.embedding_dim, generator=g, dtype=torch.float64)

        def inner(graph=True):
            gradient = torch.autograd.grad((backbone(x) @ weights).sum(), p, create_graph=graph)[0]
            return gradient.square().sum()

        direction = torch.randn(p.shape, generator=g, dtype=torch.float64)
        direction /= direction.norm()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            value = inner()
            second = (torch.autograd.grad(value, p)[0] * direction).sum()
            eps, values = 1e-7, []
            for sign in (1, -1):
                with torch.no_grad():
                    p += sign * eps * direction
                values.append(inner(graph=False).item())
                with torch.no_grad():
                    p -= sign * eps * direction
        expected = (values[0] - values[1]) / (2 * eps)
        assert second.item() == pytest.approx(expected, rel=1e-4, abs=1e-6 * abs(value.item()))


def test_conv4_is_the_published_one():
    backbone = create_backbone("conv4", in_channels=1, image_size=28)
    # 4 convolutions with bias and 4 batch norms: (1 + 3 * 64) * 9 * 64 weights and 3 * 4 * 64 vectors
    assert sum(p.numel() for p in backbone.parameters()) == (1 + 3 * 64) * 9 * 64 + 3 * 4 * 64
    assert backbone(torch.zeros(1, 1, 28, 28)).shape == (1, 64)


def test_names_patterns_and_order():
    assert list_backbones("conv*") == ["conv4"]
    assert list_backbones("*", modality="sequence") == ["gru", "lstm", "tcn", "transformer"]
    found = list_backbones("timm/resnet*")
    assert {"timm/resnet18", "timm/resnet50"} <= set(found)
    assert found.index("timm/resnet18") < found.index("timm/resnet101"), "natural order"


@pytest.mark.parametrize(
    ("name", "hint"), [("convv4", "'conv4'"), ("resnet21", "'resnet12'"), ("timm/resnet81", "'timm/resnet18'")]
)
def test_unknown_names_get_near_ones(name, hint):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean.*{hint}"):
        create_backbone(name)


def test_a_timm_model_without_its_prefix_is_offered_with_it():
    with pytest.raises(ValueError, match=r"timm/resnet18"):
        create_backbone("resnet18")


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("conv4", {"image_size": 15}, "at least 16, saw 15"),
        ("resnet12", {"image_size": 8}, "at least 16, saw 8"),
        ("resnet12", {"widths": (1, 2)}, "four widths"),
        ("mlp", {"widths": ()}, "at least one layer"),
        ("transformer", {"width": 6, "heads": 4}, "heads=4 do not divide width=6"),
        ("transformer", {"patch": 0}, "at least one step, saw patch=0"),
        ("tcn", {"layers": 0}, "at least one block, saw layers=0"),
        ("gru", {"in_channels": 0}, "in_channels of 1 or more, or -1 for any number, saw 0"),
        ("conv4", {"norm": "layer"}, "'batch', 'group' or 'none'"),
        ("conv4", {"widht": 3}, "option of backbone 'conv4': 'widht'; did you mean 'width'"),
        ("timm/inception_v3", {"image_size": 16}, "timm/inception_v3 can.t take images of 16 x 16 pixels"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(name, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        create_backbone(name, **options)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'conv4' is registered already"):
        register_backbone("conv4", modality="image")(lambda: None)


@pytest.mark.parametrize("name", ["conv4", "timm/resnet18"])
def test_running_policy_equals_the_backbone_in_eval_mode(name):
    backbone, x = build(name), torch.rand(5, *TINY[name][1])
    backbone.train()(x * 3)  # moves the running statistics
    episodic = episodic_batch_norm(copy.deepcopy(backbone), "running")
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in episodic.modules())
    torch.testing.assert_close(episodic.train()(x), backbone.eval()(x), rtol=1e-4, atol=1e-5)


def test_timm_normalises_by_what_the_weights_were_trained_with(monkeypatch):
    """Weights can't be downloaded in a test: the model is random, but treated as a pretrained one."""
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kw: create(name, pretrained=False, **kw))
    backbone = create_backbone("timm/resnet18", image_size=32, pretrained=True).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torch.rand(2, 3, 32, 32)
    expected = backbone.body((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(backbone(x), expected)

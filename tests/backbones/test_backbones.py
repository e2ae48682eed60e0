"""Duties of every backbone, over the registry and one of timm's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from metaad_zoo.backbones import (
    ANY,
    MULTIMODAL,
    Backbone,
    ImageBackbone,
    create_backbone,
    episodic_batch_norm,
    list_backbones,
    register_backbone,
)
from tests.tiny import (
    REGISTERED,
    TIMM,
    TINY,
    WEIGHTLESS,
    reads_any,
    registered_name,
    shape_options,
    shapes_of,
    tiny_modality,
)

NAMES = [*REGISTERED, *TIMM]


def build(name: str, **options) -> Backbone:
    return create_backbone(registered_name(name), **{**shape_options(name), **TINY[name][0], **options})


def samples(name: str) -> torch.Tensor | dict[str, torch.Tensor]:
    """Three of them; by modality for a backbone that reads several."""
    by_modality = {modality: torch.rand(3, *shape) for modality, shape in shapes_of(name).items()}
    return by_modality if tiny_modality(name) == MULTIMODAL else by_modality[tiny_modality(name)]


@pytest.mark.parametrize("name", NAMES)
class TestEveryBackbone:
    @pytest.fixture
    def backbone(self, name) -> Backbone:
        return build(name)

    @pytest.fixture
    def x(self, name) -> torch.Tensor | dict[str, torch.Tensor]:
        return samples(name)

    def test_gives_the_embedding_it_announces(self, name, backbone, x):
        shape = backbone(x).shape
        assert shape == (3, shape[1] if backbone.embedding_dim == ANY else backbone.embedding_dim)
        assert backbone.modality == tiny_modality(name)

    def test_every_parameter_gets_a_gradient(self, name, backbone, x):
        if registered_name(name) in WEIGHTLESS:
            assert not list(backbone.parameters())
            return
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
        kinds = {"image": "images", "sequence": "sequences", "tabular": "table rows"}
        for modality in shapes_of(name):
            one = x[modality] if isinstance(x, dict) else x
            wrong_shapes = [one[..., :-1], torch.cat([one, one], 1) if modality == "image" else one[:, None], one[0]]
            if reads_any(name) or getattr(backbone, "any_size", False):
                wrong_shapes.pop(0)  # of the last axis, none is too long or too short
                backbone(one[..., :-1])
            for other in wrong_shapes:
                given = other
                if isinstance(x, dict):
                    given = {m: v[:1].expand(len(other), *v.shape[1:]) for m, v in x.items()} | {modality: other}
                seen = rf"expected {kinds[modality]} of shape \(n, .*saw \({other.shape[0]},"
                with pytest.raises(ValueError, match=seen):
                    backbone(given)

    def test_second_order_gradient_in_float64(self, name, backbone, x):
        """The derivative of an inner gradient's size along a direction, against finite differences."""
        if registered_name(name) in WEIGHTLESS:
            pytest.skip("without weights there is no inner gradient")
        backbone = episodic_batch_norm(backbone, "support").double().eval()
        x = {m: v.double() for m, v in x.items()} if isinstance(x, dict) else x.double()
        p = next(p for n, p in backbone.named_parameters() if p.ndim > 1)
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


def test_vit_reads_patches_and_knows_their_places():
    """Against a convolution with stride, and the position table of Beyer et al. written out with numpy."""
    backbone, x = (
        create_backbone("vit", in_channels=2, image_size=12, patch=4, width=8, heads=2),
        torch.rand(3, 2, 12, 12),
    )
    seen = {}
    backbone.into.register_forward_hook(lambda module, inputs, out: seen.update(patches=out))
    backbone.blocks[0].register_forward_hook(lambda module, inputs, out: seen.update(tokens=inputs[0]))
    backbone(x)
    kernel = backbone.into.weight.view(8, 2, 4, 4)
    expected = torch.nn.functional.conv2d(x, kernel, backbone.into.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen["patches"], expected)
    y, x = np.mgrid[:3, :3]
    omega = 1 / 10000 ** (np.arange(2) / 1)
    y, x = (at.flatten()[:, None] * omega[None] for at in (y, x))
    table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    torch.testing.assert_close(seen["tokens"] - seen["patches"], torch.tensor(table).float().expand(3, -1, -1))


POOLED = {
    "conv4": lambda last: last.flatten(1),
    "resnet12": lambda last: last.mean((2, 3)),
    "vit": lambda last: last.mean((2, 3)),
    "timm/test_resnet": lambda last: last.mean((2, 3)),
}
IMAGE = [name for name in NAMES if tiny_modality(name) == "image"]


@pytest.mark.parametrize("name", IMAGE)
def test_feature_maps_go_from_fine_to_coarse_and_end_in_the_embedding(name):
    backbone, x = build(name).eval(), torch.rand(3, *TINY[name][1])
    assert isinstance(backbone, ImageBackbone)
    maps = backbone.feature_maps(x)
    sizes = [one.shape[-1] for one in maps]
    assert len(maps) > 1
    assert sizes == sorted(sizes, reverse=True)
    for one in maps:
        assert one.ndim == 4
        assert len(one) == 3
        assert one.shape[2] == one.shape[3] <= x.shape[-1]
    assert len({tuple(one.shape[1:]) for one in maps}) > 1 or "vit" in name, "a transformer keeps its resolution"
    if name in POOLED:
        torch.testing.assert_close(POOLED[name](maps[-1]), backbone(x))
    with pytest.raises(ValueError, match="expected images of shape"):
        backbone.feature_maps(x[0])


def test_images_pass_in_parts_where_they_are_independent(monkeypatch):
    backbone, x = build("timm/test_resnet").eval(), torch.rand(5, *TINY["timm/test_resnet"][1])
    whole, sizes = backbone.feature_maps(x), []
    monkeypatch.setattr("metaad_zoo.backbones.pretrained.PIXELS_AT_ONCE", 2 * x[0, 0].numel())
    backbone.body.conv1.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    parts = backbone.feature_maps(x)
    assert sizes == [2, 2, 1]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    sizes.clear()
    backbone.train().feature_maps(x)  # statistics of the whole batch
    assert sizes == [5]


def test_a_token_lies_on_the_map_where_its_patch_lies_in_the_image():
    """With one black image and one with a bright patch in row 0, column 2, layers that do not attend tell where."""
    backbone = build("vit").eval()
    for block in backbone.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    x = torch.zeros(2, 1, 12, 12)
    x[1, :, :4, 8:] = 1
    black, bright = backbone.feature_maps(x)[-1]
    differs = (black - bright).abs().sum(0) > 1e-4
    assert differs.nonzero().tolist() == [[0, 2]]


def test_a_model_without_feature_maps_is_named():
    backbone = build("timm/test_resnet")
    backbone.body = nn.Flatten()
    with pytest.raises(ValueError, match=r"timm/test_resnet has no intermediate feature maps"):
        backbone.feature_maps(torch.rand(2, 1, 32, 32))


def test_names_patterns_and_order():
    assert list_backbones("conv*") == ["conv4"]
    assert list_backbones("*", modality="sequence") == ["gru", "lstm", "tcn", "transformer", "window_statistics"]
    names = list_backbones("timm/resnet*")
    assert {"timm/resnet18", "timm/resnet50"} <= set(names)
    assert names.index("timm/resnet18") < names.index("timm/resnet101"), "natural order"


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
        ("mlp", {"activation": "sigmiod"}, "activation of mlp: 'sigmiod'; did you mean 'sigmoid'"),
        ("resnet_mlp", {"norm": "group"}, "norm of resnet_mlp: 'group'.*Known: batch, layer"),
        ("ft_transformer", {"width": 6, "heads": 4}, "heads=4 do not divide width=6"),
        ("transformer", {"width": 6, "heads": 4}, "heads=4 do not divide width=6"),
        (
            "vit",
            {"patch": 5, "image_size": 28},
            "patch=5 does not divide image_size=28: take one of 1, 2, 4, 7, 14, 28",
        ),
        ("vit", {"width": 64, "heads": 3}, "width=64 must be a multiple of 4 .* and of heads=3"),
        ("vit", {"width": 6, "heads": 3}, "width=6 must be a multiple of 4"),
        ("vit", {"layers": 0}, "must be at least 1"),
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


@pytest.mark.parametrize("name", ["conv4", "timm/test_resnet"])
def test_running_policy_equals_the_backbone_in_eval_mode(name):
    backbone, x = build(name), torch.rand(5, *TINY[name][1])
    backbone.train()(x * 3)  # moves the running statistics
    episodic = episodic_batch_norm(copy.deepcopy(backbone), "running")
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in episodic.modules())
    torch.testing.assert_close(episodic.train()(x), backbone.eval()(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(episodic(x), backbone(x), rtol=1e-4, atol=1e-5)


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

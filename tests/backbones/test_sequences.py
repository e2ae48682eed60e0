"""Duties of every backbone for sequences: variable length, missing values, any number of channels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metaad_zoo.backbones import (
    ANY,
    TaskAxis,
    carry_task_axis,
    create_backbone,
    list_backbones,
    prefers_sample_major,
    task_axis,
)
from metaad_zoo.backbones.sequences import fold_channels, pool_channels, split_channels
from metaad_zoo.backbones.transformer import positions
from metaad_zoo.inner_loop.precision import twice_differentiable
from tests.tiny import TINY, WEIGHTLESS

NAN = float("nan")
FAMILIES = [name for name in list_backbones(modality="sequence") if name not in WEIGHTLESS]
SMALL = {"gru": {"layers": 2}, "lstm": {"layers": 2}, "tcn": {"layers": 3}, "transformer": {"layers": 2}}
PLANS = [(name, {}) for name in FAMILIES] + [("transformer", {"patch": 3})]


def build(name, channels, **options):
    torch.manual_seed(0)
    return create_backbone(name, in_channels=channels, width=8, **SMALL[name], **options).double()


def ragged(n=5, length=11, channels=3):
    """Sequences of lengths 11, 8, 5, 2 and one that is missing as a whole; with a missing value here and there."""
    x = torch.randn(n, length, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x[0, 4, 1] = x[1, 0, :] = x[2, 2, 0] = NAN
    for i, steps in enumerate([11, 8, 5, 2, 0]):
        x[i, steps:] = NAN
    return x


@pytest.mark.parametrize("channels", [3, ANY])
@pytest.mark.parametrize(("name", "options"), PLANS)
class TestEverySequenceBackbone:
    def test_appended_missing_steps_change_nothing(self, name, options, channels):
        backbone, x = build(name, channels, **options), ragged()
        together = backbone(x)
        assert torch.isfinite(together).all()
        for i, steps in enumerate([11, 8, 5, 2, 1]):
            torch.testing.assert_close(backbone(x[i : i + 1, :steps])[0], together[i], rtol=0, atol=1e-5)
        padded = torch.cat([x, torch.full_like(x[:, :4], NAN)], 1)
        torch.testing.assert_close(backbone(padded), together, rtol=0, atol=1e-5)

    def test_a_mask_that_is_not_needed_is_none_at_all(self, name, options, channels):
        backbone, x = build(name, channels, **options), torch.randn(4, 6, 3, dtype=torch.float64)
        beside = torch.cat([x, torch.full_like(x[:1], NAN)])  # one sample more makes the batch a masked one
        torch.testing.assert_close(backbone(beside)[:4], backbone(x), rtol=0, atol=1e-10)

    def test_what_is_missing_gets_no_gradient_and_spoils_none(self, name, options, channels):
        backbone, x = build(name, channels, **options), ragged().requires_grad_()
        with twice_differentiable():
            embeddings = backbone(x)
        inner = torch.autograd.grad(embeddings.square().sum(), list(backbone.parameters()), create_graph=True)
        sum(g.square().sum() for g in inner).backward()
        assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())
        assert torch.isfinite(x.grad).all()
        assert (x.grad[x.isnan()] == 0).all()

    def test_a_missing_value_counts_as_zero(self, name, options, channels):
        backbone, x = build(name, channels, **options), torch.randn(4, 6, 3, dtype=torch.float64)
        holes, zeros = x.clone(), x.clone()
        holes[1, 2], holes[2, 0, 1] = NAN, NAN
        zeros[1, 2], zeros[2, 0, 1] = 0, 0
        torch.testing.assert_close(backbone(holes), backbone(zeros))

    @pytest.mark.parametrize("sample_major", [False, True])
    def test_tasks_of_ragged_sequences_side_by_side_equal_each_alone(self, name, options, channels, sample_major):
        """With weights of their own; tasks differ in their lengths and in the channels that they lack."""
        backbone, x = carry_task_axis(build(name, channels, **options)), torch.stack([ragged(), ragged().flip(0)])
        x[1, :, :, 2] = NAN
        axis = TaskAxis(2, sample_major)
        own = {n: torch.stack([p, p + 0.1 * torch.randn_like(p)]) for n, p in backbone.named_parameters()}
        with task_axis(axis):
            folded = axis.split(torch.func.functional_call(backbone, own, (axis.fold(x),)))
        alone = [torch.func.functional_call(backbone, {n: p[i] for n, p in own.items()}, (x[i],)) for i in range(2)]
        torch.testing.assert_close(folded, torch.stack(alone))


@pytest.mark.parametrize(("name", "options"), PLANS)
def test_any_channels_in_any_order_and_absent_ones(name, options):
    backbone, x = build(name, ANY, **options), ragged()
    expected = backbone(x)
    assert expected.shape == (5, 2 * 8)
    torch.testing.assert_close(backbone(x[:, :, [2, 0, 1]]), expected)
    torch.testing.assert_close(backbone(torch.cat([torch.full_like(x, NAN), x], 2)), expected)
    absent = x.clone()
    absent[0, :, 1] = NAN
    torch.testing.assert_close(backbone(absent)[0], backbone(absent[:1, :, [0, 2]])[0])
    assert not torch.allclose(backbone(absent)[0], expected[0])
    assert (expected[4] == 0).all(), "nothing is known of a sample without any channel"


def test_channels_are_pooled_by_mean_and_maximum_of_those_that_are_there():
    y = torch.tensor([[[1.0, -5], [3, -2], [100, 100]], [[1, 1], [2, 2], [3, 3]]])
    present = torch.tensor([[True, True, False], [False, False, False]])
    assert pool_channels(y, present).tolist() == [[2, -3.5, 3, -2], [0, 0, 0, 0]]
    assert pool_channels(y[1:], None).tolist() == [[2, 2, 3, 3]]


@pytest.mark.parametrize("sample_major", [False, True])
def test_channels_are_folded_within_their_task(sample_major):
    axis, x = TaskAxis(2, sample_major), torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)  # tasks, n, T, C
    with task_axis(axis):
        folded = fold_channels(axis.fold(x))
        assert axis.split(folded).shape == (2, 3 * 5, 4, 1)
        for task in range(2):
            assert torch.equal(axis.split(folded)[task].flatten(1), x[task].transpose(1, 2).flatten(0, 1))
        back = split_channels(folded.squeeze(2), 5)
    assert torch.equal(axis.split(back), x.transpose(2, 3))


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_recurrent_embedding_is_the_state_at_the_last_step(name):
    backbone, x = build(name, 3), torch.randn(2, 6, 3, dtype=torch.float64)
    states = backbone.cells(x)[0]
    torch.testing.assert_close(backbone(x), states[:, -1])
    x[0, 3:] = NAN
    torch.testing.assert_close(backbone(x), torch.stack([states[0, 2], states[1, 5]]))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_cells_with_a_task_axis_give_all_that_torch_gives(kind):
    torch.manual_seed(0)
    layers = [kind(3, 4, num_layers=2, batch_first=True).double() for _ in range(3)]
    x = torch.randn(3, 5, 6, 3, dtype=torch.float64)
    axis, together = TaskAxis(3, False), carry_task_axis(copy.deepcopy(layers[0]))
    own = {n: torch.stack([dict(m.named_parameters())[n] for m in layers]) for n, _ in together.named_parameters()}
    with task_axis(axis):
        states, memory = torch.func.functional_call(together, own, (axis.fold(x),))
    for i, layer in enumerate(layers):
        expected, last = layer(x[i])
        torch.testing.assert_close(axis.split(states)[i], expected)
        for state, wanted in zip(*((m if kind is nn.LSTM else (m,)) for m in (memory, last)), strict=True):
            torch.testing.assert_close(axis.split(state.transpose(0, 1))[i].transpose(0, 1), wanted)


def test_temporal_convolutions_look_back_only_and_as_far_as_said():
    backbone = build("tcn", 1)  # 3 blocks of kernel 3: a step sees 1 + 2 * 2 * 7 = 29 steps
    x = torch.randn(1, 60, 1, dtype=torch.float64, requires_grad=True)
    seen = torch.autograd.grad(backbone.blocks(x)[0, 40].sum(), x)[0].flatten().nonzero().flatten().tolist()
    assert seen == list(range(12, 41))


def test_convolutions_are_folded_sample_by_sample():
    assert prefers_sample_major(carry_task_axis(build("tcn", ANY)))


def test_a_token_of_one_step_is_the_plain_transformer():
    """Weights of before have their names and meaning still: a transformer put together from torch's own parts."""
    backbone, x = build("transformer", 3), torch.randn(4, 6, 3, dtype=torch.float64)
    h = backbone.into(x) + positions(6, 8, x)
    for block in backbone.blocks:
        theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).double()
        mine = block.state_dict()
        names = {"attention.into.": "self_attn.in_proj_", "attention.out.": "self_attn.out_proj.", "mlp.0.": "linear1."}
        names = {**names, "mlp.2.": "linear2.", "norm1.": "norm1.", "norm2.": "norm2."}
        theirs.load_state_dict({names[k.rpartition(".")[0] + "."] + k.rpartition(".")[2]: v for k, v in mine.items()})
        h = theirs(h)
    torch.testing.assert_close(backbone(x), backbone.norm(h).mean(1))


def test_patches_are_tokens():
    backbone, x = build("transformer", 3, patch=4), torch.randn(2, 10, 3, dtype=torch.float64)
    tokens = []
    backbone.into.register_forward_hook(lambda module, given, _: tokens.append(given[0]))
    backbone(x)
    assert tokens[0].shape == (2, 3, 12)
    torch.testing.assert_close(tokens[0][:, 1], x[:, 4:8].flatten(1))
    assert (tokens[0][:, 2, 6:] == 0).all(), "the last token is filled up"


@pytest.mark.parametrize("name", FAMILIES)
def test_tiny_has_a_variant_of_any_channels(name):
    assert TINY[f"{name}:any"][0]["in_channels"] == ANY

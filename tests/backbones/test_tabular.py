"""Tabular backbones: what they compute, missing values, any number of columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metaad_zoo.backbones import TaskAxis, create_backbone, list_backbones, task_axis
from metaad_zoo.backbones.ft_transformer import FeatureTokenizer
from metaad_zoo.backbones.missing import pool_present
from metaad_zoo.learners.network import EpisodeNetwork
from tests.tiny import TINY, WEIGHTLESS, meta_gradient, reads_any, relative_difference, tiny_batch, tiny_learner

TABULAR = [name for name in list_backbones(modality="tabular") if name not in WEIGHTLESS]
NAN = float("nan")


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, **{"in_features": 5, **TINY[name][0], **options})


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_classic_network_is_a_configuration_of_mlp():
    """128, 64 and 1 sigmoid units; the last unit's sigmoid lies in the loss."""
    classic = nn.Sequential(nn.Linear(9, 128), nn.Sigmoid(), nn.Linear(128, 64), nn.Sigmoid(), nn.Linear(64, 1))
    options = {"widths": (128, 64), "activation": "sigmoid"}
    network = EpisodeNetwork("mlp", options, {"tabular": (9,)}, "support")
    assert [p.shape for p in network.parameters()] == [p.shape for p in classic.parameters()]
    assert sum(p.numel() for p in network.parameters()) == 9 * 128 + 128 + 128 * 64 + 64 + 64 + 1
    classic.load_state_dict(dict(zip(classic.state_dict(), network.state_dict().values(), strict=True)))
    rows = torch.randn(7, 9)
    torch.testing.assert_close(network({"tabular": rows}), classic(rows).squeeze(-1))


def test_resnet_mlp_is_the_papers_formula(x):
    w = dict(build("resnet_mlp", width=6, layers=2).named_parameters())
    w = {name: p + 0.1 * torch.randn_like(p) for name, p in w.items()}
    backbone = build("resnet_mlp", width=6, layers=2)
    backbone.load_state_dict(w)
    h = F.linear(x, w["into.weight"], w["into.bias"])
    for i in range(2):
        b = f"blocks.{i}"
        z = F.layer_norm(h, (6,), w[f"{b}.norm.weight"], w[f"{b}.norm.bias"])
        z = F.linear(z, w[f"{b}.layers.0.weight"], w[f"{b}.layers.0.bias"]).relu()
        h = h + F.linear(z, w[f"{b}.layers.2.weight"], w[f"{b}.layers.2.bias"])
    torch.testing.assert_close(backbone(x), F.layer_norm(h, (6,), w["out.0.weight"], w["out.0.bias"]).relu())


@pytest.mark.parametrize("sample_major", [True, False])
@pytest.mark.parametrize("carried", ["both", "weight", "bias"])
def test_the_tokenizer_with_a_task_axis_is_one_tokenizer_a_task(sample_major, carried):
    tokenizer, axis, rows = FeatureTokenizer(5, 4), TaskAxis(3, sample_major), torch.randn(3, 2, 5)
    own = {name: p + torch.randn(3, *p.shape) for name, p in tokenizer.named_parameters() if carried in (name, "both")}
    with task_axis(axis):
        folded = axis.split(torch.func.functional_call(tokenizer, own, (axis.fold(rows),)))
    for task in range(3):
        weight, bias = (own[n][task] if n in own else getattr(tokenizer, n) for n in ("weight", "bias"))
        for sample in range(2):
            torch.testing.assert_close(folded[task, sample, 0], bias[0])
            for column in range(5):
                expected = bias[1 + column] + rows[task, sample, column] * weight[column]
                torch.testing.assert_close(folded[task, sample, 1 + column], expected)


@pytest.mark.parametrize("name", ["mlp", "resnet_mlp", "ft_transformer"])
def test_a_missing_value_counts_as_the_centre(name, x):
    backbone, holes = build(name), x.clone()
    x[1, 2] = x[3, 0] = 0
    holes[1, 2] = holes[3, 0] = NAN
    assert torch.equal(backbone(holes), backbone(x))


def test_the_token_of_a_missing_value_is_the_bias_alone():
    backbone, seen = build("ft_transformer"), []
    backbone.tokenizer.register_forward_hook(lambda _, __, tokens: seen.append(tokens))
    backbone(torch.full((1, 5), NAN))
    assert torch.equal(seen[0][0], backbone.tokenizer.bias)


@pytest.mark.parametrize("name", TABULAR)
def test_any_width_is_read_or_refused_with_the_names_of_those_that_read_it(name):
    readers = ", ".join([*filter(reads_any, TABULAR), "raw_columns"])
    if reads_any(name):
        backbone = build(name, in_features=-1)
        backbone.load_state_dict(build(name, in_features=7).state_dict())
        assert {backbone(torch.rand(2, width)).shape for width in (1, 7, 1500)} == {(2, backbone.embedding_dim)}
    else:
        with pytest.raises(ValueError, match=rf"{name} needs the number of columns.*any width: {readers};"):
            build(name, in_features=-1)
    with pytest.raises(ValueError, match=rf"{name}: in_features is 0; expected .* at least 1"):
        build(name, in_features=0)


class TestColumns:
    @pytest.fixture
    def backbone(self) -> nn.Module:
        return build("columns", width=16, layers=3)

    def test_the_order_of_columns_is_that_of_tokens_and_leaves_the_embedding(self, backbone, x):
        x[2, 1] = NAN
        order = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(
            backbone.tokens(x[:, order])[0], backbone.tokens(x)[0][:, order], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(backbone(x[:, order]), backbone(x), rtol=1e-5, atol=1e-5)

    def test_absent_columns_change_nothing(self, backbone, x):
        wide = torch.full((4, 1500), NAN)
        wide[:, torch.randperm(1500, generator=torch.Generator().manual_seed(0))[:5]] = x
        torch.testing.assert_close(backbone(wide), backbone(x), rtol=1e-5, atol=1e-5)

    def test_a_missing_value_is_not_one_at_the_centre(self, backbone, x):
        holes, centred = x.clone(), x.clone()
        holes[:, 0], centred[:, 0] = NAN, 0
        assert (backbone(holes) - backbone(centred)).abs().max() > 1e-3
        torch.testing.assert_close(backbone(holes), backbone(x[:, 1:]), rtol=1e-5, atol=1e-5)

    def test_columns_know_of_each_other(self, backbone, x):
        other = x.clone()
        other[:, 0] += 3
        assert (backbone.tokens(other)[0] - backbone.tokens(x)[0])[:, 1:].abs().amax(-1).min() > 1e-3

    def test_a_row_of_which_nothing_is_known_is_finite_twice(self, backbone, x):
        x[0] = NAN
        assert torch.equal(backbone(x)[0], torch.zeros(32))
        parameters = list(backbone.parameters())
        first = torch.autograd.grad(backbone(x).square().sum(), parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
        assert all(torch.isfinite(g).all() for g in (*first, *second))

    def test_pooling_is_numpys(self):
        tokens = np.random.default_rng(0).normal(size=(3, 6, 4))
        present = np.array([[True] * 6, [True, False, True, False, False, True], [False] * 5 + [True]])
        with_gaps = np.where(present[..., None], tokens, NAN)
        expected = np.concatenate([np.nanmean(with_gaps, 1), np.nanmax(with_gaps, 1)], 1)
        pooled = pool_present(torch.from_numpy(tokens), torch.from_numpy(present)).numpy()
        np.testing.assert_allclose(pooled, expected, rtol=1e-12)


def with_holes(batch):
    """Single values that are missing, a column that task 0 lacks, another that only its support lacks."""
    support, query = batch.support["tabular"].clone(), batch.query["tabular"].clone()
    support[:, 1, 2] = query[:, 2, 0] = NAN
    support[0, :, 4] = query[0, :, 4] = support[1, :, 3] = NAN
    return replace(batch, support={"tabular": support}, query={"tabular": query})


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in TABULAR), ("resnet_mlp", {"norm": "batch"})])
def test_the_engines_agree_where_values_are_missing(name, options, monkeypatch):
    monkeypatch.setitem(TINY, name, ({**TINY[name][0], **options}, (5,)))
    batch = with_holes(tiny_batch(name))
    higher, vectorized = (
        meta_gradient(tiny_learner("maml", name, engine=engine, order=2), batch) for engine in ("higher", "vectorized")
    )
    assert all(torch.isfinite(g).all() for g in vectorized)
    assert relative_difference(vectorized, higher) <= 1e-8


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("engine", ["higher", "vectorized"])
def test_tables_of_different_width_in_one_batch(engine):
    """Padded to the widest, each task gets the gradient that it gets alone and unpadded."""
    widths, learner, batch = (2, 5, 3), tiny_learner("maml", "columns", engine=engine, order=2), tiny_batch("columns")
    tasks = [
        replace(
            batch,
            support={"tabular": batch.support["tabular"][i : i + 1, :, :width]},
            support_labels=batch.support_labels[i : i + 1],
            query={"tabular": batch.query["tabular"][i : i + 1, :, :width]},
            query_labels=batch.query_labels[i : i + 1],
            tasks=[batch.tasks[i]],
        )
        for i, width in enumerate(widths)
    ]
    padded = replace(
        batch,
        **{
            part: {
                "tabular": torch.cat(
                    [F.pad(x, (0, 5 - x.shape[-1]), value=NAN) for x in (getattr(t, part)["tabular"] for t in tasks)]
                )
            }
            for part in ("support", "query")
        },
    )
    alone = [torch.stack(g).mean(0) for g in zip(*(meta_gradient(learner, t) for t in tasks), strict=True)]
    assert relative_difference(meta_gradient(learner, padded), alone) <= 1e-10

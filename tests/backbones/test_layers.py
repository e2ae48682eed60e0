import pytest
import torch
from torch import nn

from metaad_zoo.backbones import EpisodicBatchNorm, create_backbone, episodic_batch_norm, statistics_from_first


def layer(policy):
    bn = nn.BatchNorm2d(3)
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    return bn, EpisodicBatchNorm(bn, policy)


def test_without_a_query_it_is_batch_normalisation():
    bn, episodic = layer("support")
    x = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(episodic(x), bn.train()(x), rtol=1e-4, atol=1e-5)


def test_support_statistics_do_not_see_the_queries():
    _, episodic = layer("support")
    support, query, other = torch.randn(5, 3, 4, 4), torch.randn(2, 3, 4, 4), 50 * torch.randn(7, 3, 4, 4)
    with statistics_from_first(5):
        few = episodic(torch.cat([support, query]))
        many = episodic(torch.cat([support, query, other]))
    torch.testing.assert_close(few, many[:7])
    torch.testing.assert_close(few[:5], episodic(support))


def test_transductive_statistics_see_them():
    bn, episodic = layer("transductive")
    x = torch.randn(9, 3, 4, 4)
    with statistics_from_first(5):
        torch.testing.assert_close(episodic(x), bn.train()(x), rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_the_statistics_digits():
    bn, episodic = layer("support")
    x = 30 + torch.randn(8, 3, 6, 6)
    expected = bn.train()(x)
    assert (episodic(x.bfloat16()).float() - bn.train()(x.bfloat16()).float()).abs().max() < 0.05
    torch.testing.assert_close(episodic(x), expected, rtol=1e-3, atol=1e-3)
    assert episodic(x.bfloat16()).dtype == torch.bfloat16


def test_the_context_ends():
    _, episodic = layer("support")
    x = torch.randn(6, 3, 4, 4)
    before = episodic(x)
    with pytest.raises(RuntimeError, match="stop"), statistics_from_first(2):
        raise RuntimeError("stop")
    assert torch.equal(episodic(x), before)


def test_refusals():
    with pytest.raises(ValueError, match="'suport'; expected one of support, transductive, running"):
        episodic_batch_norm(create_backbone("conv4"), "suport")
    with pytest.raises(ValueError, match="tracks none"):
        EpisodicBatchNorm(nn.BatchNorm2d(3, track_running_stats=False), "running")

"""Going on with a trained learner: what moves, and that a low-rank change is what it says."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from metaad_zoo.learners import FineTuning, PatchMemory, learner_class
from metaad_zoo.learners.low_rank import LowRankOptimizer
from metaad_zoo.learners.training import trainable
from tests.tiny import EMBEDDING_LEARNERS, GRADIENT_LEARNERS, tiny_batch, tiny_embedding_learner, tiny_learner

ADAM = partial(torch.optim.Adam, lr=0.01)


class LowRank(nn.Module):
    """The reference: a layer that adds the product in its forward pass."""

    def __init__(self, up, down):
        super().__init__()
        self.up, self.down = nn.Parameter(up.clone()), nn.Parameter(down.clone())

    def forward(self, weight):
        return weight + (self.up @ self.down).view_as(weight)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5), nn.LayerNorm(5)).double()


def train(network, optimizer, steps):
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(4, 1, 5, 5, generator=g, dtype=torch.double)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("inner", [ADAM, partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)])
def test_a_low_rank_change_is_that_of_a_parametrised_layer(inner):
    network, reference = small_network(), small_network()
    norm = {id(p) for p in network[4].parameters()}
    optimizer = LowRankOptimizer([{"params": list(network.parameters())}], inner, rank=2, in_full=norm)
    stepped = []
    for i in (0, 3):
        up, down = optimizer.factors[network[i].weight]
        assert up.shape[1] == 2
        parametrize.register_parametrization(reference[i], "weight", LowRank(up.detach(), down.detach()))
        stepped += list(reference[i].parametrizations.weight[0].parameters())
    train(network, optimizer, 12)
    train(reference, inner([*stepped, *reference[4].parameters()]), 12)
    for i in (0, 3, 4):
        torch.testing.assert_close(network[i].weight, reference[i].weight)
    start = small_network()
    torch.testing.assert_close(network[3].bias, start[3].bias, rtol=0, atol=0)
    change = (network[3].weight - start[3].weight).detach()
    assert change.abs().max() > 1e-3
    assert torch.linalg.matrix_rank(change, tol=1e-9) == 2


def test_a_resumed_low_rank_training_goes_on_exactly():
    def start():
        network = small_network()
        return network, LowRankOptimizer([{"params": list(network.parameters())}], ADAM, 2, ())

    straight, optimizer = start()
    train(straight, optimizer, 3)
    again, resumed = start()
    again.load_state_dict(straight.state_dict())
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    train(straight, optimizer, 3)
    train(again, resumed, 3)
    for a, b in zip(straight.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_schedule_reaches_the_factors():
    network = small_network()
    optimizer = LowRankOptimizer([{"params": list(network.parameters())}], ADAM, 2, ())
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    train(network, optimizer, 1)
    for _ in range(4):
        cosine.step()
    before = network[0].weight.detach().clone()
    train(network, optimizer, 1)
    torch.testing.assert_close(network[0].weight, before, rtol=0, atol=1e-12)


def learner_of(name, backbone):
    if name == "imaml":  # held near the start: where the loss curves down, it has no gradient
        return tiny_learner(name, backbone, proximal=50.0)
    if name in GRADIENT_LEARNERS:
        return tiny_learner(name, backbone)
    return tiny_embedding_learner(name, backbone)


@pytest.mark.parametrize("train_what", ["full", "head", "low_rank"])
@pytest.mark.parametrize(
    "name", [x for x in (*GRADIENT_LEARNERS, *EMBEDDING_LEARNERS) if not learner_class(x).reads_unlabelled]
)  # these batches have no unlabelled samples
def test_every_learner_goes_on_and_moves_what_it_is_told_to(name, train_what):
    learner = learner_of(name, "conv4")
    names = dict(learner.named_parameters())
    before = {n: p.detach().clone() for n, p in names.items()}
    how = FineTuning(train_what, 1, ADAM, "constant")
    if train_what == "head" and all(n.startswith("network.backbone.") for n in names):
        with pytest.raises(ValueError, match="no weights outside its backbone"):
            how.apply(learner, "parent", "0" * 64, ["a"])
        return
    how.apply(learner, "parent", "0" * 64, ["a"])
    optimizer = trainable(learner).configure_optimizers()
    for _ in range(2):
        learner.optimizer_zero_grad(0, 0, optimizer)
        learner.outer_loss(tiny_batch("conv4")).backward()
        optimizer.step()
    changes = {n: (p.detach() - before[n]) for n, p in names.items()}
    moved = {n for n, change in changes.items() if change.abs().max() > 0}
    inside = {n for n in names if n.startswith("network.backbone.")}
    assert moved
    if train_what == "head":
        assert not moved & inside
    if train_what == "low_rank":
        assert moved & inside
        assert all(names[n].ndim > 1 for n in moved & inside)
        ranks = {n: int(torch.linalg.matrix_rank(changes[n].flatten(1), tol=1e-5)) for n in moved & inside}
        assert set(ranks.values()) == {1}, ranks
    assert dict(learner.named_parameters()).keys() == before.keys(), "a checkpoint of it stays a normal one"
    assert learner.parent is not None
    for n, p in learner.parent.learner.named_parameters():
        torch.testing.assert_close(p, before[n], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"train": "heads"}, "head"), ({"rank": 0}, "rank"), ({"schedule": "linear"}, "schedule")],
)
def test_wrong_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        FineTuning(**{"train": "full", "rank": 4, "optimizer": ADAM, "schedule": "cosine", **settings}).apply(
            tiny_embedding_learner("protonet", "conv4"), "parent", "", []
        )


def test_what_trains_nothing_is_refused():
    learner = PatchMemory(backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": (1, 32, 32)})
    with pytest.raises(ValueError, match="metaad adapt"):
        FineTuning("full", 4, ADAM, "cosine").apply(learner, "parent", "", [])

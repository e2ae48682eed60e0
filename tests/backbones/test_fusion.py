"""Fusion: what is absent has no influence, what is joint can be learnt, what can't work is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metaad_zoo.backbones import MULTIMODAL, create_backbone, declare_absent, list_backbones
from metaad_zoo.backbones.multimodal import Fusion, JointPart
from metaad_zoo.learners.network import anomaly_loss
from tests.tiny import ENCODERS, TRIPLE, tiny_batch, tiny_learner

FUSIONS = list_backbones("fusion_*", modality=MULTIMODAL)
NO_STATISTICS = {**ENCODERS, "image": {"name": "conv4", "width": 4, "norm": "group"}}


def build(name: str, modalities=tuple(TRIPLE), **options) -> Fusion:
    torch.manual_seed(0)
    shapes = {m: TRIPLE[m] for m in modalities}
    given = {"width": 6, "encoders": {m: NO_STATISTICS[m] for m in modalities}, **options}
    built = create_backbone(name, input_shapes=shapes, **given)
    assert isinstance(built, Fusion)
    return built.double()


def noise(n: int = 4, modalities=tuple(TRIPLE)) -> dict[str, torch.Tensor]:
    return {m: torch.randn(n, *TRIPLE[m], dtype=torch.float64) for m in modalities}


def without(samples: dict[str, torch.Tensor], modality: str, at: int = 0) -> dict[str, torch.Tensor]:
    out = {m: x.clone() for m, x in samples.items()}
    out[modality][at] = torch.nan
    return out


def change(module: nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))


@pytest.mark.parametrize("absent", TRIPLE)
@pytest.mark.parametrize("name", FUSIONS)
class TestAnAbsentModality:
    def test_its_encoder_has_no_say_in_the_embedding(self, name, absent):
        fusion, samples = build(name), without(noise(), absent)
        before = fusion(samples)
        change(fusion.encoders[absent])
        change(fusion.projections[absent])
        after = fusion(samples)
        assert before.isfinite().all()
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
        assert (after[1:] != before[1:]).any(1).all(), "where it is there, it counts"

    def test_the_other_samples_do_not_matter(self, name, absent):
        fusion, samples = build(name), without(noise(), absent)
        alone = fusion({m: x[:1] for m, x in samples.items()})
        beside = fusion({m: torch.cat([x[:1], noise()[m]]) for m, x in samples.items()})
        torch.testing.assert_close(beside[:1], alone)

    @pytest.mark.parametrize("parts", [False, True])
    def test_declared_it_is_not_encoded_and_the_embedding_is_the_same(self, name, absent, parts, monkeypatch):
        fusion, samples = build(name, parts=parts), noise()
        samples[absent].fill_(torch.nan)
        expected = fusion(samples)
        monkeypatch.setattr(fusion.encoders[absent], "forward", lambda x: pytest.fail("it is encoded"))
        with declare_absent([absent]):
            torch.testing.assert_close(fusion(samples), expected, rtol=0, atol=0, equal_nan=True)

    def test_absent_is_not_the_same_as_zero(self, name, absent):
        fusion, samples = build(name), noise()
        zero = {m: x.clone() for m, x in samples.items()}
        zero[absent][0] = 0
        assert not torch.allclose(fusion(without(samples, absent))[0], fusion(zero)[0])

    def test_gradients_stay_finite_and_away_from_its_encoder(self, name, absent):
        fusion, samples = build(name), without(noise(1), absent)
        fusion(samples).square().sum().backward()
        for n, p in fusion.named_parameters():
            assert p.grad is not None, n
            assert p.grad.isfinite().all(), n
        assert all(not p.grad.any() for p in fusion.encoders[absent].parameters())

    def test_it_may_be_the_only_one(self, name, absent):
        samples = noise()
        for other in set(TRIPLE) - {absent}:
            samples = without(samples, other, at=1)
        fusion = build(name)
        before = fusion(samples)
        assert before.isfinite().all()
        for other in set(TRIPLE) - {absent}:
            change(fusion.encoders[other])
        torch.testing.assert_close(fusion(samples)[1], before[1], rtol=0, atol=0)


def test_gates_of_those_present_average_one():
    fusion, mask = (
        build("fusion_gated"),
        torch.tensor([[True, True, True], [True, False, True], [False, False, True]]),
    )
    ones = torch.ones(3, 3, 6, dtype=torch.float64) * mask.view(3, 3, 1)
    gated = fusion.meet(ones, mask)
    torch.testing.assert_close(gated.sum(1), mask.sum(1, keepdim=True).expand(3, 6).double())
    assert not gated[~mask].any()
    two = build("fusion_gated", ("image", "tabular"))
    common = torch.randn(5, 2, 6, dtype=torch.float64)
    scores = two.gates(torch.cat([common.flatten(1), torch.ones(5, 2, dtype=torch.float64)], 1)).view(5, 2, 6)
    published = torch.sigmoid(scores[:, 0] - scores[:, 1])
    expected = 2 * torch.stack([published, 1 - published], 1) * common
    torch.testing.assert_close(two.meet(common, torch.ones(5, 2, dtype=torch.bool)), expected)


def test_attention_equals_a_loop_over_the_others():
    """Against torch's own attention, given only the tokens of the other modalities that are there."""
    fusion = build("fusion_attention", tokens=2)
    present = torch.tensor([[True, True, True], [True, True, False], [False, True, False]])
    common = torch.randn(3, 3, 6, dtype=torch.float64) * present.view(3, 3, 1)
    reference = nn.MultiheadAttention(6, fusion.heads, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(fusion.into.weight)
        reference.in_proj_bias.copy_(fusion.into.bias)
        reference.out_proj.weight.copy_(fusion.out.weight)
        reference.out_proj.bias.copy_(fusion.out.bias)
    met, tokens = fusion.meet(common, present), fusion.spread(common).view(3, 3, 2, 6)
    for sample in range(3):
        for i in present[sample].nonzero().flatten().tolist():
            x = tokens[sample, i]
            other_tokens = [tokens[sample, j] for j in range(3) if j != i and present[sample, j]]
            if other_tokens:
                keys = fusion.norm(torch.cat(other_tokens))
                x = x + reference(fusion.norm(x), keys, keys)[0]
            torch.testing.assert_close(met[sample, i], fusion.last_norm(x).mean(0))


def test_the_joint_part_sees_products_and_differences_of_pairs():
    joint, e = JointPart(3, 4), torch.randn(1, 3, 4)
    seen = []
    joint.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    joint(e, torch.tensor([[True, False, True]]))
    a, _, c = e[0]
    zero = torch.zeros(4)
    expected = [a, zero, c, zero, zero, a * c, (a - c).abs(), zero, zero, torch.tensor([1.0, 0.0, 1.0])]
    torch.testing.assert_close(seen[0][0], torch.cat(expected))


@pytest.mark.parametrize("name", FUSIONS)
def test_it_learns_what_no_modality_alone_tells(name):
    """Do two modalities show the same of four kinds? Each is uniform under both labels; a linear head is at chance."""
    shapes = {"image": (1, 16, 16), "sequence": (4, 3), "tabular": (5,)}
    g = torch.Generator().manual_seed(0)
    prototypes = {m: torch.randn(4, *shape, generator=g) for m, shape in shapes.items()}

    def draw(n: int):
        kinds = torch.randint(4, (n,), generator=g)
        labels = torch.arange(n) % 2
        other = torch.where(labels == 1, (kinds + torch.randint(1, 4, (n,), generator=g)) % 4, kinds)
        by = {"image": kinds, "sequence": other, "tabular": kinds}
        x = {m: prototypes[m][k] + 0.3 * torch.randn(n, *shapes[m], generator=g) for m, k in by.items()}
        x["tabular"][::3] = torch.nan  # a third lacks what the image tells as well
        return x, labels, torch.cat([nn.functional.one_hot(kinds, 4), nn.functional.one_hot(other, 4)], 1).float()

    torch.manual_seed(0)
    encoders = {"image": {"width": 8, "norm": "group"}, "sequence": {"width": 16}, "tabular": {"widths": (16,)}}
    fusion = create_backbone(name, input_shapes=shapes, encoders=encoders, width=16)
    network = nn.Sequential(fusion, nn.Linear(fusion.embedding_dim, 1))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        x, labels, _ = draw(64)
        loss = anomaly_loss(network(x).squeeze(1), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, labels, present = draw(400)
    with torch.no_grad():
        accuracy = ((network(x).squeeze(1) > 0) == labels).float().mean()
    design = torch.cat([present, torch.ones(len(present), 1)], 1)
    fitted = design @ torch.linalg.lstsq(design, labels.float().unsqueeze(1), driver="gelsd").solution
    linear = ((fitted.squeeze(1) > 0.5) == labels).float().mean()
    assert accuracy > 0.9
    assert linear < 0.65, "even of the true kinds, side by side"


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("absent", TRIPLE)
def test_an_adapted_network_scores_samples_that_lack_a_modality(name, absent):
    learner, batch = tiny_learner("maml", name), tiny_batch(name)
    if absent not in batch.query:
        pytest.skip("a pair")
    support, labels, query, *_ = next(iter(batch))
    adapted = learner.adapt(support, labels)
    lacking = {m: torch.full_like(x, torch.nan) if m == absent else x for m, x in query.items()}
    assert adapted.score(lacking).isfinite().all()
    with pytest.raises(ValueError, match=rf"modality '{absent}' is missing, saw .* filled with NaN"):
        learner.network.backbone({m: x for m, x in query.items() if m != absent})


def test_the_order_of_the_data_s_modalities_does_not_matter():
    one, other = (
        create_backbone("fusion_concat", input_shapes={m: TRIPLE[m] for m in order}, encoders=NO_STATISTICS, width=6)
        for order in (list(TRIPLE), list(TRIPLE)[::-1])
    )
    other.load_state_dict(one.state_dict())
    samples = {m: x.float() for m, x in noise().items()}
    torch.testing.assert_close(other(samples), one(samples))


def test_default_encoders_and_their_options():
    fusion = create_backbone("fusion_concat", input_shapes=TRIPLE, encoders={"tabular": {"widths": (7,)}})
    assert {m: type(e).__name__ for m, e in fusion.encoders.items()} == {
        "image": "Conv4",
        "sequence": "GRU",
        "tabular": "MLP",
    }
    assert fusion.projections["tabular"].in_features == 7
    assert fusion.cpu_tasks == 8, "conv4's, the least of those that have one"
    named = create_backbone("fusion_concat", input_shapes=TRIPLE, encoders={"sequence": "transformer"})
    assert type(named.encoders["sequence"]).__name__ == "Transformer"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"input_shapes": {"image": (1, 16, 16)}}, r"two modalities or more, saw input_shapes of \['image'\]"),
        ({"encoders": {"imgae": "conv4"}}, "modality in encoders: 'imgae'; did you mean 'image'"),
        ({"encoders": {"image": "gru"}}, r"encoders.image is 'gru', which reads the modality 'sequence'"),
        ({"encoders": {"image": "fusion_gated"}}, "encoders.image is 'fusion_gated'"),
        ({"encoders": {"image": {"name": "convv4"}}}, "unknown backbone 'convv4'; did you mean 'conv4'"),
        ({"encoders": {"image": {"widht": 3}}}, "option of backbone 'conv4': 'widht'; did you mean 'width'"),
        (
            {"input_shapes": {"image": (1, 16, 16), "smell": (3, 2, 2, 2)}},
            "no default encoder for the modality 'smell'",
        ),
        ({"input_shapes": {"image": (1, 16, 20), "tabular": (3,)}}, "square images, saw 16 x 20"),
        ({"width": 7}, "heads=2 do not divide width=7"),
        ({"tokens": 0}, "at least one token"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        create_backbone("fusion_attention", **{"input_shapes": TRIPLE, **options})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (torch.zeros(2, 5), "expected a dict with samples of .*'image', 'sequence', 'tabular'.*, saw Tensor"),
        ({**noise(), "smell": torch.zeros(4, 2)}, "unknown modality of samples: 'smell'"),
        ({**noise(), "tabular": torch.zeros(3, 5)}, "one number of samples for all modalities, saw .*'tabular': 3"),
        ({m: torch.full_like(x, torch.nan) for m, x in noise().items()}, "at least one of .* in 4 of 4 samples all"),
    ],
)
def test_samples_that_cannot_be_read_are_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        build("fusion_concat")(given)

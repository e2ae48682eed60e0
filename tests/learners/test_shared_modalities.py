"""Samples are compared in the modalities that they share with the support, by every learner and every fusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaad_zoo.backbones import MULTIMODAL, create_backbone, list_backbones
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.episodes import Episode
from metaad_zoo.evaluation.calibration import normal_scores
from metaad_zoo.evaluation.explanation import Explainer
from metaad_zoo.learners import PrototypicalNetwork, learner_class
from metaad_zoo.learners.controls import from_scratch, untrained
from metaad_zoo.learners.other_head import with_head
from metaad_zoo.learners.shared_modalities import SharedModalities, only
from metaad_zoo.zoo import Checkpoint, CheckpointError, save_checkpoint
from tests.tiny import (
    EMBEDDING_LEARNERS,
    ENCODERS,
    GRADIENT_LEARNERS,
    PAIR,
    TRIPLE,
    tiny_batch,
    tiny_embedding_learner,
    tiny_learner,
)

FUSIONS = list_backbones("fusion_*", modality=MULTIMODAL)
OF_TABLES = ("weighted_experts",)


def built(learner: str, fusion: str):
    make = tiny_learner if learner in GRADIENT_LEARNERS else tiny_embedding_learner
    return make(learner, fusion).eval()


def complete(fusion: str, n_support: int = 4, n_query: int = 6):
    """One episode without missing values, with labels of the support."""
    support, labels, query, *_ = next(iter(tiny_batch(fusion, 1, n_support, n_query)))
    return support, labels, query


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", [n for n in (*GRADIENT_LEARNERS, *EMBEDDING_LEARNERS) if n not in OF_TABLES])
def test_a_modality_missing_on_one_side_counts_as_missing_on_both(name, fusion):
    learner, (support, labels, query) = built(name, fusion), complete(fusion)
    adapted = learner.adapt(support, labels)
    everything = adapted.score(query)
    for lost in support:
        rest = [m for m in support if m != lost]
        alone = learner.adapt(only(support, rest), labels)
        expected = alone.score(only(query, rest))
        assert expected.isfinite().all()
        torch.testing.assert_close(adapted.score(only(query, rest)), expected, rtol=0, atol=0)  # in the query
        torch.testing.assert_close(alone.score(query), expected, rtol=0, atol=0)  # in the support
        # One sample without it changes no other sample's score.
        some = {m: torch.cat([x[:2], only(query, rest)[m][2:3], x[3:]]) for m, x in query.items()}
        scores = adapted.score(some)
        torch.testing.assert_close(scores[2], expected[2], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(scores[[0, 1, 3, 4, 5]], everything[[0, 1, 3, 4, 5]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_support_samples_without_the_shared_modalities_are_left_out(fusion):
    learner, (support, labels, query) = built("maml", fusion), complete(fusion)
    image = only(query, ["image"])
    mixed = {m: torch.cat([x, x]) for m, x in support.items()}
    mixed["image"][4:] = torch.nan
    expected = learner.adapt(only(support, ["image"]), labels).score(image)
    torch.testing.assert_close(learner.adapt(mixed, torch.cat([labels, labels])).score(image), expected)


def test_samples_that_share_nothing_with_the_support_are_refused():
    learner, (support, labels, query) = built("protonet", "fusion_concat"), complete("fusion_concat")
    adapted = learner.adapt(only(support, ["sequence"]), labels)
    with pytest.raises(ValueError, match=r"6 of 6 samples share no modality .* which have \['sequence'\]"):
        adapted.score(only(query, ["image"]))


def test_a_modality_that_only_known_anomalies_have_is_not_read():
    learner, (support, _, query) = built("protonet", "fusion_concat"), complete("fusion_concat")
    support["image"][1:] = torch.nan
    adapted = learner.adapt(support, torch.tensor([1, 0, 0, 0]))
    assert isinstance(adapted, SharedModalities)
    assert adapted.compared_in(query) == [("sequence",)] * 6
    assert adapted.notes == ["no normal sample has image: samples are compared by the others alone"]
    torch.testing.assert_close(adapted.score(query), adapted.score(only(query, ["sequence"])), rtol=0, atol=0)


def parts_learner(fusion: str = "fusion_gated", shapes=TRIPLE, **arguments) -> PrototypicalNetwork:
    torch.manual_seed(0)
    encoders = {name: ENCODERS[name] for name in shapes}
    options = {"width": 6, "encoders": encoders, "parts": True}
    learner = PrototypicalNetwork(
        backbone=fusion,
        backbone_options=options,
        input_shapes=shapes,
        scaling=dict.fromkeys(shapes, "none"),
        **arguments,
    )
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.05 * torch.randn_like(p)
    return learner.eval()


def by_hand(learner: PrototypicalNetwork, part: int, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Logits of one part's embeddings ``(n, d)`` and ``(m, d)``, from the docstring's formula."""
    plus = torch.nn.functional.softplus
    centre = support.mean(0)
    spread, k, n = (support - centre).square().mean(1).sum(), plus(learner.spread_weight[part]), len(support)
    typical = plus(learner.typical_spread[part])
    radius = plus(learner.radius[part]) * (spread + k * typical) / (n + k)
    return learner.log_scale[part].exp() * ((query - centre).square().mean(1) - radius)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_logit_is_the_weighted_mean_over_the_parts_that_are_shared(fusion):
    learner, (support, labels, query) = parts_learner(fusion, joint_weight=0.5), complete("fusion_gated")
    adapted = learner.adapt(support, labels)
    embedded = learner.network.embed(support), learner.network.embed(support, query)
    image, sequence, table, joint = (
        by_hand(learner, i, *(x.unflatten(1, (4, -1))[:, i] for x in embedded)) for i in range(4)
    )
    torch.testing.assert_close(adapted.score(query), (image + sequence + table + joint / 2) / 3.5)
    for name, alone in zip(("image", "sequence", "tabular"), (image, sequence, table), strict=True):
        torch.testing.assert_close(adapted.score(only(query, [name])), alone)
    without_image = adapted.score(only(query, ["sequence", "tabular"]))
    torch.testing.assert_close(without_image, (sequence + table) / 2)  # the joint embedding takes all


@torch.no_grad()
def test_one_modality_of_parts_scores_as_a_model_of_that_modality():
    """Weights of a part put into a model that reads this modality alone."""
    learner, (support, labels, query) = parts_learner(), complete("fusion_gated")
    adapted = learner.adapt(support, labels)
    for i, (name, shape) in enumerate(sorted(TRIPLE.items())):
        options = {k: v for k, v in ENCODERS[name].items() if k != "name"}
        single = PrototypicalNetwork(
            backbone=ENCODERS[name]["name"],
            backbone_options=options,
            input_shapes={name: shape},
            scaling={name: "none"},
        ).eval()
        single.network.backbone.load_state_dict(learner.network.backbone.encoders[name].state_dict())
        for p in ("log_scale", "radius", "typical_spread", "spread_weight"):
            getattr(single, p).copy_(getattr(learner, p)[i])
        expected = single.adapt({name: support[name]}, labels).score({name: query[name]})
        torch.testing.assert_close(adapted.score(only(query, [name])), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "mahalanobis"])
@pytest.mark.parametrize("prototypes", [1, 2])
def test_parts_of_mixed_samples_are_read_where_they_are(distance, prototypes):
    learner = parts_learner(shapes=PAIR, distance=distance, prototypes=prototypes)
    batch = tiny_batch("fusion_concat")  # samples that lack a modality, on both sides
    batch.support_labels[:, -1] = 1
    loss = learner.outer_loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())
    for support, labels, query, *_ in batch:
        assert learner.adapt(support, labels).score(query).isfinite().all()


@pytest.mark.parametrize(
    "name", [n for n in (*GRADIENT_LEARNERS, *EMBEDDING_LEARNERS) if n not in ("protonet", *OF_TABLES)]
)
def test_learners_that_read_one_embedding_refuse_parts(name):
    options = {"width": 6, "encoders": {m: ENCODERS[m] for m in PAIR}, "parts": True}
    with pytest.raises(ValueError, match=r"parts=True gives 3 embeddings.*or take the learner protonet"):
        learner_class(name)(backbone="fusion_concat", backbone_options=options, input_shapes=PAIR)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_parts_add_no_weights(fusion):
    options = {"input_shapes": PAIR, "encoders": {m: ENCODERS[m] for m in PAIR}, "width": 6}
    plain, parts = (create_backbone(fusion, **options, parts=parts) for parts in (False, True))
    assert plain.state_dict().keys() == parts.state_dict().keys()
    parts.load_state_dict(plain.state_dict())
    samples = {m: torch.randn(3, *shape) for m, shape in PAIR.items()}
    samples["image"][0] = torch.nan
    blocks = parts(samples).unflatten(1, (3, -1))
    assert blocks.isnan().all(2).tolist() == [[True, False, True], [False] * 3, [False] * 3]
    joint = blocks[1:, 2].square().mean(1)  # wider by zeros, of the same mean square
    torch.testing.assert_close(joint, plain(samples)[1:].square().mean(1))


def test_controls_and_other_heads_read_the_joint_embedding_of_a_learner_of_parts():
    learner, (support, labels, query) = parts_learner(), complete("fusion_gated")
    for other in (untrained(learner, 0), from_scratch(learner, 0), with_head(learner, "meta_svdd")):
        assert other.adapt(support, labels).score(query).isfinite().all()
    assert with_head(learner, "protonet").network.backbone.n_parts == 4


@pytest.mark.parametrize("learner", ["parts", "maml"])
def test_the_nearest_support_sample_is_that_of_the_shared_modalities(learner):
    learner = parts_learner() if learner == "parts" else built("maml", "fusion_gated")
    support, labels, query = complete("fusion_gated")
    copies = {m: torch.cat([support[m][[2, 0, 3]], query[m][:1]]) for m in support}
    copies["image"][0] = torch.nan
    support["image"][3] = torch.nan  # the copy has an image that its original lacks
    nearest = Explainer(learner.adapt(support, labels), support, labels).nearest(copies)
    assert nearest.indices[:2].tolist() == [2, 0]
    assert nearest.distances[:2].max() < 1e-3
    assert nearest.distances.isfinite().all()


def test_a_detector_says_what_its_support_lacks():
    support, _, query = complete("fusion_gated")
    support, query = (samples | {"image": samples["image"].sigmoid()} for samples in (support, query))
    detector = Detector(Checkpoint(parts_learner(), [], {"calibration": torch.arange(9.0)}))
    detector.fit(only(support, ["image", "tabular"]))
    assert "no normal sample has sequence" in " ".join(detector.account)
    assert detector.compared_in(query) == [("image", "tabular")] * 6
    attribution = detector.explain(query)
    assert not attribution["sequence"].any(), "not read"
    assert attribution["image"].any()


def leave_one_out_by_hand(learner, support, labels, shown):
    """Scores of the normal samples that have all of ``shown``, reduced to them, by the learner without the sample."""
    rows = [i for i in range(len(labels)) if labels[i] == 0 and not any(support[m][i].isnan().all() for m in shown)]
    scores = []
    for i in rows:
        rest = [k for k in range(len(labels)) if k != i]
        one = only({m: x[i : i + 1] for m, x in support.items()}, shown)
        scores.append(learner.adapt({m: x[rest] for m, x in support.items()}, labels[rest]).score(one).item())
    return np.array(scores)


@pytest.mark.parametrize("calibrate", ["across", "within"])
def test_a_sample_that_lacks_a_modality_is_compared_with_normal_samples_scored_without_it_too(calibrate):
    learner, (support, labels, query) = parts_learner(), complete("fusion_gated", 6)
    support, query = (x | {"image": x["image"].sigmoid()} for x in (support, query))
    labels[-1] = 1
    support["sequence"][0] = torch.nan
    tensors = {"calibration/2": torch.linspace(-3, 3, 99), "calibration_shown/image+tabular/2": torch.arange(3.0)}
    detector = Detector(Checkpoint(learner, [], tensors)).fit(support, labels)
    mixed = {m: x.clone() for m, x in query.items()}
    mixed["sequence"][1] = mixed["image"][2] = mixed["sequence"][3] = mixed["tabular"][3] = torch.nan
    expected = detector.p_value(query, calibrate)
    scores = detector.score(mixed)
    by_hand = {s: leave_one_out_by_hand(learner, support, labels, s) for s in [("image",), ("sequence", "tabular")]}
    by_hand["image", "tabular"] = (
        np.arange(3.0)
        if calibrate == "across"
        else leave_one_out_by_hand(learner, support, labels, ("image", "tabular"))
    )
    assert [len(x) for x in by_hand.values()] == [5, 4, 3 if calibrate == "across" else 5]
    for row, shown in ((1, ("image", "tabular")), (2, ("sequence", "tabular")), (3, ("image",))):
        expected[row] = (1 + (by_hand[shown] >= scores[row] - 1e-5).sum()) / (len(by_hand[shown]) + 1)
    np.testing.assert_allclose(detector.p_value(mixed, calibrate), expected)
    judged = detector.judge(mixed, 0.3, calibrate)
    np.testing.assert_allclose(judged[1], expected)
    np.testing.assert_array_equal(judged[2], expected <= 0.3)
    # A modality that the whole support lacks counts as missing in every sample.
    detector.fit(only(support, ["image", "tabular"]), labels)
    alone = detector.p_value(query, calibrate)
    np.testing.assert_allclose(alone, detector.p_value(only(query, ["image", "tabular"]), calibrate))
    np.testing.assert_allclose(
        np.sort(detector.normal_scores(calibrate)), np.sort(by_hand["image", "tabular"]), rtol=1e-4, atol=1e-5
    )


def test_without_normal_samples_of_its_modalities_a_sample_is_never_anomalous():
    learner, (support, labels, query) = parts_learner(), complete("fusion_gated")
    support, query = (x | {"image": x["image"].sigmoid()} for x in (support, query))
    support["sequence"][1:] = torch.nan
    detector = Detector(Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)})).fit(support, labels)
    assert (detector.p_value(only(query, ["sequence"])) == 1).all()


@pytest.mark.parametrize("part", ["image+sequence+tabular", "tabular+image", "sound", "image+image", ""])
def test_calibration_scores_of_other_modalities_are_refused(part, tmp_path):
    tensors = {"calibration": torch.arange(9.0), f"calibration_shown/{part}/5": torch.arange(9.0)}
    save_checkpoint(tmp_path, Checkpoint(parts_learner(), [], tensors))
    with pytest.raises(CheckpointError, match="names no part of the modalities"):
        load_detector(tmp_path)


def test_normal_scores_of_other_tasks_are_taken_by_some_modalities():
    learner, (support, labels, query) = parts_learner(), complete("fusion_gated")
    query["image"][0] = torch.nan
    episode = Episode(support, labels, query, torch.tensor([0, 0, 0, 1, 0, 1]), [], [], "task")
    scores = normal_scores(learner, [episode], ["image"])
    rows = [1, 2, 4]
    expected = learner.adapt(support, labels).score(only({m: x[rows] for m, x in query.items()}, ["image"]))
    torch.testing.assert_close(scores, expected.double().sort().values)

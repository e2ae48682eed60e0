"""The change decoder: its neighbours and score by hand, what it starts as, and that it learns masks."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from metaad_zoo.cli.train import run
from metaad_zoo.detector import load_detector
from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.learners import ChangeDecoder, PatchChange, PatchMemory
from metaad_zoo.learners.patch_change import compared, mask_loss
from metaad_zoo.learners.training import trainable
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.cli.short import QUICKSTART, SHORT
from tests.learners.test_training import QUIET
from tests.tiny import TINY, shapes_of, tiny_batch

LABELS = torch.tensor([0, -1, 1, 0])


def change(backbone: str = "conv4", **settings) -> PatchChange:
    torch.manual_seed(0)
    options = {"backbone_options": TINY[backbone][0], "input_shapes": shapes_of(backbone), "width": 6}
    return PatchChange(backbone=backbone, **{**options, **settings})


def trained_by_chance(**settings) -> PatchChange:
    """One whose decoder has random weights throughout."""
    learner = change(**settings)
    with torch.no_grad():
        for p in learner.decoder.parameters():
            p += 0.1 * torch.randn_like(p)
    return learner


def one_task(n_query: int = 6):
    batch = tiny_batch("conv4", n_query=n_query)
    return {"image": batch.support["image"][0].sigmoid()}, {"image": batch.query["image"][0].sigmoid()}


@pytest.mark.parametrize("backbone", ["conv4", "vit", "timm/test_resnet"])
def test_an_untrained_decoder_ranks_images_as_the_memory_does(backbone):
    learner = change(backbone)
    options = {"backbone_options": TINY[backbone][0], "input_shapes": shapes_of(backbone), "layers": learner.layers}
    plain = PatchMemory(backbone=backbone, subspace=0, **options)
    plain.network = learner.network
    batch = tiny_batch(backbone)
    support, query = {"image": batch.support["image"][0]}, {"image": batch.query["image"][0]}
    scores = learner.adapt(support, torch.zeros(4)).score(query)
    distances = plain.adapt(support, torch.zeros(4)).score(query)
    torch.testing.assert_close(scores, F.softplus(4 * (distances - 1)), rtol=1e-3, atol=1e-4)


def test_patches_are_compared_with_scikit_learns_neighbours():
    learner, (support, query) = change(compared=4), one_task()
    adapted = learner.adapt(support, LABELS)
    patches = learner.patches(query["image"], support)
    differences, spread = compared(patches, adapted.memory, 4)
    flat, memory = patches.flatten(0, 2).numpy(), adapted.memory.numpy()
    _, places = NearestNeighbors(n_neighbors=4).fit(memory).kneighbors(flat)
    expected = (flat[:, None] - memory[places]).reshape(differences.shape)
    np.testing.assert_allclose(differences.numpy(), expected, atol=1e-5)
    assert float(spread) == pytest.approx(np.sqrt(memory.var(0).sum()), rel=1e-4)
    assert compared(patches, adapted.memory[:2], 4)[0].shape[3] == 2


def test_the_decoder_is_its_formula_and_takes_any_number_of_neighbours():
    torch.manual_seed(0)
    decoder = ChangeDecoder(5, 3)
    with torch.no_grad():
        for p in decoder.last.parameters():
            p.normal_()
    differences, spread = torch.randn(2, 4, 4, 3, 5), torch.tensor(0.7)
    distances = differences.norm(dim=-1)
    seen = [
        F.relu(differences[..., i, :].abs() * 5**0.5 @ decoder.compare.weight.T + decoder.compare.bias)
        for i in range(3)
    ]
    levels = [distances[..., 0], distances.mean(-1), distances[..., 0] / 0.7]
    x = torch.cat([sum(seen) / 3, torch.stack(levels, -1)], -1).permute(0, 3, 1, 2)
    expected = 4 * (distances[..., 0] - 1) + decoder.last(decoder.second(decoder.first(x).relu()).relu())[:, 0]
    torch.testing.assert_close(decoder(differences, spread), expected)
    swapped = decoder(differences[..., [0, 2, 1], :], spread)
    torch.testing.assert_close(swapped, expected)
    assert decoder(differences[..., :1, :], spread).shape == (2, 4, 4)


@pytest.mark.parametrize("n_support", [1, 2, 10])
def test_scores_do_not_depend_on_the_order_of_the_support_or_on_other_queries(n_support):
    learner = trained_by_chance()
    support = {"image": torch.rand(n_support, 1, 16, 16)}
    _, query = one_task()
    scores = learner.adapt(support, torch.zeros(n_support)).score(query)
    turned = learner.adapt({"image": support["image"].flip(0)}, torch.zeros(n_support))
    torch.testing.assert_close(turned.score(query), scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.score({"image": query["image"][2:3]})[0], scores[2], rtol=1e-4, atol=1e-5)


def test_the_score_is_the_top_share_of_the_mask_that_the_heat_map_shows():
    learner, (support, query) = trained_by_chance(top=0.5), one_task()
    adapted = learner.adapt(support, LABELS)
    logits = adapted.mask_logits(query)
    expected = np.sort(logits.detach().flatten(1).numpy(), 1)[:, -logits[0].numel() // 2 :].mean(1)
    np.testing.assert_allclose(adapted.score(query).numpy(), np.log1p(np.exp(expected)), rtol=1e-4)
    heat = adapted.heat_map(query)
    assert heat.shape == (6, 16, 16)
    assert float(heat.min()) >= 0
    coarse = F.adaptive_avg_pool2d(heat[:, None], logits.shape[1:])[:, 0]
    assert np.corrcoef(coarse.flatten(), F.softplus(logits.detach()).flatten())[0, 1] > 0.8


def test_every_second_normal_query_gets_a_defect():
    learner = change()
    images, real = torch.rand(9, 1, 16, 16), torch.tensor([False, True, False] * 3)
    torch.manual_seed(3)
    drawn, masks = learner._with_defects(images, real)
    assert torch.equal((drawn != images).any(1), masks)
    assert masks.flatten(1).any(1).tolist() == [True, False, False, True, False, False, True, False, False]
    torch.manual_seed(3)
    again, _ = learner._with_defects(images, real)
    assert torch.equal(again, drawn)
    assert not torch.equal(learner._with_defects(images, real)[0], drawn)


def test_the_loss_on_masks():
    logits, targets = torch.randn(2, 3, 3), torch.rand(2, 3, 3) > 0.5
    p = logits.double().sigmoid()
    expected = -torch.where(targets, p.log(), (1 - p).log()).mean()
    assert float(mask_loss(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
    assert float(mask_loss(logits[:0], targets[:0])) == 0


def test_only_the_decoder_is_trained():
    learner, batch = change(), tiny_batch("conv4")
    learner.outer_loss(batch).backward()
    trained = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in learner.named_parameters() if name.startswith("decoder.")}
    (group,) = learner.outer_parameters()
    assert {id(p) for p in group["params"]} == {id(p) for p in learner.decoder.parameters()}


def test_it_learns_the_masks_of_new_defects():
    """On textures drawn anew, where the loss of the first weights is that of the memory's distances."""
    learner = change(defects=["stain"])
    optimizer = torch.optim.Adam(learner.decoder.parameters(), lr=1e-2)

    def loss_on(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        support, query = (0.3 + 0.1 * torch.rand(n, 1, 16, 16) for n in (3, 8))
        labels = torch.zeros(1, 8, dtype=torch.long)
        return learner.outer_loss(
            EpisodeBatch({"image": support[None]}, labels[:, :3], {"image": query[None]}, labels, ["noise"])
        )

    with torch.no_grad():
        before = np.mean([float(loss_on(1000 + i)) for i in range(5)])
    for step in range(25):
        optimizer.zero_grad()
        loss_on(step).backward()
        optimizer.step()
    with torch.no_grad():
        after = np.mean([float(loss_on(1000 + i)) for i in range(5)])
    assert after < 0.7 * before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"compared": 0}, "compared 0"),
        ({"by_image": -1.0}, "by_image -1.0"),
        ({"top": 0.0}, "top=0 weights a distance"),
        ({"score_unit": "support"}, "score_unit is 'support'"),
        ({"defects": ["scrach"]}, "unknown defect 'scrach'; did you mean 'scratch'"),
        ({"defects": []}, "expected at least one of the defects"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        change(**settings)


def test_a_checkpoint_explains_what_it_scores(tmp_path):
    learner = trained_by_chance(defects=["dent"], compared=2)
    save_checkpoint(tmp_path, Checkpoint(learner, [], {"calibration": torch.rand(20).sort().values}))
    assert json.loads((tmp_path / "manifest.json").read_text())["learner"] == "patch_change"
    support = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    strange = support[:2].clone()
    strange[0, :, 8:, 8:] += 0.8
    detector = load_detector(tmp_path).fit(support)
    scores = detector.score(strange)
    adapted = learner.adapt({"image": support}, torch.zeros(5))
    np.testing.assert_allclose(scores, adapted.score({"image": strange}).numpy(), rtol=1e-5)
    assert detector.explain(strange).shape == (2, 1, 16, 16)
    detector.save(tmp_path / "mine")
    assert np.array_equal(load_detector(tmp_path / "mine").score(strange), scores)


def test_a_trainer_takes_steps(digits):
    learner = change()
    before = learner.decoder.last.weight.clone()
    frozen = next(learner.network.parameters()).clone()
    pl.Trainer(**QUIET, max_steps=2, enable_checkpointing=False).fit(trainable(learner), datamodule=digits)
    assert not torch.equal(learner.decoder.last.weight, before)
    assert torch.equal(next(learner.network.parameters()), frozen)


def test_train_py(tmp_path):
    arguments = ["--model", "metaad_zoo.learners.PatchChange", "--model.backbone=conv4", "--model.width=4"]
    cli = run(["fit", *QUICKSTART, *arguments, "--trainer.accelerator=cpu", "--runs", str(tmp_path), *SHORT])
    assert cli.trainer.global_step > 0
    assert load_detector(cli.run_dir).trained_on == sorted(
        {*cli.datamodule.pools["train"].members, *cli.datamodule.pools["val"].members}
    )

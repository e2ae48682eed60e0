"""The memory of patches against scikit-learn, brute force and its published formulae."""

from __future__ import annotations

import itertools
import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from metaad_zoo.backbones import modality_of
from metaad_zoo.cli.train import run
from metaad_zoo.detector import load_detector
from metaad_zoo.learners import EmbeddingLearner, GradientLearner, PatchMemory
from metaad_zoo.learners.patches import Subspace, coreset, nearest, patch_features, to_pixels
from metaad_zoo.learners.training import trainable
from metaad_zoo.zoo import Checkpoint, load_checkpoint, save_checkpoint
from tests.cli.short import QUICKSTART, SHORT
from tests.learners.test_training import QUIET
from tests.tiny import (
    REGISTERED,
    TIMM,
    TINY,
    registered_name,
    shapes_of,
    tiny_batch,
    tiny_embedding_learner,
    tiny_learner,
)

IMAGES = [name for name in sorted({*REGISTERED, *TIMM}) if modality_of(registered_name(name)) == "image"]
OTHERS = [name for name in REGISTERED if modality_of(registered_name(name)) != "image"]
LABELS = torch.tensor([0, -1, 1, 0])


def memory(backbone: str = "conv4", **settings) -> PatchMemory:
    return PatchMemory(
        backbone=backbone, backbone_options=TINY[backbone][0], input_shapes=shapes_of(backbone), **settings
    )


def one_task(backbone: str = "conv4", n_query: int = 6):
    batch = tiny_batch(backbone, n_query=n_query)
    return {"image": batch.support["image"][0]}, {"image": batch.query["image"][0]}


def test_patches_are_means_over_neighbours_side_by_side():
    fine, coarse = torch.randn(2, 3, 6, 4), torch.randn(2, 5, 3, 2)
    pooled = patch_features([fine, coarse], unit_length=False)
    assert pooled.shape == (2, 6, 4, 8)
    torch.testing.assert_close(pooled[0, 2, 1, :3], fine[0, :, 1:4, 0:3].mean((1, 2)))
    torch.testing.assert_close(pooled[1, 0, 3, :3], fine[1, :, 0:2, 2:4].mean((1, 2)))  # at an edge, of those there are
    torch.testing.assert_close(pooled[:, 0, 0, 3:], coarse[:, :, :2].mean((2, 3)))
    lengths = patch_features([fine], unit_length=True).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("seed", range(5))
def test_the_greedy_coreset_covers_at_most_twice_as_badly_as_the_best_one(seed):
    """Gonzalez (1985): greedy k-centre is within a factor of two of the optimum, found here among all subsets."""
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(seed))
    apart = torch.cdist(x, x)

    def radius(subset):
        return float(apart[:, list(subset)].min(1).values.max())

    best = min(radius(subset) for subset in itertools.combinations(range(9), 3))
    chosen = coreset(x, 3).tolist()
    assert len(set(chosen)) == 3
    assert radius(chosen) <= 2 * best
    for i in range(1, 3):  # each is the farthest from those before it
        assert float(apart[chosen[i], chosen[:i]].min()) == pytest.approx(radius(chosen[:i]))
    assert coreset(x, 9).tolist() == coreset(x, 100).tolist() == list(range(9))


def test_the_nearest_patch_is_scikit_learns(monkeypatch):
    monkeypatch.setattr("metaad_zoo.learners.patches.PAIRS_AT_ONCE", 200)  # several chunks
    x, memory = torch.randn(50, 7), torch.randn(40, 7)
    distances, places = nearest(x, memory)
    expected = NearestNeighbors(n_neighbors=1).fit(memory.numpy()).kneighbors(x.numpy())
    np.testing.assert_allclose(distances.numpy(), expected[0][:, 0], rtol=1e-5)
    np.testing.assert_array_equal(places.numpy(), expected[1][:, 0])


@pytest.mark.parametrize("top", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("backbone", IMAGES)
def test_scores_are_those_of_scikit_learns_neighbours(backbone, top):
    """Over any image backbone; with PatchCore's weight written out from its equation 7."""
    learner = memory(backbone, top=top, neighbours=3, subspace=0)
    support, query = one_task(backbone)
    maps = [learner.network.backbone.feature_maps(x["image"]) for x in (support, query)]
    stored, asked = (patch_features([m[i] for i in learner.layers], True, learner.grid).detach() for m in maps)
    stored = stored[LABELS != 1].flatten(0, 2).numpy()
    distances, places = NearestNeighbors(n_neighbors=1).fit(stored).kneighbors(asked.flatten(0, 2).numpy())
    distances, places = distances.reshape(6, -1), places.reshape(6, -1)
    if top:
        share = max(1, round(top * distances.shape[1]))
        expected = np.sort(distances, 1)[:, -share:].mean(1)
    else:
        expected = []
        for image, d, p in zip(asked.flatten(1, 2).numpy(), distances, places, strict=True):
            far = d.argmax()
            around = NearestNeighbors(n_neighbors=3).fit(stored).kneighbors(stored[p[far]][None])[1][0]
            rivals = np.exp(np.linalg.norm(image[far] - stored[around], axis=1)).sum()
            expected.append((1 - np.exp(d[far]) / rivals) * d[far])
    adapted = learner.adapt(support, LABELS)
    np.testing.assert_allclose(adapted.score(query).numpy(), expected, rtol=1e-3, atol=1e-5)
    assert adapted.heat_map(adapted.units(query)).shape == (6, *query["image"].shape[-2:])
    assert float(adapted.score(support)[LABELS != 1].max()) < 1e-3


def test_a_small_memory_is_a_coreset_and_turns_are_remembered():
    support, query = one_task()
    labels = torch.zeros(4)
    settings = {"top": 0.0, "neighbours": 1, "subspace": 0}
    learners = [memory(**settings), memory(memory=7, **settings), memory(turns=True, **settings)]
    for learner in learners:
        learner.network = learners[0].network
    whole, small, with_turns = (learner.adapt(support, labels) for learner in learners)
    assert small.memory.shape == (7, whole.memory.shape[1])
    assert (small.score(query) >= whole.score(query) - 1e-6).all()
    turned = {"image": support["image"].rot90(1, (2, 3))}
    assert float(with_turns.score(turned).max()) < 1e-3 < float(whole.score(turned).min())


@pytest.mark.parametrize(("n", "copies"), [(1, 4), (2, 4), (3, 1)])
def test_one_or_two_images_are_also_stored_turned(n, copies):
    learner = memory()
    adapted = learner.adapt({"image": one_task()[0]["image"][:n]}, torch.zeros(n))
    assert learner.turns_supports_of(n) == bool(adapted.notes) == (copies == 4)
    patches = learner.patches(torch.zeros(1, 1, 16, 16), adapted.support).flatten(0, 2)
    assert len(adapted.memory) == copies * n * len(patches)


def test_patches_of_the_coarsest_map_are_means_of_the_finer_ones():
    fine, coarse = torch.randn(2, 3, 6, 4), torch.randn(2, 5, 3, 2)
    patches = patch_features([fine, coarse], unit_length=False, grid="coarsest")
    assert patches.shape == (2, 3, 2, 8)
    means = F.avg_pool2d(fine, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(patches[:, 1, 0, :3], means[:, :, 2:4, 0:2].mean((2, 3)))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_subspace_is_that_of_scikit_learns_principal_components(share):
    x, y = torch.randn(40, 6) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1]), torch.randn(7, 6)
    subspace, expected = Subspace.of(x.double(), share), PCA(share).fit(x.double().numpy())
    assert subspace.axes.shape == (6, expected.n_components_)
    residual = y.double().numpy() - expected.inverse_transform(expected.transform(y.double().numpy()))
    np.testing.assert_allclose(subspace.residual(y.double()).numpy(), np.linalg.norm(residual, axis=1))


@pytest.mark.parametrize("backbone", ["conv4", "vit"])
def test_the_distance_of_a_patch_is_the_geometric_mean_of_both_distances(backbone):
    learner = memory(backbone, subspace=0.8)
    support, query = one_task(backbone)
    adapted = learner.adapt(support, LABELS)
    stored, asked = (learner.patches(adapted.units(x)["image"], adapted.support) for x in (support, query))
    stored, asked = stored[LABELS != 1].flatten(0, 2).numpy(), asked.flatten(0, 2).numpy()
    to_memory = NearestNeighbors(n_neighbors=1).fit(stored).kneighbors(asked)[0][:, 0]
    components = PCA(0.8).fit(stored)
    to_subspace = np.linalg.norm(asked - components.inverse_transform(components.transform(asked)), axis=1)
    expected = np.sqrt(to_memory * to_subspace).reshape(6, -1)
    share = max(1, round(0.01 * expected.shape[1]))
    np.testing.assert_allclose(adapted.score(query).numpy(), np.sort(expected, 1)[:, -share:].mean(1), rtol=1e-3)


@pytest.mark.parametrize("settings", [{"turns": False}, {"turns": True}, {"turns": False, "subspace": 0, "top": 0.0}])
def test_the_unit_of_the_support_is_the_quantile_of_its_leave_one_out_scores(settings):
    """Against numpy's quantile of scores by memories built without each image in turn."""
    support, query = one_task()
    plain, relative = memory(**settings), memory(**settings, score_unit="support")
    relative.network = plain.network
    labels = torch.tensor([0, -1, 1, 0])
    left_out = []
    for i in (0, 1, 3):
        rest = [j for j in (0, 1, 3) if j != i]
        adapted = plain.adapt({"image": support["image"][rest]}, labels[rest])
        left_out.append(adapted.score({"image": support["image"][i : i + 1]}).item())
    adapted, distances = relative.adapt(support, labels), plain.adapt(support, labels)
    unit = np.quantile(left_out, 0.9)
    np.testing.assert_allclose(adapted.score(query).numpy(), distances.score(query).numpy() / unit, rtol=1e-4)
    maps = [x.heat_map(x.units(query)).numpy() for x in (adapted, distances)]
    np.testing.assert_allclose(maps[0], maps[1] / unit, rtol=1e-4)


def _joined(parts):
    return {"image": torch.cat([x["image"] for x in parts])}, torch.zeros(len(parts))


def test_a_single_image_and_copies_of_one_have_a_unit_too():
    support, query = one_task()
    one = {"image": support["image"][:1]}
    for turns in (False, True):
        plain, relative = memory(turns=turns), memory(turns=turns, score_unit="support")
        relative.network = plain.network
        distances = memory(turns=False)
        distances.network = plain.network
        turned = [{"image": one["image"].rot90(k, (2, 3))} for k in range(4)]
        scores = [
            distances.adapt(*_joined([turned[j] for j in range(4) if (turns or j == 0) and j != k])).score(turned[k])
            for k in range(0 if turns else 1, 4)
        ]
        unit = relative.adapt(one, torch.zeros(1)).unit
        torch.testing.assert_close(unit, torch.cat(scores).quantile(0.9), rtol=1e-4, atol=0)
    copies = {"image": support["image"][:1].expand(3, -1, -1, -1)}
    adapted = memory(score_unit="support").adapt(copies, torch.zeros(3))
    lengths = adapted.learner.patches(adapted.units(one)["image"], adapted.support).norm(dim=-1)
    torch.testing.assert_close(adapted.unit, 0.01 * lengths.mean())
    small = memory(score_unit="support", memory=1).adapt(support, torch.zeros(4))
    assert bool(small.score(query).isfinite().all()), "a memory of one row leaves its own image out"


def test_a_heat_map_is_interpolated_and_smoothed_over_half_a_patch():
    patches = torch.rand(2, 8, 8)
    pixels = to_pixels(patches, (64, 64))
    plain = F.interpolate(patches[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    expected = np.stack([gaussian_filter(x.numpy(), 4, mode="mirror", truncate=2) for x in plain])
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(to_pixels(patches, (8, 8)), patches)


def test_a_strange_patch_is_found_where_it_is(tmp_path):
    """From fit to the explanation, saved and loaded in between; the strange corner is the hottest."""
    learner = memory()
    save_checkpoint(tmp_path, Checkpoint(learner, [], {"calibration": torch.rand(20).sort().values}))
    assert json.loads((tmp_path / "manifest.json").read_text())["learner"] == "patch_memory"
    support = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    strange = support[:2].clone()
    strange[0, :, 8:, 8:] += 0.8
    detector = load_detector(tmp_path).fit(support)
    scores = detector.score(strange)
    assert scores[0] > scores[1]
    maps = detector.explain(strange)
    assert maps.shape == (2, 1, 16, 16)
    row, column = divmod(int(maps[0, 0].argmax()), 16)
    assert min(row, column) >= 8
    assert np.array_equal(maps, detector.explain(strange, "patches"))
    detector.save(tmp_path / "mine")
    assert np.array_equal(load_detector(tmp_path / "mine").score(strange), scores)
    for method in ("nearest", "occlusion", "integrated_gradients"):
        assert detector.explain(strange[:1], method).shape == (1, 1, 16, 16)


def test_a_checkpoint_from_before_a_setting_keeps_its_scores(tmp_path):
    settings = {"grid": "finest", "turns": False, "subspace": 0}
    learner, (support, query) = memory(**settings), one_task()
    save_checkpoint(tmp_path, Checkpoint(learner, [], {}))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["arguments"]["grid"], manifest["arguments"]["subspace"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    loaded = load_checkpoint(tmp_path).learner
    assert {name: loaded.arguments()[name] for name in settings} == settings
    scores, expected = (x.adapt(support, torch.zeros(4)).score(query) for x in (loaded, learner))
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("name", ["maml", "maml_pp", "protonet"])
def test_it_remembers_through_a_meta_trained_backbone(name):
    learner = (tiny_embedding_learner if name == "protonet" else tiny_learner)(name, "conv4")
    assert isinstance(learner, GradientLearner | EmbeddingLearner)
    built = PatchMemory.of(learner.eval(), layers=[1])
    support, query = one_task()
    embedding = built.adapt(support, torch.zeros(4)).embed(query)
    learner.train(name == "maml_pp")  # where it too takes the support's statistics
    torch.testing.assert_close(embedding, learner.network.embed(support, query))
    alone = built.adapt(support, torch.zeros(4)).score({"image": query["image"][:1]})
    torch.testing.assert_close(alone, built.adapt(support, torch.zeros(4)).score(query)[:1])


@pytest.mark.parametrize("backbone", OTHERS)
def test_other_modalities_are_refused_by_name(backbone):
    with pytest.raises(ValueError, match=r"keeps patches of images, but backbone .* take one of conv4, resnet12, vit"):
        PatchMemory(backbone=registered_name(backbone), backbone_options={}, input_shapes=shapes_of(backbone))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": 0}, "memory is 0"),
        ({"neighbours": 0}, "neighbours 0"),
        ({"top": 1.5}, "top 1.5"),
        ({"subspace": 1}, "subspace 1"),
        ({"turns": "always"}, "turns is 'always'"),
        ({"grid": "fine"}, "grid: 'fine'.*finest"),
        ({"score_unit": "suport"}, "did you mean 'support'"),
        ({"layers": [4]}, r"layers is \[4\], but conv4 has 4 feature maps"),
        ({"layers": []}, "give some of 0 to 3"),
        ({"batch_norm": "per_step"}, "takes no steps"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        memory(**settings)
    learner = memory()
    with pytest.raises(ValueError, match="needs normal or unlabelled"):
        learner.adapt({"image": torch.zeros(2, 1, 16, 16)}, torch.ones(2))
    with pytest.raises(ValueError, match="input_shapes is missing"):
        PatchMemory()


def test_a_trainer_is_told_that_there_is_nothing_to_train(digits):
    with pytest.raises(ValueError, match="nothing to train"):
        pl.Trainer(**QUIET, max_epochs=1).fit(trainable(memory()), datamodule=digits)


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_train_py_goes_straight_to_the_test(verb, tmp_path, capsys):
    arguments = ["--model", "metaad_zoo.learners.PatchMemory", "--trainer.accelerator=cpu", "--runs", str(tmp_path)]
    cli = run([verb, *QUICKSTART, *arguments, *SHORT])
    assert "nothing to train: its weights do not change" in capsys.readouterr().out
    assert cli.trainer.global_step == 0
    assert (cli.run_dir / "config.yaml").is_file()
    detector = load_detector(cli.run_dir)
    assert detector.trained_on == sorted(cli.datamodule.pools["val"].members)
    if verb == "test":
        results = json.loads((cli.run_dir / "results.json").read_text())
        assert results["protocol"]["weights"] == "as built: nothing is trained"
        assert results["methods"]["patch_memory"]["mean"]["auroc"] > 0.5

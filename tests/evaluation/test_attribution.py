from __future__ import annotations

import numpy as np
import pytest
import torch

from metaad_zoo.evaluation.attribution import (
    baseline_for,
    deletion_test,
    integrated_gradients,
    occlusion,
    usual_sample,
)
from metaad_zoo.evaluation.explanation import Explainer

NAN = float("nan")


def two_columns(samples):
    """A score that only columns 1 and 4 make."""
    x = samples["tabular"].nan_to_num()
    return 3 * x[:, 1] - x[:, 4] ** 3


@pytest.fixture
def rows():
    return {"tabular": torch.randn(7, 12)}


def test_integrated_gradients_of_a_polynomial_are_the_closed_form(rows):
    start = {"tabular": torch.full((7, 12), 0.5)}
    attributions, gaps = integrated_gradients(two_columns, rows, start)
    x, expected = rows["tabular"], torch.zeros(7, 12)
    expected[:, 1], expected[:, 4] = 3 * (x[:, 1] - 0.5), 0.5**3 - x[:, 4] ** 3
    torch.testing.assert_close(attributions["tabular"], expected, rtol=1e-4, atol=1e-4)
    assert float(gaps.max()) < 1e-3


def test_more_points_are_taken_where_the_way_is_rough():
    """A step of width 1/100, which 32 points see badly: beside it, a smooth sample."""
    x = torch.tensor([[1.0], [0.1]])
    asked = []

    def score(samples):
        asked.append(len(samples["tabular"]))
        return torch.sigmoid(400 * (samples["tabular"][:, 0] - 0.73))

    attributions, gaps = integrated_gradients(score, {"tabular": x}, {"tabular": torch.zeros(2, 1)})
    torch.testing.assert_close(attributions["tabular"].sum(1), torch.tensor([1.0, 0.0]), rtol=0.011, atol=1e-3)
    assert (gaps < 0.011).all()
    assert sum(asked) > 2 * 32 + 64


def test_an_explainer_names_the_modality_of_heat_maps_and_measures_in_the_scorers_units():
    class Mapped:
        mapped = "image"

        def units(self, samples):
            return {name: 2 * x for name, x in samples.items()}

        def score(self, samples):
            return self.logits(self.units(samples))

        def logits(self, samples):
            return samples["image"].flatten(1).sum(1)

        def embed(self, samples=None):
            raise NotImplementedError

        def heat_map(self, samples):
            return samples["image"].sum(1)

    class Plain:
        def score(self, samples):
            return samples["image"].flatten(1).sum(1)

    support = {"image": torch.ones(3, 1, 2, 2)}
    for adapted, mapped, factor in [(Mapped(), "image", 2), (Plain(), None, 1)]:
        explainer = Explainer(adapted, support, torch.tensor([0, 1, 0]))
        assert explainer.mapped == mapped
        units = explainer.units(support)
        assert units["image"].unique().tolist() == [factor]
        assert explainer.score(units).tolist() == [4 * factor] * 3


def test_values_that_sum_to_zero_have_attributions_and_points_double_up_to_512():
    x = {"tabular": torch.tensor([[1.0, -1.0]])}
    start = {"tabular": torch.zeros(1, 2)}
    attributions, _ = integrated_gradients(lambda s: s["tabular"][:, 0] ** 2, x, start)
    torch.testing.assert_close(attributions["tabular"], torch.tensor([[1.0, 0.0]]), rtol=1e-4, atol=1e-5)
    points = []

    def stairs(samples):  # no gradient anywhere
        points.append(len(samples["tabular"]) if samples["tabular"].requires_grad else 0)
        return samples["tabular"][:, 0].ceil()

    attributions, gaps = integrated_gradients(stairs, x, start)
    assert not attributions["tabular"].any()
    assert gaps.tolist() == [1.0]
    assert sum(points) == 32 + 64 + 128 + 256 + 512


def test_occlusion_of_an_additive_score_is_the_closed_form(rows):
    start = {"tabular": torch.zeros(7, 12)}
    rows["tabular"][0, 1] = start["tabular"][0, 1] = NAN
    attributions = occlusion(two_columns, rows, start)["tabular"]
    x, expected = rows["tabular"], torch.zeros(7, 12)
    expected[:, 1], expected[:, 4] = 3 * x[:, 1], -(x[:, 4] ** 3)
    torch.testing.assert_close(attributions, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "shape", "patch"),
    [
        ("image", (2, 16, 24), (slice(None), slice(4, 6), slice(9, 12))),
        ("image", (1, 5, 5), (slice(None), slice(2, 3), slice(3, 4))),
        ("sequence", (32, 3), (slice(6, 8), slice(1, 2))),
        ("sequence", (4, 2), (slice(3, 4), slice(0, 1))),
    ],
)
def test_occlusion_takes_patches(name, shape, patch):
    """A score that one patch makes gives that patch its value, and nothing to any other."""
    weights = torch.zeros(shape)
    weights[patch] = 1.0
    x = torch.rand(3, *shape)
    maps = occlusion(lambda s: (s[name] * weights).flatten(1).sum(1), {name: x}, {name: torch.zeros_like(x)})[name]
    assert torch.equal(maps != 0, (weights != 0).expand_as(maps))
    whole = (x * weights).flatten(1).sum(1).view(-1, *[1] * len(shape))
    torch.testing.assert_close(maps, whole * weights)


def test_the_usual_sample_and_what_nobody_knows():
    support = {
        "image": torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), NAN), torch.ones(1, 2, 2)]),
        "sequence": torch.tensor([[[1.0, NAN], [3.0, NAN]], [[5.0, NAN], [NAN, NAN]]]),
        "tabular": torch.tensor([[1.0, 7.0], [NAN, 8.0], [2.0, 100.0]]),
    }
    usual = usual_sample(support)
    assert usual["image"].flatten().tolist() == [0.5] * 4
    assert usual["sequence"][0, 0, 0] == 3
    assert usual["tabular"].tolist() == [[1.0, 8.0]]
    filled = baseline_for({"sequence": torch.tensor([[[9.0, 9.0], [NAN, 9.0], [9.0, NAN]]])}, usual)["sequence"]
    expected = torch.tensor([[[3.0, 9.0], [NAN, 9.0], [3.0, NAN]]])
    torch.testing.assert_close(filled, expected, equal_nan=True)


def test_deletion_by_a_true_map_beats_chance_and_a_false_one_does_not(rows):
    start = {"tabular": torch.zeros(7, 12)}
    rows["tabular"][:, 0] = start["tabular"][:, 0] = NAN
    truth = occlusion(two_columns, rows, start)
    by_map, at_random = deletion_test(two_columns, rows, truth, start, rng=np.random.default_rng(1), repeats=400)
    change = torch.stack([3 * rows["tabular"][:, 1], -(rows["tabular"][:, 4] ** 3)], 1)
    # One of the eleven columns that are there is deleted: the one that pushed most towards where the score went.
    pushed = change * change.sum(1, keepdim=True).sign()
    assert by_map == pytest.approx(float(pushed.max(1).values.mean()), rel=1e-4)
    assert at_random == pytest.approx(float(change.abs().sum(1).mean()) / 11, rel=0.15)
    false = {"tabular": torch.where(truth["tabular"] == 0, 1.0, 0 * truth["tabular"])}
    assert deletion_test(two_columns, rows, false, start)[0] == 0
    with pytest.raises(ValueError, match="share is 1"):
        deletion_test(two_columns, rows, truth, start, share=1)


def test_of_several_modalities_cells_are_ranked_together():
    samples = {"image": torch.ones(2, 1, 4, 4), "tabular": torch.ones(2, 4)}
    maps = {"image": torch.zeros(2, 1, 4, 4), "tabular": torch.tensor([[0.0, 0, 2, 1]] * 2)}
    start = {name: torch.zeros_like(x) for name, x in samples.items()}

    def score(s):
        return s["image"].flatten(1).sum(1) + 10 * s["tabular"][:, 2] + 5 * s["tabular"][:, 3]

    assert deletion_test(score, samples, maps, start)[0] == 15

"""Explanations of adapted detectors, of every modality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaad_zoo.cli import main
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.detector import Detector
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.explanation import Explainer
from metaad_zoo.explain import Choice, explanation_figure, write_explanations
from metaad_zoo.learners import GradientLearner
from metaad_zoo.zoo import Checkpoint
from tests.tiny import shapes_of, tiny_batch, tiny_learner

BACKBONES = [
    "conv4",
    "vit",
    "gru",
    "gru:any",
    "lstm",
    "tcn:any",
    "transformer:any",
    "mlp",
    "ft_transformer",
    "columns",
    "fusion_concat",
    "fusion_gated",
    "fusion_attention",
]


def fitted(backbone, **inner_loop):
    """A tiny detector, and queries of its task; of several modalities, some are absent."""
    batch = tiny_batch(backbone, tasks=2)
    support, query = ({name: x[1] for name, x in part.items()} for part in (batch.support, batch.query))
    for part in (support, query):
        part |= {name: x.clamp(-1, 2) for name, x in part.items() if name == "image"}  # about 0 to 1, as is read
    if backbone != "vit" and "image" not in query:
        name = next(iter(query))
        query[name][0, ..., -1] = torch.nan  # a column, or a channel
    detector = Detector(Checkpoint(tiny_learner("maml", backbone, **inner_loop).eval(), [], {}))
    return detector.fit(support, [0, 0, 1, 0]), query


def as_dict(attributions, samples):
    return attributions if isinstance(attributions, dict) else dict.fromkeys(samples, attributions)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_integrated_gradients_are_complete(backbone):
    detector, query = fitted(backbone)
    attributions = as_dict(detector.explain(query), query)
    for name, x in query.items():
        assert attributions[name].shape == x.shape
        assert attributions[name].dtype == np.float32
        assert np.array_equal(np.isnan(attributions[name]), x.isnan().numpy())
    explainer = detector.explainer()
    start = explainer.baseline(explainer.units(query))
    rise = detector.score(query) - explainer.score(start).detach().numpy()
    total = sum(np.nansum(x.reshape(len(x), -1), 1) for x in attributions.values())
    assert np.abs(rise).max() > 0.01
    np.testing.assert_allclose(total, rise, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("backbone", ["conv4", "gru", "columns", "fusion_gated"])
@pytest.mark.parametrize("method", ["occlusion", "nearest"])
def test_other_methods_have_the_samples_shape(backbone, method):
    detector, query = fitted(backbone)
    before = detector.score(query)
    attributions = as_dict(detector.explain(query, method), query)
    assert {name: x.shape for name, x in attributions.items()} == {name: tuple(x.shape) for name, x in query.items()}
    assert all(np.isnan(attributions[name])[x.isnan().numpy()].all() for name, x in query.items())
    assert np.array_equal(detector.score(query), before)


def test_nearest_support_is_that_of_the_embeddings():
    detector, query = fitted("mlp")
    indices, distances = detector.nearest_support(query)
    adapted, support = detector._fitted(), detector._checkpoint.tensors["support/tabular"]
    with torch.no_grad():  # the embedding is a function of one row: batch norm is not in this network
        weights = {n.removeprefix("backbone."): p for n, p in adapted.parameters.items() if n.startswith("backbone.")}
        embed = [
            torch.func.functional_call(adapted.network.backbone, weights, (x,)) for x in (query["tabular"], support)
        ]
    expected = torch.cdist(*embed)[:, [0, 1, 3]]  # 2 is a known anomaly
    assert indices.tolist() == torch.tensor([0, 1, 3])[expected.argmin(1)].tolist()
    np.testing.assert_allclose(distances, expected.amin(1), rtol=1e-4)
    difference = detector.explain(query, "nearest")
    np.testing.assert_array_equal(difference, (query["tabular"] - support[indices]).numpy())
    again, zero = detector.nearest_support(support[[3, 0]])
    assert again.tolist() == [3, 0]
    np.testing.assert_allclose(zero, 0, atol=1e-3)


def linear_learner(weights):
    """A network of tables whose logit rises in proportion to the columns, as far as they are positive."""
    learner = GradientLearner(
        "mlp", {"widths": (len(weights),)}, {"tabular": (len(weights),)}, scaling={"tabular": "robust"}
    )
    (layer,) = [m for m in learner.network.backbone.modules() if hasattr(m, "weight") and m.weight.ndim == 2]
    with torch.no_grad():
        layer.weight.copy_(torch.eye(len(weights)))
        layer.bias.fill_(20.0)
        learner.network.head.weight.copy_(torch.tensor([weights]))
    learner.inner_loop.rates.zero_()
    return learner.eval()


def test_only_the_columns_that_count_are_named_and_far_outliers_are_no_trouble():
    """Scaled by the support, cut off at 10 spreads; attribution = weight x distance from the median in spreads."""
    learner = linear_learner([0.0, 2.0, 0.0, -1.0, 0.0])
    support = np.random.default_rng(0).normal(50, 3, (30, 5)).astype(np.float32)
    support[:, 2] = np.nan  # unknown to the whole support: not read
    detector = Detector(Checkpoint(learner, [], {})).fit(support)
    x = np.array([[50, 53, 50, 47, 50], [1e6, 1e6, 1e6, -1e6, 1e6]], np.float32)
    quartiles = np.percentile(support[:, [1, 3]], [25, 50, 75], axis=0)
    ordered = np.sort(support[:, [1, 3]], axis=0)[14]  # torch's median is the lower one
    spread = (quartiles[2] - quartiles[0]) / 1.349
    units = np.clip((x[:, [1, 3]] - quartiles[1]) / spread, -10, 10) - (ordered - quartiles[1]) / spread
    for method in ("auto", "occlusion"):
        attributions = detector.explain(x, method)
        np.testing.assert_allclose(attributions[:, [1, 3]], units * [2, -1], rtol=1e-3, atol=1e-3)
        assert np.abs(attributions[:, [0, 2, 4]]).max() < 1e-5


def test_a_scorer_without_gradients_is_explained_by_occlusion():
    support, query = {"tabular": torch.zeros(5, 3)}, {"tabular": torch.tensor([[0.0, 2.0, 0.0]])}
    explainer = Explainer(create_baseline("ecod").adapt(support, torch.zeros(5)), support, torch.zeros(5))
    attributions = explainer.attribute(query)["tabular"]
    assert attributions[0, 1] > 0
    assert (attributions[0, [0, 2]] == 0).all()
    for method in ("nearest", "integrated_gradients"):
        with pytest.raises(ValueError, match="take method='occlusion'"):
            explainer.attribute(query, method)


def test_what_cannot_be_explained_is_refused():
    detector, query = fitted("conv4", batch_norm="transductive")
    with pytest.raises(ValueError, match="batch_norm=transductive"):
        detector.explain(query)
    with pytest.raises(ValueError, match=r"unknown method .* did you mean 'occlusion'"):
        detector.explain(query, "oclusion")
    bare = Detector(Checkpoint(tiny_learner("maml", "mlp"), [], {}))
    with pytest.raises(RuntimeError, match="not fitted"):
        bare.explain(torch.zeros(2, 5))


@pytest.mark.parametrize("backbone", ["conv4", "gru", "mlp", "fusion_attention"])
def test_a_picture_a_sample_and_an_archive(backbone, tmp_path):
    detector, query = fitted(backbone)
    n, query = 2, {name: x[:2] for name, x in query.items()}
    chunk = Chunk([f"a/{i}.png" for i in range(n)], query, 1.0)
    figures = write_explanations(detector, [chunk], tmp_path / "out", "nearest", Choice(decided=False))
    assert (figures.samples, figures.pictures, figures.boxes) == (n, n, None)
    assert sorted(p.name for p in tmp_path.glob("out/*.png")) == [f"{i + 1:04}_{i}.png" for i in range(n)]
    with np.load(tmp_path / "out" / "explanations.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(archive["score"], detector.score(query))
        assert archive["nearest_support"].tolist() == detector.nearest_support(query)[0].tolist()
        assert {name: archive[f"attribution/{name}"].shape[1:] for name in shapes_of(backbone)} == shapes_of(backbone)


def test_a_figure_shows_the_largest_first_and_refuses_what_does_not_fit():
    sizes = np.arange(40.0) - 30
    figure = explanation_figure(np.zeros(40), sizes, {"tabular": [f"c{i}" for i in range(40)]})
    labels = [label.get_text().split()[0] for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"c{i}" for i in np.argsort(-np.abs(sizes), kind="stable")[:20]]
    channels = np.zeros((9, 8))
    channels[:, [6, 2]] = [[-2.0, 1.0]]
    axes = explanation_figure(np.zeros((9, 8)), channels).axes
    assert [a.get_ylabel() for a in axes[:2]] == ["channel 6", "channel 2"]
    for sample, attribution, names, complaint in [
        (np.zeros(3), np.zeros(4), None, "in the shape of the sample"),
        (np.zeros(3), np.zeros(3), {"tabular": ["a"]}, "expected 3 names"),
        (np.full(3, np.nan), np.full(3, np.nan), None, "nothing can be drawn"),
        (np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 4, 4)), None, "expected one sample"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            explanation_figure(sample, attribution, names)


def test_one_cell_far_above_all_does_not_make_a_heat_map_pale():
    attribution = np.zeros((1, 16, 16))
    attribution[0, 4:12, 4:12] = np.where(np.arange(8) % 2, 1.0, -1.0)
    attribution[0, 8, 8] = 1000.0
    heat = explanation_figure(np.zeros((1, 16, 16)), attribution).subfigs[0].axes[1].images[1]
    strength = heat.get_alpha()
    assert strength[attribution[0] == 0].max() == 0, "what counts for nothing lets the image through"
    assert strength[attribution[0] != 0].min() > 0.9
    low, high = (heat.cmap(heat.norm(value)) for value in (-0.01, 0.01))
    assert low[2] > 0.9 > 0.5 > low[0], "what lowers the score is blue however weak"
    assert high[0] > 0.9 > 0.5 > high[2], "and what raises it is red"


def test_the_command_names_a_tables_columns(tmp_path, capsys):
    detector, _ = fitted("mlp")
    detector.save(tmp_path / "mine")
    lines = ["a,b,c,d,e,bad", *(",".join(map(str, [*row, 0])) for row in torch.randn(3, 5).tolist())]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    arguments = ["explain", str(tmp_path / "mine"), "--data", str(tmp_path / "t.csv"), "--label", "bad"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "3 pictures" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.glob("out/*")) == [
        "0001_1.png",
        "0002_2.png",
        "0003_3.png",
        "explanations.npz",
    ]
    assert main([*arguments, "--out", str(tmp_path / "t.csv")]) == 1
    assert "is a file" in capsys.readouterr().err

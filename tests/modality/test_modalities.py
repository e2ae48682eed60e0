"""Every registered modality keeps what the rooms that ask it rely on; and no other room knows one by its name."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from metaad_zoo.backbones import list_backbones
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.episodes import SupportScaling
from metaad_zoo.evaluation.attribution import baseline_for
from metaad_zoo.modality import SCORING_CHUNK, form_of, get_form, get_modality, list_modalities, read_as
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "metaad_zoo"
SINGLE = list_modalities()
FORMS = list_modalities(several=True)


def small(name):
    """The shape of a small sample."""
    return tuple(5 if size == -1 else min(size, 16) for size in get_modality(name).shape)


def noise(name, n, seed=0):
    return torch.rand(n, *small(name), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FORMS)
def test_what_sentences_and_streams_ask(name):
    form = get_form(name)
    assert form.name == name
    assert form.title
    assert form.chunk % SCORING_CHUNK == 0
    assert set(form.neighbours.values()) <= {"none", "sample", "support"}
    assert list_backbones(modality=form.reader), "some backbone reads it"


@pytest.mark.parametrize("name", FORMS)
def test_options_are_those_of_the_data_module(name):
    form = get_form(name)
    shapes = {name: small(name)} if name in SINGLE else {m: small(m) for m in SINGLE}
    options = set(form.own_options(shapes))
    if name in SINGLE:
        options |= set(form.data_options(small(name), True)) | set(form.data_options(small(name), False))
    assert options <= set(inspect.signature(form.data_module()).parameters)


@pytest.mark.parametrize("name", SINGLE)
def test_shapes_agree(name):
    modality = get_modality(name)
    assert len(modality.axes) == len(modality.shape)
    assert form_of({name: modality.shape}) is modality
    assert get_modality(modality.reader).reader == modality.reader
    assert len(get_modality(modality.reader).axes) == len(modality.axes), "what reads it has as many axes"
    assert read_as([name], modality.reader) == [name]
    assert torch.equal(modality.fit(noise(name, 3), small(name)), noise(name, 3))


@pytest.mark.parametrize("name", SINGLE)
def test_the_usual_sample_and_patches_fit_a_sample(name):
    x, modality = noise(name, 6), get_modality(name)
    usual = modality.usual(x)
    assert baseline_for({name: x}, {name: usual})[name].shape == x.shape
    assert x.min() <= usual.min() <= usual.max() <= x.max()
    patches = modality.patches(small(name))
    assert patches.shape == small(name)
    assert torch.equal(patches.unique(), torch.arange(int(patches.max()) + 1)), "numbered from 0 without gaps"
    assert patches.max() > 0


@pytest.mark.parametrize("name", SINGLE)
def test_a_scaling_brings_features_to_common_units(name):
    x, modality = noise(name, 40), get_modality(name)
    scaled = modality.feature_scaling(x).apply(x)
    assert scaled.numel() == x.numel()
    assert abs(float(scaled.median())) < 0.5
    assert SupportScaling.fit(x, modality.scaling).apply(x).shape == x.shape


@pytest.mark.parametrize("name", SINGLE)
def test_synthetic_anomalies_change_samples(name):
    x, rng = {name: noise(name, 6)}, np.random.default_rng(0)
    kinds = get_modality(name).synthetic()
    assert kinds
    for kind in kinds:
        made = create_synthetic([kind])(x, x, rng)[name]
        assert made.shape == x[name].shape
        assert (made != x[name]).flatten(1).any(1).all(), kind


@pytest.mark.parametrize("name", SINGLE)
def test_samples_and_explanations_are_drawn(name):
    support, query, modality = noise(name, 3).numpy(), noise(name, 4, 1).numpy(), get_modality(name)
    thumbnails = modality.thumbnails(support, query)
    if thumbnails is not None:
        axes = Figure().subplots()
        thumbnails.draw(axes, thumbnails.query[0])
        assert axes.lines or axes.images
    names = modality.names(None, query.shape[-1]) if modality.entry else []
    figure = Figure(figsize=(6, modality.explanation_height(query[0])))
    modality.draw_explanation(figure.subfigures(), query[0], query[0] - query[1], names)
    drawn = [a for a in figure.get_axes() if a.lines or a.images or a.patches or a.collections]
    assert drawn


def test_names_of_entries_are_as_many_as_entries():
    with pytest.raises(ValueError, match="expected 3 names, one a column of 'tabular', saw 2"):
        get_modality("tabular").names(["a", "b"], 3)


def test_unknown_modalities_and_several_are_refused():
    with pytest.raises(ValueError, match="unknown modality 'imgae'; did you mean 'image'"):
        get_modality("imgae")
    with pytest.raises(ValueError, match="unknown modality of one tensor: 'multimodal'"):
        get_modality("multimodal")


OWN_NAMES = (
    "modality",  # the objects
    "data/read",  # readers give samples under the name of their modality
    "data/known",
    "data/modules",
    "data/synthetic",  # kinds of anomalies register for a modality
    "backbones",  # backbones register for a modality
)
PRODUCERS = (
    "big_tables",
    "image_arrays",
    "series",
    "tables",
    "generated_tables",
    "generated_series",
    "windows",
)
"""In data/: what gives samples of one modality."""


def literals(path):
    """Strings in a file, but docstrings and attribute texts."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
    }


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if not str(p.relative_to(PACKAGE)).startswith(OWN_NAMES)]
FILES = [p for p in FILES if not (p.parent.name == "data" and p.stem in PRODUCERS)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_room_knows_a_modality_by_its_name(path):
    assert not literals(path) & set(FORMS), "ask the object of the modality instead"

"""Recommend a model or baseline for a support set."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from metaad_zoo.data.samples import fits, refuse_anomalies_in
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES, read_columns
from metaad_zoo.data.streams import SampleStream, gathered
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.episodes import ANOMALOUS, Adapted, Corruption, Method, Samples, count
from metaad_zoo.evaluation import choosing
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines, modalities_of
from metaad_zoo.evaluation.choosing import ENOUGH, Recommendation, read_prior
from metaad_zoo.experiment.methods import name_of
from metaad_zoo.learners import Learner
from metaad_zoo.modality import form_of, get_form, get_modality, list_modalities
from metaad_zoo.zoo import list_checkpoints, load_checkpoint, locate

NOT_TRIED = ("flag_everything", "random")
SMALL_FOREST = 10
"""Trees of the isolation forest while it is tried on few samples: growing a hundred takes longer than all the rest."""


def recommend(
    support: str | Path, label: str | None = None, models: Sequence[str] | None = None, modality: str | None = None
) -> Recommendation:
    """Try models and baselines on a support set, and recommend one.

    Args:
        support: images, a table, series, or a manifest of several modalities.
        label: a table's or manifest's column of labels.
        models: checkpoints by name or folder; those that read other samples are named as such. None: the published ones
            of the modality that can read the samples.
        modality: as what files of columns are read; None: a manifest where it names files, else a table, and as series
            where they lie in a folder.

    Returns:
        The method to take, why, all candidates, and the lines that use it.

    Raises:
        ValueError: the support can't be read, or is too small.
    """
    path = Path(support)
    if not path.exists():
        raise ValueError(f"--support {path} does not exist: name images, a table, series or a manifest")
    wanted = modality or _modality_of(path)
    path = get_form(wanted).support_path(path)
    asked = {name_of(m): m for m in (list_checkpoints(modality=wanted) if models is None else models)}
    learners = {name: load_checkpoint(locate(place)).learner for name, place in asked.items()}
    shapes = _shapes_of(path, {} if models is None else learners, wanted)
    samples, labels = _read(path, shapes, label)
    n = int((labels != ANOMALOUS).sum())
    tried = {name: _reading(learner, samples) for name, learner in learners.items()}
    if models is None:  # nobody asked for these: what does not fit is not mentioned
        tried = {name: method for name, method in tried.items() if not isinstance(method, _ReadsOther)}
    methods: dict[str, Method] = {**baselines_for(samples, n), **tried}
    prior = read_prior(next(iter(samples)), n) if len(samples) == 1 else None
    advice = choosing.recommend(methods, samples, labels, synthetic_for(samples), prior)
    return replace(advice, use=how_to_use(advice.choice, asked.get(advice.choice), path, label, shapes))


def how_to_use(
    choice: str, model: str | None, support: Path, label: str | None, shapes: Mapping[str, Sequence[int]]
) -> str:
    """What to type to take what is recommended: a command, or for a baseline lines of Python.

    Args:
        choice: its name.
        model: a model's published name or folder; None for a baseline.
        support: the samples.
        label: their column of labels.
        shapes: in which they are read.
    """
    if model is not None:
        labelled = "" if label is None else f" --label {shlex.quote(label)}"
        return f"metaad adapt {model} --support {shlex.quote(str(support))}{labelled} --out my_detector"
    column = "" if label is None else f", {label!r}"
    labels = f"read_columns(path{column}).labels" if column else "[0] * len(names)"
    return "\n".join(
        [
            "from pathlib import Path",
            "import torch",
            *(["from metaad_zoo.data.sources.columns import read_columns"] if column else []),
            "from metaad_zoo.data.streams import named_samples",
            "from metaad_zoo.evaluation.baselines import create_baseline",
            f"path, shapes = Path({str(support)!r}), { {m: tuple(shape) for m, shape in shapes.items()} }",
            f"names, samples = named_samples(path, shapes{column})",
            f"scorer = create_baseline({choice!r}).adapt(samples, torch.as_tensor({labels}))",
            f"names, samples = named_samples(path, shapes{column})  # here the path of new samples",
            "scores = scorer.score(samples)  # high: abnormal",
        ]
    )


def baselines_for(samples: Samples, n: int) -> dict[str, Method]:
    """Baselines that read these samples, by name, as they are tried on n of them."""
    names = [b for b in list_baselines() if b not in NOT_TRIED and set(samples) <= set(modalities_of(b))]
    small = {"iforest": create_baseline("iforest", trees=SMALL_FOREST)} if n < ENOUGH else {}
    return {b: small.get(b) or create_baseline(b) for b in names}


def synthetic_for(samples: Samples) -> dict[str, Corruption]:
    """Kinds of synthetic anomalies that these samples can have, by name: of modalities that no sample lacks."""
    complete = [name for name, x in samples.items() if not x.isnan().flatten(1).all(1).any()]
    return {kind: create_synthetic([kind]) for name in complete for kind in get_modality(name).synthetic()}


@dataclass(frozen=True)
class _Resizing:
    """A model of samples of another size."""

    learner: Learner
    shapes: Mapping[str, Sequence[int]]

    def adapt(self, support: Samples, support_labels: Tensor) -> _Resized:
        return _Resized(self.learner.adapt(_fitted(support, self.shapes), support_labels), self.shapes)


@dataclass(frozen=True)
class _Resized:
    adapted: Adapted
    shapes: Mapping[str, Sequence[int]]

    def score(self, samples: Samples) -> Tensor:
        return self.adapted.score(_fitted(samples, self.shapes))


def _fitted(samples: Samples, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: get_modality(name).fit(x, shapes[name]) for name, x in samples.items()}


def _reading(learner: Learner, samples: Samples) -> Method:
    """The learner as it can read these samples."""
    reads = learner.arguments()["input_shapes"]
    if set(reads) == set(samples):
        if all(fits(x.shape[1:], reads[m]) for m, x in samples.items()):
            return learner
        try:
            _fitted({name: x[:0] for name, x in samples.items()}, reads)
        except ValueError:
            pass
        else:
            return _Resizing(learner, reads)
    sample_shapes = {m: tuple(x.shape[1:]) for m, x in samples.items()}
    return _ReadsOther(f"reads {reads}, but the samples are {sample_shapes}")


class _ReadsOther:
    """Stands for a model of other samples: it can't adapt, and says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def adapt(self, support: Samples, support_labels: Tensor) -> NoReturn:
        raise ValueError(self.reason)


def _shapes_of(support: Path, learners: Mapping[str, Learner], wanted: str) -> dict[str, tuple[int, ...]]:
    """In which shape the files are read: the first model's of their modality, or the usual one."""
    read: list[dict[str, Any]] = [x.arguments()["input_shapes"] for x in learners.values()]
    for shapes in read:
        if form_of(shapes).name == wanted:
            return shapes
    return dict(get_form(wanted).usual_shapes(support))


def _modality_of(support: Path) -> str:
    """What the files are taken for."""
    names = list_modalities(several=True)
    for name in names:
        if get_form(name).recognises(support):
            return name
    raise ValueError(
        f"{support} holds nothing that is read by itself: say what it holds by --modality {', '.join(names)}"
    )


def _read(support: Path, shapes: Mapping[str, tuple[int, ...]], label: str | None) -> tuple[dict[str, Tensor], Tensor]:
    """Samples and their labels.

    Raises:
        ValueError: they can't be read, or anomalies would count as normal.
    """
    if label is not None and support.suffix.lower() not in COLUMN_SUFFIXES:
        raise ValueError(f"--label {label} names a column of a table or a manifest, but {support} is none")
    if label is None:
        refuse_anomalies_in(support)
    given = None if label is None else read_columns(support, label).labels
    stream = SampleStream(support, shapes, label)
    if stream.images is not None:
        stream.images.refuse_anomalies()
    _, samples = gathered(stream)
    n = count(samples)
    labels = torch.zeros(n, dtype=torch.long) if given is None else torch.as_tensor(given).long()
    return samples, labels

"""Recommend a model or baseline for a support set."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.roles import USUAL_OPTIONS, ColumnOptions
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.detector import load_detector
from metaad_zoo.episodes import ANOMALOUS, Adapted, Corruption, Method, Samples, count, present
from metaad_zoo.evaluation import choosing
from metaad_zoo.evaluation.baselines import create_baseline, is_baseline, list_baselines, modalities_of
from metaad_zoo.evaluation.choosing import ENOUGH, Recommendation, read_prior
from metaad_zoo.experiment.methods import name_of
from metaad_zoo.experiment.progress import Progress, silent
from metaad_zoo.learners import Learner
from metaad_zoo.modality import form_of, get_form, get_modality
from metaad_zoo.modality.samples import Reading, fits, note_guess, read_manifest, read_support, recognise
from metaad_zoo.zoo import CheckpointError, list_checkpoints, load_checkpoint, locate, published_of
from metaad_zoo.zoo.defaults import default_of

NOT_TRIED = ("flag_everything", "random", "experts", "pile_knn")
"""Floors, and methods for unlabelled samples, which a recommendation has none of."""
SMALL_FOREST = 10
"""Trees of the isolation forest on few samples: a hundred would take longer than all other methods together."""


def recommend(
    support: str | Path,
    label: str | None = None,
    models: Sequence[str] | None = None,
    modality: str | None = None,
    options: ColumnOptions = USUAL_OPTIONS,
    out: str | Path | None = None,
    progress: Progress = silent,
) -> Recommendation:
    """Try models and baselines on a support set, and recommend one.

    Args:
        support: file or folder of images, a table, series, or a manifest of several modalities.
        label: column of labels of a table or manifest.
        options: other column options.
        models: checkpoints by name or folder; those that can't read the samples are listed with the reason. None: all
            published checkpoints that can read the samples.
        modality: modality of files of columns; None: a manifest if it names files, else a table; series if they are in
            a folder.
        out: folder to save the recommended method to, as a detector that is adapted to the support.
        progress: reports the progress.

    Returns:
        The recommended method with reasons, all candidates, and the command that uses it.

    Raises:
        ValueError: the support can't be read, or is too small.
    """
    path = Path(support).expanduser()
    if not path.exists():
        raise ValueError(f"support (--support) {path} does not exist: name images, a table, series or a manifest")
    wanted, source = (modality, path) if modality else recognise(path)
    places = {name_of(m): m for m in (list_checkpoints(modality=wanted) if models is None else models)}
    learners, unavailable = _learners(places, skip=models is None)
    options = options if label is None else replace(options, label=label)
    usual = get_form(wanted).usual_shapes()
    reading = _read(path, source, _shapes_of(learners, wanted, largest=models is None), options)
    if modality is None:
        note_guess(reading.account, path, wanted)
    samples = reading.samples
    labels = torch.as_tensor(np.zeros(count(samples), int) if reading.labels is None else reading.labels).long()
    n = int((labels != ANOMALOUS).sum())
    tried = {name: _reading(learner, samples) for name, learner in learners.items()}
    if models is None:  # published checkpoints that do not fit are not listed
        tried = {name: method for name, method in tried.items() if not isinstance(method, _ReadsOther)}
    baselines = {name: _reading_as(method, usual, samples) for name, method in baselines_for(samples, n).items()}
    methods: dict[str, Method] = {**baselines, **tried, **unavailable}
    prior = read_prior(next(iter(samples)), n) if len(samples) == 1 else None
    default = default_of(wanted)
    advice = choosing.recommend(
        methods,
        samples,
        labels,
        synthetic_for(samples),
        prior,
        default=None if default is None else name_of(published_of(default.detector)),
        tick=progress("methods", len(methods)),
    )
    place = places.get(advice.choice, advice.choice)
    use = how_to_use(place, path, options, modality if is_baseline(place) else None)
    if out is not None:
        _save(place, usual, path, reading, options, Path(out))
        use = shlex.join(["metaad", "score", str(out), "--data", "PATH", "--out", "scores.csv"])
    return replace(advice, use=use, account=reading.account.as_json())


def how_to_use(name: str, support: Path, options: ColumnOptions, modality: str | None = None) -> str:
    """Command that uses a method on the same columns.

    Args:
        name: a baseline, or a model's published name or folder.
        support: path of the samples.
        options: column options that the samples were read with.
        modality: modality that a baseline reads, where the files do not show it.
    """
    words = ["metaad", "adapt", name, "--support", str(support)]
    for option, value in vars(options).items():
        if value != getattr(USUAL_OPTIONS, option) and option != "missing":  # which is no option of the command
            words += [f"--{option}", *([value] if isinstance(value, str) else value)]
    words += [] if modality is None else ["--modality", modality]
    return shlex.join([*words, "--out", "my_detector"])


def _save(
    name: str, usual: Mapping[str, Sequence[int]], path: Path, reading: Reading, options: ColumnOptions, out: Path
) -> None:
    """Adapt a method to the support and save it as a detector."""
    shapes = usual or {m: tuple(x.shape[1:]) for m, x in reading.samples.items()}
    detector = load_detector(name, **({"input_shapes": shapes} if is_baseline(name) else {}))
    if any(map(_resizes, reading.samples)) and len(reading.samples) == 1:  # images, in the detector's own size
        reading = read_support(path, detector.usual_shapes, options, **detector.support_options)
    detector.fit_reading(reading).save(out)


def baselines_for(samples: Samples, n: int) -> dict[str, Method]:
    """Baselines that read these samples, by name, with settings for n samples."""
    names = [b for b in list_baselines() if b not in NOT_TRIED and set(samples) <= set(modalities_of(b))]
    small = {"iforest": create_baseline("iforest", trees=SMALL_FOREST)} if n < ENOUGH else {}
    return {b: small.get(b) or create_baseline(b) for b in names}


def synthetic_for(samples: Samples) -> dict[str, Corruption]:
    """Kinds of synthetic anomalies by name, of the modalities that every sample has."""
    complete = [name for name, x in samples.items() if present(x).all()]
    return {kind: create_synthetic([kind]) for name in complete for kind in get_modality(name).synthetic()}


@dataclass(frozen=True)
class _Resizing:
    """A method that reads samples of another size, which are resized."""

    method: Method
    shapes: Mapping[str, Sequence[int]]

    def adapt(self, support: Samples, support_labels: Tensor) -> _Resized:
        return _Resized(self.method.adapt(_fitted(support, self.shapes), support_labels), self.shapes)


@dataclass(frozen=True)
class _Resized:
    adapted: Adapted
    shapes: Mapping[str, Sequence[int]]

    def score(self, samples: Samples) -> Tensor:
        return self.adapted.score(_fitted(samples, self.shapes))


def _fitted(samples: Samples, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: get_modality(name).fit(x, shapes[name]) for name, x in samples.items()}


def _reading(learner: Learner, samples: Samples) -> Method:
    """The learner, wrapped if it reads samples of another size or can't read these samples."""
    reads = learner.arguments()["input_shapes"]
    if set(reads) == set(samples):
        if all(fits(x.shape[1:], reads[m]) for m, x in samples.items()):
            return learner
        try:
            _fitted({name: x[:1] for name, x in samples.items()}, reads)
        except ValueError:
            pass
        else:
            return _Resizing(learner, reads)
    sample_shapes = {m: tuple(x.shape[1:]) for m, x in samples.items()}
    return _ReadsOther(f"reads {reads}, but the samples are {sample_shapes}")


class _ReadsOther:
    """A model that can't read these samples: adapt raises the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def adapt(self, support: Samples, support_labels: Tensor) -> NoReturn:
        raise ValueError(self.reason)


def _learners(places: Mapping[str, str], skip: bool) -> tuple[dict[str, Learner], dict[str, Method]]:
    """Models by name, and those whose pretrained weights are not installed.

    Args:
        places: published name or folder of each model.
        skip: list a model that can't be loaded with the reason, instead of an error.
    """
    learners: dict[str, Learner] = {}
    unavailable: dict[str, Method] = {}
    for name, place in places.items():
        try:
            learners[name] = load_checkpoint(locate(place)).learner
        except CheckpointError as error:
            if not skip:
                raise
            unavailable[name] = _ReadsOther(str(error))
    return learners, unavailable


def _resizes(modality: str) -> bool:
    """Whether samples of a modality can be brought to another size."""
    return get_modality(modality).reads_arrays


def _shapes_of(learners: Mapping[str, Learner], wanted: str, largest: bool) -> Mapping[str, Sequence[int]]:
    """Shapes to read the files in: the form's default, those of the first model of this form, or the largest.

    Args:
        learners: models to try, by name.
        wanted: name of the form.
        largest: read samples that can be resized as large as the model with the largest does; others by default.
    """
    usual = get_form(wanted).usual_shapes()
    read: list[dict[str, Any]] = [x.arguments()["input_shapes"] for x in learners.values()]
    read = [shapes for shapes in read if form_of(shapes).name == wanted]
    if not largest:
        return next(iter(read), usual)
    if not usual or not all(map(_resizes, usual)):
        return usual
    return max([dict(usual), *read], key=lambda shapes: sum(math.prod(shape) for shape in shapes.values()))


def _reading_as(method: Method, shapes: Mapping[str, Sequence[int]], samples: Samples) -> Method:
    """A baseline that reads samples in the default shapes, where they can be resized."""
    if set(shapes) == set(samples) and all(map(_resizes, shapes)):
        return _Resizing(method, shapes)
    return method


def _read(path: Path, source: Any, shapes: Mapping[str, Sequence[int]], options: ColumnOptions) -> Reading:
    """Read samples and labels; refuse known anomalies where no label column is named."""
    if options.named and shapes and not any(get_modality(name).entry for name in shapes):
        raise ValueError(f"{options.named} are to be columns of a table or a manifest, but {path} is none")
    reading = read_support(source, shapes, options) if shapes else read_manifest(source, options)
    if options.label is None:
        reading.require_normal(str(path))
    return reading

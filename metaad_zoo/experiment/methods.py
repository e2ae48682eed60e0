"""Methods and data of an evaluation: models by folder, baselines by name, data by config or a user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from metaad_zoo.backbones import ANY
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import EpisodeSpec, Method, SplitRecord
from metaad_zoo.evaluation.baselines import (
    FeatureMethod,
    OnNetwork,
    create_baseline,
    is_baseline,
    list_baselines,
    modalities_of,
)
from metaad_zoo.experiment.leakage import refuse_seen, refuse_transductive
from metaad_zoo.learners import Learner
from metaad_zoo.modality import form_of, get_modality, list_modalities
from metaad_zoo.modality.samples import fits, note_guess, recognise
from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo import Checkpoint, is_known, load_checkpoint, locate, model_folder, read_index, refuse_replaced

OWN_EPISODE = EpisodeSpec(support_normal=10)
"""Ten normal samples: the fewest with which leave-one-out can hold a false-alarm rate of 10 %."""


ON = "@"
"""Separates a baseline from the model whose embedding it reads: ``knn@NAME``."""


def names_of(methods: Sequence[str]) -> list[str]:
    """Names of the methods in the results.

    Raises:
        ValueError: two have one name.
    """
    names = [name_of(m) for m in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"two methods have one name: {sorted(names)}; give each once")
    return names


def name_of(method: str) -> str:
    """Name of a method in the results: of a model's folder the last two parts, else the method itself."""
    baseline, model = _on_embedding(method)
    if baseline:
        return f"{baseline}{ON}{name_of(model)}"
    path = Path(method)
    return "/".join(path.parts[-2:]) if model_folder(path) is not None else method


def _on_embedding(method: str) -> tuple[str, str]:
    """Baseline and model of ``knn@MODEL``; for other methods an empty string and the method itself."""
    baseline, _, model = method.partition(ON)
    return (baseline, model) if model and is_baseline(baseline) else ("", method)


def folders_of(methods: Sequence[str]) -> dict[str, Path]:
    """Folders of the models among the methods, or that they embed with, by name; addresses are downloaded.

    Raises:
        ValueError: a method is neither a checkpoint's name, folder or address nor a baseline's name.
    """
    folders = {}
    for method in methods:
        baseline, model = _on_embedding(method)
        if is_known(model):
            folders[name_of(method)] = locate(model)
        elif baseline or not is_baseline(model):
            refuse_replaced(model)
            names = [*read_index(), *list_baselines()]
            raise unknown_name("method (neither a folder of a model nor a known name):", model, names)
    return folders


def build_methods(methods: Sequence[str]) -> tuple[dict[str, Method], dict[str, Checkpoint]]:
    """Methods by their names in the results, and the checkpoints of those that are, or embed with, models.

    Raises:
        ValueError: as :func:`folders_of` and :func:`names_of`, or a model has no embedding for a baseline.
    """
    names = names_of(methods)
    checkpoints = {name: load_checkpoint(folder) for name, folder in folders_of(methods).items()}
    by_name: dict[str, Method] = {}
    for name, method in zip(names, methods, strict=True):
        baseline, _ = _on_embedding(method)
        if baseline:
            by_name[name] = _on_network(name, baseline, checkpoints[name].learner)
        else:
            by_name[name] = checkpoints[name].learner if name in checkpoints else create_baseline(name)
    return by_name, checkpoints


def _on_network(name: str, baseline: str, learner: Learner) -> OnNetwork:
    """A baseline on a model's embedding, unscaled because all features of an embedding have the same unit.

    Raises:
        ValueError: the model has no embedding.
    """
    network = getattr(learner, "network", None)
    if network is None:
        raise ValueError(f"{name}: the learner {learner.registered_name} has no embedding; take a model of another one")
    method = create_baseline(baseline)
    if isinstance(method, FeatureMethod):
        method = create_baseline(baseline, standardise="none")
    return OnNetwork(method, network)


def describe_methods(methods: Mapping[str, Method], checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Every setting of every method, for a protocol."""
    return {
        name: _settings(m, checkpoints[name].learner if name in checkpoints else None) for name, m in methods.items()
    }


def _settings(method: Method, learner: Learner | None) -> dict[str, Any]:
    if isinstance(method, OnNetwork) and learner is not None:
        model = {"learner": learner.registered_name, **_settings(learner, None)}
        return {"baseline": _settings(method.method, None), "on_the_embedding_of": model}
    if isinstance(method, Learner):
        return {**method.arguments(), **method.pretrained_sources()}
    return {k: v for k, v in vars(method).items() if not k.startswith("_")}


def refuse_unfit(
    checkpoints: Mapping[str, Checkpoint], data: EpisodeDataModule, allow_transductive: bool = False
) -> None:
    """Refuse models of other shapes, models that have seen the test data, and models that normalise over the queries.

    Args:
        checkpoints: checkpoints by the models' names.
        data: data that the models will be tested on.
        allow_transductive: let batch normalisation take statistics over the queries.

    Raises:
        ValueError: a model can't be tested on this data.
    """
    for name, checkpoint in checkpoints.items():
        refuse_other_shapes(name, checkpoint.learner, data)
        if data.aspect != checkpoint.aspect:
            raise ValueError(
                f"{name} reads images with aspect={checkpoint.aspect}, the data has aspect={data.aspect}: "
                f"set data.aspect={checkpoint.aspect}, or evaluate it by itself"
            )
        refuse_seen(name, checkpoint, data)
        if not allow_transductive:
            refuse_transductive(name, checkpoint.learner, "--allow-transductive")


def data_of_config(path: Path, checkpoints: Mapping[str, Checkpoint] | None = None) -> EpisodeDataModule:
    """The DataModule that a training config describes, with the splits that checkpoints have recorded.

    Args:
        path: config file.
        checkpoints: checkpoints that will be tested, by name.

    Raises:
        ValueError: the file does not exist, or has no section ``data``.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a config of a training, such as RUN/config.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(f"{path} has no section `data`: give a config of a training, such as RUN/config.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EpisodeDataModule, "data")
    built = parser.instantiate_classes(parser.parse_object({"data": content["data"]}))
    data: EpisodeDataModule = built.data
    recorded = {
        name: SplitRecord.parse(checkpoint.splits, checkpoint.trained_on)
        for name, checkpoint in (checkpoints or {}).items()
        if checkpoint.splits is not None
    }
    if recorded:
        data.keep_splits(SplitRecord.joined(recorded))
    return data


def guessed_modality(methods: Sequence[str], path: Path, account: Account) -> str | None:
    """Modality of a user's own files for baselines alone, by what the baselines can read and what the files look like.

    Args:
        methods: names of the baselines.
        path: files or folder.
        account: account to which the guess is added.

    Returns:
        The modality; None if it can't be told from the files, as with an ``.npz`` or a manifest.

    Raises:
        ValueError: there are no files.
    """
    readable = set.intersection(*(set(modalities_of(name)) for name in methods))
    if len(readable) == 1:
        return readable.pop()
    if path.suffix == ".npz" and path.is_file():
        return None
    name, source = recognise(path, "data (--data)")
    if source is not path:
        source.close()  # the data module opens its files by itself
    if name not in list_modalities():
        return None
    note_guess(account, path, name)
    return name


def own_data(
    path: Path, learners: Sequence[Learner], seed: int, modality: str | None = None, aspect: Aspect = "squash"
) -> EpisodeDataModule:
    """DataModule of a user's own files, all of whose classes or domains are tested.

    Args:
        path: files or folder.
        learners: learners that will be tested; the first decides the shapes.
        seed: random seed of the episodes.
        modality: modality of the files if there is no learner; they are then read in its default shape.
        aspect: how images are resized.

    Raises:
        ValueError: the files can't be read, or not exactly one of ``learners`` and ``modality`` is given.
    """
    if modality is not None and learners:
        raise ValueError(f"modality (--modality) {modality} is for baselines alone: the model decides; leave it out")
    usual = {} if modality is None else get_modality(modality).usual_shapes()
    shapes: Mapping[str, Sequence[int]] = next(iter(x.arguments()["input_shapes"] for x in learners), usual)
    if not shapes:
        raise ValueError(
            f"{path}: baselines alone do not determine how to read your files: set modality (--modality) to one of "
            f"{', '.join(list_modalities())}, name a model, or give a config as data (--data)"
        )
    data = form_of(shapes).own_episodes(path, shapes, OWN_EPISODE, seed)
    data.aspect = aspect
    return data


def refuse_other_shapes(name: str, learner: Learner, data: EpisodeDataModule) -> None:
    """Refuse a model that reads samples of other shapes.

    Raises:
        ValueError: the shapes differ.
    """
    reads, has = learner.arguments()["input_shapes"], data.input_shapes
    if learner.any_size:
        reads = {m: [shape[0], ANY, ANY] if get_modality(m).reads_arrays else shape for m, shape in reads.items()}
    if set(reads) != set(has) or not all(fits(has[m], reads[m]) for m in reads):
        raise ValueError(f"{name} reads {reads}, but the data gives {dict(has)}: take a model of such data")

"""The methods and the data of an evaluation: models by folder, baselines by name, data by config or own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import EpisodeSpec, Method, SplitRecord
from metaad_zoo.evaluation.baselines import FeatureMethod, OnNetwork, create_baseline, list_baselines
from metaad_zoo.experiment.leakage import refuse_seen, refuse_transductive
from metaad_zoo.learners import Learner
from metaad_zoo.modality import form_of, get_modality, list_modalities
from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo import Checkpoint, is_known, load_checkpoint, locate, model_folder, read_index

OWN_EPISODE = EpisodeSpec(support_normal=10)
"""Ten normal samples: the fewest of which a tenth of false alarms can be held by leaving one out."""


ON = "@"
"""Between a baseline's name and the model on whose embedding it is to work: ``knn@NAME``."""


def names_of(methods: Sequence[str]) -> list[str]:
    """What the methods are called in the results.

    Raises:
        ValueError: two have one name.
    """
    names = [name_of(m) for m in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"two methods have one name: {sorted(names)}; give each once")
    return names


def name_of(method: str) -> str:
    """A baseline's or published checkpoint's own name; of a model the last parts of its folder."""
    baseline, model = _on_embedding(method)
    if baseline:
        return f"{baseline}{ON}{name_of(model)}"
    path = Path(method)
    return "/".join(path.parts[-2:]) if model_folder(path) is not None else method


def _on_embedding(method: str) -> tuple[str, str]:
    """The baseline and the model of ``knn@MODEL``; without such a baseline an empty name and the method itself."""
    baseline, _, model = method.partition(ON)
    return (baseline, model) if model and _is_baseline(baseline) else ("", method)


def _is_baseline(name: str) -> bool:
    return name in list_baselines() or name.startswith("pyod/")


def folders_of(methods: Sequence[str]) -> dict[str, Path]:
    """By name the folders of those methods that are, or that work on, models; those with an address are fetched.

    Raises:
        ValueError: a method is neither a checkpoint's name, folder or address nor a baseline's name.
    """
    folders = {}
    for method in methods:
        baseline, model = _on_embedding(method)
        if is_known(model):
            folders[name_of(method)] = locate(model)
        elif baseline or not _is_baseline(model):
            names = [*read_index(), *list_baselines()]
            raise unknown_name("method (no model lies there, and nothing is called so):", model, names)
    return folders


def build_methods(methods: Sequence[str]) -> tuple[dict[str, Method], dict[str, Checkpoint]]:
    """All methods by their names in the results, and the checkpoints of those that are, or that work on, models.

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
    """A baseline on a model's embedding, as it is: an embedding's numbers have one unit, which the model has learned.

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
        model = {"learner": learner.registered_name, **learner.arguments()}
        return {"baseline": _settings(method.method, None), "on_the_embedding_of": model}
    if isinstance(method, Learner):
        return method.arguments()
    return {k: v for k, v in vars(method).items() if not k.startswith("_")}


def refuse_unfit(
    checkpoints: Mapping[str, Checkpoint], data: EpisodeDataModule, allow_transductive: bool = False
) -> None:
    """Refuse models of other data, those trained or chosen on what is to be tested, those that normalise over queries.

    Args:
        checkpoints: by the models' names.
        data: to be tested on.
        allow_transductive: let batch normalisation take statistics over the queries.

    Raises:
        ValueError: as said.
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
        path: of the config.
        checkpoints: by name, those that will be tested.

    Raises:
        ValueError: there is no such file, or it describes none.
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


def own_data(
    path: Path, learners: Sequence[Learner], seed: int, modality: str | None = None, aspect: Aspect = "squash"
) -> EpisodeDataModule:
    """A user's own files: all of their classes or domains are tested.

    Args:
        path: of the files.
        learners: the first one tells in which shape they are read.
        seed: of the episodes.
        modality: of the files where there is no learner; they are then read in its usual shape.
        aspect: how images are brought to their size.

    Raises:
        ValueError: the files can't be read, or neither a learner nor ``modality`` tells as what.
    """
    if modality is not None and learners:
        raise ValueError(f"--modality {modality} is for baselines alone: the model tells what it reads; leave it out")
    usual = {} if modality is None else get_modality(modality).usual_shapes()
    shapes: Mapping[str, Sequence[int]] = next(iter(x.arguments()["input_shapes"] for x in learners), usual)
    if not shapes:
        raise ValueError(
            f"{path}: baselines alone don't tell as what your files are to be read: add --modality "
            f"{', '.join(list_modalities())}, name a model, or give a config as --data"
        )
    data = form_of(shapes).own_episodes(path, shapes, OWN_EPISODE, seed)
    data.aspect = aspect
    return data


def refuse_other_shapes(name: str, learner: Learner, data: EpisodeDataModule) -> None:
    """Refuse a model of other data.

    Raises:
        ValueError: tells what it reads and what the data gives.
    """
    reads, has = learner.arguments()["input_shapes"], data.input_shapes
    fit = set(reads) == set(has) and all(
        len(reads[m]) == len(has[m]) and all(a in (b, -1) for a, b in zip(reads[m], has[m], strict=True)) for m in reads
    )
    if not fit:
        raise ValueError(f"{name} reads {reads}, but the data gives {dict(has)}: take a model of such data")

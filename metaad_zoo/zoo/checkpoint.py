"""A trained or adapted model as a folder: weights, and a manifest that says how to rebuild what they belong to.

Nothing in such a folder is unpickled: weights are safetensors, the manifest is JSON, and a learner is built by its
registered name alone. The manifest holds the weights' sha256, which is checked at every load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED, SplitRecord
from metaad_zoo.learners import Learner
from metaad_zoo.plugins import require_plugins
from metaad_zoo.zoo.kept_apart import is_apart, pretrained_record
from metaad_zoo.zoo.manifest import CONFIG, FORMAT, MANIFEST, WEIGHTS, read_manifest, verified_weights, verify
from metaad_zoo.zoo.reading import YAML_LIMIT, CheckpointError, parse_json, parse_yaml, read_bytes
from metaad_zoo.zoo.rebuild import build_learner, plugins_of

SUPPORT_LABELS = "support_labels"
"""Labels ``(n,)`` of an adapted detector's support set: 0 normal, 1 anomalous, -1 unlabelled."""
CONTAMINATION = "support_contamination"
"""Stated share of anomalies among the unlabelled samples ``(1,)``."""


@dataclass
class Checkpoint:
    """Content of a checkpoint folder.

    Attributes:
        learner: learner with its weights, in eval mode.
        trained_on: names of the classes or domains that meta-training and validation have seen.
        config: text of the training config, if there is one.
        aspect: how images are brought to the size that the learner reads; see
            :data:`metaad_zoo.data.read.pixels.Aspect`.
        tensors: further tensors by name: ``calibration/<n>`` (ascending scores of normal samples on the validation
            tasks, with supports of n) or ``calibration`` (of any size) and, for an adapted detector, ``support_labels``
            and ``support/<modality>``, perhaps ``support_contamination``, and of images ``support_ratio``, their median
            width by height; for :class:`metaad_zoo.evaluation.novelty.TrainingTasks`, ``training_tasks/statistics`` and
            ``training_tasks/distances/<n>``.
        splits: fingerprints of the classes or domains of each split, see :class:`metaad_zoo.episodes.SplitRecord`; None
            for checkpoints older than records of splits.
    """

    learner: Learner
    trained_on: list[str]
    tensors: dict[str, Tensor]
    config: str | None = None
    splits: dict[str, dict[str, list[str]]] | None = None
    aspect: Aspect = "squash"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; each file is written beside and renamed, the manifest last.

    A pretrained backbone that is unchanged is not stored, see :mod:`metaad_zoo.zoo.kept_apart`.

    Args:
        folder: made if it is not there.
        checkpoint: what to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pretrained = pretrained_record(checkpoint.learner)
    state = checkpoint.learner.state_dict()
    weights = {f"learner/{name}": x for name, x in state.items() if not is_apart(name, pretrained)}
    extra = {f"extra/{name}": x for name, x in checkpoint.tensors.items()}
    content = to_safetensors({name: x.detach().cpu().contiguous().clone() for name, x in {**weights, **extra}.items()})
    sha256 = {WEIGHTS: hashlib.sha256(content).hexdigest()}
    if checkpoint.config is not None:
        sha256[CONFIG] = hashlib.sha256(checkpoint.config.encode()).hexdigest()
    plugins = plugins_of(checkpoint.learner)
    manifest = {
        "format": 1 if all(fields["stored"] for fields in pretrained.values()) else FORMAT,
        "learner": checkpoint.learner.registered_name,
        "arguments": checkpoint.learner.arguments(),
        "trained_on": checkpoint.trained_on,
        **({"pretrained": pretrained} if pretrained else {}),
        **({"plugins": plugins} if plugins else {}),
        **({} if checkpoint.splits is None else {"splits": checkpoint.splits}),
        **({"support": support_counts(checkpoint.tensors)} if SUPPORT_LABELS in checkpoint.tensors else {}),
        "sha256": sha256,
    }
    if checkpoint.aspect != "squash":
        manifest["aspect"] = checkpoint.aspect
    write_whole(folder / WEIGHTS, content)
    (folder / CONFIG).unlink(missing_ok=True)  # of an earlier checkpoint in this folder
    if checkpoint.config is not None:
        write_whole(folder / CONFIG, checkpoint.config.encode())
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def support_counts(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Numbers of normal, anomalous and unlabelled samples in a support set, and the stated contamination, if any."""
    labels = tensors[SUPPORT_LABELS]
    kinds = {"normal": NORMAL, "anomalous": ANOMALOUS, "unlabelled": UNLABELLED}
    counts: dict[str, float] = {name: int((labels == kind).sum()) for name, kind in kinds.items()}
    stated = {"contamination": float(tensors[CONTAMINATION])} if CONTAMINATION in tensors else {}
    return counts | stated


def load_checkpoint(folder: Path, weights: str | Path | None = None) -> Checkpoint:
    """Read a checkpoint folder, verified.

    Args:
        folder: checkpoint folder.
        weights: local file of the backbone's pretrained weights, if the checkpoint does not store them; None: the
            source that the manifest names.

    Raises:
        CheckpointError: a file is missing, damaged or forged, its sha256 is not the manifest's, the format is newer
            than this version, weights and learner do not fit together, or the backbone's pretrained weights are not
            available.
        MissingPluginError: it needs a module outside this package that the user has not imported.
    """
    manifest = read_manifest(folder)
    try:
        SplitRecord.parse(manifest.get("splits"), [])
    except ValueError as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: splits ({error}); fetch it again") from error
    require_plugins(manifest.get("plugins", []), str(folder / MANIFEST))
    tensors = _read_weights(folder, manifest)
    learner = build_learner(str(folder / MANIFEST), manifest, tensors, weights)
    config = _read_config(folder, manifest)
    trained_on = list(manifest["trained_on"])
    return Checkpoint(
        learner.eval(), trained_on, _part(tensors, "extra/"), config, manifest.get("splits"), aspect_of(manifest)
    )


def aspect_of(manifest: Mapping[str, Any]) -> Aspect:
    """Treatment of the aspect ratio of images by a checkpoint's learner; squashed if it does not say.

    Raises:
        CheckpointError: the manifest names an unknown way.
    """
    aspect: Aspect = manifest.get("aspect", "squash")
    if aspect not in get_args(Aspect):
        raise CheckpointError(
            f"{MANIFEST} names the aspect {aspect!r}, expected one of {get_args(Aspect)}: fetch the checkpoint again, "
            "or upgrade metaad_zoo"
        )
    return aspect


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def checkpoint_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files that :func:`save_checkpoint` writes, by name."""
    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), checkpoint)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@contextmanager
def files_in_a_folder(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Temporary folder that holds the files while the context is open."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)


def _read_weights(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    content = verified_weights(folder, manifest)
    try:
        # The library takes the last of two tensors of one name; strict JSON takes neither.
        parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")], f"the header of {path.name}")
        tensors: dict[str, Tensor] = load_safetensors(content)
    except Exception as error:  # whatever a forged header makes the library say
        raise CheckpointError(f"{path} is no safetensors file ({error}); fetch the checkpoint again") from error
    for name, x in tensors.items():
        if not name.startswith(("learner/", "extra/")):
            raise CheckpointError(f"{path} holds {name!r}, which belongs to no learner: it is damaged or was changed")
        if name.startswith("learner/") and x.is_floating_point() and x.element_size() < 2:
            raise CheckpointError(f"{path} holds {name!r} as {x.dtype}: expected numbers of 16 bits or more")
        if name.startswith("learner/") and x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise CheckpointError(f"{path} holds NaN or infinite weights in {name!r}: no model that works has these")
    return tensors


def _read_config(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    path, expected = folder / CONFIG, manifest["sha256"].get(CONFIG)
    if expected is None:
        if path.exists():
            raise CheckpointError(f"{path} is not named by {MANIFEST}, so its content can't be verified: remove it")
        return None
    content = verify(read_bytes(path, YAML_LIMIT), expected, str(path))
    parse_yaml(content, str(path))
    return content.decode("utf-8")

"""A trained or adapted model as a folder: weights, and a manifest that says how to rebuild what they belong to.

Nothing in such a folder is unpickled: weights are safetensors, the manifest is JSON, and a learner is built by its
registered name alone. The manifest holds the weights' sha256, which is checked at every load.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import Learner, learner_class

FORMAT = 1
WEIGHTS, MANIFEST, CONFIG = "model.safetensors", "manifest.json", "config.yaml"


class CheckpointError(ValueError):
    """A checkpoint folder is missing, damaged, or of a kind that this version does not know."""


@dataclass
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        learner: with its weights, in eval mode.
        trained_on: names of the classes or domains that meta-training and validation have seen.
        config: text of the training config, if there is one.
        tensors: further tensors by name: ``calibration`` (ascending scores of normal samples on the validation tasks)
            and, for an adapted detector, ``support_labels`` and ``support/<modality>``.
    """

    learner: Learner
    trained_on: list[str]
    tensors: dict[str, Tensor]
    config: str | None = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; each file is written beside and renamed, the manifest last.

    Args:
        folder: made if it is not there.
        checkpoint: what to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"learner/{name}": x for name, x in checkpoint.learner.state_dict().items()}
    extra = {f"extra/{name}": x for name, x in checkpoint.tensors.items()}
    content = to_safetensors({name: x.detach().cpu().contiguous().clone() for name, x in {**weights, **extra}.items()})
    manifest = {
        "format": FORMAT,
        "learner": checkpoint.learner.registered_name,
        "arguments": checkpoint.learner.arguments(),
        "trained_on": checkpoint.trained_on,
        "sha256": {WEIGHTS: hashlib.sha256(content).hexdigest()},
    }
    _replace(folder / WEIGHTS, content)
    (folder / CONFIG).unlink(missing_ok=True)  # of a checkpoint that was here before
    if checkpoint.config is not None:
        _replace(folder / CONFIG, checkpoint.config.encode())
    _replace(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, verified.

    Raises:
        CheckpointError: a file is missing or damaged, its sha256 is not the manifest's, the format is newer than this
            version, or weights and learner do not fit together.
    """
    manifest = _read_manifest(folder)
    tensors = _read_weights(folder, manifest)
    learner = _build(folder, manifest, {name: x.shape for name, x in tensors.items()})
    weights = {name.removeprefix("learner/"): x for name, x in tensors.items() if name.startswith("learner/")}
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {folder} do not fit the learner its manifest describes: {error}"
        ) from error
    extra = {name.removeprefix("extra/"): x for name, x in tensors.items() if name.startswith("extra/")}
    config = folder / CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    return Checkpoint(learner.eval(), list(manifest["trained_on"]), extra, text)


def checkpoint_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files that :func:`save_checkpoint` writes, by name."""
    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), checkpoint)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@contextmanager
def files_in_a_folder(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder that holds such files as long as the context lasts."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder says that it is a checkpoint; it may still be damaged."""
    return (folder / MANIFEST).is_file()


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    os.replace(beside, path)


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint folder: {path.name} can't be read ({error})") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; fetch the checkpoint again") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{path} is damaged: it names no format; fetch the checkpoint again")
    if manifest["format"] < 1:
        raise CheckpointError(f"{path} is damaged: it names format {manifest['format']}; fetch the checkpoint again")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}, this version of metaad_zoo knows up to {FORMAT}: upgrade it with "
            "`pip install -U metaad_zoo`"
        )
    kinds = {"learner": str, "arguments": dict, "trained_on": list, "sha256": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        raise CheckpointError(f"{path} is damaged: {', '.join(wrong)} missing or of a wrong type; fetch it again")
    return manifest


def _read_weights(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error}); fetch the checkpoint again") from error
    found, expected = hashlib.sha256(content).hexdigest(), manifest["sha256"].get(WEIGHTS)
    if found != expected:
        raise CheckpointError(
            f"{path} has sha256 {found}, its manifest says {expected}: it is damaged or was changed; fetch it again"
        )
    try:
        return load_safetensors(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file ({error}); fetch the checkpoint again") from error


def _build(folder: Path, manifest: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> Learner:
    """The learner that the manifest describes, built without memory first, so that no forged size can ask for more than
    the weights' own file."""
    try:
        arguments = dict(manifest["arguments"])
        if "inner_loop" in arguments:
            arguments["inner_loop"] = InnerLoopConfig(**arguments["inner_loop"])
        with torch.random.fork_rng():
            with torch.device("meta"):
                skeleton = learner_class(manifest["learner"])(**arguments)
            wanted = {f"learner/{name}": x.shape for name, x in skeleton.state_dict().items()}
            found = {name: shape for name, shape in shapes.items() if name.startswith("learner/")}
            if wanted == found:
                return learner_class(manifest["learner"])(**arguments)
    except Exception as error:  # a forged manifest can make anything fail, which is all the same to the user
        raise CheckpointError(
            f"{folder / MANIFEST} describes a learner that can't be built ({type(error).__name__}: {error})"
        ) from error
    differing = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    raise CheckpointError(f"the weights in {folder} do not fit the learner its manifest describes: {differing[:5]}")

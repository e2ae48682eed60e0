"""The manifest of a checkpoint folder: read, checked, and its files compared with their sha256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from metaad_zoo.zoo.reading import (
    TEXT_LIMIT,
    WEIGHTS_LIMIT,
    CheckpointError,
    check_sha256,
    file_sha256,
    parse_json,
    read_bytes,
)

FORMAT = 2
"""Newest format; 2 is written where pretrained weights are kept apart, else 1."""
WEIGHTS, MANIFEST, CONFIG = "model.safetensors", "manifest.json", "config.yaml"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder says that it is a checkpoint; it may still be damaged."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder, its fields checked.

    Raises:
        CheckpointError: there is none, it is damaged, or its format is newer than this version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise CheckpointError(f"{folder} is no checkpoint folder: it has no {MANIFEST}")
    return check_manifest(parse_json(read_bytes(path, TEXT_LIMIT), str(path)), str(path))


def verified_weights(folder: Path, manifest: Mapping[str, Any]) -> bytes:
    """The content of the weights of a checkpoint folder, compared with the manifest's sha256; nothing is loaded.

    Raises:
        CheckpointError: they are missing, too large, damaged or changed.
    """
    path = folder / WEIGHTS
    return verify(read_bytes(path, WEIGHTS_LIMIT), manifest["sha256"].get(WEIGHTS), str(path))


def verify_weights(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the weights of a checkpoint folder with the manifest's sha256, without holding them in memory.

    Raises:
        CheckpointError: as for :func:`verified_weights`.
    """
    path = folder / WEIGHTS
    check_sha256(file_sha256(path, WEIGHTS_LIMIT), manifest["sha256"].get(WEIGHTS), str(path))


def support_in_words(counts: Mapping[str, float]) -> str:
    """Composition of a support set, as a manifest has it under ``support``, in words.

    Args:
        counts: numbers of ``normal``, ``anomalous`` and ``unlabelled`` samples, and the stated ``contamination`` of
            the unlabelled ones, if any.

    Example:
        >>> support_in_words({"normal": 10, "anomalous": 1, "unlabelled": 5000, "contamination": 0.1})
        '10 normal samples, 1 known anomaly and 5,000 unlabelled samples (10 % of them anomalous, as stated)'
        >>> support_in_words({"normal": 1, "anomalous": 0, "unlabelled": 0})
        '1 normal sample'
    """
    nouns = {"normal": ("normal sample", "normal samples"), "anomalous": ("known anomaly", "known anomalies")}
    nouns["unlabelled"] = ("unlabelled sample", "unlabelled samples")
    parts = [f"{counts[kind]:,} {nouns[kind][counts[kind] > 1]}" for kind in nouns if counts[kind]]
    if "contamination" in counts:
        parts[-1] += f" ({100 * counts['contamination']:g} % of them anomalous, as stated)"
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def check_manifest(manifest: Any, where: str) -> dict[str, Any]:
    """A manifest as it was parsed, its fields checked.

    Raises:
        CheckpointError: it is damaged, or its format is newer than this version.
    """
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise CheckpointError(f"{where} is damaged: it names no format; fetch the checkpoint again")
    if manifest["format"] < 1:
        raise CheckpointError(f"{where} is damaged: it names format {manifest['format']}; fetch the checkpoint again")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{where} has format {manifest['format']}, this version of metaad_zoo knows up to {FORMAT}: upgrade it "
            "with `pip install -U metaad_zoo`"
        )
    kinds = {"learner": str, "arguments": dict, "trained_on": list, "sha256": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
    if not wrong and not all(isinstance(name, str) for name in manifest["trained_on"]):
        wrong = ["trained_on"]
    plugins = manifest.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        wrong.append("plugins")
    if not _are_counts(manifest.get("support", {})):
        wrong.append("support")
    if not _are_sources(manifest.get("pretrained", {})):
        wrong.append("pretrained")
    if wrong:
        raise CheckpointError(f"{where} is damaged: {', '.join(wrong)} missing or of a wrong type; fetch it again")
    return manifest


def _are_counts(support: Any) -> bool:
    if not isinstance(support, dict):
        return False
    counts = {name: n for name, n in support.items() if name != "contamination"}
    whole = all(type(n) is int and n >= 0 for n in counts.values())
    complete = counts.keys() == {"normal", "anomalous", "unlabelled"} and any(counts.values())
    return not support or (whole and complete and isinstance(support.get("contamination", 0.0), float))


def _are_sources(value: Any) -> bool:
    """Whether a value describes pretrained weights by backbone, as :data:`metaad_zoo.zoo.kept_apart.Record`."""
    return isinstance(value, dict) and all(_is_source(fields) for fields in value.values())


def _is_source(fields: Any) -> bool:
    from metaad_zoo.backbones.weights import Origin  # imports torch

    return (
        isinstance(fields, dict)
        and fields.get("origin") in get_args(Origin)
        and re.fullmatch("[0-9a-f]{64}", str(fields.get("sha256"))) is not None
        and type(fields.get("stored")) is bool
        and (fields["stored"] or fields["origin"] != "file")
        and fields.keys() <= {"origin", "name", "version", "sha256", "licence", "stored"}
        and all(isinstance(fields.get(key, ""), str) for key in ("version", "licence"))
        and isinstance(fields.get("name"), str)
    )


def verify(content: bytes, sha256: object, where: str, says: str = "its manifest") -> bytes:
    """The same content, if its sha256 is the one expected.

    Raises:
        CheckpointError: it is not.
    """
    check_sha256(hashlib.sha256(content).hexdigest(), sha256, where, says)
    return content

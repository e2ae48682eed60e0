"""The index of published checkpoints: written by this code, and what pins their files by sha256."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from metaad_zoo.modality import list_modalities
from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo.published import FILES, INDEX, NAME, NEEDED, Published
from metaad_zoo.zoo.reading import (
    TEXT_LIMIT,
    WEIGHTS_LIMIT,
    CheckpointError,
    check_sha256,
    file_sha256,
    parse_json,
    read_bytes,
)

FORMAT = 1
ZOO_VARIABLE = "METAAD_CHECKPOINTS"
_PACKAGE = Path(__file__).resolve().parent.parent
_KINDS = {"modality": str, "backbone": str, "learner": str, "data": list, "licence": str, "figures": dict}


@dataclass(frozen=True)
class Entry:
    """One line of the index.

    Args:
        name: name of the checkpoint.
        modality: name of the modality that it reads.
        backbone: name of the backbone.
        learner: name of the learner.
        data: names of the data sets.
        licence: licence of the weights.
        figures: ``auroc``, ``ci95``, ``tasks``, ``episodes`` and ``best_baseline``.
        files: sha256 and size in bytes by file name.
    """

    name: str
    modality: str
    backbone: str
    learner: str
    data: list[str]
    licence: str
    figures: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file["bytes"] for file in self.files.values())


def index_entry(published: Published, folder: Path) -> dict[str, Any]:
    """Index entry of a published folder."""
    first, best = published.metrics["methods"][published.ours], published.best_baseline
    figures: dict[str, Any] = {"auroc": first["mean"]["auroc"], "ci95": first["ci95"]["auroc"]}
    figures |= {key: published.metrics["protocol"][key] for key in ("tasks", "episodes")}
    if best is not None:
        baseline = published.baselines[best]
        figures["best_baseline"] = {
            "name": best,
            "auroc": baseline["mean"]["auroc"],
            "behind": baseline["auroc_behind_first"]["mean"],
            "ci95": baseline["auroc_behind_first"]["ci95"],
        }
    contents = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    return {
        "modality": published.modality,
        "backbone": published.backbone,
        "learner": published.manifest["learner"],
        "data": published.datasets,
        "licence": published.weights_licence,
        "figures": figures,
        "files": {n: {"sha256": hashlib.sha256(x).hexdigest(), "bytes": len(x)} for n, x in contents.items()},
    }


def parse_index(content: bytes, where: str) -> dict[str, Entry]:
    """An index by name, every field checked: a forged one can name no file but those of a checkpoint.

    Raises:
        CheckpointError: it is damaged or forged, or its format is newer than this version.
    """
    index = parse_json(content, where)
    if not isinstance(index, dict) or type(index.get("format")) is not int or index["format"] < 1:
        raise CheckpointError(f"{where} is no index of checkpoints: it names no format")
    if index["format"] > FORMAT:
        raise CheckpointError(
            f"{where} has format {index['format']}, this version of metaad_zoo knows up to {FORMAT}: upgrade it with "
            "`pip install -U metaad_zoo`"
        )
    entries = index.get("checkpoints")
    if not isinstance(entries, dict):
        raise CheckpointError(f"{where} is damaged: it lists no checkpoints")
    return {name: _entry(name, fields, where) for name, fields in entries.items()}


def _entry(name: str, fields: Any, where: str) -> Entry:
    if not NAME.fullmatch(name):
        raise CheckpointError(f"{where} is damaged or forged: {name!r} is no name of a checkpoint")
    at = f"{where} is damaged or forged: of {name}"
    if not isinstance(fields, dict) or not all(isinstance(fields.get(k), kind) for k, kind in _KINDS.items()):
        raise CheckpointError(f"{at}, a field is missing or of a wrong type")
    if not isinstance(fields["figures"].get("auroc"), float) or not all(isinstance(d, str) for d in fields["data"]):
        raise CheckpointError(f"{at}, figures or data are of a wrong type")
    files = fields.get("files")
    if not isinstance(files, dict) or not set(NEEDED) <= set(files):
        raise CheckpointError(f"{at}, files are missing: expected {', '.join(NEEDED)}")
    for file, facts in files.items():
        if file not in FILES:
            raise CheckpointError(f"{at}, the file {file!r} is none of {', '.join(FILES)}: nothing else is read")
        if not isinstance(facts, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(facts.get("sha256"))):
            raise CheckpointError(f"{at}, {file} has no sha256")
        if type(facts.get("bytes")) is not int or not 0 <= facts["bytes"] <= WEIGHTS_LIMIT:
            raise CheckpointError(f"{at}, {file} has {facts.get('bytes')!r} bytes")
    return Entry(name, **{k: fields[k] for k in _KINDS}, files=files)


def zoo_folder() -> Path:
    """Where the published checkpoints lie: what ``METAAD_CHECKPOINTS`` names, else what came with the package."""
    if named := os.environ.get(ZOO_VARIABLE):
        return Path(named).expanduser()
    installed = _PACKAGE / "_checkpoints"
    return installed if (installed / INDEX).is_file() else _PACKAGE.parent / "checkpoints"


def read_index(folder: Path | None = None) -> dict[str, Entry]:
    """The index of a folder of published checkpoints, empty where there is none.

    Args:
        folder: folder of published checkpoints; None takes :func:`zoo_folder`.

    Raises:
        CheckpointError: it is damaged or forged.
    """
    path = (folder or zoo_folder()) / INDEX
    return parse_index(read_bytes(path, TEXT_LIMIT), str(path)) if path.exists() else {}


def list_checkpoints(pattern: str = "*", *, modality: str | None = None) -> list[str]:
    """Names of the published checkpoints, for :func:`metaad_zoo.load_detector`.

    Args:
        pattern: fnmatch pattern, such as ``"*omniglot*"``.
        modality: list only checkpoints that read this modality; ``multimodal``: several modalities.

    Raises:
        CheckpointError: the index is damaged.
        ValueError: there is no such modality.
    """
    if modality is not None and modality not in list_modalities(several=True):
        raise unknown_name("modality of checkpoints:", modality, list_modalities(several=True))
    entries = read_index().items()
    return sorted(name for name, e in entries if fnmatchcase(name, pattern) and modality in (None, e.modality))


def find_published(name: str, folder: Path | None = None) -> Path:
    """The folder of a published checkpoint, its files checked against the index.

    Args:
        name: name that :func:`list_checkpoints` lists.
        folder: folder of published checkpoints; None takes :func:`zoo_folder`.

    Raises:
        CheckpointError: a file is missing, damaged, changed or a link.
        ValueError: the name is unknown (the nearest known ones are named).
    """
    zoo = folder or zoo_folder()
    entries = read_index(zoo)
    if name not in entries:
        raise unknown_name("checkpoint", name, entries)
    place = zoo / name
    for file, facts in entries[name].files.items():
        if place.is_symlink() or (place / file).is_symlink():
            raise CheckpointError(f"{place / file} is a link or lies behind one, which is refused for published files")
        check_sha256(file_sha256(place / file, WEIGHTS_LIMIT), facts["sha256"], str(place / file), "the index")
    return place

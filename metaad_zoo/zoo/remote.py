"""Checkpoints from an address: fetched over https, bounded in size, checked by sha256, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urldefrag, urljoin

import pooch
import requests

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo.index import parse_index
from metaad_zoo.zoo.manifest import CONFIG, MANIFEST, WEIGHTS, check_manifest, verify
from metaad_zoo.zoo.published import PAPERS
from metaad_zoo.zoo.reading import (
    TEXT_LIMIT,
    WEIGHTS_LIMIT,
    YAML_LIMIT,
    CheckpointError,
    file_sha256,
    parse_json,
    read_bytes,
)
from metaad_zoo.zoo.transfer import Transfer

CACHE_VARIABLE = "METAAD_CACHE"


def cache_folder() -> Path:
    """Where fetched checkpoints are kept: what ``METAAD_CACHE`` names, else the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    return (Path(named).expanduser() if named else Path(pooch.os_cache("metaad_zoo"))) / "checkpoints"


def fetch_checkpoint(address: str, papers: bool = False) -> Path:
    """The folder of a checkpoint at an address, fetched if it is not in the cache.

    Args:
        address: ``file://`` or ``https://`` (``http://`` for this machine alone) of a folder with ``manifest.json``,
            or of an ``index.json`` with ``#NAME`` behind it. ``#sha256=...`` pins the manifest or, beside a name
            (``#NAME&sha256=...``), the index.
        papers: its card and figures too, where there are any: checked by an index that names them, else as they come.

    Raises:
        CheckpointError: there is no such checkpoint, the network fails, the files have not come within
            ``METAAD_FETCH_TIMEOUT`` seconds, or what came is too large or not what was pinned.
    """
    url, pins = _take_apart(address)
    sha256 = pins.get("sha256")
    listed: dict[str, str] | None = None
    with Transfer() as transfer:
        if url.endswith(".json"):
            entries = parse_index(transfer.read(url, TEXT_LIMIT, sha256), url)
            if pins.get("name") not in entries:
                raise CheckpointError(
                    f"{unknown_name('checkpoint', pins.get('name', ''), entries)}: {url}#NAME is expected"
                )
            files = entries[pins["name"]].files
            listed = {name: facts["sha256"] for name, facts in files.items()}
            base, sha256 = urljoin(url, pins["name"] + "/"), listed[MANIFEST]
        else:
            base = url if url.endswith("/") else url + "/"
        cached = cache_folder() / str(sha256)
        if sha256 and (cached / MANIFEST).is_file():
            manifest = read_bytes(cached / MANIFEST, TEXT_LIMIT)
        else:
            manifest = transfer.read(base + MANIFEST, TEXT_LIMIT, sha256)
        if sha256:
            verify(manifest, sha256, base + MANIFEST, "its address or index")
        folder = _complete(transfer, base, manifest)
        if papers:
            _add_papers(transfer, base, folder, listed)
    return folder


def _complete(transfer: Transfer, base: str, manifest: bytes) -> Path:
    """The cache's folder for a manifest, with all files that it names."""
    folder = cache_folder() / hashlib.sha256(manifest).hexdigest()
    fields = check_manifest(parse_json(manifest, base + MANIFEST), base + MANIFEST)
    folder.mkdir(parents=True, exist_ok=True)
    for name, limit in ((WEIGHTS, WEIGHTS_LIMIT), (CONFIG, YAML_LIMIT)):
        expected = fields["sha256"].get(name)
        if expected is None and name == CONFIG:
            continue
        if not (folder / name).is_file() or file_sha256(folder / name, limit) != expected:
            transfer.save(base + name, folder / name, limit, str(expected))
    write_whole(folder / MANIFEST, manifest)
    return folder


def _add_papers(transfer: Transfer, base: str, folder: Path, listed: Mapping[str, str] | None) -> None:
    """Fetch card and figures again: the manifest does not tell whether the cached ones belong to this address."""
    for name in PAPERS:
        (folder / name).unlink(missing_ok=True)
        if listed is None or name in listed:
            sha256 = None if listed is None else listed[name]
            try:
                write_whole(folder / name, transfer.read(base + name, TEXT_LIMIT, sha256))
            except CheckpointError as error:
                if listed is not None or not _is_missing(error.__cause__):
                    raise


def _is_missing(cause: BaseException | None) -> bool:
    if isinstance(cause, requests.HTTPError) and cause.response is not None:
        return cause.response.status_code in (404, 410)
    return isinstance(cause, FileNotFoundError)


def _take_apart(address: str) -> tuple[str, Mapping[str, str]]:
    """The address without its fragment, and the fragment's name and pin."""
    url, fragment = urldefrag(address)
    name, _, rest = ("", "", fragment) if fragment.startswith("sha256=") else fragment.partition("&")
    pins = dict(parse_qsl(rest, keep_blank_values=True))
    if set(pins) - {"sha256"} or "=" in name or (name and not url.endswith(".json")):
        raise CheckpointError(f"{address}: expected #NAME, #sha256=... or #NAME&sha256=..., saw {fragment!r}")
    return url, {**pins, **({"name": name} if name else {})}

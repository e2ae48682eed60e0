"""Files that may be forged: read up to a size, as plain JSON or plain YAML, or refused by name."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

TEXT_LIMIT = 16 * 2**20
"""Largest size of a manifest, index, card or file of figures, in bytes; real ones have less than a tenth of it."""
YAML_LIMIT = 2**18
"""Largest size of a config, in bytes; real ones have a hundredth of it. YAML can take seconds a MiB."""
WEIGHTS_LIMIT = 4 * 2**30
"""Largest size of a file of weights, in bytes."""
VALUES_LIMIT = 2_000_000
"""Largest number of values in a JSON or YAML file."""
DEPTH_LIMIT = 64
"""Largest depth of nested JSON or YAML."""
FETCH = "fetch the checkpoint again"
"""What mends a damaged checkpoint."""
CHUNK = 2**20
"""Size in bytes of the chunks of a file that is not read into memory as a whole."""

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C takes a tenth of the time; it is missing where PyYAML was built without libyaml."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, forged, or of a kind that this version does not know."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        CheckpointError: the file can't be read, is not regular or is larger.
    """
    with _regular_file(path, limit) as file:
        content = file.read(os.fstat(file.fileno()).st_size + 1)  # the limit would be asked of the memory at once
        if len(content) > limit:
            raise CheckpointError(f"{path} grew while it was read: not accepted")
        return content


def read_chunks(path: Path, limit: int) -> Iterator[bytes]:
    """The content of a regular file of at most ``limit`` bytes, in chunks; errors as for :func:`read_bytes`."""
    with _regular_file(path, limit) as file:
        while content := file.read(CHUNK):
            limit -= len(content)
            if limit < 0:
                raise CheckpointError(f"{path} grew while it was read: not accepted")
            yield content


def file_sha256(path: Path, limit: int) -> str:
    """The sha256 of a regular file; errors as for :func:`read_bytes`."""
    digest = hashlib.sha256()
    for content in read_chunks(path, limit):
        digest.update(content)
    return digest.hexdigest()


def check_sha256(actual: str, expected: object, where: str, says: str = "its manifest") -> None:
    """Compare the sha256 of a file.

    Args:
        actual: sha256 of its content.
        expected: the sha256 that it should have.
        where: name of the file, for the error.
        says: what names the expected sha256, for the error.

    Raises:
        CheckpointError: they differ.
    """
    if actual != expected:
        raise CheckpointError(
            f"{where} has sha256 {actual}, {says} says {expected}: it is damaged or was changed; fetch it again"
        )


@contextmanager
def _regular_file(path: Path, limit: int) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is no regular file; fetch the checkpoint again")
            if status.st_size > limit:
                raise CheckpointError(f"{path} has {status.st_size:,} bytes, expected at most {limit:,}: not read")
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error}); fetch the checkpoint again") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Opener that does not block where a file was replaced by a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse_json(content: bytes, where: str) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN or infinity, not nested too deep.

    Args:
        content: content of the file.
        where: its name, for errors.

    Raises:
        CheckpointError: it is not.
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{where} is damaged: {reason}; fetch the checkpoint again") from error
    _check_inside(value, where, FETCH, 0, {})
    return value


def parse_yaml(content: bytes, where: str, mend: str = FETCH) -> Any:
    """Plain YAML of at most ``YAML_LIMIT`` bytes: no tags that name Python objects.

    Args:
        content: content of the file.
        where: its name, for errors.
        mend: what to do about errors.

    Raises:
        CheckpointError: it is not plain YAML, or is larger.
    """
    if len(content) > YAML_LIMIT:
        raise CheckpointError(f"{where} has {len(content):,} bytes, expected at most {YAML_LIMIT:,}: not read")
    try:
        value = yaml.load(content.decode("utf-8"), _YAML_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{where} is no plain YAML ({reason}); {mend}") from error
    _check_inside(value, where, mend, 0, {})
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
    return mapping


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


def _check_inside(value: Any, where: str, mend: str, depth: int, sizes: dict[int, int]) -> int:
    """Number of values, with each use of a YAML alias counted.

    Raises:
        CheckpointError: there are too many, they are nested too deep (or in themselves), or one is infinite.
    """
    if isinstance(value, float) and math.isinf(value):
        raise CheckpointError(f"{where} is damaged: it holds an infinite number; {mend}")
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in sizes:
        if depth > DEPTH_LIMIT:
            raise CheckpointError(f"{where} is damaged: it is nested too deep; {mend}")
        inside = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_check_inside(inner, where, mend, depth + 1, sizes) for inner in inside)
        if sizes[id(value)] > VALUES_LIMIT:
            raise CheckpointError(f"{where} is damaged: it holds more than {VALUES_LIMIT:,} values; {mend}")
    return sizes[id(value)]

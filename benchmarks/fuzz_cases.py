"""What a fuzzed reader is: small sound files, how they are mutated and read, and a reference to compare.

A case is a pure function of ``(seed, reader, number)``.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import fuzz_mutations as fm
import numpy as np

"""Content by name, below the folder of a case. The first one is the one that is read."""


Files = dict[str, bytes]
"""Content by name, below the folder of a case. The first one is the one that is read."""


@dataclass
class Reading:
    """What a reader gave.

    Attributes:
        values: arrays by name, which a reference may give too.
        notes: lines of the account.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Target(ABC):
    """A reader, and files for it."""

    name: str
    structured: tuple[fm.Mutation, ...] = ()
    """Mutations that keep the file's structure."""

    @cached_property
    def seeds(self) -> list[Files]:
        """Files that are sound."""
        return self.sound()

    @abstractmethod
    def sound(self) -> list[Files]:
        """Files that are sound."""

    @abstractmethod
    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        """Read a file as the package does.

        Args:
            room: folder of the case.
            file: name of the file.
            rng: chooses between the ways in which the package reads such a file.

        Raises:
            ValueError: the file can't be read; it is named.
        """

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        """What another library makes of the same bytes, by name; {} where there is none. It may raise anything."""
        return {}

    def case(self, rng: np.random.Generator) -> Files:
        """A mutated file with those beside it."""
        files = dict(self.seeds[rng.integers(len(self.seeds))])
        name = self.victim(files, rng)
        content = files[name]
        kind = int(rng.integers(10))
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            if kind == 9:
                donor = self.seeds[rng.integers(len(self.seeds))]
                content = fm.splice(content, donor.get(name, donor[next(iter(donor))]), rng) if content else content
            elif kind >= 5 and (structured := self.structures(name)):
                # What was damaged by an earlier mutation may have no structure any more.
                with contextlib.suppress(Exception):
                    content = fm.any_of(structured, content, rng)
            else:
                content = fm.any_of(fm.BYTES, content, rng)
        files[name] = content
        return self.finished(files, name, rng)

    def victim(self, files: Files, rng: np.random.Generator) -> str:
        """Name of the file that is mutated."""
        return next(iter(files))

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        """Structured mutations of a file."""
        return self.structured

    def finished(self, files: Files, name: str, rng: np.random.Generator) -> Files:
        """The files once one is mutated."""
        return files


def rng_of(seed: int, reader: str, number: int) -> np.random.Generator:
    """The random numbers of a case."""
    return np.random.default_rng([seed, zlib.crc32(reader.encode()), number])


def write_case(files: Files, room: Path) -> str:
    """Write a case into an empty folder; returns the name of the file that is read."""
    for name, content in files.items():
        path = room / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return next(iter(files))


def differing(reading: Reading, reference: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the values that the reader and the reference both have, and that are not the same."""
    return [n for n, x in reading.values.items() if n in reference and not _alike(x, reference[n])]


def _alike(x: np.ndarray, y: np.ndarray) -> bool:
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "biufc" and y.dtype.kind in "biufc":
        with np.errstate(all="ignore"):
            return bool(np.allclose(x.astype(np.complex128), y.astype(np.complex128), 1e-5, 1e-30, equal_nan=True))
    return bool((x == y).all())


def clear(room: Path) -> None:
    """Empty a folder, whatever lies in it."""
    for folder, folders, files in os.walk(room, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            path = os.path.join(folder, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)

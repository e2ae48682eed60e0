"""Samples in chunks of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Some samples, one behind the other.

    Attributes:
        names: name of each sample.
        samples: tensors by modality, as :func:`metaad_zoo.modality.samples.as_samples` gives them.
        done: share of all that is read with these, from 0 to 1.
        labels: ``(n,)`` of 0 (normal), 1 (anomalous) and -1 (unknown); None where the source has none.
        carried: columns that are no features, such as times and identifiers, as ``(n,)`` texts by name.
        times: ``(n, window)`` times of the steps of windows, ``datetime64`` or numbers in a unit of their own; None
            without times.
        after_gap: ``(n,)`` booleans: whether a series has a gap before the window; None of other samples.
    """

    names: list[str]
    samples: dict[str, Tensor]
    done: float
    labels: np.ndarray | None = None
    carried: Mapping[str, np.ndarray] = field(default_factory=dict)
    times: np.ndarray | None = None
    after_gap: np.ndarray | None = None

    def part(self, start: int, stop: int) -> Chunk:
        """The samples from ``start`` to before ``stop``, in memory of their own."""
        each = (self.labels, self.times, self.after_gap)
        labels, times, after_gap = (None if x is None else x[start:stop] for x in each)
        samples = {m: x[start:stop].clone() for m, x in self.samples.items()}
        carried = {name: texts[start:stop] for name, texts in self.carried.items()}
        return Chunk(self.names[start:stop], samples, self.done, labels, carried, times, after_gap)


def rebatched(blocks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The same samples in chunks of ``size``, the last one excepted, and the last before samples of another shape or
    times of another kind.

    Args:
        blocks: chunks of any number of samples.
        size: number of samples in a chunk.
    """
    held: list[Chunk] = []
    for block in blocks:
        if held and _form(block) != _form(held[0]):
            yield _together(held)
            held = []
        held.append(block)
        if sum(len(chunk.names) for chunk in held) >= size:
            whole, start = _together(held), 0
            while len(whole.names) - start >= size:
                yield whole.part(start, start + size)
                start += size
            held = [whole.part(start, len(whole.names))] if start < len(whole.names) else []
    if held:
        yield _together(held)


def _form(chunk: Chunk) -> tuple[object, ...]:
    shapes = {m: x.shape[1:] for m, x in chunk.samples.items()}
    return shapes, None if chunk.times is None else chunk.times.dtype


def _together(parts: Sequence[Chunk]) -> Chunk:
    if len(parts) == 1:
        return parts[0]
    samples = {m: torch.cat([p.samples[m] for p in parts]) for m in parts[0].samples}
    names = [name for p in parts for name in p.names]
    carried = {
        name: np.concatenate([p.carried[name] if name in p.carried else np.full(len(p.names), "") for p in parts])
        for name in dict.fromkeys(name for p in parts for name in p.carried)
    }
    labels, times, after_gap = (_joined([getattr(p, x) for p in parts]) for x in ("labels", "times", "after_gap"))
    return Chunk(names, samples, parts[-1].done, labels, carried, times, after_gap)


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One behind the other; None where one is None."""
    present = [x for x in arrays if x is not None]
    return np.concatenate(present) if len(present) == len(arrays) else None

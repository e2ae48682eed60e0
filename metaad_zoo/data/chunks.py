"""Samples in chunks of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
    """

    names: list[str]
    samples: dict[str, Tensor]
    done: float
    labels: np.ndarray | None = None

    def part(self, start: int, stop: int) -> Chunk:
        """The samples from ``start`` to before ``stop``, in memory of their own."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Chunk(
            self.names[start:stop], {m: x[start:stop].clone() for m, x in self.samples.items()}, self.done, labels
        )


def rebatched(blocks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The same samples in chunks of ``size``, the last one excepted, and the last before samples of another shape.

    Args:
        blocks: chunks of any number of samples.
        size: number of samples in a chunk.
    """
    held: list[Chunk] = []
    for block in blocks:
        if held and any(x.shape[1:] != held[0].samples[m].shape[1:] for m, x in block.samples.items()):
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


def _together(parts: Sequence[Chunk]) -> Chunk:
    if len(parts) == 1:
        return parts[0]
    samples = {m: torch.cat([p.samples[m] for p in parts]) for m in parts[0].samples}
    labels = [p.labels for p in parts if p.labels is not None]
    names = [name for p in parts for name in p.names]
    return Chunk(names, samples, parts[-1].done, np.concatenate(labels) if len(labels) == len(parts) else None)

"""Samples in chunks of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Some samples, one behind the other.

    Attributes:
        names: of each.
        samples: by modality, as :func:`metaad_zoo.data.samples.as_samples` gives them.
        done: share of all that is read with these, from 0 to 1.
    """

    names: list[str]
    samples: dict[str, Tensor]
    done: float


def rebatched(blocks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The same samples in chunks of ``size``, the last one excepted, and the last before samples of another shape.

    Args:
        blocks: of any number of samples.
        size: of the chunks.
    """
    names: list[str] = []
    held: list[dict[str, Tensor]] = []
    done = 0.0
    for block in blocks:
        if held and any(x.shape[1:] != held[0][m].shape[1:] for m, x in block.samples.items()):
            yield Chunk(names, _together(held), done)
            names, held = [], []
        names, done = names + block.names, block.done
        held.append(block.samples)
        if len(names) >= size:
            whole, start = _together(held), 0
            while len(names) - start >= size:
                yield Chunk(names[start : start + size], {m: x[start : start + size] for m, x in whole.items()}, done)
                start += size
            # Copies: a view would keep all of the block in memory.
            rest = [{m: x[start:].clone() for m, x in whole.items()}]
            names, held = names[start:], rest if start < len(names) else []
    if names:
        yield Chunk(names, _together(held), done)


def _together(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return parts[0] if len(parts) == 1 else {m: torch.cat([p[m] for p in parts]) for m in parts[0]}

"""Registry of synthetic anomalies, and their random mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import Corruption, count
from metaad_zoo.registry import Registry

Kind = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""Samples of one modality ``(n, ...)`` and normal donors of the same task ``(m, ...)``, to corrupted samples."""

_KINDS: Registry[tuple[Kind, str, int]] = Registry("synthetic anomaly")


def register_synthetic(name: str, *, modality: str, axes: int = 0) -> Callable[[Kind], Kind]:
    """Register a kind of synthetic anomaly.

    The decorated function is given samples and donors of which each has at least one value, and all randomness by a
    generator. It returns new samples of the same shape and dtype, each truly different from its origin, NaN where and
    only where the origin is, and leaves its arguments as they are.

    Args:
        name: what users type; unique over all modalities.
        modality: modality that it corrupts.
        axes: number of axes of a sample, where it corrupts other modalities of as many axes too; 0: it does not.

    Raises:
        ValueError: the name is taken.
    """

    def register(kind: Kind) -> Kind:
        _KINDS.add(name, (kind, modality, axes), (modality,))
        return kind

    return register


def list_synthetic(pattern: str = "*", *, modality: str | None = None) -> list[str]:
    """Names of the synthetic anomalies.

    Args:
        pattern: fnmatch pattern.
        modality: only those that corrupt this modality.

    Example:
        >>> list_synthetic(modality="image")
        ['cut_paste', 'patch_swap', 'scar']
    """
    return _KINDS.names(pattern, modality=modality)


def create_synthetic(names: Sequence[str]) -> Corruption:
    """Anomalies of one or several kinds, for meta-training only.

    Each sample is corrupted by one of the kinds, drawn at random from those whose modality it has; its other modalities
    stay as they are.

    Args:
        names: names that :func:`list_synthetic` lists.

    Raises:
        ValueError: there is no name, one is named twice or unknown (the nearest names are given).

    Example:
        >>> corrupt = create_synthetic(["outlier"])
        >>> rows = {"tabular": torch.tensor([[1.0, 2.0], [3.0, 5.0]])}
        >>> made = corrupt(rows, rows, np.random.default_rng(0))
        >>> (made["tabular"] != rows["tabular"]).any(1)
        tensor([True, True])
    """
    if isinstance(names, str):
        raise ValueError(f"expected a list of synthetic anomalies, saw {names!r}: write [{names}]")
    kinds = {name: _KINDS[name] for name in names}
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected distinct synthetic anomalies out of {list_synthetic()}, saw {list(names)}")
    return _Mixture(tuple(kinds))


@dataclass(frozen=True)
class _Mixture:
    """A :data:`Corruption` by one of the named kinds for each sample; worker processes can be handed it."""

    names: tuple[str, ...]

    def __call__(
        self, samples: dict[str, Tensor], donors: dict[str, Tensor], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        out = {modality: x.clone() for modality, x in samples.items()}
        drawn = self._draw(samples, rng)
        for i, name in enumerate(self.names):
            chosen = np.flatnonzero(drawn == i)
            if len(chosen):
                kind, modality = _KINDS[name][0], _corrupted(name, samples)
                lenders = donors[modality][_has_values(donors[modality])]
                if not len(lenders):
                    raise ValueError(f"the synthetic anomaly {name!r} needs a normal sample with {modality}, saw none")
                ids = torch.as_tensor(chosen)
                out[modality][ids] = kind(samples[modality][ids], lenders, rng)
        return out

    def _draw(self, samples: dict[str, Tensor], rng: np.random.Generator) -> np.ndarray:
        """Which of the names corrupts each sample, ``(n,)``."""
        n = count(samples)
        fits = np.zeros((n, len(self.names)), bool)
        for i, name in enumerate(self.names):
            if (modality := _corrupted(name, samples)) in samples:
                fits[:, i] = _has_values(samples[modality]).numpy()
        if not fits.any(1).all():
            raise ValueError(
                f"the synthetic anomalies {list(self.names)} corrupt {sorted({_KINDS[k][1] for k in self.names})}, "
                f"but {int((~fits.any(1)).sum())} of {n} samples have no such values; the samples' modalities are "
                f"{sorted(samples)}: name kinds that fit, as list_synthetic(modality=...) lists them"
            )
        return np.where(fits, rng.random(fits.shape), -1).argmax(1)


def _corrupted(name: str, samples: dict[str, Tensor]) -> str:
    """The modality that a kind corrupts: its own, or where samples lack that the first of as many axes."""
    _, modality, axes = _KINDS[name]
    similar = [m for m, x in samples.items() if x.ndim - 1 == axes]
    return modality if modality in samples or not similar else similar[0]


def _has_values(x: Tensor) -> Tensor:
    """Which samples have any finite value, ``(n,)`` booleans."""
    return x.isfinite().flatten(1).any(1)

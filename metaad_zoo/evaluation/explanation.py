"""Explanations of an adapted detector's scores: attributions and nearest support samples."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import Adapted, Samples, count, only, present, stand_for_normal
from metaad_zoo.evaluation.attribution import (
    RELATIVE_GAP,
    ROWS_AT_ONCE,
    baseline_for,
    integrated_gradients,
    occlusion,
    usual_sample,
)
from metaad_zoo.registry import unknown_name

Explanation = Literal["auto", "integrated_gradients", "nearest", "occlusion", "patches"]


@runtime_checkable
class Transparent(Adapted, Protocol):
    """A scorer that can be differentiated and has embeddings."""

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw samples in the units that the scorer reads."""
        ...

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in its units, differentiable by them."""
        ...

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, d)`` of samples in its units; without any, of the support."""
        ...


@runtime_checkable
class Mapped(Transparent, Protocol):
    """A scorer of images that localises anomalies by a heat map."""

    @property
    def mapped(self) -> str:
        """Name of the image modality that :meth:`heat_map` reads."""
        ...

    def heat_map(self, samples: Samples) -> Tensor:
        """Anomaly score of each pixel ``(n, H, W)``, for samples in its units; in the unit of the samples' scores."""
        ...


class Group(Protocol):
    """Samples that share the same modalities with the support, and the scorer that compares them by these."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the shared modalities."""
        ...

    @property
    def rows(self) -> Tensor:
        """Positions ``(m,)`` of the samples."""
        ...

    @property
    def scorer(self) -> Transparent:
        """Scorer adapted to the support's shared modalities."""
        ...

    @property
    def samples(self) -> dict[str, Tensor]:
        """The samples, NaN in all modalities that are not shared."""
        ...


@runtime_checkable
class SharesModalities(Transparent, Protocol):
    """A scorer of several modalities, which compares a sample by those that it shares with the support."""

    def compared_in(self, samples: Samples) -> list[tuple[str, ...]]:
        """Names of the modalities by which each sample is compared."""
        ...

    def groups(self, samples: Samples) -> Sequence[Group]:
        """Samples in its units by the modalities that they share with the support."""
        ...

    def separate(self) -> Sequence[Transparent]:
        """Scorers for each set of the support's modalities, none sharing a layer with another."""
        ...


@torch.no_grad()
def heat_maps(adapted: Mapped, samples: Samples) -> Tensor:
    """Heat maps ``(n, H, W)`` of samples in the detector's units, some at a time."""
    return torch.cat([adapted.heat_map({adapted.mapped: x}) for x in samples[adapted.mapped].split(ROWS_AT_ONCE)])


@dataclass(frozen=True)
class NearestSupport:
    """The nearest support sample of each sample in the embedding.

    Attributes:
        indices: ``(n,)`` indices into the support set.
        distances: ``(n,)`` Euclidean distances between embeddings.
    """

    indices: Tensor
    distances: Tensor


class Explainer:
    """Attributions of an adapted detector's scores, without adapting again.

    All methods compute in the units that the detector reads (:meth:`units`), in which outliers are clipped: along a
    path from a baseline in raw units most gradients would be zero.

    Args:
        adapted: the adapted detector.
        support: raw support samples, by modality ``(n, ...)``.
        support_labels: ``(n,)`` of 0, 1 and -1; samples are explained by the normal ones or, if there are none, by the
            unlabelled ones.
    """

    def __init__(self, adapted: Adapted, support: Samples, support_labels: Tensor) -> None:
        self._adapted = adapted
        usual = stand_for_normal(support_labels)
        self._places = usual.nonzero().flatten()
        self._support = self.units({name: x[usual.to(x.device)] for name, x in support.items()})
        self._usual = usual_sample(self._support)

    def units(self, samples: Samples) -> dict[str, Tensor]:
        """Raw samples in the detector's units; unchanged if it has none of its own."""
        return self._adapted.units(samples) if isinstance(self._adapted, Transparent) else dict(samples)

    def score(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the detector's units."""
        return self._adapted.logits(samples) if isinstance(self._adapted, Transparent) else self._adapted.score(samples)

    @property
    def mapped(self) -> str | None:
        """Modality of the heat maps (``method="patches"``); None for a detector without heat maps."""
        return self._adapted.mapped if isinstance(self._adapted, Mapped) else None

    def compared_in(self, samples: Samples) -> list[tuple[str, ...]]:
        """Names of the modalities by which each sample, raw or in units, is compared."""
        if isinstance(self._adapted, SharesModalities):
            return self._adapted.compared_in(samples)
        masks = {name: (~x.flatten(1).isnan().all(1)).tolist() for name, x in samples.items()}
        return [tuple(name for name, mask in masks.items() if mask[i]) for i in range(count(samples))]

    def baseline(self, samples: Samples) -> dict[str, Tensor]:
        """The support's usual sample in the shape of samples in the detector's units."""
        return baseline_for(samples, self._usual)

    def attribute(self, samples: Samples, method: Explanation = "auto") -> dict[str, Tensor]:
        """Attributions in the samples' own shapes; NaN where a sample has NaN, 0 where the detector reads nothing.

        Args:
            samples: raw samples by modality ``(n, ...)``.
            method: ``"integrated_gradients"`` (:func:`metaad_zoo.evaluation.attribution.integrated_gradients`),
                ``"occlusion"`` (:func:`metaad_zoo.evaluation.attribution.occlusion`); ``"nearest"``: the difference to
                the nearest support sample, in the detector's units, NaN where that sample has no value; ``"patches"``:
                the heat map of a detector that compares patches, minus the image's median; ``"auto"``: ``"patches"`` if
                available, else ``"integrated_gradients"``, or ``"occlusion"`` for a detector without gradients.

        Raises:
            ValueError: the method is unknown or not supported by this detector, or scores depend on the batch.
        """
        if method not in get_args(Explanation):
            raise unknown_name("method of explaining", method, get_args(Explanation))
        inputs = self.units(samples)
        if method == "auto":
            method = self._usual_method()
        if method == "nearest":
            return self._difference(inputs)
        if method == "patches":
            return self.localise(inputs)[1]
        baseline = self.baseline(inputs)
        self._require_own_scores(inputs, baseline)
        if method == "occlusion":
            attributions = occlusion(self.score, inputs, baseline)
        else:
            self._transparent(method)
            attributions, gaps = integrated_gradients(self.score, inputs, baseline)
            self._report(attributions, gaps)
        # A column that is missing in the whole support set is not read.
        return {
            name: torch.where(inputs[name].isnan() & ~samples[name].to(x.device).isnan(), 0, x)
            for name, x in attributions.items()
        }

    def _usual_method(self) -> Explanation:
        if isinstance(self._adapted, Mapped):
            return "patches"
        return "integrated_gradients" if isinstance(self._adapted, Transparent) else "occlusion"

    def localise(self, samples: Samples) -> tuple[Tensor, dict[str, Tensor]]:
        """Heat maps ``(n, H, W)`` in the unit of the scores, and the attributions made of them.

        An attribution is the map minus its median, divided equally among the channels.

        Args:
            samples: samples in the detector's units.

        Raises:
            ValueError: the detector has no heat maps.
        """
        if not isinstance(self._adapted, Mapped):
            raise ValueError(
                f"method='patches' is for learners with heat maps, such as patch_memory, not for "
                f"{type(self._adapted).__name__}: take method='auto'"
            )
        mapped = self._adapted.mapped
        images, maps = samples[mapped], heat_maps(self._adapted, samples)
        read = maps != 0  # outside a region of interest maps are 0, and so are attributions
        median = maps.where(read, torch.nan).flatten(1).nanmedian(1).values.nan_to_num().view(-1, 1, 1)
        stranger = (maps - median).where(read, 0)
        share = (stranger / images.shape[1]).unsqueeze(1).expand_as(images)
        return maps, {name: share if name == mapped else torch.zeros_like(x) for name, x in samples.items()}

    @torch.no_grad()
    def nearest(self, samples: Samples) -> NearestSupport:
        """The nearest normal support sample in the embedding; the nearest unlabelled one if none is normal.

        Args:
            samples: samples in the detector's units.

        Raises:
            ValueError: the detector has no embedding.
        """
        adapted = self._transparent("nearest")
        n = len(next(iter(samples.values())))
        chunks = [{k: x[i : i + ROWS_AT_ONCE] for k, x in samples.items()} for i in range(0, n, ROWS_AT_ONCE)]
        nearest = [_nearest(adapted, chunk, self._support) for chunk in chunks]
        distances, order = (torch.cat(parts) for parts in zip(*nearest, strict=True))
        return NearestSupport(self._places.to(order.device)[order], distances)

    def _difference(self, samples: Samples) -> dict[str, Tensor]:
        indices = self.nearest(samples).indices
        order = torch.searchsorted(self._places.to(indices.device), indices)
        return {name: x - self._support[name][order] for name, x in samples.items()}

    def _transparent(self, method: str) -> Transparent:
        if not isinstance(self._adapted, Transparent):
            raise ValueError(
                f"method={method!r} needs a network's gradients and embeddings, which {type(self._adapted).__name__} "
                "does not give: take method='occlusion'"
            )
        return self._adapted

    @torch.no_grad()
    def _require_own_scores(self, samples: Samples, baseline: Samples) -> None:
        single = self.score({name: x[:1] for name, x in samples.items()})
        beside = self.score({name: torch.cat([x[:1], baseline[name][:1]]) for name, x in samples.items()})[:1]
        if float((single - beside).abs()) > 1e-2 * (1 + float(single.abs())):
            raise ValueError(
                f"a sample's score is {float(single):.4g} alone and {float(beside):.4g} together with another, so the "
                "sample itself can't explain it: this model was trained with inner_loop.batch_norm=transductive; use "
                "method='nearest', or a model with inner_loop.batch_norm=support"
            )

    def _report(self, attributions: Samples, gaps: Tensor) -> None:
        totals = torch.stack([x.flatten(1).nansum(1) for x in attributions.values()]).sum(0).abs()
        bad = (~(gaps <= 5 * RELATIVE_GAP * totals + 0.01)).nonzero().flatten().tolist()
        if bad:
            warnings.warn(
                f"the attributions of {len(bad)} of {len(gaps)} samples (first: {bad[:5]}) do not sum to their score's "
                f"rise over the baseline, by up to {float(gaps[bad].max()):.3g}: the score is too rough along the way; "
                "method='occlusion' needs no gradient",
                stacklevel=4,
            )


def _nearest(adapted: Transparent, samples: Samples, support: Samples) -> tuple[Tensor, Tensor]:
    """Distances ``(n,)`` to the nearest of some support samples, and its positions; by shared modalities if several.

    Not all of the support is embedded: an adapted method need not keep its unlabelled samples, often thousands.
    """
    if not isinstance(adapted, SharesModalities):
        distances, order = torch.cdist(adapted.embed(samples), adapted.embed(support)).min(1)
        return distances, order
    distances, order = next(iter(samples.values())).new_zeros(count(samples)), torch.zeros(count(samples)).long()
    for group in adapted.groups(samples):
        has = torch.stack([present(support[name]) for name in group.modalities])
        rows = (has.all(0) if bool(has.all(0).any()) else has.any(0)).nonzero().flatten()
        part = only({name: x[rows] for name, x in support.items()}, group.modalities)
        # A part of the embedding is NaN where a sample lacks its modality.
        embeddings, reference = (group.scorer.embed(x).nan_to_num() for x in (group.samples, part))
        nearest = torch.cdist(embeddings, reference).min(1)
        distances[group.rows], order[group.rows] = nearest.values.to(distances), rows[nearest.indices].cpu()
    return distances, order


class ExplainsScores(ABC):
    """Base of detectors that explain their scores."""

    @abstractmethod
    def explainer(self) -> Explainer:
        """The attributions of the adapted detector."""

    @abstractmethod
    def _as_fitted(self) -> ExplainsScores:
        """The detector as it is fitted now."""

    @abstractmethod
    def _readable(self, samples: Any) -> dict[str, Tensor]:
        """A user's samples in the detector's shapes, by modality."""

    def explain(self, samples: Any, method: Explanation = "auto") -> np.ndarray | dict[str, np.ndarray]:
        """Attributions of the samples' scores: positive where a value raised the score over that of the usual sample.

        The usual sample is the support's mean image, each channel's mean or each column's median.

        Args:
            samples: samples, in any of the forms that :meth:`fit` reads.
            method: see :meth:`metaad_zoo.evaluation.explanation.Explainer.attribute`.

        Returns:
            float32 ``(n, ...)`` in the samples' shape, NaN where they have NaN; a dict for several modalities.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples can't be used, or the method is unknown or does not suit the model.
        """
        fit = self._as_fitted()
        explainer, readable = fit.explainer(), fit._readable(samples)
        attributions = {name: x.float().cpu().numpy() for name, x in explainer.attribute(readable, method).items()}
        return attributions if len(attributions) > 1 else next(iter(attributions.values()))

    def compared_in(self, samples: Any) -> list[tuple[str, ...]]:
        """Names of the modalities by which each of ``n`` samples is compared: those that it shares with the support.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples can't be used.
        """
        fit = self._as_fitted()
        return fit.explainer().compared_in(fit._readable(samples))

    def nearest_support(self, samples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Nearest normal support sample in the embedding: indices ``(n,)`` into the support set, and distances
        ``(n,)``.

        Known anomalies are excluded, and so are unlabelled samples where any sample is normal.

        Raises:
            RuntimeError: the detector is not fitted.
            ValueError: samples can't be used.
        """
        fit = self._as_fitted()
        explainer, readable = fit.explainer(), fit._readable(samples)
        nearest = explainer.nearest(explainer.units(readable))
        return nearest.indices.cpu().numpy(), nearest.distances.double().cpu().numpy()

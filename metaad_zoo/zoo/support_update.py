"""Further samples for the support set of a fitted detector, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.episodes import ANOMALOUS, NORMAL, count
from metaad_zoo.evaluation.leave_one_out import sample_keys
from metaad_zoo.modality.samples import Reading, as_labels
from metaad_zoo.zoo.checkpoint import SUPPORT_LABELS
from metaad_zoo.zoo.detector_tensors import PLACES, SUPPORT, places_in_series

PLACE = "the support set"


@dataclass(frozen=True)
class SupportChange:
    """What an update changed.

    Attributes:
        before: number of samples in the support set before.
        added: number of samples that joined.
        repeated: number of samples that it held already, which did not join again.
        alpha: false-alarm rate of the thresholds; None where the detector can't decide, before or after.
        threshold_before: score above which a sample was called anomalous, in the units of the earlier fit.
        threshold_after: the same now, in the units of this fit.
        flagged: number of joined samples, known anomalies apart, that the earlier fit called anomalous.
    """

    before: int
    added: int
    repeated: int
    alpha: float | None = None
    threshold_before: float | None = None
    threshold_after: float | None = None
    flagged: int | None = None

    @classmethod
    def between(cls, earlier: Any, now: Any, further: FurtherSupport) -> SupportChange:
        """The change from one :class:`metaad_zoo.Detector` to the same with further samples in its support set."""
        numbers = len(earlier.support_labels), count(further.samples), further.repeated
        if not count(further.samples):
            return cls(*numbers)
        try:
            rate = max(earlier.way_to_decide()[0], now.way_to_decide()[0])
            thresholds = earlier.threshold(rate), now.threshold(rate)
            flagged = int(earlier.predict(further.normal, rate).sum())
        except (RuntimeError, ValueError):  # too few samples to decide by: nothing changes in decisions
            return cls(*numbers)
        return cls(*numbers, rate, *thresholds, flagged)

    def note(self, account: Account) -> None:
        """Add the change to an account."""
        if self.repeated:
            account.add("left out", PLACE, f"{self.repeated:,} samples are in it already")
        account.add(
            "changed", PLACE, f"{self.added:,} samples join the {self.before:,}: now {self.before + self.added:,}"
        )
        if self.alpha is not None:
            account.add(
                "changed",
                PLACE,
                f"the threshold at {self.alpha:.3g} false alarms goes from {self.threshold_before:.4g} to "
                f"{self.threshold_after:.4g}, each in the units of its own fit; before, {self.flagged:,} of "
                "the new ones were called anomalous",
            )


@dataclass(frozen=True)
class FurtherSupport:
    """Samples that a support set does not hold yet.

    Attributes:
        samples: samples by modality ``(n, ...)``.
        labels: their labels ``(n,)``.
        repeated: number of samples that were left out because the support set or an earlier one of them is equal.
        places: where windows of series lie; None for samples of other kinds.
    """

    samples: dict[str, Tensor]
    labels: Tensor
    repeated: int
    places: Tensor | None = None

    @classmethod
    def out_of(cls, reading: Reading, labels: Any, support: Mapping[str, Tensor]) -> FurtherSupport:
        """The samples of a reading that are not in a support set.

        Args:
            reading: samples in the shapes of the support set.
            labels: ``(n,)`` of 0, 1 and -1; None: the reading's labels, or all normal without them.
            support: samples of the support set by modality.

        Raises:
            ValueError: the labels can't be used.
        """
        n = count(reading.samples)
        labels = reading.labels if labels is None else labels
        checked = as_labels([NORMAL] * n if labels is None else labels, n)
        held = set(sample_keys(support))
        fresh = []
        for i, key in enumerate(sample_keys(reading.samples)):
            if key not in held:
                fresh.append(i)
                held.add(key)
        samples, places = {name: x[fresh] for name, x in reading.samples.items()}, places_in_series(reading)
        return cls(samples, checked[fresh], n - len(fresh), None if places is None else places[fresh])

    def joined_to(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, in which these samples follow those of the support set."""
        joined = {f"{SUPPORT}{m}": torch.cat([tensors[f"{SUPPORT}{m}"], x]) for m, x in self.samples.items()}
        joined[SUPPORT_LABELS] = torch.cat([tensors[SUPPORT_LABELS], self.labels])
        if PLACES in tensors or self.places is not None:
            nowhere = torch.full((len(tensors[SUPPORT_LABELS]), 2), -1)
            earlier = tensors.get(PLACES, nowhere)
            joined[PLACES] = torch.cat([earlier, self._places_after(earlier)])
        return {**tensors, **joined}

    def _places_after(self, earlier: Tensor) -> Tensor:
        """The samples' places, in series of their own."""
        if self.places is None:
            return torch.full((len(self.labels), 2), -1)
        return self.places + torch.tensor([int(earlier[:, 0].max()) + 1, 0])

    @property
    def normal(self) -> dict[str, Tensor]:
        """The samples that are not known anomalies."""
        rows = self.labels != ANOMALOUS
        return {name: x[rows] for name, x in self.samples.items()}

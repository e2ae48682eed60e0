"""Composition of an episode: numbers of support and query samples, and contamination."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class EpisodeSpec:
    """Composition of a few-shot anomaly-detection task.

    Args:
        support_normal: number of normal support samples (label 0): the "shots" K.
        support_anomalous: number of anomalous support samples (label 1).
        support_unlabelled: number of unlabelled support samples (label -1).
        contamination: share of anomalies among the unlabelled support samples, in [0, 1), or a range ``[low, high]``
            from which each episode draws its share uniformly. The count is rounded to the nearest whole sample;
            :attr:`realised_contamination` is the share after rounding.
        query_normal: number of normal query samples.
        query_anomalous: number of anomalous query samples.
        fewer_unlabelled: whether a task with too few samples gives as many unlabelled ones as it has at the episode's
            contamination; otherwise such a task is an error. Only batches of tables can hold supports of different
            size, see :meth:`EpisodeBatch.collate`.

    Raises:
        ValueError: a count is negative, the support or the query is empty, or the contamination is out of range or
            given without unlabelled samples.

    Example:
        >>> spec = EpisodeSpec(support_normal=0, support_unlabelled=20, contamination=0.12)
        >>> spec.unlabelled_anomalous, spec.realised_contamination
        (2, 0.1)
    """

    support_normal: int = 5
    support_anomalous: int = 0
    support_unlabelled: int = 0
    contamination: float | tuple[float, float] = 0.0
    query_normal: int = 10
    query_anomalous: int = 10
    fewer_unlabelled: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("contamination", "fewer_unlabelled") and (not isinstance(value, int) or value < 0):
                raise ValueError(f"EpisodeSpec.{name} is {value!r}; it must be a whole number, 0 or more")
        if self.n_support == 0:
            raise ValueError("EpisodeSpec has an empty support set: set support_normal=5, or another support count")
        if self.n_query == 0:
            raise ValueError("EpisodeSpec has an empty query set: set query_normal=10 and query_anomalous=10")
        self._check_contamination()

    def _check_contamination(self) -> None:
        if isinstance(self.contamination, (list, tuple)):
            object.__setattr__(self, "contamination", tuple(self.contamination))
            if len(self.contamination) != 2 or not 0 <= self.contamination[0] <= self.contamination[1] < 1:
                raise ValueError(
                    f"EpisodeSpec.contamination is {list(self.contamination)}; a range must be [low, high] with "
                    "0 <= low <= high < 1"
                )
        elif not 0 <= self.contamination < 1:
            raise ValueError(f"EpisodeSpec.contamination is {self.contamination}; it must lie in [0, 1)")
        if self.contamination and not self.support_unlabelled:
            raise ValueError(
                f"EpisodeSpec.contamination is {self.contamination} but support_unlabelled is 0: contamination is the "
                "anomalous share of the unlabelled support; set support_unlabelled, or contamination=0"
            )

    @property
    def n_support(self) -> int:
        """Number of support samples, labelled or not."""
        return self.support_normal + self.support_anomalous + self.support_unlabelled

    @property
    def shots(self) -> int:
        """Number of normal support samples or, if that is 0, of unlabelled ones."""
        return self.support_normal or self.support_unlabelled

    def with_shots(self, n: int) -> EpisodeSpec:
        """The same composition with ``n`` :attr:`shots`.

        Example:
            >>> EpisodeSpec(support_normal=0, support_unlabelled=20).with_shots(5).support_unlabelled
            5
        """
        return replace(self, support_normal=n) if self.support_normal else replace(self, support_unlabelled=n)

    @property
    def n_query(self) -> int:
        """Number of query samples."""
        return self.query_normal + self.query_anomalous

    @property
    def contamination_range(self) -> tuple[float, float]:
        """Smallest and largest contamination of an episode."""
        return self.contamination if isinstance(self.contamination, tuple) else (self.contamination, self.contamination)

    @property
    def unlabelled_anomalous_range(self) -> tuple[int, int]:
        """Smallest and largest number of anomalies among ``support_unlabelled`` samples."""
        low, high = self.contamination_range
        return round(low * self.support_unlabelled), round(high * self.support_unlabelled)

    @property
    def unlabelled_anomalous(self) -> int:
        """Number of anomalies among the unlabelled support samples.

        Raises:
            ValueError: the contamination is a range, so that the number differs from episode to episode.
        """
        if isinstance(self.contamination, tuple):
            raise ValueError(
                f"EpisodeSpec.contamination is the range {list(self.contamination)}: numbers of samples are those of "
                "one episode's spec, see EpisodeSpec.drawn"
            )
        return self.unlabelled_anomalous_range[0]

    @property
    def realised_contamination(self) -> float | tuple[float, float]:
        """The contamination, or its range, after rounding to whole samples; 0.0 without unlabelled samples."""
        low, high = (n / max(1, self.support_unlabelled) for n in self.unlabelled_anomalous_range)
        return (low, high) if isinstance(self.contamination, tuple) else low

    @property
    def extremes(self) -> tuple[EpisodeSpec, ...]:
        """The specs at both ends of the contamination; with ``fewer_unlabelled``, of the fewest unlabelled samples.

        A task large enough for both is large enough for any episode.
        """
        low, high = self.contamination_range
        least = self._least_unlabelled if self.fewer_unlabelled else self.support_unlabelled
        return tuple(self._fixed(contamination, least) for contamination in sorted({low, high}))

    @property
    def _least_unlabelled(self) -> int:
        """With ``fewer_unlabelled``: none beside normal samples, else one."""
        return min(self.support_unlabelled, 0 if self.support_normal else 1)

    def _fixed(self, contamination: float, unlabelled: int) -> EpisodeSpec:
        """The spec of one episode."""
        return replace(
            self,
            support_unlabelled=unlabelled,
            contamination=contamination if unlabelled else 0.0,
            fewer_unlabelled=False,
        )

    def drawn(
        self, rng: np.random.Generator, check: Callable[[EpisodeSpec], object] = lambda spec: None
    ) -> EpisodeSpec:
        """The spec of one episode: its contamination is a number, and ``fewer_unlabelled`` is resolved.

        Args:
            rng: generator of the episode; used only where the contamination is a range.
            check: raises a ValueError if the task has too few samples for a spec of one episode.

        Raises:
            ValueError: the task has too few samples.

        Example:
            >>> spec = EpisodeSpec(support_unlabelled=500, contamination=(0.1, 0.3), fewer_unlabelled=True)
            >>> episode = spec.drawn(np.random.default_rng(0))
            >>> episode.support_unlabelled, episode.unlabelled_anomalous, episode.fewer_unlabelled
            (500, 114, False)
        """
        contamination = (
            float(rng.uniform(*self.contamination)) if isinstance(self.contamination, tuple) else self.contamination
        )
        spec = self._fixed(contamination, self.support_unlabelled)
        if not self.fewer_unlabelled:
            check(spec)
            return spec

        def too_many(unlabelled: int) -> bool:
            try:
                check(self._fixed(contamination, unlabelled))
            except ValueError:
                return True
            return False

        if not too_many(self.support_unlabelled):
            return spec
        least = self._least_unlabelled
        sizes = range(least, self.support_unlabelled + 1)
        spec = self._fixed(contamination, max(least, least + bisect_left(sizes, True, key=too_many) - 1))
        check(spec)
        return spec

    @property
    def normal_needed(self) -> int:
        """Number of distinct normal samples in an episode."""
        return self.support_normal + self.support_unlabelled - self.unlabelled_anomalous + self.query_normal

    @property
    def anomalous_needed(self) -> int:
        """Number of distinct anomalous samples in an episode."""
        return self.support_anomalous + self.unlabelled_anomalous + self.query_anomalous

    def as_dict(self) -> dict[str, Any]:
        """Fields and realised contamination, for a results file; a range is a list."""
        fields = {**asdict(self), "realised_contamination": self.realised_contamination}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

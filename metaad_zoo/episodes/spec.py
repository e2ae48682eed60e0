"""Composition of an episode: numbers of support and query samples, and contamination."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class EpisodeSpec:
    """Composition of a few-shot anomaly-detection task.

    Args:
        support_normal: number of normal support samples (label 0): the "shots" K.
        support_anomalous: number of anomalous support samples (label 1).
        support_unlabelled: number of unlabelled support samples (label -1).
        contamination: share of anomalies among the unlabelled support samples, in [0, 1). The count is rounded to the
            nearest whole sample; :attr:`realised_contamination` is the share after rounding.
        query_normal: number of normal query samples.
        query_anomalous: number of anomalous query samples.

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
    contamination: float = 0.0
    query_normal: int = 10
    query_anomalous: int = 10

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "contamination" and (not isinstance(value, int) or value < 0):
                raise ValueError(f"EpisodeSpec.{name} is {value!r}; it must be a whole number, 0 or more")
        if self.n_support == 0:
            raise ValueError("EpisodeSpec has an empty support set: set support_normal=5, or another support count")
        if self.n_query == 0:
            raise ValueError("EpisodeSpec has an empty query set: set query_normal=10 and query_anomalous=10")
        if not 0 <= self.contamination < 1:
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
    def unlabelled_anomalous(self) -> int:
        """Number of anomalies among the unlabelled support samples."""
        return round(self.contamination * self.support_unlabelled)

    @property
    def realised_contamination(self) -> float:
        """The contamination after rounding to whole samples; 0.0 without unlabelled samples."""
        return self.unlabelled_anomalous / self.support_unlabelled if self.support_unlabelled else 0.0

    @property
    def normal_needed(self) -> int:
        """Number of distinct normal samples in an episode."""
        return self.support_normal + self.support_unlabelled - self.unlabelled_anomalous + self.query_normal

    @property
    def anomalous_needed(self) -> int:
        """Number of distinct anomalous samples in an episode."""
        return self.support_anomalous + self.unlabelled_anomalous + self.query_anomalous

    def as_dict(self) -> dict[str, Any]:
        """Fields and realised contamination, for a results file."""
        return {**asdict(self), "realised_contamination": self.realised_contamination}

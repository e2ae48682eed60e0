"""Scores of any number of samples as a CSV file, written as they come."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from metaad_zoo.atomic_write import replacing
from metaad_zoo.evaluation.labelled import Figure, labelled_figures
from metaad_zoo.evaluation.selection import selected, too_few_scores

COLUMNS = ("sample", "score", "p_value", "anomaly")
MOST_LABELLED = 5_000_000
"""Number of labelled samples that figures are computed of; more are not kept in memory."""


class ScoreCsv:
    """Writes names, scores, p-values and decisions; a context manager.

    Args:
        path: CSV file to write, with the columns :data:`COLUMNS`, followed by those that the data carry, such as times
            and identifiers; it appears when the context ends without an error.
        fdr: bound on the false discovery rate, by which the samples are selected when the context ends; None: the
            decisions are given with the samples. A selection keeps all p-values in memory and writes the file twice.

    Attributes:
        n: number of samples.
        anomalous: number of samples that are called anomalous; with ``fdr`` known when the context has ended.
        without_value: number of samples without a score, whose cells stay empty.
        labelled: number of samples with a label of 0 or 1 and a score, which figures are computed of: at most the
            first :data:`MOST_LABELLED`.
    """

    def __init__(self, path: Path, fdr: float | None = None) -> None:
        self.n = self.anomalous = self.without_value = self.labelled = 0
        self.fdr = fdr
        self._path, self._open = path, ExitStack()
        self._carried: list[str] | None = None
        self._p_values: list[np.ndarray] = []
        self._judged: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def __enter__(self) -> ScoreCsv:
        beside = self._open.enter_context(replacing(self._path))
        if self.fdr is not None:
            self._open.push(lambda kind, error, trace: None if kind else self._select(beside))
        self._writer = csv.writer(self._open.enter_context(beside.open("w", newline="", encoding="utf-8")))
        return self

    def add(
        self,
        names: Sequence[str],
        scores: np.ndarray,
        p_values: np.ndarray | None,
        decisions: np.ndarray | None,
        labels: np.ndarray | None = None,
        carried: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write some samples.

        Args:
            names: ``n`` names.
            scores: ``(n,)``, NaN for samples without any value.
            p_values: one for each sample with a score; None without decisions.
            decisions: 0 or 1 for each sample with a score; None without decisions, and with ``fdr``.
            labels: ``(n,)`` of 0, 1 and -1; None where the data has none.
            carried: further columns ``(n,)`` by name; those of the first samples decide which are written.
        """
        if self._carried is None:
            self._carried = list(carried or {})
            headers = [f"{name} in the data" if name in COLUMNS else name for name in self._carried]
            self._writer.writerow([*COLUMNS, *headers])
        empty = np.full(len(names), "")
        more = zip(*((carried or {}).get(name, empty) for name in self._carried), strict=True)
        columns = more if self._carried else ((),) * len(names)
        valued = ~np.isnan(scores)
        undecided = [""] * int(valued.sum())
        p = undecided if p_values is None else p_values
        anomaly = undecided if decisions is None else decisions
        judged = zip(scores[valued], p, anomaly, strict=True)
        self._writer.writerows(
            (name, *(next(judged) if has_value else ("", "", "")), *further)
            for name, has_value, further in zip(names, valued, columns, strict=True)
        )
        self.n += len(names)
        self.without_value += int((~valued).sum())
        self.anomalous += 0 if decisions is None else int(decisions.sum())
        if self.fdr is not None and p_values is not None:
            decisions = sum(map(len, self._p_values)) + np.arange(len(p_values))  # positions until they are known
            self._p_values.append(p_values)
        if labels is not None:
            self._keep(scores[valued], labels[valued], decisions)

    def _keep(self, scores: np.ndarray, labels: np.ndarray, decisions: np.ndarray | None) -> None:
        labelled = (labels == 0) | (labels == 1)
        if self.labelled + labelled.sum() <= MOST_LABELLED:
            self.labelled += int(labelled.sum())
            self._judged.append(
                (scores[labelled], labels[labelled], None if decisions is None else decisions[labelled])
            )

    def too_few_scores(self, scores: int) -> str | None:
        """See :func:`metaad_zoo.evaluation.selection.too_few_scores`; None without ``fdr``."""
        return None if self.fdr is None else too_few_scores(_joined(self._p_values), self.fdr, scores)

    def _select(self, written: Path) -> None:
        """Fill in the decisions."""
        assert self.fdr is not None
        flags = selected(_joined(self._p_values), self.fdr).astype(np.int64)
        self.anomalous = int(flags.sum())
        self._judged = [(scores, labels, flags[positions]) for scores, labels, positions in self._judged]
        decisions = iter(flags.tolist())
        with (
            replacing(written) as beside,
            written.open(newline="", encoding="utf-8") as rows,
            beside.open("w", newline="", encoding="utf-8") as decided,
        ):
            reader, writer = csv.reader(rows), csv.writer(decided)
            writer.writerow(next(reader))
            writer.writerows([*row[:3], next(decisions) if row[1] else "", *row[4:]] for row in reader)

    def figures(self) -> dict[str, Figure]:
        """Figures of the labelled samples, see :func:`metaad_zoo.evaluation.labelled.labelled_figures`; empty without
        labels of both kinds."""
        if not self._judged:
            return {}
        scores, labels = (np.concatenate([part[i] for part in self._judged]) for i in range(2))
        decisions = [flags for _, _, flags in self._judged if flags is not None]
        flagged = np.concatenate(decisions) if len(decisions) == len(self._judged) else None
        return labelled_figures(scores, labels, flagged)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._carried is None and kind is None:  # no sample was added
            self._writer.writerow(COLUMNS)
        self._open.__exit__(kind, error, trace)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])

"""Sequence episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from metaad_zoo.backbones.missing import ANY
from metaad_zoo.data.domain_splits import DomainSplitter
from metaad_zoo.data.generated_series import GeneratedOptions
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.labelled_series import LabelledSeries
from metaad_zoo.data.modules.base import EpisodeDataModule
from metaad_zoo.data.read.roles import ColumnOptions, Missing
from metaad_zoo.data.read.series_folder import FileOptions, read_own_series
from metaad_zoo.data.series import Fit, FittedSequences, SequenceArrays, SeriesSet
from metaad_zoo.data.splits import USUAL_SHARES, split_by_counts, split_by_patterns
from metaad_zoo.data.synthetic import create_synthetic
from metaad_zoo.data.windows import WindowRule, cut
from metaad_zoo.episodes import (
    ClassTaskPool,
    Domain,
    DomainTaskPool,
    TaskPool,
    fingerprint,
    fingerprints_by_class,
)

Splits = dict[str, list[str]] | list[int]


class SequenceEpisodes(EpisodeDataModule):
    """Few-shot anomaly-detection tasks over sequences.

    Long series (a machine, a channel, a file) are cut into windows, each series is a domain: its first, training part
    gives the support, the rest the query, and no window of the one shares a time point with one of the other. Short
    sequences with classes (pen tracks, spoken words) give class-as-normal tasks. Generated signals need no files.

    Args:
        dataset: a known name such as ``smd`` or ``spoken_digits``; several names of sets of long series, whose domains
            are joined; ``"own"`` for the files at ``root``; or ``"generated"``.
        root: your own files (``"own"``): a CSV or Parquet file, an ``.npz``, a folder of them, or the layout of the
            Numenta Anomaly Benchmark, see :func:`metaad_zoo.data.read.series_folder.read_own_series`. For a known
            name: where its files lie (default ``METAAD_DATA``).
        splits: which domains or classes go where: for each of ``train``, ``val``, ``test`` a list of fnmatch patterns,
            or three counts, drawn at random by ``seed`` from the domains that can be tested. None, for own series
            alone: about 60, 20 and 20 % of those.
        split_by: what the counts count: ``"class"``: domains or classes; ``"parent"``: all before a name's last
            ``/``.
        anomalies: source of anomalies in class-as-normal tasks: ``"pair"``: one other class; ``"rest"``: all others.
        window: steps of a window.
        stride: steps from one window's start to the next one's.
        min_anomalous: share of a window's points that must be anomalous for the window to be; with fewer, but some, it
            is left out. 0: any point will do.
        support_share: the first share of a series that gives the support, where it has no training part of its own.
        length: steps of class-as-normal sequences; None takes the longest sequence's.
        fit: how sequences are brought to ``length``: ``"pad"`` (NaN behind the end, or cut off) or ``"resample"``.
        label: label column of own files; None looks for a usual name.
        time: time column of own files; None looks for one.
        ignore: columns of own files that are left out.
        columns: the channels, where these columns alone are to be used; None takes all that are no label, time,
            counter or identifier.
        decimal: ``","`` where numbers have decimal commas, ``"."`` where commas separate thousands; None infers it
            from the numbers.
        missing: what to do about missing values in own files: ``"impute"`` keeps them as NaN, ``"drop"`` drops the
            rows, ``"refuse"`` refuses the file.
        resample: seconds a step, to bring own files of different sampling together by linear interpolation.
        synthetic: names of synthetic anomalies, for meta-training alone: in all episodes of series without anomalies of
            their own, and in a share of the others'.
        synthetic_share: that share.
        generated: the tasks of ``dataset="generated"``.
        kwargs: arguments of :class:`metaad_zoo.data.EpisodeDataModule`.

    Raises:
        ValueError: a name is unknown, files are missing or damaged, or a split is too small; before any training.

    Memory: all series are held as float32, steps x channels each; windows are cut when they are read.
    """

    def __init__(
        self,
        dataset: str | list[str] = "own",
        root: str | None = None,
        splits: Splits | None = None,
        split_by: Literal["class", "parent"] = "class",
        anomalies: Literal["pair", "rest"] = "pair",
        window: int = 64,
        stride: int = 16,
        min_anomalous: float = 0.0,
        support_share: float = 0.3,
        length: int | None = None,
        fit: Fit = "pad",
        label: str | None = None,
        time: str | None = None,
        ignore: list[str] | None = None,
        columns: list[str] | None = None,
        decimal: Literal[",", "."] | None = None,
        missing: Missing = "impute",
        resample: float | None = None,
        synthetic: list[str] | None = None,
        synthetic_share: float = 0.5,
        generated: GeneratedOptions = GeneratedOptions(),  # noqa: B008 - frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        dataset = dataset[0] if isinstance(dataset, list) and len(dataset) == 1 else dataset
        self.dataset, self.root, self.splits, self.split_by = dataset, root, splits, split_by
        self.anomalies, self.length, self.fit, self.generated = anomalies, length, fit, generated
        self.rule = WindowRule(window, stride, min_anomalous, support_share)
        chosen = None if columns is None else tuple(columns)
        self.files = FileOptions(ColumnOptions(label, time, tuple(ignore or ()), chosen, decimal, missing), resample)
        self.synthetic, self.synthetic_share = synthetic, synthetic_share
        self._skipped: list[str] = []

    @cached_property
    def source(self) -> SeriesSet | FittedSequences:
        """All series, or all short sequences at their common length."""
        names = [self.dataset] if isinstance(self.dataset, str) else self.dataset
        read = [self._read(name) for name in names]
        if len(read) == 1 and isinstance(read[0], SequenceArrays):
            if self.synthetic:
                raise ValueError(
                    f"data.synthetic={self.synthetic} is for long series; {names[0]} has classes, of which others give "
                    "the anomalies: set it to null"
                )
            return read[0].fitted(self.length, self.fit)
        sets = [s for s in read if isinstance(s, SeriesSet)]
        if len(sets) < len(read) or not sets:
            raise ValueError(
                f"data.dataset={names} can't be joined: only sets of long series can, each of which gives domains"
            )
        series = [series for part in sets for series in part.series]
        return SeriesSet("+".join(s.name for s in sets), series, [why for s in sets for why in s.skipped])

    def _read(self, name: str) -> SeriesSet | SequenceArrays:
        if name == "own":
            if not self.root:
                raise ValueError("data.dataset is 'own' but data.root names no files: set data.root=PATH")
            return read_own_series(Path(self.root).expanduser(), self.files)
        source: SeriesSet | SequenceArrays = read_dataset(name, "sequence", self.root, others=("generated", "own"))
        return source

    @cached_property
    def domains(self) -> list[Domain]:
        """All series that can be used, in windows.

        Raises:
            ValueError: there is none.
        """
        source = self.source
        assert isinstance(source, SeriesSet)
        notes: dict[str, list[tuple[str, int]]] = defaultdict(list)
        domains, reasons = [], []
        for series in source.series:
            if not series.varies:
                reasons.append(f"{series.name}: no channel varies")
                continue
            try:
                domain, left_out = cut(series, self.rule)
            except ValueError as error:
                reasons.append(str(error))
                continue
            domains.append(domain)
            for why, n in left_out.items():
                notes[why].append((series.name, n))
        if not domains:
            raise ValueError(f"no series of {self.root or source.name} can be used: {'; '.join(reasons[:5])}")
        counts = {why: sum(n for _, n in windows) for why, windows in notes.items()}
        self._skipped = source.skipped + reasons
        self._skipped += [
            f"{counts[w]} windows {w}, in {len(windows)} series ({windows[0][0]}, ...)" for w, windows in notes.items()
        ]
        return domains

    @property
    def skipped(self) -> list[str]:
        return [*self._skipped, *self._split[1]] if self._is_series else []

    @property
    def _is_series(self) -> bool:
        return self.dataset != "generated" and isinstance(self.source, SeriesSet)

    @cached_property
    def pools(self) -> Mapping[str, TaskPool]:
        if self.dataset == "generated":
            return self.generated.pools(self.rule.window, self.seed)
        source = self.source
        if isinstance(source, SeriesSet):
            return self._split[0]
        if self.splits is None:
            raise ValueError(f"data.splits is not set: say which of {list(source.class_names)[:20]} go where")
        if isinstance(self.splits, dict):
            chosen = split_by_patterns(source.class_names, self.splits)
        else:
            fixed = self._fixed_splits(f"{source.name}/")
            chosen = split_by_counts(source.class_names, self.splits, self.split_by, self.seed, fixed)
        return {split: ClassTaskPool(source, names, self.anomalies) for split, names in chosen.items() if names}

    @cached_property
    def _split(self) -> tuple[Mapping[str, TaskPool], list[str]]:
        """The pools of domains, and what was left out of them."""
        overlap = self.rule.stride < self.rule.window
        specs = (self.episode, self.test_episode)
        if overlap and any(s.support_anomalous + max(s.unlabelled_anomalous_range) for s in specs):
            raise ValueError(
                f"anomalous support windows would share time points with the query's: set data.stride to at least "
                f"data.window={self.rule.window}, or support_anomalous and contamination to 0"
            )
        splitter = DomainSplitter(
            self.episode,
            self.test_episode,
            create_synthetic(self.synthetic) if self.synthetic else None,
            self.synthetic_share if self.synthetic else 0.0,
            self.seed,
        )
        splits: Mapping[str, Sequence[str]] | Sequence[int] | None = self.splits
        if splits is None and self.dataset != "own":
            raise ValueError(f"data.splits is not set: say which of {[d.name for d in self.domains][:20]} go where")
        return splitter.pools(self.domains, splits, self.split_by, self._fixed_splits())

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        if self.dataset == "generated":
            return {}
        if isinstance(self.source, FittedSequences):
            names = [f"{self.source.name}/{c}" for c in self.source.class_names]
            return fingerprints_by_class(names, self.source.labels, self.source.values)
        return {s.name: fingerprint(s.values, *([] if s.labels is None else [s.labels])) for s in self.source.series}

    def labelled_series(self, stride: int) -> list[LabelledSeries]:
        """The test split's series whole, those with labels, for an evaluation point by point.

        Args:
            stride: steps from one scored window to the next.

        Raises:
            ValueError: the data are no long series, or there is no test split.
        """
        pool = self.pools.get("test")
        if not isinstance(pool, DomainTaskPool):
            raise ValueError(
                f"data.dataset={self.dataset} has no long series to test point by point: short sequences and generated "
                "signals are judged as a whole; take labelled series, with a test split"
            )
        assert isinstance(self.source, SeriesSet)
        series = {s.name: s for s in self.source.series if s.labels is not None}
        return [LabelledSeries.of(series[d.name], d, self.rule, stride) for d in pool.domains if d.name in series]

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        if self.dataset == "generated":
            return {"sequence": (self.rule.window, 1)}
        if isinstance(self.source, FittedSequences):
            return {"sequence": tuple(self.source.values.shape[1:])}
        channels = {s.channels for s in self.source.series}
        return {"sequence": (self.rule.window, channels.pop() if len(channels) == 1 else ANY)}

    def summary(self) -> Table:
        table = super().summary()
        if self._is_series and self.splits is None:
            shares = ", ".join(f"{share:.0%}" for share in USUAL_SHARES)
            table.caption = (
                f"data.splits is not set: {shares} of the domains that can be tested, by data.seed={self.seed}"
            )
        return table

    def description(self) -> dict[str, Any]:
        chosen = {split: sorted(pool.members) for split, pool in self.pools.items()}
        about: dict[str, Any] = {"window": self.rule.window}
        if self.dataset == "generated":
            chosen = {split: [f"{split}: {len(laws)} laws"] for split, laws in chosen.items()}
            about["generated"] = asdict(self.generated)
        elif self._is_series:
            about |= {"stride": self.rule.stride, "min_anomalous": self.rule.min_anomalous}
            about |= {"support_share": self.rule.support_share, "resample": self.files.resample}
            about |= {"missing": self.files.columns.missing, "synthetic": self.synthetic, "left_out": self.skipped}
            about["synthetic_share"] = self.synthetic_share if self.synthetic else 0.0
        else:
            about = {"length": self.input_shapes["sequence"][0], "fit": self.fit, "anomalies": self.anomalies}
        return {
            "dataset": "generated" if self.dataset == "generated" else self.source.name,
            "splits": chosen,
            **about,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            **self._episode_settings,
        }

"""The folder that `metaad explain` writes: pictures, attributions and boxes, in constant memory."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaad_zoo.atomic_write import replacing
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.read.roles import Schema
from metaad_zoo.detector import Detector
from metaad_zoo.evaluation.calibration import threshold
from metaad_zoo.evaluation.decisions import Calibrate
from metaad_zoo.evaluation.explanation import Explanation
from metaad_zoo.evaluation.selection import selected
from metaad_zoo.explain.archive import GrowingArchive
from metaad_zoo.explain.figures import explanation_figure
from metaad_zoo.explain.maps import AT_ONCE, beside_its_picture
from metaad_zoo.explain.overlay import Region, find_regions, overlay, region_level

Record = Callable[[Chunk, np.ndarray, np.ndarray | None, np.ndarray | None], None]
"""Receives a chunk of samples with their scores, p-values and decisions."""
Decide = Callable[[Chunk, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""p-values and decisions, 0 or 1, of the samples of a chunk whose score is not NaN."""
BOX_COLUMNS = ("sample", "score", "p_value", "anomaly", "picture", *(f.name for f in fields(Region)))


@dataclass(frozen=True)
class Choice:
    """Which samples are explained, and how they are judged.

    Args:
        decided: whether samples are judged; False gives neither p-values nor boxes.
        only_anomalous: explain only the samples that are called anomalous.
        top: explain only this number of samples, those of the highest scores, in their order; None: all.
        alpha: false-alarm rate of the decisions, see :meth:`metaad_zoo.Detector.predict`.
        calibrate: see there.
        contamination: see there.
        fdr: bound on the false discovery rate, which then decides in place of ``alpha``; see
            :meth:`metaad_zoo.Detector.select`. It needs ``top``: nothing is decided before all samples are scored, and
            memory holds the samples that may be explained.

    Raises:
        ValueError: ``top`` is below 1, ``only_anomalous`` goes without decisions, or ``fdr`` without ``top``.
    """

    decided: bool = True
    only_anomalous: bool = False
    top: int | None = None
    alpha: float | None = None
    calibrate: Calibrate | None = None
    contamination: float | None = None
    fdr: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}; expected a number of samples, at least 1")
        if self.only_anomalous and not self.decided:
            raise ValueError("only_anomalous=True needs decisions: set decided=True")
        if self.fdr is not None and self.top is None:
            raise ValueError("fdr decides when all samples are scored: set top, the number of samples to explain")

    def threshold(self, detector: Detector) -> float | None:
        """Score above which samples are called anomalous; None without decisions, and with ``fdr``.

        Raises:
            RuntimeError, ValueError: the detector can't decide; see :meth:`metaad_zoo.Detector.predict`.
        """
        if not self.decided or self.fdr is not None:
            return None
        rate, way = detector.way_to_decide(self.alpha, self.calibrate, self.contamination)
        return threshold(detector.normal_scores(way, self.contamination), rate)


@dataclass
class Explained:
    """Progress of :func:`write_explanations`.

    Attributes:
        samples: number of samples that were read.
        anomalous: number of those that are called anomalous; None without decisions.
        without_value: number of those without any value, such as files that can't be read.
        pictures: number of pictures.
        boxes: number of boxes; None for detectors without heat maps.
        threshold: score above which samples are called anomalous; None without decisions, or if ``fdr`` selects none.
        done: share of the samples that were read.
    """

    samples: int = 0
    anomalous: int | None = None
    without_value: int = 0
    pictures: int = 0
    boxes: int | None = None
    threshold: float | None = None
    done: float = 0.0


@dataclass(frozen=True)
class _Judged:
    """One sample with its score and decision."""

    position: int
    name: str
    sample: Mapping[str, Tensor] = field(repr=False)
    score: float
    p_value: float | None
    anomaly: int | None


def write_explanations(
    detector: Detector,
    chunks: Iterable[Chunk],
    out: Path,
    method: Explanation = "auto",
    choice: Choice = Choice(),
    schemas: Mapping[str, Schema] | None = None,
    original: Callable[[int], Tensor | None] = lambda position: None,
    tick: Callable[[Explained], None] = lambda figures: None,
    record: Record = lambda chunk, scores, p_values, decisions: None,
    decide: Decide | None = None,
) -> Explained:
    """Write a picture of each sample, ``explanations.npz`` with their attributions, and ``boxes.csv``.

    A detector with heat maps (``method="patches"``) gives photographs at their own size with the map laid over, and
    outlines of what lies above the threshold (:func:`metaad_zoo.explain.region_level`) in those that are called
    anomalous; ``boxes.csv`` has a row for each box, in pixels of the photograph, and one without a box for each other
    picture. Other detectors give a figure of each sample beside its attributions.

    The archive holds ``sample`` (the names), ``score``, ``attribution/<modality>`` in the samples' shapes, with several
    modalities ``compared_in``, the names of those that a sample shares with the support, and with ``method="nearest"``
    also ``nearest_support``, indices into the support set.

    Memory holds one chunk, and ``choice.top`` samples.

    Args:
        detector: fitted detector.
        chunks: samples, such as a :class:`metaad_zoo.modality.streams.SampleStream`.
        out: folder, created if it does not exist.
        method: attribution method, see :meth:`metaad_zoo.Detector.explain`.
        choice: which samples are explained.
        schemas: schemas by modality, for the names of channels or columns; read once samples are read.
        original: gives the photograph ``(C, H, W)`` uint8 of a sample by its position; None: the sample is drawn.
        tick: called with the figures so far, after each step.
        record: called with each chunk, its scores ``(n,)``, NaN for samples without any value, and the p-values and
            decisions of the others; None without decisions, the decisions None with ``choice.fdr``.
        decide: decides in place of the detector's fixed threshold.

    Raises:
        RuntimeError, ValueError: the detector can't decide or explain; see :meth:`metaad_zoo.Detector.predict` and
            :meth:`metaad_zoo.Detector.explain`.
    """
    figures = Explained(threshold=choice.threshold(detector), anomalous=0 if choice.decided else None)
    mapped = detector.explainer().mapped if method in ("auto", "patches") else None
    out.mkdir(parents=True, exist_ok=True)
    with (
        GrowingArchive(out / "explanations.npz") as archive,
        nullcontext() if mapped is None else _Boxes(out / "boxes.csv") as boxes,
    ):
        p_values: list[np.ndarray] = []
        rows = _chosen(_judged(detector, chunks, choice, figures, record, p_values, decide), choice.top)
        for batch in _batches(rows if choice.fdr is None else _selected(rows, detector, choice, figures, p_values)):
            heats, maps = _explain(detector, batch, method if mapped is None else "patches", archive)
            for i, row in enumerate(batch):
                figures.pictures += 1
                path = out / f"{figures.pictures:04}_{_plain(row.name)}.png"
                if mapped is None or boxes is None or heats is None:
                    _draw_figure(path, row, {name: x[i] for name, x in maps.items()}, schemas, _title(detector, row))
                else:
                    image, photograph = row.sample[mapped], original(row.position)
                    picture, heat = beside_its_picture(heats[i], image, photograph, detector.aspect)
                    boxes.add(row, path, _draw_overlay(path, row, picture, heat, figures.threshold))
                    figures.boxes = boxes.n
            tick(figures)
        if not figures.pictures:
            archive.add(sample=np.zeros(0, "U1"), score=np.zeros(0))
    return figures


def _judged(
    detector: Detector,
    chunks: Iterable[Chunk],
    choice: Choice,
    figures: Explained,
    record: Record,
    p_values: list[np.ndarray],
    decide: Decide | None,
) -> Iterator[_Judged]:
    """Samples that may be explained, with their scores and decisions; counts all samples.

    With ``choice.fdr`` nothing is decided: ``p_values`` gets those of all samples.
    """
    way = (choice.alpha, choice.calibrate, choice.contamination)
    leave_one_out = choice.contamination is not None
    for chunk in chunks:
        scores = detector.score_known(chunk.samples, leave_one_out)
        valued, start = np.flatnonzero(~np.isnan(scores)), figures.samples
        p: np.ndarray | None = None
        decisions: np.ndarray | None = None
        if decide is not None:
            p, decisions = decide(chunk, scores)
        elif choice.decided:
            several = {m: x[valued] for m, x in chunk.samples.items()} if len(chunk.samples) > 1 else None
            p, decisions = detector.decide(scores[valued], *way, several)
        if choice.fdr is not None and p is not None:
            p_values.append(p)
            decisions = None
        record(chunk, scores, p, decisions)
        figures.samples, figures.done = start + len(scores), chunk.done
        figures.without_value += len(scores) - len(valued)
        if decisions is not None:
            figures.anomalous = (figures.anomalous or 0) + int(decisions.sum())
        for k, i in enumerate(valued.tolist()):
            decision = None if decisions is None else int(decisions[k])
            if not choice.only_anomalous or decision or choice.fdr is not None:
                sample = {name: x[i] for name, x in chunk.samples.items()}
                p_value = None if p is None else float(p[k])
                yield _Judged(start + i, chunk.names[i], sample, float(scores[i]), p_value, decision)


def _selected(
    rows: Iterator[_Judged], detector: Detector, choice: Choice, figures: Explained, p_values: list[np.ndarray]
) -> Iterator[_Judged]:
    """The rows with decisions by ``choice.fdr``, once all samples are scored."""
    assert choice.fdr is not None
    candidates = list(rows)  # also scores all samples
    p = np.concatenate([np.zeros(0), *p_values])
    flags = selected(p, choice.fdr)
    figures.anomalous = int(flags.sum())
    highest = float(p[flags].max()) if figures.anomalous else 0.0
    if figures.anomalous:
        way = detector.way_to_decide(choice.alpha, choice.calibrate, choice.contamination)[1]
        figures.threshold = threshold(detector.normal_scores(way, choice.contamination), highest)
    for row in candidates:
        anomaly = int(row.p_value is not None and row.p_value <= highest)
        if anomaly or not choice.only_anomalous:
            yield replace(row, anomaly=anomaly)


def _chosen(rows: Iterator[_Judged], top: int | None) -> Iterator[_Judged]:
    """All rows, or those of the highest scores, in memory of their own."""
    if top is None:
        yield from rows
        return
    highest: list[_Judged] = []
    for row in rows:
        if len(highest) < top or row.score > highest[-1].score:
            own = {name: x.clone() for name, x in row.sample.items()}  # a view would hold its whole chunk
            highest.append(_Judged(row.position, row.name, own, row.score, row.p_value, row.anomaly))
            highest.sort(key=lambda row: (-row.score, row.position))
            del highest[top:]
    yield from highest


def _batches(rows: Iterator[_Judged]) -> Iterator[list[_Judged]]:
    """Rows of samples of one shape, some at a time."""
    batch: list[_Judged] = []
    for row in rows:
        shapes = {name: x.shape for name, x in row.sample.items()}
        if batch and (len(batch) == AT_ONCE or shapes != {name: x.shape for name, x in batch[0].sample.items()}):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _plain(name: str) -> str:
    """The stem of a sample's name, fit for a file name."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)


def _explain(
    detector: Detector, batch: list[_Judged], method: Explanation, archive: GrowingArchive
) -> tuple[Tensor | None, dict[str, np.ndarray]]:
    """Heat maps ``(n, H, W)`` if the method gives some, and attributions by modality, which the archive gets too."""
    samples = {name: torch.stack([row.sample[name] for row in batch]) for name in batch[0].sample}
    archive.add(sample=np.array([row.name for row in batch]), score=np.array([row.score for row in batch]))
    heats = None
    if method == "patches":
        explainer = detector.explainer()
        heats, parts = explainer.localise(explainer.units(samples))
        maps = {name: x.float().cpu().numpy() for name, x in parts.items()}
    else:
        attributions = detector.explain(samples, method)
        maps = attributions if isinstance(attributions, dict) else dict.fromkeys(samples, attributions)
    archive.add(**{f"attribution/{name}": x for name, x in maps.items()})
    if len(samples) > 1:
        archive.add(compared_in=np.array([" ".join(names) for names in detector.compared_in(samples)]))
    if method == "nearest":
        archive.add(nearest_support=detector.nearest_support(samples)[0])
    return heats, maps


def _draw_overlay(path: Path, row: _Judged, picture: np.ndarray, heat: np.ndarray, limit: float | None) -> list[Region]:
    """Write the photograph with its heat map; its anomalous regions where it is called anomalous."""
    level = limit
    if limit is not None:
        level = region_level(heat, limit) if row.anomaly else max(limit, np.nextafter(heat.max(), np.float32(np.inf)))
    Image.fromarray(overlay(picture, heat, level)).save(path)
    return [] if level is None else find_regions(heat, level)


def _draw_figure(
    path: Path, row: _Judged, maps: Mapping[str, np.ndarray], schemas: Mapping[str, Schema] | None, title: str
) -> None:
    sample = {name: x.cpu().numpy() for name, x in row.sample.items()}
    names = {name: schema.features for name, schema in (schemas or {}).items()}
    explanation_figure(sample, maps, names, title).savefig(path, dpi=110)


def _title(detector: Detector, row: _Judged) -> str:
    """Name and score of a sample, and the modalities that its comparison with the support lacks."""
    (compared,) = detector.compared_in({name: x.unsqueeze(0) for name, x in row.sample.items()})
    lost = [name for name in row.sample if name not in compared]
    missing = f" (without {', '.join(lost)}, missing in the sample or the support)" if lost else ""
    return f"{row.name}: {row.score:.3g}{missing}"


class _Boxes:
    """Writes ``boxes.csv``, a row a box; a context manager.

    Args:
        path: file to write; it appears when the context ends without an error.
    """

    def __init__(self, path: Path) -> None:
        self.n, self._path, self._open = 0, path, ExitStack()

    def __enter__(self) -> _Boxes:
        beside = self._open.enter_context(replacing(self._path))
        self._writer = csv.writer(self._open.enter_context(beside.open("w", newline="", encoding="utf-8")))
        self._writer.writerow(BOX_COLUMNS)
        return self

    def add(self, row: _Judged, picture: Path, regions: list[Region]) -> None:
        """Write a row for each region of a picture, or one without a box."""
        self.n += len(regions)
        judged = [row.name, row.score, row.p_value, row.anomaly, picture.name]
        self._writer.writerows([*judged, *astuple(region)] for region in regions)
        if not regions:
            self._writer.writerow([*judged, *[""] * len(fields(Region))])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

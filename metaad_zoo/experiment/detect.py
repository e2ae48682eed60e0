"""A user's job in one go: score new samples with an adapted detector, explain what is flagged, and write a report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.data.chunks import Chunk
from metaad_zoo.detector import Detector
from metaad_zoo.evaluation.decisions import ROUNDING
from metaad_zoo.evaluation.labelled import Figure
from metaad_zoo.evaluation.plots import drawing, inline_svg
from metaad_zoo.evaluation.titles import TITLES
from metaad_zoo.experiment.score_file import ScoreCsv
from metaad_zoo.experiment.series_decisions import SeriesDecisions
from metaad_zoo.experiment.series_report import EVENTS, SeriesReport
from metaad_zoo.explain import Choice, Explained, write_explanations
from metaad_zoo.modality.streams import SampleStream
from metaad_zoo.zoo.manifest import support_in_words

SCORES, PICTURE, REPORT, EXPLANATIONS = "scores.csv", "scores.png", "report.html", "explanations"
SERIES = "series.png"
WRITTEN = (SCORES, PICTURE, REPORT, EVENTS, SERIES)
MOST_DRAWN = 5000
"""Number of samples, beside the flagged ones, from which on the picture and the report's list hold a part of them."""


@dataclass(frozen=True)
class Detection:
    """Result of :func:`detect`.

    Attributes:
        samples: number of samples.
        anomalous: number of samples that are called anomalous; None without decisions.
        without_value: number of samples without a score.
        explained: number of pictures in ``explanations/``.
        threshold: score above which samples are called anomalous; None without decisions.
        labelled: number of samples with labels of 0 or 1.
        figures: AUROC and other figures of the labelled samples; empty without labels of both kinds.
        fdr: bound on the false discovery rate that decided; None where a false-alarm rate did.
        none_selected: why nothing could be selected under ``fdr``; None otherwise.
        series: events, rates and drift of series (:class:`metaad_zoo.experiment.series_report.SeriesReport`).
    """

    samples: int
    anomalous: int | None
    without_value: int
    explained: int
    threshold: float | None
    labelled: int
    figures: dict[str, Figure]
    fdr: float | None = None
    none_selected: str | None = None
    series: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Row:
    """One sample of the report's list."""

    position: int
    name: str
    score: float
    p_value: float | None
    anomaly: int | None
    picture: str | None = None


def detect(
    detector: Detector,
    stream: SampleStream,
    out: Path,
    choice: Choice,
    tick: Callable[[Explained], None] = lambda figures: None,
    adaptive: bool = False,
    warn: Callable[[str], None] = lambda warning: None,
) -> Detection:
    """Score, decide and explain samples in one pass, and write a report.

    Args:
        detector: fitted detector.
        stream: samples.
        out: folder, created if it does not exist; gets ``scores.csv``, ``scores.png``, ``explanations/`` and
            ``report.html``; of series also ``events.csv`` and ``series.png``.
        choice: which samples are explained, and how they are judged.
        tick: called with the progress.
        adaptive: whether the threshold follows a series.
        warn: called once, when a series looks unlike its support.

    Raises:
        RuntimeError, ValueError: as :func:`metaad_zoo.explain.write_explanations`.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[_Row] = []
    report = _series_report(detector, stream, out, choice, adaptive, warn)
    with ScoreCsv(out / SCORES, choice.fdr) as written, nullcontext() if report is None else report:

        def record(chunk: Chunk, scores: np.ndarray, p: np.ndarray | None, decisions: np.ndarray | None) -> None:
            rows.extend(_rows(chunk.names, scores, p, decisions, written.n, choice.fdr))
            written.add(chunk.names, scores, p, decisions, chunk.labels, chunk.carried)

        explained = write_explanations(
            detector,
            stream,
            out / EXPLANATIONS,
            "auto",
            choice,
            stream.schemas,
            stream.original,
            tick,
            record,
            None if report is None else report.decide_windows,
        )
    reason = None
    if choice.fdr is not None:
        limit = np.inf if explained.threshold is None else explained.threshold
        rows = [replace(row, anomaly=int(row.score > limit)) for row in rows]
        reason = written.too_few_scores(len(detector.normal_scores(choice.calibrate, choice.contamination)))
    detection = Detection(
        written.n,
        written.anomalous if choice.decided else None,
        written.without_value,
        explained.pictures,
        None if adaptive else explained.threshold,
        written.labelled,
        written.figures(),
        choice.fdr,
        reason,
        None if report is None else report.as_json(),
    )
    picture = _draw(rows, detection)
    picture.savefig(out / PICTURE, dpi=150)
    _write_report(out, detector, detection, rows, picture)
    return detection


def _series_report(
    detector: Detector, stream: SampleStream, out: Path, choice: Choice, adaptive: bool, warn: Callable[[str], None]
) -> SeriesReport | None:
    """Events of series that are decided on window by window; None for other samples."""
    if not detector.reads_windows or not choice.decided or choice.fdr is not None:
        return None
    way = (choice.alpha, choice.calibrate, choice.contamination)
    decisions = SeriesDecisions(detector, *way, adaptive, points=False)
    return SeriesReport(detector, decisions, out / EVENTS, out / SERIES, False, stream.schemas, warn)


def _rows(
    names: list[str],
    scores: np.ndarray,
    p: np.ndarray | None,
    decisions: np.ndarray | None,
    start: int,
    fdr: float | None,
) -> list[_Row]:
    """Samples for the picture and the list; those that may be selected under ``fdr`` are among them."""
    rows, judged = [], 0
    for i, name in enumerate(names):
        if np.isnan(scores[i]):
            continue
        p_value, decision = (None if x is None else x[judged] for x in (p, decisions))
        judged += 1
        may_be = decision if fdr is None or p_value is None else p_value <= fdr + ROUNDING
        if may_be or (start + i) % max(1, (start + len(names)) // MOST_DRAWN) == 0:
            anomaly = None if decision is None else int(decision)
            rows.append(_Row(start + i, name, float(scores[i]), None if p_value is None else float(p_value), anomaly))
    return rows


def _draw(rows: list[_Row], detection: Detection) -> Drawing:
    """Scores in the order of the samples, the flagged ones in red, with the threshold."""
    with drawing():
        figure = Drawing(figsize=(7.5, 2.6), layout="constrained")
        axes = figure.subplots()
        for flagged, colour, label in ((False, "#0072b2", "normal"), (True, "#d55e00", "anomalous")):
            part = [row for row in rows if bool(row.anomaly) == flagged]
            if part:
                x, y = [row.position + 1 for row in part], [row.score for row in part]
                axes.scatter(x, y, s=12, color=colour, label=label if detection.threshold is not None else None)
        if detection.threshold is not None:
            axes.axhline(detection.threshold, color="#808080", linestyle="--", label="threshold")
            axes.legend(loc="upper left", frameon=False, ncols=3)
        axes.set(xlabel="sample, in the order of the data", ylabel="anomaly score")
        axes.margins(y=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _write_report(out: Path, detector: Detector, detection: Detection, rows: list[_Row], picture: Drawing) -> None:
    pictures = {_position(path): path for path in sorted((out / EXPLANATIONS).glob("*.png"))}
    highest = sorted(rows, key=lambda row: -row.score)[:50]
    template = resources.files("metaad_zoo.experiment").joinpath("detect.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        detection=detection,
        method=detector.method,
        support=support_in_words(detector.support_counts),
        conclusion=conclusion(detection),
        svg=inline_svg(picture, "scores", "anomaly score of each sample"),
        rows=highest,
        pictures=[f"{EXPLANATIONS}/{path.name}" for path in pictures.values()],
        titles=TITLES,
        scores=SCORES,
    )
    write_whole(out / REPORT, page.encode())


def _position(path: Path) -> int:
    return int(path.name.partition("_")[0])


def conclusion(detection: Detection) -> str:
    """The result in one sentence or two.

    Example:
        >>> conclusion(Detection(30, 7, 0, 7, 1.2, 0, {}))
        '7 of 30 samples are called anomalous: their score is above 1.2.'
    """
    if detection.anomalous is None:
        sentence = f"{detection.samples} samples are ranked by their score; nothing is called anomalous."
    else:
        sentence = f"{detection.anomalous} of {detection.samples} samples are called anomalous"
        sentence += "." if detection.threshold is None else f": their score is above {detection.threshold:.3g}."
        if detection.fdr is not None and detection.anomalous:
            sentence += f" At most {detection.fdr:.0%} of them are expected to be normal."
    if detection.figures:
        auroc = detection.figures["auroc"]
        sentence += f" On the {detection.labelled} labelled samples the AUROC is {100 * auroc.value:.1f} %"
        sentence += f" (95 % interval over samples {100 * auroc.ci95[0]:.1f} to {100 * auroc.ci95[1]:.1f})."
    return sentence

"""Self-contained HTML report of an evaluation."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.evaluation.conclusion import CONTROLS, conclusion, readable_names
from metaad_zoo.evaluation.metrics import MAX_FALSE_ALARMS, METRICS
from metaad_zoo.evaluation.plots import drawing, inline_svg, standalone_svg
from metaad_zoo.evaluation.report import PIXEL_TITLES, POINT_TITLES, RANGE_TITLES
from metaad_zoo.evaluation.report_figures import Drawn, figures_of, threshold_words
from metaad_zoo.evaluation.saved import ScoreTable, read_results, read_scores
from metaad_zoo.evaluation.titles import TITLES

COLUMNS = {
    "auroc": "AUROC",
    "pauroc": "partial AUROC",
    "ap": "AP",
    **{m: TITLES[m] for m in ("f1", "fpr")},
}
COLUMNS |= {m: TITLES[m] for m in METRICS if m not in COLUMNS}
COLUMNS |= PIXEL_TITLES | POINT_TITLES | RANGE_TITLES
PICTURES = {
    "best": "The episode on which the first method did best",
    "worst": "The episode on which the first method did worst",
    "episode": "One test episode, judged by the first method",
    "learning_curve": "How the training went: loss and validation AUROC against outer steps",
}
KNOWN_KEYS = ("protocol", "methods", "curves", "calibration", "environment")
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
EXPLANATIONS, BOXES = "explanations.npz", "boxes.csv"
"""Files that `metaad explain` writes next to its pictures."""
MOST_HEAT_MAPS, HEAT_MAP_SIDE = 8, 480
"""Number of heat maps on the page, and their longer side in pixels."""


@dataclass(frozen=True)
class Report:
    """Files written by :func:`write_report`.

    Attributes:
        page: the HTML file.
        figures: the pictures next to it, PNG and SVG.
        missing: sentences that name the content that the folder lacks.
    """

    page: Path
    figures: list[Path]
    missing: list[str]


def write_report(folder: Path) -> Report:
    """Write ``report.html`` and ``figures/`` into the folder of an evaluation or of a finished run.

    Args:
        folder: folder with ``results.json`` and, for curves, histograms and calibration, ``scores.parquet``. The page
            also shows pictures of `metaad explain` in this folder or in a folder of it.

    Raises:
        ValueError: there is no ``results.json``, or a file was not written by an evaluation.
    """
    results = read_results(folder)
    scores = read_scores(folder, list(results["methods"]))
    results, scores = _renamed(results, scores)
    drawn, missing = figures_of(results, scores)
    pictures = _pictures(folder)
    if not {"best", "worst"} <= {p["name"] for p in pictures}:
        missing.append("Pictures of the best and the worst episode: there is no best.png and worst.png.")
    files = _save(folder / "figures", drawn)
    page = folder / "report.html"
    write_whole(page, _render(folder, results, scores, drawn, pictures, missing))
    return Report(page, files, missing)


def _renamed(
    results: dict[str, Any], scores: dict[str, ScoreTable] | None
) -> tuple[dict[str, Any], dict[str, ScoreTable] | None]:
    """The same with the names of runs in place of their time stamps."""
    curves = results.get("curves") or {}
    tables = [results, *curves.values(), results.get("calibration") or {"methods": {}}]
    names = readable_names(dict.fromkeys(name for table in tables for name in table["methods"]))

    def named(table: dict[str, Any]) -> dict[str, Any]:
        return {**table, "methods": {names[name]: figures for name, figures in table["methods"].items()}}

    results = named(results)
    if curves:
        results["curves"] = {key: named(curve) for key, curve in curves.items()}
    if results.get("calibration"):
        results["calibration"] = named(results["calibration"])
    return results, None if scores is None else {names[name]: table for name, table in scores.items()}


def _heat_maps(folder: Path) -> list[dict[str, str]]:
    """Pictures that `metaad explain` wrote, those of the highest scores first, as data: addresses."""
    sources = [place for place in (folder, *sorted(folder.iterdir())) if (place / EXPLANATIONS).is_file()]
    pictures = []
    for place in sources:
        captions = _captions(place / BOXES)
        names = captions or {path.name: path.stem for path in sorted(place.glob("[0-9]*_*.png"))}
        pictures += [(place / name, caption) for name, caption in names.items() if (place / name).is_file()]
    return [{"caption": caption, "source": _thumbnail(path)} for path, caption in pictures[:MOST_HEAT_MAPS]]


def _captions(boxes: Path) -> dict[str, str]:
    """Sample and score by picture, the highest scores first; empty where there is no ``boxes.csv``."""
    if not boxes.is_file():
        return {}
    with boxes.open(newline="", encoding="utf-8") as file:
        rows = {row["picture"]: row for row in csv.DictReader(file)}
    ordered = sorted(rows.values(), key=lambda row: -float(row["score"] or "-inf"))
    return {row["picture"]: f"{row['sample']}: score {float(row['score']):.3g}" for row in ordered if row["score"]}


def _thumbnail(path: Path) -> str:
    image = Image.open(path).convert("RGB")
    image.thumbnail((HEAT_MAP_SIDE, HEAT_MAP_SIDE))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def _save(folder: Path, drawn: list[Drawn]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = []
    for item in drawn:
        png, svg = folder / f"{item.name}.png", folder / f"{item.name}.svg"
        with drawing():
            item.figure.savefig(png, dpi=160, facecolor="white", metadata={"Software": None})
        svg.write_text(standalone_svg(item.figure), encoding="utf-8")
        files += [png, svg]
    return files


def _pictures(folder: Path) -> list[dict[str, str]]:
    """The folder's pictures as data: addresses; an SVG inside ``<img>`` can neither run scripts nor fetch anything."""
    pictures = []
    for name, caption in PICTURES.items():
        for suffix, kind in KINDS.items():
            path = folder / f"{name}{suffix}"
            if path.is_file():
                data = base64.b64encode(path.read_bytes()).decode("ascii")
                pictures.append({"name": name, "caption": caption, "source": f"data:{kind};base64,{data}"})
                break
    return pictures


def _render(
    folder: Path,
    results: dict[str, Any],
    scores: dict[str, ScoreTable] | None,
    drawn: list[Drawn],
    pictures: list[dict[str, str]],
    missing: list[str],
) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "between": between,
        "number": number,
        "p_value": p_value,
        "words": threshold_words,
    }
    source = resources.files("metaad_zoo.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    methods, protocol = results["methods"], results["protocol"]
    first = next(iter(methods.values()))
    data = protocol.get("data")
    named = data.get("dataset") if isinstance(data, Mapping) else data
    return environment.from_string(source).render(
        title=str(named or folder.resolve().name),
        methods=methods,
        conclusion=conclusion(methods, protocol.get("alpha") if isinstance(protocol.get("alpha"), float) else None),
        controls=CONTROLS,
        heat_maps=_heat_maps(folder),
        columns={m: title for m, title in COLUMNS.items() if any(m in f["mean"] for f in methods.values())},
        floor=floor(methods, scores),
        n_tasks=len(first["tasks"]),
        unit="draws of the support" if "draws" in first else "tasks",
        n_episodes=sum(t.get("episodes", 1) for t in first["tasks"]),
        alpha=protocol.get("alpha"),
        partial=MAX_FALSE_ALARMS,
        figures=[
            {"name": f.name, "group": f.group, "title": f.title, "caption": f.caption, "svg": _inline(f)} for f in drawn
        ],
        groups=list(dict.fromkeys(f.group for f in drawn)),
        calibration=results.get("calibration"),
        pictures=pictures,
        missing=missing,
        protocol=protocol,
        environment=results.get("environment") or {},
        other={k: v for k, v in results.items() if k not in KNOWN_KEYS},
    )


def _inline(drawn: Drawn) -> Markup:
    # The serialiser of the XML tree has escaped every text in it.
    return Markup(inline_svg(drawn.figure, drawn.name, f"{drawn.title}. {drawn.caption}"))


def floor(methods: Mapping[str, Any], scores: Mapping[str, ScoreTable] | None) -> dict[str, Any] | None:
    """F1 of flagging every sample: that of a method that does so, or else computed from the labels.

    Args:
        methods: ``methods`` of ``results.json``.
        scores: scores by method; None without ``scores.parquet``.

    Returns:
        ``name`` (None without such a method) and ``f1``; None where it can't be computed.
    """
    for name, figures in methods.items():
        mean = figures["mean"]
        if mean.get("recall") == 1 and mean.get("fpr") == 1 and "f1" in mean:
            return {"name": name, "f1": mean["f1"]}
    if not scores:
        return None
    tasks = [
        [2 * e.labels.mean() / (1 + e.labels.mean()) for e in episodes]
        for episodes in next(iter(scores.values())).episodes_by_task()
    ]
    return {"name": None, "f1": float(sum(sum(t) / len(t) for t in tasks) / len(tasks))}


def percent(value: float | None) -> str:
    """A share in per cent; a dash for None.

    Example:
        >>> percent(0.9234), percent(-0.021), percent(None)
        ('92.3', '−2.1', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}".replace("-", "−")  # noqa: RUF001 (a minus sign is meant)


def between(ends: list[float] | None) -> str:
    """An interval of shares in per cent; empty for None."""
    return "" if not ends else f"{percent(ends[0])} to {percent(ends[1])}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with few digits; a dash for None."""
    return "–" if value is None else f"{value:.{digits}g}".replace("-", "−")  # noqa: RUF001


def p_value(value: float | None) -> str:
    """A p-value with ``=`` or ``<``; empty for None.

    Example:
        >>> p_value(0.0321), p_value(1e-7)
        ('p = 0.032', 'p < 0.001')
    """
    if value is None:
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"

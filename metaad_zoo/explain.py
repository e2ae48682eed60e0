"""Pictures of what made a score, and the folder of them that `metaad explain` writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure

from metaad_zoo.detector import Detector
from metaad_zoo.episodes import Samples
from metaad_zoo.evaluation.explanation import Explanation

CHANNELS_SHOWN, COLUMNS_SHOWN = 6, 20
RAISES, LOWERS = "C3", "C0"
FULL = 0.98
"""Share of the attributions that are not zero below which colours tell them apart."""
BLUE, RED = "#3b8bff", "#ff3b30"
"""Lowers, raises; over grey pixels."""
_BY_AXES = {3: "image", 2: "sequence", 1: "tabular"}
_HEIGHTS = {"image": 3.2, "sequence": 1.2, "tabular": 0.28}


def explanation_figure(
    sample: Any, attribution: Any, names: Mapping[str, Sequence[str]] | None = None, title: str = ""
) -> Figure:
    """One sample and its attributions: red raised the score, blue lowered it.

    An image is drawn beside a map of its pixels; a sequence as lines, the channels of the largest attributions first,
    shaded by step; a table row as bars, the columns of the largest attributions first.

    Args:
        sample: an array ``(C, H, W)``, ``(T, C)`` or ``(D,)``, or a dict of these by modality; raw.
        attribution: in the sample's shape, or a dict likewise: one sample of what ``detector.explain`` gives.
        names: by modality (``"sequence"``, ``"tabular"``), the names of channels or columns.
        title: above all.

    Raises:
        ValueError: the two don't fit each other, or there are not as many names as columns.

    Example:
        >>> figure = explanation_figure(np.zeros(3), np.array([0.5, -1.0, np.nan]), {"tabular": ["a", "b", "c"]})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['b = 0', 'a = 0']
    """
    samples, maps = _by_modality(sample), _by_modality(attribution)
    seen, other = ({name: x.shape for name, x in part.items()} for part in (samples, maps))
    if seen != other:
        raise ValueError(f"expected an attribution in the shape of the sample, {seen}, saw {other}")
    parts = {name: x for name, x in samples.items() if not np.isnan(x).all()}
    if not parts:
        raise ValueError("this sample has no value that is there: nothing can be drawn")
    heights = [_height(name, x) for name, x in parts.items()]
    figure = Figure(figsize=(7.5, sum(heights) + 0.5 * bool(title)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    rooms = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for room, (name, x) in zip(rooms, parts.items(), strict=True):
        if name == "image":
            _image(room.subplots(1, 2), x, maps[name])
            continue
        labels = _names(name, x.shape[-1], names or {})
        if name == "sequence":
            shown = _largest_first(np.nansum(np.abs(maps[name]), 0), ~np.isnan(x).all(0), CHANNELS_SHOWN)
            _sequence(room.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0], x, maps[name], labels, shown)
        else:
            _bars(room.subplots(), x, maps[name], labels)
    return figure


def _by_modality(x: Any) -> dict[str, np.ndarray]:
    parts = x if isinstance(x, Mapping) else {_BY_AXES.get(np.ndim(x), "sample"): x}
    found = {name: np.asarray(part, np.float64) for name, part in parts.items()}
    for name, part in found.items():
        if _BY_AXES.get(part.ndim) != name:
            raise ValueError(f"expected one sample (C, H, W), (T, C) or (D,), saw {name!r} of shape {part.shape}")
    return found


def _names(modality: str, number: int, names: Mapping[str, Sequence[str]]) -> list[str]:
    what = "channel" if modality == "sequence" else "column"
    found = list(names.get(modality, [f"{what} {i}" for i in range(number)]))
    if len(found) != number:
        raise ValueError(f"expected {number} names, one a {what} of {modality!r}, saw {len(found)}: {found[:5]}")
    return found


def _height(modality: str, x: np.ndarray) -> float:
    shown = {"image": 1, "sequence": min(x.shape[-1], CHANNELS_SHOWN), "tabular": min(x.shape[-1], COLUMNS_SHOWN)}
    return _HEIGHTS[modality] * shown[modality] + 0.7


def _largest_first(size: np.ndarray, there: np.ndarray, most: int) -> list[int]:
    order = np.argsort(-np.where(there, np.nan_to_num(size), -1.0), kind="stable")[: min(most, int(there.sum()))]
    return [int(i) for i in order]


def _limit(attribution: np.ndarray) -> float:
    """The attribution from which on colours are fullest: a single cell far above all must not make the others pale."""
    sizes = np.abs(attribution[~np.isnan(attribution)])
    return max(float(np.quantile(sizes[sizes > 0], FULL)) if sizes.any() else 0.0, 1e-12)


def _image(axes: Sequence[Axes], x: np.ndarray, attribution: np.ndarray) -> None:
    pixels = np.moveaxis(x, 0, -1)
    low, high = np.nanmin(pixels), np.nanmax(pixels)
    pixels = (pixels - low) / max(high - low, 1e-12)
    grey = pixels.mean(-1)
    axes[0].imshow(pixels if pixels.shape[-1] == 3 else grey, cmap="gray", vmin=0, vmax=1)
    heat = np.nansum(attribution, 0)
    axes[1].imshow(0.3 + 0.5 * grey, cmap="gray", vmin=0, vmax=1)
    limit = _limit(heat)
    # Weak attributions let the image through, and are red or blue too: a pale one would look like a bright pixel.
    drawn = axes[1].imshow(
        heat,
        cmap=ListedColormap([BLUE, RED]),
        vmin=-limit,
        vmax=limit,
        alpha=np.minimum(np.abs(heat) / limit, 1.0),
        interpolation="nearest",
    )
    over_grey = LinearSegmentedColormap.from_list("over_grey", [BLUE, "#4d4d4d", RED])
    scale = ScalarMappable(drawn.norm, over_grey)
    axes[1].figure.colorbar(scale, ax=axes[1], label="attribution", extend="both")
    for one in axes:
        one.set(xticks=[], yticks=[])


def _sequence(
    axes: Sequence[Axes], x: np.ndarray, attribution: np.ndarray, labels: Sequence[str], shown: Sequence[int]
) -> None:
    limit = _limit(attribution)
    edges = np.arange(len(x) + 1) - 0.5
    for one, channel in zip(axes, shown, strict=True):
        one.plot(x[:, channel], color="black", linewidth=0.9, marker="." if len(x) < 3 else None)
        low, high = one.get_ylim()
        heat = np.ma.masked_invalid(attribution[None, :, channel])
        shade = one.pcolormesh(edges, [low, high], heat, cmap="bwr", vmin=-limit, vmax=limit, alpha=0.75, zorder=0)
        one.set(ylim=(low, high), xlim=(edges[0], edges[-1]))
        one.set_ylabel(labels[channel], fontsize=8)
    axes[-1].set_xlabel("step")
    axes[0].figure.colorbar(shade, ax=list(axes), label="attribution", extend="both")


def _bars(axes: Axes, x: np.ndarray, attribution: np.ndarray, labels: Sequence[str]) -> None:
    shown = _largest_first(np.abs(attribution), ~np.isnan(attribution), COLUMNS_SHOWN)
    sizes = attribution[shown]
    axes.barh(range(len(shown)), sizes, color=[RAISES if size > 0 else LOWERS for size in sizes])
    axes.set_yticks(range(len(shown)), [f"{labels[i]} = {x[i]:.4g}" for i in shown], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    left = int((~np.isnan(attribution)).sum()) - len(shown)
    axes.set_xlabel("attribution" + (f" ({left} more columns are not shown)" if left else ""))


def write_explanations(
    detector: Detector,
    labels: Sequence[str],
    samples: Samples,
    out: Path,
    method: Explanation = "auto",
    names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a picture of each sample, and ``explanations.npz`` with all figures.

    The archive holds ``sample`` (the labels), ``score``, ``attribution/<modality>`` in the samples' shapes, and
    with ``method="nearest"`` also ``nearest_support``, indices into the support set.

    Args:
        detector: fitted.
        labels: of the samples, such as their files.
        samples: by modality ``(n, ...)``.
        out: folder, made if it is not there.
        method: of explaining.
        names: of channels or columns, see :func:`explanation_figure`.
    """
    found = detector.explain(dict(samples), method)
    maps = found if isinstance(found, dict) else dict.fromkeys(samples, found)
    scores = detector.score(dict(samples))
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"attribution/{name}": x for name, x in maps.items()}
    if method == "nearest":
        arrays["nearest_support"] = detector.nearest_support(dict(samples))[0]
    np.savez_compressed(out / "explanations.npz", sample=np.array(labels), score=scores, **arrays)
    for i, label in enumerate(labels):
        one = {name: x[i].cpu().numpy() for name, x in samples.items()}
        figure = explanation_figure(one, {name: x[i] for name, x in maps.items()}, names, f"{label}: {scores[i]:.3g}")
        stem = re.sub(r"[^\w.-]+", "_", Path(label).stem)
        figure.savefig(out / f"{i + 1:04}_{stem}.png", dpi=110)

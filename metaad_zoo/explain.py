"""Figures of explanations, and the folder that `metaad explain` writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metaad_zoo.detector import Detector
from metaad_zoo.episodes import Samples
from metaad_zoo.evaluation.explanation import Explanation
from metaad_zoo.modality import get_modality, list_modalities


def explanation_figure(
    sample: Any, attribution: Any, names: Mapping[str, Sequence[str]] | None = None, title: str = ""
) -> Figure:
    """One sample and its attributions: red raised the score, blue lowered it.

    An image is drawn beside a map of its pixels; a sequence as lines, the channels of the largest attributions first,
    shaded by step; a table row as bars, the columns of the largest attributions first; see
    :meth:`metaad_zoo.modality.Modality.draw_explanation`.

    Args:
        sample: an array ``(C, H, W)``, ``(T, C)`` or ``(D,)``, or a dict of these by modality; raw.
        attribution: array in the sample's shape, or a dict of these: one sample of the result of ``detector.explain``.
        names: names of channels or columns by modality (``"sequence"``, ``"tabular"``).
        title: title of the figure.

    Raises:
        ValueError: the shapes of sample and attribution differ, or there are not as many names as columns.

    Example:
        >>> figure = explanation_figure(np.zeros(3), np.array([0.5, -1.0, np.nan]), {"tabular": ["a", "b", "c"]})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['b = 0', 'a = 0']
    """
    samples, maps = _by_modality(sample), _by_modality(attribution)
    sample_shapes, map_shapes = ({name: x.shape for name, x in part.items()} for part in (samples, maps))
    if sample_shapes != map_shapes:
        raise ValueError(f"expected an attribution in the shape of the sample, {sample_shapes}, saw {map_shapes}")
    parts = {name: x for name, x in samples.items() if not np.isnan(x).all()}
    if not parts:
        raise ValueError("this sample has no value that is there: nothing can be drawn")
    heights = [get_modality(name).explanation_height(x) for name, x in parts.items()]
    figure = Figure(figsize=(7.5, sum(heights) + 0.5 * bool(title)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    rooms = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for room, (name, x) in zip(rooms, parts.items(), strict=True):
        modality = get_modality(name)
        entries = modality.names((names or {}).get(name), x.shape[-1]) if modality.entry else []
        modality.draw_explanation(room, x, maps[name], entries)
    return figure


def _by_modality(x: Any) -> dict[str, np.ndarray]:
    parts = x if isinstance(x, Mapping) else {_modality_of_axes(np.ndim(x)): x}
    arrays = {name: np.asarray(part, np.float64) for name, part in parts.items()}
    for name, part in arrays.items():
        axes = get_modality(name).axes
        if len(axes) != part.ndim:
            raise ValueError(f"expected one sample of {name!r}, ({', '.join(axes)}), saw shape {part.shape}")
    return arrays


def _modality_of_axes(number: int) -> str:
    """Name of the modality whose samples have this number of axes."""
    modalities = [m for m in map(get_modality, list_modalities()) if m.reader == m.name]
    for modality in modalities:
        if len(modality.axes) == number:
            return modality.name
    shapes = {m.name: f"({', '.join(m.axes)})" for m in modalities}
    raise ValueError(f"expected one sample, {shapes}, saw {number} axes: give a dict from modality to sample")


def write_explanations(
    detector: Detector,
    labels: Sequence[str],
    samples: Samples,
    out: Path,
    method: Explanation = "auto",
    names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a figure of each sample, and ``explanations.npz`` with all attributions.

    The archive holds ``sample`` (the labels), ``score``, ``attribution/<modality>`` in the samples' shapes, and
    with ``method="nearest"`` also ``nearest_support``, indices into the support set.

    Args:
        detector: fitted detector.
        labels: names of the samples, such as their files.
        samples: samples by modality ``(n, ...)``.
        out: folder, created if it does not exist.
        method: attribution method, see :meth:`metaad_zoo.Detector.explain`.
        names: names of channels or columns by modality, see :func:`explanation_figure`.
    """
    attributions = detector.explain(dict(samples), method)
    maps = attributions if isinstance(attributions, dict) else dict.fromkeys(samples, attributions)
    scores = detector.score(dict(samples))
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"attribution/{name}": x for name, x in maps.items()}
    if method == "nearest":
        arrays["nearest_support"] = detector.nearest_support(dict(samples))[0]
    np.savez_compressed(out / "explanations.npz", sample=np.array(labels), score=scores, **arrays)
    for i, label in enumerate(labels):
        sample = {name: x[i].cpu().numpy() for name, x in samples.items()}
        figure = explanation_figure(
            sample, {name: x[i] for name, x in maps.items()}, names, f"{label}: {scores[i]:.3g}"
        )
        stem = re.sub(r"[^\w.-]+", "_", Path(label).stem)
        figure.savefig(out / f"{i + 1:04}_{stem}.png", dpi=110)

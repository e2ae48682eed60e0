"""Export of a fitted detector, verified against the detector's scores before the file is kept."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from metaad_zoo.atomic_write import replacing
from metaad_zoo.detector import Detector
from metaad_zoo.episodes import UNLABELLED
from metaad_zoo.evaluation.calibration import p_values
from metaad_zoo.evaluation.decisions import Calibrate
from metaad_zoo.export.files import Exported, ExportError, Format, Runner, first_line, load_exported, write_program
from metaad_zoo.export.graph import DetectorGraph, require_traceable
from metaad_zoo.modality import Modality, get_modality
from metaad_zoo.registry import unknown_name
from metaad_zoo.zoo import checkpoint_files

TOLERANCE = 1e-5
"""Maximum difference of exported from live scores, relative to the largest live score (at least 1)."""
PROBES = 32
EXPORTED_WAYS: tuple[Calibrate, ...] = ("across", "within")


def export_detector(
    detector: Detector,
    path: str | Path,
    format: Format | None = None,
    alpha: float | None = 0.1,
    calibrate: Calibrate | None = None,
) -> Exported:
    """Write a fitted detector as one graph, from raw samples to scores, p-values and decisions.

    The graph is self-contained: scaling by the support set, adapted weights, the support's statistics, calibration
    scores and the threshold. The file is read back and run on the support set (some of its unlabelled samples) and on
    random samples around it, in batches of one and of many, and is kept only if its scores agree with the detector's.

    Args:
        detector: fitted detector; the graph computes its scores in float32.
        path: file to write.
        format: ``"onnx"`` (needs the extra ``export``) or ``"pt2"``; by default the suffix of the path.
        alpha: false-alarm rate of the threshold; None: the graph returns scores only.
        calibrate: ``"across"``, ``"within"`` or None, see :meth:`metaad_zoo.Detector.predict`.

    Raises:
        ExportError: the model can't be exported, or the graph's scores differ; no file is written.
        ValueError: the format or the way to calibrate is unknown, or ``alpha`` can't be held.
        RuntimeError: the detector is not fitted, or holds no calibration to take a threshold from.
    """
    path = Path(path)
    chosen = format or path.suffix.removeprefix(".")
    if chosen not in get_args(Format):
        raise unknown_name("export format", chosen, get_args(Format))
    if calibrate not in (None, *EXPORTED_WAYS):
        raise unknown_name("way to calibrate an exported graph", str(calibrate), EXPORTED_WAYS)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; make it first")
    if not detector.is_fitted:
        raise RuntimeError("this detector is not fitted: call detector.fit(support), or `metaad adapt`, first")
    require_traceable(detector._fitted(), detector.method)
    if alpha is not None:
        alpha, calibrate = detector.way_to_decide(alpha, calibrate)
    live = copy.deepcopy(detector).to("cpu").to(torch.float32)
    graph = DetectorGraph(copy.deepcopy(live), alpha, calibrate).eval()
    manifest = json.loads(checkpoint_files(detector._checkpoint)["manifest.json"])
    about = Exported(
        format=cast(Format, chosen),
        inputs={name: list(x.shape[1:]) for name, x in live._support().items()},
        outputs=graph.outputs,
        alpha=alpha,
        threshold=graph.threshold,
        columns=live.columns,
        checkpoint_sha256=next(iter(manifest["sha256"].values())),
        calibrate=None if alpha is None else calibrate,
    )
    with replacing(path) as beside:
        write_program(_program(graph, _single(live._support())), beside, about)
        _require_equal_scores(load_exported(beside)[0], live, alpha, calibrate)
    return about


def _program(graph: DetectorGraph, support: Mapping[str, Tensor]) -> ExportedProgram:
    # Three rows: sizes of 0 and 1 would be taken for constants.
    rows = tuple(x[torch.arange(3) % len(x)].contiguous() for x in support.values())
    batch = torch.export.Dim("batch", max=2**31 - 1)  # torch 2.6 refuses graphs that slice an axis without a bound
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on its own names
            shapes = (tuple({0: batch} for _ in rows),)
            program = torch.export.export(graph, rows, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # tracing raises whatever the model's code meets
        reason = f"{first_line(error)}: score with the detector itself"
        raise ExportError(f"torch.export can't trace this model: {reason}") from error
    for name, x in program.constants.items():
        if isinstance(x, Tensor):  # no slices of other tensors, which a file would hold as a whole
            program.constants[name] = x.detach().clone(memory_format=torch.contiguous_format)
    return program


def _require_equal_scores(run: Runner, live: Detector, alpha: float | None, calibrate: Calibrate | None) -> None:
    for description, samples in _probes(_few_unlabelled(_single(live._support()), live.support_labels)):
        expected = live.score(samples)
        outputs = run({name: x.numpy() for name, x in samples.items()})
        scored = ~np.isnan(expected)  # a model may have no score for missing values, live or exported
        room = TOLERANCE * max(1.0, float(np.abs(expected[scored]).max(initial=0)))
        difference = float(np.abs(outputs["score"] - expected)[scored].max(initial=0))
        difference = difference if np.array_equal(np.isnan(outputs["score"]), ~scored) else np.nan
        if not difference <= room:  # NaN is no agreement either
            raise ExportError(
                f"the exported graph scores {description} otherwise than the detector, by up to {difference:.2g} where "
                f"{room:.2g} is allowed: nothing was written; score with the detector itself"
            )
        if alpha is not None:
            known_normal, limit = live.normal_scores(calibrate), live.threshold(alpha, calibrate)
            high, low = (p_values(torch.as_tensor(expected + d), known_normal).numpy() for d in (-room, room))
            wrong = (outputs["p_value"] > high + 1e-6) | (outputs["p_value"] < low - 1e-6)
            wrong |= (outputs["anomaly"] != ~(expected <= limit)) & ~(np.abs(expected - limit) <= room)
            if wrong.any():
                raise ExportError(
                    f"the exported graph judges {int(wrong.sum())} of {description} otherwise than the detector"
                )


def _single(support: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A support set in float32, the type of the graph's inputs; that of a file is float64."""
    return {name: x.float() for name, x in support.items()}


def _few_unlabelled(support: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """A support set with some of its unlabelled samples, of which there may be thousands."""
    unlabelled = labels == UNLABELLED
    rows = ~unlabelled | (unlabelled.cumsum(0) <= PROBES)
    return {name: x[rows] for name, x in support.items()}


def _probes(support: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Samples to compare on: the support set, random samples near and far from it with missing values, one alone."""
    yield "the support set", dict(support)
    rng = np.random.default_rng(0)
    random = {name: _about(x.numpy(), get_modality(name), rng) for name, x in support.items()}
    if len(random) > 1:
        for i, x in enumerate(random.values()):  # samples that lack a modality, and have another
            present_elsewhere = np.stack([_present(y) for y in random.values() if y is not x]).any(0)
            x[present_elsewhere & (np.arange(PROBES) % (len(random) + 1) == i)] = np.nan
    yield "random samples", {name: torch.as_tensor(x) for name, x in random.items()}
    yield "one sample alone", {name: torch.as_tensor(x[-1:]) for name, x in random.items()}


def _about(support: np.ndarray, modality: Modality, rng: np.random.Generator) -> np.ndarray:
    values = support[_present(support)] if _present(support).any() else support
    rows = values[rng.integers(len(values), size=PROBES)]
    spread = np.nanstd(values) if _present(values).any() else 1.0
    far = np.where(np.arange(PROBES) % 2, 1.0, 10.0).reshape(-1, *(1,) * (rows.ndim - 1))
    x: np.ndarray = (rows + far * spread * rng.normal(size=rows.shape)).astype(np.float32)
    if modality.value_range is not None:
        x = x.clip(*modality.value_range)
    if not modality.missing:
        return x
    gaps = rng.random(x.shape) < 0.1
    gaps[gaps.reshape(len(x), -1).all(1)] = False  # a sample without any value is refused
    x[gaps] = np.nan
    return x


def _present(x: np.ndarray) -> np.ndarray:
    """Mask of the samples that have any value."""
    present: np.ndarray = ~np.isnan(x).reshape(len(x), -1).all(1)
    return present

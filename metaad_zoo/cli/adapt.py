"""`metaad adapt`: a detector for a user's own domain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.cli.arguments import json_argument, require_folder, support_arguments, unlabelled_arguments
from metaad_zoo.cli.novelty import note_novelty
from metaad_zoo.cli.opening import fitted_detector, model_arguments, region_argument
from metaad_zoo.cli.terminal import DAMAGED, OK, note, tell

if TYPE_CHECKING:
    from metaad_zoo.detector import Detector

HELP = "adapt a model to your own domain with a few samples"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name",
        help="modality for its default detector (image, series, table, audio), published checkpoint (see metaad list), "
        "run, folder, address, or baseline (see metaad list --baselines; pyod/CLASS for detectors of PyOD)",
    )
    support_arguments(command)
    unlabelled_arguments(command)
    command.add_argument(
        "--contamination", type=float, help="share of anomalies among the unlabelled samples, such as 0.1, if known"
    )
    model_arguments(command)
    region_argument(command)
    command.add_argument("--out", type=Path, required=True, help="folder to write the detector to")
    json_argument(command)


def run(options: argparse.Namespace) -> int:
    from metaad_zoo.episodes import count

    require_folder(options.out)
    detector, name, reading = fitted_detector(options, options.contamination)
    detector.save(options.out)
    _note_calibration(detector)
    novelty = note_novelty(detector)
    n = count(reading.samples)
    anomalous = 0 if reading.labels is None else int((reading.labels == 1).sum())
    figures = {"samples": n, "anomalous": anomalous, "columns": detector.columns, "out": options.out}
    figures |= {"unlabelled": detector.unlabelled, "contamination": detector.contamination}
    figures |= {"checkpoint": name, "novelty": novelty, "account": reading.account.as_json()}
    region = detector.region
    if region is not None:
        figures["region_of_interest"] = float(region.float().mean())
        note(f"region of interest: {region.float().mean():.0%} of each image; the rest is ignored")
    also = f", {anomalous} of them known anomalies" if anomalous else ""
    also += f" and {detector.unlabelled:,} unlabelled ones" * bool(options.unlabelled)
    sentence = f"Adapted to {n} samples{also}. Next, try:  metaad score {options.out} --data PATH --out scores.csv"
    tell(options.json, figures, sentence)
    return DAMAGED if reading.account.damaged else OK


def _note_calibration(detector: Detector) -> None:
    """Print a note if p-values come from supports of another size."""
    n, sizes = detector.shots, detector.calibrated_for
    if not sizes and n < 9:
        note(
            f"not calibrated on other domains: decisions compare with the support's own {n} samples, which "
            f"hold {1 / (n + 1):.0%} false alarms and no fewer; nine samples hold 10 %"
        )
    smaller = [size for size in sizes if size <= n]
    if len(sizes) > 1 and smaller and n not in sizes:
        note(
            f"calibrated for supports of {', '.join(map(str, sizes))} samples: {n} samples use the p-values for "
            f"{smaller[-1]}, which give fewer alarms; use {smaller[-1]} samples, or score with --calibrate within"
        )

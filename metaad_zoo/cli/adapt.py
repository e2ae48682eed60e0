"""`metaad adapt`: a detector for a user's own domain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.cli.arguments import json_argument, support_arguments
from metaad_zoo.cli.terminal import note, note_left_out, tell

if TYPE_CHECKING:
    from metaad_zoo.detector import Detector

HELP = "make a detector for your own domain from a few samples"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="published checkpoint (see metaad list), run, folder or address")
    support_arguments(command)
    command.add_argument("--out", type=Path, required=True, help="folder to write the detector to")
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.data.samples import refuse_anomalies_in
    from metaad_zoo.data.sources.columns import read_columns
    from metaad_zoo.data.streams import SampleStream, gathered
    from metaad_zoo.detector import load_detector
    from metaad_zoo.modality import form_of

    detector = load_detector(options.name)
    shapes, path, label = detector.input_shapes, options.support, options.label
    path = form_of(shapes).support_path(path)
    if label is None:
        refuse_anomalies_in(path)
    elif not form_of(shapes).has_label_column:
        raise ValueError(
            f"--label {label} names a column of a table or a manifest, but this model reads {list(shapes)}: leave it "
            "out, and give normal samples alone"
        )
    stream = SampleStream(path, shapes, label, **detector.image_options | {"usual_ratio": None})
    samples = gathered(stream)[1] if stream.images is None else stream.images
    labels = None if label is None else read_columns(path, label).labels
    columns = None if stream.columns is None else list(stream.columns)
    detector.fit(samples, labels, columns=columns).save(options.out)
    note_left_out(stream)
    _note_calibration(detector)
    anomalous = 0 if labels is None else int(labels.sum())
    n = len(detector.support_labels)
    figures = {"samples": n, "anomalous": anomalous, "columns": columns, "out": options.out}
    figures["account"] = stream.account.as_json()
    also = f", {anomalous} of them known anomalies" if anomalous else ""
    sentence = f"Adapted to {n} samples{also}. Next, try:  metaad score {options.out} --data PATH --out scores.csv"
    tell(options.json, figures, sentence)


def _note_calibration(detector: Detector) -> None:
    """Say so where p-values will come from supports of another size."""
    n, sizes = detector.shots, detector.calibrated_for
    smaller = [size for size in sizes if size <= n]
    if len(sizes) > 1 and smaller and n not in sizes:
        note(
            f"calibrated for supports of {', '.join(map(str, sizes))}: with {n} samples p-values are those of "
            f"{smaller[-1]}, which flag less than they may; take {smaller[-1]} samples, or score --calibrate within"
        )

"""Write traced programs to files and load them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.export import ExportedProgram

from metaad_zoo.evaluation.decisions import Calibrate

Format = Literal["onnx", "pt2"]
Runner = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
METADATA = "metaad_zoo"


class ExportError(ValueError):
    """A detector can't be exported, or the exported graph's scores differ."""


@dataclass(frozen=True)
class Exported:
    """Metadata of an export; the file holds it as JSON under the key ``metaad_zoo``.

    Attributes:
        format: ``"onnx"`` or ``"pt2"``.
        inputs: shape of one sample by input name. Inputs are float32 with a leading batch axis of any length; NaN where
            a value is missing; images between 0 and 1. A modality that a sample lacks is all NaN; a sample that lacks
            all modalities has the score and p-value NaN.
        outputs: ``score`` (float32, higher is more anomalous) and, with an alpha, ``p_value`` (float32) and ``anomaly``
            (int64, 0 or 1), each ``(n,)``.
        alpha: false-alarm rate of the output ``anomaly``.
        calibrate: calibration scores: ``"across"``, of the validation tasks, or ``"within"``, leave-one-out scores of
            the support; None without an alpha.
        threshold: score above which ``anomaly`` is 1.
        columns: names of columns or channels in the order of the input; None if the support set had no names.
        checkpoint_sha256: hash of the detector's weights and support set, as in its manifest.
    """

    format: Format
    inputs: dict[str, list[int]]
    outputs: list[str]
    alpha: float | None
    threshold: float | None
    columns: list[str] | None
    checkpoint_sha256: str
    calibrate: Calibrate | None = "across"


def write_program(program: ExportedProgram, path: Path, about: Exported) -> None:
    """Write a traced program in the format that ``about`` names.

    Raises:
        ExportError: the format's packages are missing, or it does not support an operation of the model.
    """
    if about.format == "pt2":
        try:
            torch.export.save(program, path, extra_files={METADATA: json.dumps(asdict(about))})
        except Exception as error:  # whatever the serialiser meets
            raise ExportError(f"torch.export can't write this model: {first_line(error)}") from error
        return
    _require_onnx()
    import onnx

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on its own names
            onnx_program = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=list(about.inputs),
                output_names=about.outputs,
            )
    except Exception as error:  # whatever the translator meets
        raise ExportError(f"torch.onnx can't translate this model: {first_line(error)}") from error
    assert onnx_program is not None
    model = onnx_program.model_proto
    onnx.helper.set_model_props(model, {METADATA: json.dumps(asdict(about))})
    onnx.save(model, path)


def load_exported(path: str | Path) -> tuple[Runner, Exported]:
    """A function from arrays by input name to arrays by output name, and the file's metadata.

    Args:
        path: file written by :func:`metaad_zoo.export.export_detector`.

    Raises:
        ExportError: the file was not written by this package, or a package to run it is missing.
    """
    return _load_onnx(path) if Path(path).suffix == ".onnx" else _load_pt2(path)


def _load_onnx(path: str | Path) -> tuple[Runner, Exported]:
    _require_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = _about(session.get_modelmeta().custom_metadata_map.get(METADATA), path)
    return lambda x: dict(zip(about.outputs, session.run(None, dict(x)), strict=True)), about


def _load_pt2(path: str | Path) -> tuple[Runner, Exported]:
    extra = {METADATA: ""}
    module = torch.export.load(path, extra_files=extra).module()
    about = _about(extra[METADATA], path)

    def run(x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(*(torch.as_tensor(x[name]) for name in about.inputs))
        return {name: y.numpy() for name, y in zip(about.outputs, outputs, strict=True)}

    return run, about


def _about(text: str | None, path: str | Path) -> Exported:
    if not text:
        raise ExportError(f"{path} was not written by `metaad export`: it says nothing of its inputs")
    return Exported(**json.loads(text))


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"{error.name} is missing: pip install 'metaad_zoo[export]', or export to pt2") from error


def first_line(error: Exception) -> str:
    """First line of the message of an error's root cause."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:300]}"

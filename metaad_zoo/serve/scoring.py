"""Requests of the scoring server: read, scored in batches, and answered."""

# No postponed annotations here: LitServe reads those of decode_request and encode_response.
import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
import torch
from fastapi import Response
from fastapi.responses import JSONResponse

from metaad_zoo.data.read.pixels import TooManyPixelsError, decode_upload, resize
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.evaluation.decisions import Calibrate
from metaad_zoo.modality.image import ImageModality
from metaad_zoo.modality.samples import joined

Judged = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Scores, p-values and decisions."""
Asked = dict[str, np.ndarray] | str
"""Samples of a request by modality, or an error message."""
Answer = Judged | str
NO_MEMORY = "there is no memory for the request: send fewer samples"


@dataclass(frozen=True)
class ServerSettings:
    """Settings and limits of the server.

    Args:
        folder: folder of an adapted detector.
        host: address to listen on.
        port: port to listen on.
        alpha: false-alarm rate of the decisions; None as for :meth:`metaad_zoo.Detector.predict`.
        max_samples: maximum number of samples in one request.
        max_bytes: maximum size of one request, in bytes.
        max_pixels: maximum number of pixels of all image files of one request together.
        max_seconds: maximum time in seconds for the head of a request to arrive, for its body, and until its scoring
            begins; each of the three may take so long.
        max_batch: maximum number of requests that are scored together, at least 2.
        batch_timeout: maximum time to wait for a full batch, in seconds.
        calibrate: calibration scores, ``"across"``, ``"within"`` or None; see :meth:`metaad_zoo.Detector.predict`.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    alpha: float | None = None
    max_samples: int = 1024
    max_bytes: int = 16_000_000
    max_pixels: int = 50_000_000
    max_seconds: float = 30.0
    max_batch: int = 16
    batch_timeout: float = 0.005
    calibrate: Calibrate | None = None

    def __post_init__(self) -> None:
        for name in ("max_samples", "max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} (--{name.replace('_', '-')}) is {getattr(self, name)}; expected 1 or more")
        if not self.batch_timeout < self.max_seconds < float("inf"):
            raise ValueError(
                f"max_seconds (--max-seconds) is {self.max_seconds}; expected more than {self.batch_timeout} seconds"
            )


class ScoringAPI(ls.LitAPI):
    """``POST /predict`` with ``{"samples": [...]}`` gives ``{"score": [...], "p_value": [...], "anomaly": [...]}``.

    Samples are nested lists in the shape that the model reads, ``null`` where a value is missing; for several
    modalities a dict of these. A model of images also takes ``{"images": [...]}``, PNG and JPEG files in base64, into
    which :mod:`metaad_zoo.serve.http` turns uploaded files. A request that can't be used gets status 422 and a message;
    the rest of its batch is scored.

    Args:
        settings: settings of the server.
    """

    def __init__(self, settings: ServerSettings) -> None:
        if settings.max_batch < 2:
            raise ValueError(f"max_batch is {settings.max_batch}; expected 2 or more: LitServe takes 1 as no batches")
        super().__init__(max_batch_size=settings.max_batch, batch_timeout=settings.batch_timeout)
        self.settings = settings

    def setup(self, device: str) -> None:
        """Load the detector in the worker's own process."""
        self.detector = load_detector(self.settings.folder).to(device)
        self.detector.normal_scores(self.settings.calibrate)  # the first request need not wait for them

    def decode_request(self, request: dict[str, Any]) -> Asked:
        """Samples of one request, checked, or an error message."""
        try:
            return readable(request, self.detector, self.settings)
        except (ValueError, RuntimeError, MemoryError) as error:
            return str(error) or NO_MEMORY  # not raised: LitServe would answer the whole batch with it

    def batch(self, inputs: Sequence[Asked]) -> list[Asked]:
        """The requests themselves: :meth:`predict` joins their samples."""
        return list(inputs)

    def predict(self, x: list[Asked]) -> list[Answer]:
        """Scores, p-values and decisions of each request, or its error message."""
        judged = iter(self._judged([request for request in x if not isinstance(request, str)]))
        return [request if isinstance(request, str) else next(judged) for request in x]

    def _judged(self, requests: Sequence[dict[str, np.ndarray]]) -> list[Answer]:
        """Answers to requests, scored together; where that fails each is scored alone, so that only one fails."""
        if not requests:
            return []
        try:  # shorter series are padded with NaN
            samples = {name: _stacked([request[name] for request in requests]) for name in self.detector.input_shapes}
            judged = self.detector.judge(samples, self.settings.alpha, self.settings.calibrate)
        except (ValueError, RuntimeError, MemoryError) as error:
            if len(requests) == 1:
                return [str(error) or NO_MEMORY]
            return [answer for request in requests for answer in self._judged([request])]
        ends = np.cumsum([len(next(iter(request.values()))) for request in requests])[:-1]
        return list(zip(*(np.split(part, ends) for part in judged), strict=True))

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """The answers themselves."""
        return output

    def encode_response(self, output: Answer) -> Response:
        """JSON response; ``null`` where a model has no score."""
        if isinstance(output, str):
            return JSONResponse({"detail": output}, 422)
        content = {name: x.tolist() for name, x in zip(("score", "p_value", "anomaly"), output, strict=True)}
        return JSONResponse({name: [None if y != y else y for y in x] for name, x in content.items()})


def readable(request: Mapping[str, Any], detector: Detector, settings: ServerSettings) -> dict[str, np.ndarray]:
    """The samples of a request by modality, float64, or float32 of image files.

    Raises:
        ValueError: the request is malformed, too large, or its samples can't be read.
    """
    if set(request) == {"images"}:
        arrays = {ImageModality.name: image_samples(request["images"], detector, settings)}
        detector.check(arrays)
        return arrays
    if set(request) != {"samples"}:
        saw = ", ".join(sorted(map(repr, request)))[:200] or "nothing"
        raise ValueError(
            f'expected {{"samples": [...]}}, a list of samples, or of several modalities a dict of lists; saw {saw}'
        )
    values_by_name, shapes = request["samples"], detector.input_shapes
    by_name = (
        values_by_name
        if isinstance(values_by_name, dict)
        else dict.fromkeys(shapes, values_by_name)
        if len(shapes) == 1
        else {}
    )
    if set(by_name) != set(shapes):
        raise ValueError(f"expected samples of {sorted(shapes)}, saw {sorted(map(str, by_name)) or 'no dict of them'}")
    arrays = {}
    for name, values in by_name.items():
        try:
            arrays[name] = np.array(values, dtype=np.float64)  # as in files, where 1e39 is large and not infinite
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{name}: expected nested lists of numbers, all of one shape, with null for none"
            ) from error
        if arrays[name].ndim == len(shapes[name]) and arrays[name].size:
            raise ValueError(f"{name}: expected a list of samples, each of shape {tuple(shapes[name])}, saw one")
        if arrays[name].ndim != len(shapes[name]) + 1 or not len(arrays[name]):
            raise ValueError(f"{name}: expected samples of shape {tuple(shapes[name])}, saw {arrays[name].shape}")
        _refuse_many(len(arrays[name]), settings)
    detector.check(arrays)
    return arrays


def image_samples(files: Any, detector: Detector, settings: ServerSettings) -> np.ndarray:
    """Images ``(n, C, H, W)`` float32 in [0, 1] of PNG and JPEG files, as the detector reads them from a folder.

    Args:
        files: list of the files' contents in base64.
        detector: detector that is to score them.
        settings: settings of the server.

    Raises:
        ValueError: the detector reads no images alone, a file is no image, or there are too many files or pixels.
    """
    if set(detector.input_shapes) != {ImageModality.name}:
        raise ValueError(f"image files are for models of images, and this one reads {sorted(detector.input_shapes)}")
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise ValueError('expected {"images": [...]}, a list of PNG or JPEG files in base64')
    _refuse_many(len(files), settings)
    channels, height, width = detector.input_shapes[ImageModality.name]
    images, pixels = [], 0
    for i, file in enumerate(files, 1):
        try:
            content = base64.b64decode(file, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"image {i} is no base64") from error
        try:
            image = decode_upload(content, f"image {i}", channels, settings.max_pixels - pixels)
        except TooManyPixelsError as error:
            raise ValueError(
                f"{error}, of {settings.max_pixels} a request (--max-pixels): send smaller images"
            ) from error
        pixels += image.shape[1] * image.shape[2]
        images.append(resize(image[None], height, width, detector.image_options["aspect"]))
    return (torch.cat(images).float() / 255).numpy()


def _refuse_many(n: int, settings: ServerSettings) -> None:
    if n > settings.max_samples:
        raise ValueError(f"saw {n} samples; at most {settings.max_samples} a request: send several requests")


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    return joined([torch.from_numpy(x) for x in parts]).numpy()

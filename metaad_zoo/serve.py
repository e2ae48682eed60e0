"""A small scoring server around an adapted detector, on LitServe (extra ``serve``)."""

# No postponed annotations here: LitServe reads those of decode_request and encode_response.
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import litserve as ls
import numpy as np
import torch
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.evaluation.decisions import Calibrate
from metaad_zoo.modality.samples import joined

Judged = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Scores, p-values and decisions."""
Asked = dict[str, np.ndarray] | str
"""Samples of a request by modality, or an error message."""
Answer = Judged | str


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
    max_batch: int = 16
    batch_timeout: float = 0.005
    calibrate: Calibrate | None = None


class ScoringAPI(ls.LitAPI):
    """``POST /predict`` with ``{"samples": [...]}`` gives ``{"score": [...], "p_value": [...], "anomaly": [...]}``.

    Samples are nested lists in the shape that the model reads, ``null`` where a value is missing; for several
    modalities a dict of these. A request that can't be used gets status 422 and a message; the rest of its batch is
    scored.

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
            return readable(request, self.detector, self.settings.max_samples)
        except ValueError as error:
            return str(error)  # not raised: LitServe would answer the whole batch with it

    def batch(self, inputs: Sequence[Asked]) -> tuple[dict[str, np.ndarray], list[int | str]]:
        """Samples of all requests, and the size or error of each; shorter series are padded with NaN."""
        good = [request for request in inputs if not isinstance(request, str)]
        sizes = [request if isinstance(request, str) else len(next(iter(request.values()))) for request in inputs]
        return {
            name: _stacked([request[name] for request in good]) for name in self.detector.input_shapes if good
        }, sizes

    def predict(self, x: tuple[dict[str, np.ndarray], list[int | str]]) -> tuple[Judged | None, list[int | str]]:
        """Scores, p-values and decisions of all samples."""
        samples, sizes = x
        return self.detector.judge(samples, self.settings.alpha, self.settings.calibrate) if samples else None, sizes

    def unbatch(self, output: tuple[Judged | None, list[int | str]]) -> list[Answer]:
        """Split the results by request."""
        judged, sizes = output
        answers: list[Answer] = []
        start = 0
        for size in sizes:
            if isinstance(size, str):
                answers.append(size)
                continue
            assert judged is not None
            scores, p, decisions = (x[start : start + size] for x in judged)
            answers.append((scores, p, decisions))
            start += size
        return answers

    def encode_response(self, output: Answer) -> Response:
        """JSON response; ``null`` where a model has no score."""
        if isinstance(output, str):
            return JSONResponse({"detail": output}, 422)
        content = {name: x.tolist() for name, x in zip(("score", "p_value", "anomaly"), output, strict=True)}
        return JSONResponse({name: [None if y != y else y for y in x] for name, x in content.items()})


def readable(request: Mapping[str, Any], detector: Detector, max_samples: int) -> dict[str, np.ndarray]:
    """The samples of a request by modality, float32.

    Raises:
        ValueError: the request is malformed, too large, or its samples can't be read.
    """
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
            with np.errstate(over="ignore"):  # what becomes infinite is refused below
                arrays[name] = np.array(values, dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{name}: expected nested lists of numbers, all of one shape, with null for none"
            ) from error
        if arrays[name].ndim == len(shapes[name]) and arrays[name].size:
            raise ValueError(f"{name}: expected a list of samples, each of shape {tuple(shapes[name])}, saw one")
        if arrays[name].ndim != len(shapes[name]) + 1 or not len(arrays[name]):
            raise ValueError(f"{name}: expected samples of shape {tuple(shapes[name])}, saw {arrays[name].shape}")
        if len(arrays[name]) > max_samples:
            raise ValueError(f"saw {len(arrays[name])} samples; at most {max_samples} a request: send several")
    detector.check(arrays)
    return arrays


def _no_request(request: Request, error: Exception) -> JSONResponse:
    """Response to a body that is not a JSON object; FastAPI's default repeats the body, and fails if it is not text."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    saw = "a body that is no JSON object" if sent.endswith("json") else sent[:100] or "no Content-Type"
    return JSONResponse({"detail": f'expected {{"samples": [[...], ...]}} as application/json, saw {saw}'}, 422)


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    return joined([torch.from_numpy(x) for x in parts]).numpy()


def _require_free(host: str, port: int) -> None:
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, OverflowError) as error:
        raise ValueError(f"can't listen on {host}, port {port} ({error}): take another --host or --port") from error


def _stop(parent: int) -> Callable[[int, FrameType | None], None]:
    """Handler of SIGTERM, by which a supervisor stops a server. The server raises KeyboardInterrupt, upon which
    LitServe ends its workers. Workers inherit the handler and exit, because Python may ignore an interrupt there."""

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == parent:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    return stop


def serve(settings: ServerSettings) -> None:
    """Serve requests until stopped; ``GET /health`` reports whether the model is loaded.

    Raises:
        ValueError: the folder holds no adapted detector, its calibration can't hold ``alpha``, or the port is not
            available.
        RuntimeError: its checkpoint holds no calibration scores.
    """
    detector = load_detector(settings.folder)
    if not detector.is_fitted:
        raise ValueError(f"{settings.folder} is not adapted: `metaad adapt {settings.folder} --support PATH --out DIR`")
    detector.way_to_decide(settings.alpha, settings.calibrate)
    _require_free(settings.host, settings.port)
    signal.signal(signal.SIGTERM, _stop(os.getpid()))
    server = ls.LitServer(ScoringAPI(settings), accelerator="auto", max_payload_size=settings.max_bytes)
    for kind in (RequestValidationError, 400):  # 400: FastAPI could not read the body at all
        server.app.add_exception_handler(kind, _no_request)
    server.uvicorn_graceful_timeout = 5
    server.run(host=settings.host, port=settings.port, generate_client_file=False, log_level="warning")

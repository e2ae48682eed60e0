"""The server's processes: started, watched and stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import litserve as ls
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from metaad_zoo.detector import load_detector
from metaad_zoo.modality.image import ImageModality
from metaad_zoo.serve.http import FORM, IMAGE_TYPES, BoundedRequests, log, timed_protocol
from metaad_zoo.serve.scoring import ScoringAPI, ServerSettings


def _no_request(reads_images: bool) -> Callable[[Request, Exception], JSONResponse]:
    """Handler of a body that is not a JSON object; FastAPI's default repeats the body, and fails if it is not text."""
    or_images = f", or images as {FORM}, {' or '.join(IMAGE_TYPES)}" if reads_images else ""

    def answer(request: Request, error: Exception) -> JSONResponse:
        sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        saw = "a body that is no JSON object" if sent.endswith("json") else sent[:100] or "no Content-Type"
        expected = f'expected {{"samples": [[...], ...]}} as application/json{or_images}, saw {saw}'
        return JSONResponse({"detail": expected}, 422)

    return answer


def _busy(seconds: float) -> Callable[[Request, Exception], JSONResponse]:
    """Handler of a request that waited too long for its batch."""

    def answer(request: Request, error: Exception) -> JSONResponse:
        message = (
            f"scoring did not begin within {seconds:g} seconds (--max-seconds): the server is busy, try again later"
        )
        return JSONResponse({"detail": message}, 503)

    return answer


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
    bounds = {name: getattr(settings, name) for name in ("max_bytes", "max_seconds", "max_samples")}
    server = ls.LitServer(
        ScoringAPI(settings),
        accelerator="auto",
        timeout=settings.max_seconds,
        middlewares=[(BoundedRequests, bounds)],
    )
    no_request = _no_request(set(detector.input_shapes) == {ImageModality.name})
    for kind in (RequestValidationError, 400):  # 400: FastAPI could not read the body at all
        server.app.add_exception_handler(kind, no_request)
    server.app.add_exception_handler(504, _busy(settings.max_seconds))
    server.uvicorn_graceful_timeout = 5
    try:
        server.run(
            host=settings.host,
            port=settings.port,
            generate_client_file=False,
            log_level="warning",
            log_config=_LOG,
            http=timed_protocol(settings.max_seconds),
        )
    except KeyboardInterrupt:  # while workers start; once they run, LitServe ends them
        for process in multiprocessing.active_children():
            process.terminate()


_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {name: {"handlers": ["stderr"], "propagate": False} for name in ("uvicorn", log.name)},
}
"""Configuration of the log: a line with its time for each refused request."""

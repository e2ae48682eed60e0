"""A small scoring server around an adapted detector, on LitServe (extra ``serve``)."""

# No postponed annotations here: LitServe reads those of decode_request and encode_response.
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
from fastapi import HTTPException

from metaad_zoo.detector import Detector, load_detector

Judged = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Scores, p-values and decisions."""


@dataclass(frozen=True)
class ServerSettings:
    """What is served, and its limits.

    Args:
        folder: of an adapted detector.
        host: address to listen on.
        port: likewise.
        alpha: false-alarm rate of the decisions.
        max_samples: of one request.
        max_bytes: of one request.
        max_batch: requests that are scored together.
        batch_timeout: seconds to wait for so many.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    alpha: float = 0.1
    max_samples: int = 1024
    max_bytes: int = 16_000_000
    max_batch: int = 16
    batch_timeout: float = 0.005


class ScoringAPI(ls.LitAPI):
    """``POST /predict`` with ``{"samples": [...]}`` gives ``{"score": [...], "p_value": [...], "anomaly": [...]}``.

    Samples are nested lists in the shape that the model reads, ``null`` where a value is missing; of several modalities
    a dict of them. What can't be used is answered by status 422 and a sentence, before it reaches a batch.

    Args:
        settings: what is served.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(max_batch_size=settings.max_batch, batch_timeout=settings.batch_timeout)
        self.settings = settings

    def setup(self, device: str) -> None:
        """Load the detector in the worker's own process."""
        self.detector = load_detector(self.settings.folder).to(device)

    def decode_request(self, request: dict[str, Any]) -> dict[str, np.ndarray]:
        """Samples of one request, looked through."""
        try:
            return readable(request, self.detector, self.settings.max_samples)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    def batch(self, inputs: Sequence[dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], list[int]]:
        """All requests' samples together, and how many each has; series of other lengths are filled up with NaN."""
        sizes = [len(next(iter(one.values()))) for one in inputs]
        return {name: _stacked([one[name] for one in inputs]) for name in inputs[0]}, sizes

    def predict(self, x: tuple[dict[str, np.ndarray], list[int]]) -> tuple[Judged, list[int]]:
        """Scores, p-values and decisions of all of them."""
        return self.detector.judge(x[0], self.settings.alpha), x[1]

    def unbatch(self, output: tuple[Judged, list[int]]) -> list[Judged]:
        """Each request's share."""
        judged, sizes = output
        ends = np.cumsum(sizes)[:-1]
        scores, p, decisions = (np.split(x, ends) for x in judged)
        return list(zip(scores, p, decisions, strict=True))

    def encode_response(self, output: Judged) -> dict[str, list[float]]:
        """As JSON."""
        return {name: x.tolist() for name, x in zip(("score", "p_value", "anomaly"), output, strict=True)}


def readable(request: Mapping[str, Any], detector: Detector, max_samples: int) -> dict[str, np.ndarray]:
    """The samples of a request by modality, float32.

    Raises:
        ValueError: tells what was seen and what is expected.
    """
    if "samples" not in request:
        raise ValueError('expected {"samples": [...]}, a list of samples, or of several modalities a dict of lists')
    given, shapes = request["samples"], detector.input_shapes
    by_name = given if isinstance(given, dict) else dict.fromkeys(shapes, given) if len(shapes) == 1 else {}
    if set(by_name) != set(shapes):
        raise ValueError(f"expected samples of {sorted(shapes)}, saw {sorted(map(str, by_name)) or 'no dict of them'}")
    found = {}
    for name, values in by_name.items():
        try:
            found[name] = np.array(values, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: expected nested lists of numbers, all of one shape, with null for none"
            ) from error
        if found[name].ndim != len(shapes[name]) + 1 or not len(found[name]):
            raise ValueError(f"{name}: expected samples of shape {tuple(shapes[name])}, saw {found[name].shape}")
        if len(found[name]) > max_samples:
            raise ValueError(f"saw {len(found[name])} samples; at most {max_samples} a request: send several")
    detector.check(found)
    return found


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    steps = max(x.shape[1] for x in parts) if parts[0].ndim == 3 else 0
    if steps:
        parts = [np.pad(x, ((0, 0), (0, steps - x.shape[1]), (0, 0)), constant_values=np.nan) for x in parts]
    return np.concatenate(parts)


def serve(settings: ServerSettings) -> None:
    """Answer requests until stopped; ``GET /health`` says whether the model is loaded.

    Raises:
        ValueError: the folder holds no adapted detector, or its calibration can't promise ``alpha``.
    """
    detector = load_detector(settings.folder)
    if not detector.is_fitted:
        raise ValueError(f"{settings.folder} is not adapted: `metaad adapt {settings.folder} --support PATH --out DIR`")
    detector.threshold(settings.alpha)
    # A supervisor stops a server by SIGTERM; as an interrupt, it lets LitServe end its workers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = ls.LitServer(ScoringAPI(settings), accelerator="auto", max_payload_size=settings.max_bytes)
    server.run(host=settings.host, port=settings.port, generate_client_file=False, log_level="warning")

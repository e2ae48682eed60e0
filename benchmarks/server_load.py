"""The scoring server under load, with requests that are none, and stopped while it is busy.

    python benchmarks/server_load.py --json benchmarks/results/server_load.json

Starts `metaad serve` on a published model of images, adapted to five drawings. Fifty clients send a thousand requests:
images as nested lists, as files and as forms, and among them malformed, oversized and slow ones. Every good request
must be answered with the scores of the local detector, every other one by 4xx and one sentence. Memory is the resident
memory of all processes of the server. Then the server is busy with good requests again, and gets SIGTERM.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageDraw

import metaad_zoo as mz

CHECKPOINT = "image-conv4-protonet-omniglot"
MAX_BYTES, MAX_SAMPLES, MAX_PIXELS, MAX_SECONDS = 1_000_000, 20, 1_000_000, 5
TOLERANCE = 1e-6
JSON = "application/json"
START = "import sys; from metaad_zoo.cli import main; raise SystemExit(main(sys.argv[1:]))"
FORM = "multipart/form-data; boundary=edge"


@dataclass
class Request:
    """A request and what is expected of the server.

    Args:
        kind: name of its kind.
        send: sends it to a port and returns status and body; status 0 where nothing came back.
        status: expected status.
        images: images whose scores are expected.
    """

    kind: str
    send: Callable[[int], tuple[int, bytes]]
    status: int
    images: list[np.ndarray] = field(default_factory=list)


def drawing(rng: random.Random) -> np.ndarray:
    """An image (28, 28) uint8 of some strokes."""
    image = Image.new("L", (28, 28), 255)
    points = [(rng.randrange(28), rng.randrange(28)) for _ in range(rng.randrange(3, 7))]
    ImageDraw.Draw(image).line(points, fill=rng.randrange(80), width=rng.randrange(1, 4))
    return np.asarray(image)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return file.getvalue()


def as_read(content: bytes) -> np.ndarray:
    """The pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(content)))


def form(files: list[bytes], name: str = '; filename="a.png"', end: bytes = b"--edge--\r\n") -> bytes:
    """Body of a form with files."""
    head = f'--edge\r\nContent-Disposition: form-data; name="file"{name}\r\nContent-Type: image/png\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + end


def post(body: bytes, content: str, path: str = "/predict", method: str = "POST") -> Callable[[int], tuple[int, bytes]]:
    """Sender of a well-formed HTTP request."""

    def send(port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": content})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return send


def drip(start: bytes, hang_up: bool = False) -> Callable[[int], tuple[int, bytes]]:
    """Sender of a beginning, and then of a byte now and again until the server answers; or that hangs up."""

    def send(port: int) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
            connection.sendall(start)
            if hang_up:
                return 0, b""
            connection.settimeout(0.2)
            text = b""
            while True:
                try:
                    received = connection.recv(65536)
                except TimeoutError:
                    connection.sendall(b"x")
                    continue
                if not received:
                    break
                text += received
            head, _, body = text.partition(b"\r\n\r\n")
            return int(head.split()[1]), body

    return send


def good_requests(rng: random.Random) -> list[Request]:
    """One request of each kind that can be scored."""
    images = [drawing(rng) for _ in range(rng.randrange(1, 5))]
    jpeg = encoded(images[0], "JPEG")
    nested = json.dumps({"samples": (np.float32(images)[:, None] / 255).tolist()}).encode()
    in_base64 = json.dumps({"images": [base64.b64encode(encoded(x)).decode() for x in images]}).encode()
    return [
        Request("nested lists", post(nested, JSON), 200, images),
        Request("PNG", post(encoded(images[0]), "image/png"), 200, images[:1]),
        Request("JPEG", post(jpeg, "image/jpeg"), 200, [as_read(jpeg)]),
        Request("form", post(form([encoded(x) for x in images]), FORM), 200, images),
        Request("base64", post(in_base64, JSON), 200, images),
    ]


def bad_requests(rng: random.Random) -> list[Request]:
    """One request of each kind that the server must refuse."""
    png, samples = encoded(drawing(rng)), {"samples": np.zeros((1, 1, 28, 28)).tolist()}
    large = encoded(np.zeros((1200, 1200), np.uint8))
    bomb = png.replace(png[16:24], (60000).to_bytes(4, "big") * 2)
    bodies = {
        "no JSON": (b"no json", JSON, 422),
        "empty": (b"", JSON, 422),
        "deep": (b"[" * 100_000, JSON, 422),
        "another key": (b'{"rows": [[1, 2]]}', JSON, 422),
        "ragged": (b'{"samples": [[1, 2], [3]]}', JSON, 422),
        "another shape": (b'{"samples": [[1, 2, 3]]}', JSON, 422),
        "infinite": (json.dumps(samples).replace("0.0", "1e999", 1).encode(), JSON, 422),
        "too many samples": (json.dumps({"samples": np.zeros((21, 1, 28, 28)).tolist()}).encode(), JSON, 422),
        "text": (b"hello", "text/plain", 422),
        "no image": (b"hello", "image/png", 422),
        "half an image": (png[: len(png) // 2], "image/png", 422),
        "changed image": (png.replace(b"IDATx", b"IDAT-"), "image/png", 422),
        "too many pixels": (large, "image/png", 422),
        "60,000 x 60,000 pixels": (bomb, "image/png", 422),
        "no base64": (b'{"images": ["!"]}', JSON, 422),
        "form without a boundary": (form([png]), "multipart/form-data", 422),
        "form without its end": (form([png], end=b""), FORM, 422),
        "form without a file": (form([b"1"], name=""), FORM, 422),
        "too many files": (form([png] * 21), FORM, 422),
        "too many bytes": (bytes(3 * MAX_BYTES), "image/png", 413),
    }
    requests = [Request(kind, post(body, content), status) for kind, (body, content, status) in bodies.items()]
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
    return [
        *requests,
        Request("another path", post(b"{}", JSON, "/other"), 404),
        Request("another method", post(b"", JSON, method="GET"), 405),
        Request("no HTTP", drip(b"\x16\x03\x01 no http\r\n\r\n"), 400),
        Request("negative length", drip(head + b"Content-Length: -1\r\n\r\n"), 400),
        Request("huge head", drip(head + b"A: " + b"a" * 100_000), 400),
    ]


def slow_requests() -> list[Request]:
    """One request of each kind that never ends."""
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
    body = head + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    return [
        Request("dripping head", drip(head + b"A: "), 408),
        Request("dripping body", drip(body), 408),
        Request("hangs up", drip(body, hang_up=True), 0),
    ]


def mixture(n: int, seed: int) -> list[Request]:
    """Requests in random order: seven tenths good, a quarter malformed or oversized, a twentieth slow."""
    rng = random.Random(seed)
    requests: list[Request] = []
    pools: dict[str, list[Request]] = {"good": [], "bad": [], "slow": []}
    for _ in range(n):
        kind = rng.choices(["good", "bad", "slow"], [0.7, 0.25, 0.05])[0]
        if not pools[kind]:
            pools[kind] = (
                good_requests(rng) if kind == "good" else bad_requests(rng) if kind == "bad" else slow_requests()
            )
        requests.append(pools[kind].pop())
    return requests


def trouble(request: Request, status: int, body: bytes, expected: np.ndarray | None) -> str | None:
    """What is wrong with an answer; None where it is as it should be."""
    if status != request.status:
        return f"{request.kind}: status {status}, expected {request.status}: {body[:200]!r}"
    if status == 0:
        return None
    if status != 200:
        text = body.decode()
        sentence = json.loads(text)["detail"] if text.startswith("{") else text
        ok = isinstance(sentence, str) and 3 < len(sentence) < 400 and "Traceback" not in text and "\n" not in sentence
        return None if ok else f"{request.kind}: answered by {text[:200]!r}"
    scores = np.asarray(json.loads(body)["score"])
    assert expected is not None
    if scores.shape != expected.shape or not np.abs(scores - expected).max() <= TOLERANCE:
        return f"{request.kind}: scores {scores}, expected {expected}"
    return None


class Server:
    """`metaad serve` in a session of its own, with the resident memory of its processes."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = {"port": self.port, "max-bytes": MAX_BYTES, "max-samples": MAX_SAMPLES}
        options |= {"max-pixels": MAX_PIXELS, "max-seconds": MAX_SECONDS}
        command = [sys.executable, "-c", START, "serve", str(folder)]
        command += [text for name, x in options.items() for text in (f"--{name}", str(x))]
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        self.memory: list[tuple[float, float]] = []
        self._until_ready()
        self.processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _until_ready(self) -> None:
        for _ in range(600):
            try:
                if post(b"", JSON, "/health", "GET")(self.port)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended at its start: {self.log.read_text()}")
            time.sleep(0.5)
        raise RuntimeError("the server was not ready after five minutes")

    def _watch(self) -> None:
        begin = time.monotonic()
        while not self._done.wait(0.5):
            try:
                size = sum(process.memory_info().rss for process in self.processes)
            except psutil.Error:
                return
            self.memory.append((round(time.monotonic() - begin, 1), round(size / 2**20, 1)))

    def stop(self) -> dict[str, float | int]:
        """Send SIGTERM; seconds until the server has ended, its exit code, and number of processes that still run."""
        self._done.set()
        self._watcher.join()
        begin = time.monotonic()
        os.kill(self.process.pid, signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            code = -1
        seconds = time.monotonic() - begin
        time.sleep(0.5)
        return {"seconds": round(seconds, 2), "exit_code": code, "processes_left": self.kill()}

    def kill(self) -> int:
        """Kill what still runs; the number of these processes."""
        running = [p for p in self.processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        for process in running:
            process.kill()
        return len(running)


def load(server: Server, requests: list[Request], expected: list[np.ndarray | None], clients: int) -> dict[str, object]:
    """Send requests from several clients; what was sent and what went wrong."""
    troubles: list[str] = []
    seconds = []

    def ask(pair: tuple[Request, np.ndarray | None]) -> None:
        request, scores = pair
        begin = time.monotonic()
        try:
            message = trouble(request, *request.send(server.port), scores)
        except (OSError, ValueError, http.client.HTTPException) as error:
            message = f"{request.kind}: {type(error).__name__}: {error}"
        if request.status == 200:
            seconds.append(time.monotonic() - begin)
        if message:
            troubles.append(message)

    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, zip(requests, expected, strict=True)))
    return {
        "requests": len(requests),
        "clients": clients,
        "seconds": round(time.monotonic() - begin, 1),
        "good": sum(request.status == 200 for request in requests),
        "kinds": dict(sorted(Counter(request.kind for request in requests).items())),
        "median_seconds_of_good": round(float(np.median(seconds)), 3),
        "slowest_good_seconds": round(max(seconds), 3),
        "troubles": troubles,
    }


def memory_growth(memory: list[tuple[float, float]]) -> dict[str, float]:
    """Resident memory in MiB after a quarter of the load, at its end (means of a tenth each), and its growth."""
    sizes = [size for _, size in memory]
    tenth = max(1, len(sizes) // 10)
    first = float(np.mean(sizes[len(sizes) // 4 : len(sizes) // 4 + tenth]))
    last = float(np.mean(sizes[-tenth:]))
    return {"quarter": round(first, 1), "end": round(last, 1), "growth_percent": round(100 * (last / first - 1), 2)}


def stopped_while_busy(server: Server, requests: list[Request], expected: list[np.ndarray | None]) -> dict[str, object]:
    """SIGTERM while 50 clients send good requests: what became of those sent before it, and of later ones."""
    outcome: dict[str, Counter[str]] = {"before": Counter(), "after": Counter()}
    stopping = threading.Event()

    def client(number: int) -> None:
        for i in range(number, len(requests), 50):
            when = "after" if stopping.is_set() else "before"
            try:
                message = trouble(requests[i], *requests[i].send(server.port), expected[i])
            except (OSError, http.client.HTTPException) as error:
                outcome[when][type(error).__name__] += 1
                return
            outcome[when]["wrong" if message else "right"] += 1

    with ThreadPoolExecutor(50) as pool:
        clients = [pool.submit(client, i) for i in range(50)]
        time.sleep(2)
        stopping.set()
        end = server.stop()
        for future in clients:
            future.result()
    return {**end, "sent_before": dict(outcome["before"]), "sent_after": dict(outcome["after"])}


def read_log(path: Path) -> dict[str, int]:
    """Numbers of lines, tracebacks and lines that a terminal can't show."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {
        "lines": len(lines),
        "tracebacks": sum("Traceback" in line for line in lines),
        "unprintable": sum(not line.isprintable() for line in lines),
        "longest": max(map(len, lines), default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    rng = random.Random(options.seed + 1)
    with tempfile.TemporaryDirectory() as place:
        detector = mz.load_detector(CHECKPOINT).fit(np.stack([drawing(rng) for _ in range(5)]))
        detector.save(Path(place, "detector"))
        detector = mz.load_detector(Path(place, "detector"))
        requests = mixture(options.requests, options.seed)
        busy = [r for _ in range(400) for r in good_requests(rng)]
        scores = [detector.score(np.stack(r.images)) if r.images else None for r in [*requests, *busy]]
        server = Server(Path(place, "detector"), Path(place, "log.txt"))
        try:
            answers = load(server, requests, scores[: len(requests)], options.clients)
            figures = {"checkpoint": CHECKPOINT, "load": answers, "memory_mib": memory_growth(server.memory)}
            figures["sigterm"] = stopped_while_busy(server, busy, scores[len(requests) :])
        finally:
            server.kill()
        figures["log"] = read_log(Path(place, "log.txt"))
        log = Path(place, "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    print(json.dumps(figures, indent=2))
    print("\n".join([*log[:15], "...", *log[-15:]]), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A web server for tests: files of a folder, and paths that answer otherwise."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def serving(folder: Path, answers: dict[str, Answer] | None = None, wrap: Callable | None = None) -> Iterator:
    """Serve a folder on a free port of this machine; gives the server, whose ``asked`` lists the paths asked for.

    Args:
        folder: of the files.
        answers: by path what answers in place of a file.
        wrap: makes the socket another, such as one of TLS.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            server.asked.append(self.path)
            answer = (answers or {}).get(self.path)
            if answer:
                answer(self)
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    if wrap:
        server.socket = wrap(server.socket)
    server.url = f"{'https' if wrap else 'http'}://localhost:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def redirect(where: str) -> Answer:
    def answer(request):
        request.send_response(302)
        request.send_header("Location", where)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def endless(request) -> None:
    """More and more zeros, until the other side hangs up."""
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(bytes(2**20))
    except OSError:
        pass


def drip(text: bytes) -> Answer:
    """The text, and then a byte now and again, until the other side hangs up."""

    def answer(request):
        try:
            request.wfile.write(text)
            while True:
                request.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            request.close_connection = True

    return answer

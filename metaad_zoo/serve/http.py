"""The server's side of HTTP: requests of bounded size and time, and images as files, which become JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

IMAGE_TYPES = ("image/png", "image/jpeg")
"""Content types of images that are taken as files."""
FORM = "multipart/form-data"
LINGER = 0.5
"""Seconds between an answer and the end of a connection whose client still sends: to end it at once resets it, and the
answer may be lost."""

log = logging.getLogger("metaad_zoo.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RefusedError(Exception):
    """A request that is answered without being scored.

    Args:
        status: HTTP status.
        message: one sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class BoundedRequests:
    """ASGI middleware that reads bodies whole, within limits, and turns images into ``{"images": [base64, ...]}``.

    Args:
        app: application behind it.
        max_bytes: maximum size of a body.
        max_seconds: maximum time from the head of a request to the end of its body.
        max_samples: maximum number of files in a form.
    """

    app: App
    max_bytes: int
    max_seconds: float
    max_samples: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _LoggedAnswer(scope, send)
        if scope["method"] != "POST":
            await self.app(scope, receive, answer)
            return
        try:
            body = await self._body(scope, receive)
            if body is None:  # the client has gone
                return
            scope, body = as_json(scope, body, self.max_samples)
        except RefusedError as error:
            content = json.dumps({"detail": str(error)}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
            headers.append((b"connection", b"close"))  # else a body that drips on would hold the connection
            await answer({"type": "http.response.start", "status": error.status, "headers": headers})
            await answer({"type": "http.response.body", "body": content, "more_body": True})
            await asyncio.sleep(LINGER)
            await answer({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self.app(scope, _replay(body, receive), answer)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None where the client has gone. What is too large is read to its end, so that the client, which
        is still sending, reads the answer."""
        body, size = bytearray(), 0

        async def read() -> bool:
            nonlocal size
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                size += len(message.get("body", b""))
                if size <= self.max_bytes:
                    body.extend(message.get("body", b""))
                else:
                    body.clear()
                if not message.get("more_body", False):
                    return True

        too_large = RefusedError(
            413, f"the request has more than {self.max_bytes} bytes, the limit (--max-bytes): send several requests"
        )
        try:
            whole = await asyncio.wait_for(read(), self.max_seconds)
        except asyncio.TimeoutError as error:
            raise (
                too_large
                if size > self.max_bytes
                else RefusedError(
                    408, f"the request was not complete after {self.max_seconds:g} seconds, the limit (--max-seconds)"
                )
            ) from error
        if whole and size > self.max_bytes:
            raise too_large
        return bytes(body) if whole else None


@dataclass
class _LoggedAnswer:
    """Sends an answer, and writes a line to the log where it is an error."""

    scope: Scope
    send: Send
    status: int = 0
    begin: float = field(default_factory=time.monotonic)

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self.status >= 400:
            self._write(message.get("body", b""))
            self.status = 0
        await self.send(message)

    def _write(self, body: bytes) -> None:
        client = (self.scope.get("client") or ("a client",))[0]
        request = printable(f"{self.scope['method']} {self.scope['path']}")
        try:
            reason = printable(str(json.loads(body)["detail"]))
        except (ValueError, KeyError, TypeError):
            reason = ""
        seconds = time.monotonic() - self.begin
        log.warning("%s from %s: %d after %.3f s: %s", request, client, self.status, seconds, reason)


def printable(text: str) -> str:
    """Text for one line of a log: at most 300 characters, those that a terminal obeys escaped.

    Example:
        >>> printable("a\\nb")
        'a\\\\nb'
    """
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text[:300])


def as_json(scope: Scope, body: bytes, max_files: int) -> tuple[Scope, bytes]:
    """A request with images as one with JSON; others unchanged.

    Args:
        scope: ASGI scope.
        body: body of the request.
        max_files: maximum number of files in a form.

    Raises:
        RefusedError: the form is damaged, or holds something that is no file.
    """
    kind = _header(scope, b"content-type")
    if kind.get_content_type() in IMAGE_TYPES:
        files = [body]
    elif kind.get_content_type() == FORM:
        files = form_files(body, str(kind.get_param("boundary", "")), max_files)
    else:
        return scope, body
    body = json.dumps({"images": [base64.b64encode(file).decode("ascii") for file in files]}).encode()
    replaced = (b"content-type", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in replaced]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return {**scope, "headers": headers}, body


def _header(scope: Scope, name: bytes) -> Message:
    values = [value for key, value in scope["headers"] if key == name]
    header = Message()
    header["content-type"] = values[0].decode("latin-1") if values else "application/octet-stream"
    return header


def form_files(body: bytes, boundary: str, max_files: int) -> list[bytes]:
    """Contents of the files in a form (``multipart/form-data``, RFC 7578).

    Args:
        body: body of the request.
        boundary: separator of its parts, as the header names it.
        max_files: maximum number of files.

    Raises:
        RefusedError: the form is damaged, holds no or too many files, or something that is no file.

    Example:
        >>> head = b'--x\\r\\nContent-Disposition: form-data; name="f"; filename="a.png"\\r\\n\\r\\n'
        >>> form_files(head + b"content\\r\\n--x--\\r\\n", "x", 1)
        [b'content']
    """
    if not boundary or len(boundary) > 70:
        raise RefusedError(422, f"expected {FORM} with a boundary, saw none of up to 70 characters")
    separator = b"\r\n--" + boundary.encode("latin-1", "replace")
    preamble, *parts = (b"\r\n" + body).split(separator, max_files + 1)
    if len(parts) < 2 or preamble.strip() or (len(parts) <= max_files and not parts[-1].startswith(b"--")):
        raise RefusedError(422, f"expected {FORM} with files, saw a damaged form or none: send it whole")
    if not parts[-1].startswith(b"--"):
        raise RefusedError(422, f"saw more than {max_files} files; at most {max_files} samples a request: send several")
    return [_file_of(part) for part in parts[:-1]]


def _file_of(part: bytes) -> bytes:
    head, _, content = part.partition(b"\r\n\r\n")
    name = (
        BytesParser()
        .parsebytes(head.strip(b" \t\r\n"), headersonly=True)
        .get_param("filename", header="content-disposition")
    )
    if name is None:
        raise RefusedError(422, f"expected files in {FORM}, saw a field without a file name: leave it out")
    return content


def _replay(body: bytes, receive: Receive) -> Receive:
    """Channel that gives a body that was read, and then what comes after it."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def timed_protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, with a limit of the time that the head of a request may take."""

    class TimedProtocol(H11Protocol):
        head_timer: asyncio.TimerHandle | None = None
        refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.head_timer = self.loop.call_later(seconds, self.refuse_late_head)

        def data_received(self, data: bytes) -> None:
            if self.refused:
                return
            if self.head_timer is None and self.conn.their_state is h11.IDLE:
                self.head_timer = self.loop.call_later(seconds, self.refuse_late_head)
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self.stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)

        def stop_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def refuse_late_head(self) -> None:
            self.head_timer = None
            if self.transport.is_closing() or self.conn.our_state is not h11.IDLE:
                return
            message = f"the head of the request was not complete after {seconds:g} seconds, the limit (--max-seconds)"
            content = json.dumps({"detail": message}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers += [(b"content-length", str(len(content)).encode())]
            parts = (
                h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            )
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
            self.refused = True
            self.loop.call_later(LINGER, self.transport.close)
            log.warning("408 to %s: %s", self.client[0] if self.client else "a client", message)

    return TimedProtocol

"""Files over http(s): one deadline for a fetch, limits of size, no redirects from the internet to private networks."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from metaad_zoo.atomic_write import replacing
from metaad_zoo.zoo.reading import CHUNK, CheckpointError, check_sha256, read_bytes, read_chunks

TIMEOUT_VARIABLE = "METAAD_FETCH_TIMEOUT"
"""Environment variable that names the seconds that one fetch may take, with all its files."""
USUAL_TIMEOUT = 600.0
STALL = 30.0
"""Seconds to wait for an answer or a further byte."""
REDIRECTS = 5
_LOCAL = ("localhost", "127.0.0.1", "::1")
Result = TypeVar("Result")


def fetch_timeout() -> float:
    """Seconds that one fetch may take: what ``METAAD_FETCH_TIMEOUT`` says, else 600.

    Raises:
        CheckpointError: the environment variable is no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, str(USUAL_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise CheckpointError(f"{TIMEOUT_VARIABLE}={text}: expected a number of seconds, such as {USUAL_TIMEOUT:g}")
    return seconds


class Reach(IntEnum):
    """From where an address can be reached; smaller is further inside."""

    MACHINE = 0
    NETWORK = 1
    INTERNET = 2


def reach_of(address: str) -> Reach:
    """Reach of an IP address.

    Example:
        >>> [reach_of(a).name for a in ("127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "8.8.8.8")]
        ['MACHINE', 'NETWORK', 'NETWORK', 'INTERNET']
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_loopback or ip.is_unspecified:
        return Reach.MACHINE
    return Reach.INTERNET if ip.is_global else Reach.NETWORK


class Transfer:
    """The requests of one fetch. At its deadline its connections are cut, whatever a server sends until then.

    The address that the user named decides how far inside a fetch may go: one that is on the internet is never led to
    this machine or to a private network, neither by a redirect nor by a name that resolves differently later.

    Args:
        seconds: time for all requests; None as ``METAAD_FETCH_TIMEOUT`` says.

    Example:
        >>> with Transfer(seconds=1) as transfer:
        ...     transfer.read(Path(__file__).as_uri(), limit=10**6)[:8]
        b'\"\"\"Files'
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = fetch_timeout() if seconds is None else seconds
        self._end = time.monotonic() + self.seconds
        self._timer = threading.Timer(self.seconds, self._cut)
        self._timer.daemon = True
        self._sockets: list[socket.socket] = []
        self._reach: Reach | None = None
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # compressed content could outgrow its limit in memory
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _WatchedAdapter(self))

    def __enter__(self) -> Transfer:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._session.close()
        for connection in self._sockets:
            connection.close()

    def read(self, url: str, limit: int, sha256: str | None = None) -> bytes:
        """Content of a file in memory.

        Args:
            url: ``https``, ``file``, or ``http`` for this machine alone.
            limit: largest size in bytes.
            sha256: expected sha256; None does not check it.

        Raises:
            CheckpointError: there is no such file, its size or sha256 is wrong, the network fails, the time is over, or
                the server redirects to where it must not.
        """
        path = _local_path(url)
        content = bytearray(read_bytes(path, limit) if path else b"")
        for chunk in () if path else self._chunks(url, limit):
            content += chunk
        if sha256 is not None:
            check_sha256(hashlib.sha256(content).hexdigest(), sha256, url, "its address or index")
        return bytes(content)

    def save(self, url: str, path: Path, limit: int, sha256: str) -> None:
        """Write a file as it comes, beside ``path``, which it replaces once its sha256 is right.

        Raises:
            CheckpointError: as for :meth:`read`; nothing is kept then.
        """
        digest, source = hashlib.sha256(), _local_path(url)
        with replacing(path) as beside:
            with beside.open("wb") as file:
                for chunk in read_chunks(source, limit) if source else self._chunks(url, limit):
                    digest.update(chunk)
                    file.write(chunk)
            check_sha256(digest.hexdigest(), sha256, url, "its address or index")

    def _chunks(self, url: str, limit: int) -> Iterator[bytes]:
        size = 0
        try:
            with self._answer(url) as answer:
                answer.raise_for_status()
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise CheckpointError(f"{url} comes compressed, but was requested uncompressed: not fetched")
                for chunk in answer.raw.stream(CHUNK, decode_content=False):
                    size += len(chunk)
                    if size > limit:
                        raise CheckpointError(f"{url} gives more than {limit:,} bytes: not fetched")
                    yield chunk
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            self._refuse_late(url, error)
            raise CheckpointError(f"{url} could not be fetched ({error}): try again, or fetch it by hand") from error
        self._refuse_late(url)  # a cut connection may look like the end of a file

    def _answer(self, url: str) -> requests.Response:
        location = url
        for _ in range(REDIRECTS + 1):
            _check_scheme(location, url)
            seconds = max(min(STALL, self._end - time.monotonic()), 0.001)
            answer = self._session.get(location, stream=True, timeout=seconds, allow_redirects=False)
            if not answer.is_redirect:
                return answer
            answer.close()
            location = urljoin(location, answer.headers["location"])
        raise CheckpointError(f"{url} redirects more than {REDIRECTS} times: not fetched")

    def _refuse_late(self, url: str, error: Exception | None = None) -> None:
        if time.monotonic() >= self._end:
            raise _late(url, self.seconds) from error

    def _cut(self) -> None:
        for connection in tuple(self._sockets):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by the server already
                continue

    def watch(self, connection: socket.socket, host: str, proxied: bool) -> socket.socket:
        """The same connection, which is cut at the deadline. Refused if it leads further inside than the first one.

        Raises:
            CheckpointError: it does, or the time is over.
        """
        peer = connection.getpeername()[0]
        reach = _reach_of_name(host) if proxied else reach_of(peer)
        if self._reach is not None and reach < self._reach:
            connection.close()
            where = "this machine" if reach == Reach.MACHINE else "a private network"
            raise CheckpointError(
                f"{host} ({peer}) is an address of {where}, to which an address outside of it leads: not fetched; name "
                "the address itself if you trust it"
            )
        self._reach = reach if self._reach is None else self._reach
        self._sockets.append(connection.dup())  # TLS takes over the first
        self._refuse_late(host)  # the cut may have missed it
        return connection


def in_time(work: Callable[[], Result], what: str) -> Result:
    """Result of work over the network whose connections are not ours to cut: after the time for a fetch, an error.

    Args:
        work: called in a thread, which may still wait for the network when this function raises.
        what: what is fetched, for the error.

    Raises:
        CheckpointError: the time is over.

    Example:
        >>> in_time(lambda: 3, "three")
        3
    """
    seconds = fetch_timeout()
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeoutError as error:
        if future.done():
            raise
        raise _late(what, seconds) from error


def _late(what: str, seconds: float) -> CheckpointError:
    return CheckpointError(
        f"{what} was not complete after {seconds:g} seconds, the time for a whole fetch: nothing of it is kept; try "
        f"again, or set {TIMEOUT_VARIABLE} (seconds) higher"
    )


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _reach_of_name(host: str) -> Reach:
    """Reach of a host behind a proxy, which resolves its name."""
    try:
        return reach_of(host.strip("[]"))
    except ValueError:
        name = host.rstrip(".").lower()
        return Reach.MACHINE if name == "localhost" or name.endswith(".localhost") else Reach.INTERNET


def _check_scheme(url: str, requested: str) -> None:
    parts = urlsplit(url)
    by_redirect = "" if url == requested else f" (where {requested} redirects to)"
    if parts.scheme == "http" and urlsplit(requested).scheme == "https":
        raise CheckpointError(f"{url}{by_redirect} is no https:// address: what it gives can be changed on its way")
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL):
        return
    raise CheckpointError(
        f"{url}{by_redirect} is no https:// address: without https, content can be changed on its way; only addresses "
        "of this machine may do without"
    )


class _WatchedAdapter(HTTPAdapter):
    """Adapter of requests whose connections a :class:`Transfer` watches."""

    def __init__(self, transfer: Transfer) -> None:
        self.pools = _watched_pools(transfer)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self.pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self.pools
        return manager


def _watched_pools(transfer: Transfer) -> dict[str, type]:
    """Pools of connections by scheme, as urllib3 takes them."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return transfer.watch(super()._new_conn(), self.host, self.proxy is not None)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return transfer.watch(super()._new_conn(), self.host, self.proxy is not None)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}

"""HTTP connections with time limits for whole requests, and uploads that count the bytes sent.

All changes to the behaviour of requests, urllib3 and http.client are in this module.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import math
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection, HTTPSConnection

_REPORT_SECONDS = 0.2
"""The time between two reports of the progress of an upload."""
_KEEPALIVE = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    # The first probe is sent before a router forgets an idle connection. (On macOS, this option has
    # another name.)
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 30),
    ("TCP_KEEPALIVE", socket.IPPROTO_TCP, 30),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 30),
    # A network that is down for minutes must not end the connection earlier than the timeout for an
    # answer does.
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 20),
)
"""(name, level, value) of each socket option. A platform may lack some of the names."""


_CHUNK = re.compile(rb"[0-9A-Fa-f]+[ \t]*([;\r\n]|$)")
"""The beginning of a chunk: its length."""
_GZIP = b"\x1f\x8b"
"""The first two bytes of a compressed body."""
_LAYERS = 3
"""How many times a body may be compressed: a proxy may compress it again."""
_MEMBERS = 2000
"""The most gzip members in a body. Empty members add nothing to its length, so the limit for its
length doesn't stop them."""
_UNPACKED = 2**20
"""The most bytes that are decompressed at a time."""


class TooLong(Exception):
    """The body has more bytes than any real answer."""


class Bearer(AuthBase):
    """Sends the key in a header.

    As the `auth` of a request, it also keeps requests from using a .netrc file instead.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Anonymous(AuthBase):
    """Sends no credentials, not even those of a .netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Session(requests.Session):
    """A session that follows no redirects and can limit the total time of a request.

    The timeout of a socket is not enough for that. It starts again with every byte, and a library
    waits for many bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer: threading.Timer | None = None
        self.is_over = False
        # The only compression that is asked for.
        self.headers["Accept-Encoding"] = "gzip"
        self.mount("https://", Adapter(self))
        self.mount("http://", Adapter(self))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None, so that requests ignores redirects.

        Otherwise it would read the whole body of a redirect, which may never end.
        """
        return None

    def limit(self, seconds: float) -> None:
        """Shut down all connections after `seconds`; 0 removes the limit."""
        if self._timer:
            self._timer.cancel()
        if seconds:
            self._timer = threading.Timer(seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Apply the time limit to this socket as well."""
        with self._lock:
            self._sockets.append(connected)
            if self.is_over:
                _shut(connected)

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            for connected in self._sockets:
                _shut(connected)

    def read(
        self,
        response: requests.Response,
        limit: int,
        seconds: float,
        chunks: bytearray | None = None,
    ) -> bytes:
        """Return the body of a response, decompressed.

        What has arrived is added to `chunks`, even if the connection breaks. Raises TooLong if
        there are more than `limit` bytes, whatever the header says. Raises
        requests.RequestException if the connection breaks, or if the body is not complete within
        `seconds`.
        """
        self.limit(seconds)
        chunks = bytearray() if chunks is None else chunks
        for piece in _pieces(response):
            chunks += piece
            if len(chunks) > limit:
                raise TooLong
        if self.is_over:
            # A body without a length seems complete when its connection is shut down.
            raise requests.ReadTimeout
        return bytes(chunks)


class Adapter(HTTPAdapter):
    """Creates the connections of a session."""

    def __init__(self, session: Session, **options: Any) -> None:
        self._session = session
        super().__init__(**options)

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        kind = _SecureConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = functools.partial(kind, self._session)
        return pool


class _Response(http.client.HTTPResponse):
    """A response after any number of interim ones. (http.client skips only those of status 100.)"""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            # `begin` reads another status line only if there are no headers yet.
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        found = self.fp.peek(16) if self.chunked and self.fp else b""
        if found and not _CHUNK.match(found):
            # A proxy joined the chunks and kept the header. The body ends when the connection is
            # closed.
            del self.headers["Transfer-Encoding"]
            self.chunked, self.will_close = False, True


class _Connection(HTTPConnection):
    """A connection with TCP keep-alive, whose sockets the session can shut down."""

    response_class = _Response

    def __init__(self, session: Session, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._session = session

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        for name, level, value in _KEEPALIVE:
            # An option that the system refuses must not prevent an edit.
            with contextlib.suppress(OSError):
                if hasattr(socket, name):
                    connected.setsockopt(level, getattr(socket, name), value)
        self._session.watch(connected)
        return connected

    def connect(self) -> None:
        super().connect()
        # TLS puts another object in place of the socket. With TLS inside TLS, this object is no
        # socket itself, but has one.
        connected: Any = self.sock
        self._session.watch(getattr(connected, "socket", connected))


class _SecureConnection(_Connection, HTTPSConnection):
    """The same connection over TLS."""


class Body:
    """The body of a request, which counts how many of its bytes have been read for sending.

    Its first piece is read after the headers have been sent to the service, that is, after a proxy
    has opened the tunnel and TLS is established. Each further piece is read after the previous one
    was passed to the socket. So what was not read has not been sent.

    requests treats it as a stream of known length because it has `__iter__`, `__len__` and `read`.

    `on_sent` is called with the number of bytes read and of all bytes, at intervals and at the end.
    `on_piece` is called before each piece is returned, with whether it is the last one, and may
    raise an exception to end the request.
    """

    def __init__(
        self,
        data: bytes,
        on_sent: Callable[[int, int], None],
        on_piece: Callable[[bool], None],
    ) -> None:
        self._data = memoryview(data)
        self._on_sent = on_sent
        self._on_piece = on_piece
        self._given = 0
        self._told = -math.inf

    @property
    def is_begun(self) -> bool:
        """Whether any byte may have been sent."""
        return self._given > 0

    @property
    def is_whole(self) -> bool:
        """Whether the last piece may have been sent. No service can accept a request without it."""
        return self._given == len(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(65536), b"")

    def read(self, size: int) -> bytes:
        now = time.monotonic()
        if self.is_whole or now - self._told >= _REPORT_SECONDS:
            self._told = now
            self._on_sent(self._given, len(self._data))
        piece = self._data[self._given : self._given + size].tobytes()
        if piece:
            self._on_piece(self._given + len(piece) == len(self._data))
        self._given += len(piece)
        return piece


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Call the method of a plain socket. That of a TLS socket must not be called while another
        # thread reads from it.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives, decompressed. Raises requests.RequestException.

    The method `iter_content` of requests is not used, because it would lose data when a connection
    breaks: it waits until a piece is full, and drops what it can't decompress.
    """
    try:
        pieces = iter(lambda: response.raw.read1(65536, decode_content=False), b"")
        is_deflated = "deflate" in response.headers.get("Content-Encoding", "").lower()
        for layer in range(_LAYERS):
            pieces = _unpacked(pieces, is_deflated and not layer)
        yield from pieces
    except zlib.error as error:
        raise requests.exceptions.ContentDecodingError(error) from error
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except urllib3.exceptions.SSLError as error:
        raise requests.exceptions.SSLError(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error


def _unpacked(pieces: Iterator[bytes], is_deflated: bool) -> Iterator[bytes]:
    """Yield a body, decompressed if it is compressed. Raises zlib.error.

    gzip is recognised by its first two bytes, whatever the header says. The first bytes of zlib
    data may also be those of a text, so zlib data is only looked for if `is_deflated`, that is, if
    the header says `deflate`.
    """
    first = b""
    for piece in pieces:
        first += piece
        if len(first) >= len(_GZIP):
            break
    bits = 16 + zlib.MAX_WBITS
    if (
        is_deflated
        and len(first) > 1
        and first[0] & 15 == 8
        and (first[0] << 8 | first[1]) % 31 == 0
    ):
        bits = zlib.MAX_WBITS
    elif not first.startswith(_GZIP):
        yield first
        yield from pieces
        return
    unpacker, members = zlib.decompressobj(bits), 1
    for piece in itertools.chain([first], pieces):
        while piece:
            if unpacker.eof:
                members += 1
                if not piece.startswith(_GZIP) or members > _MEMBERS:
                    # What follows the compressed data is ignored.
                    return
                unpacker = zlib.decompressobj(bits)
            before = unpacker.copy()
            try:
                yield unpacker.decompress(piece, _UNPACKED)
            except zlib.error:
                yield from _salvaged(before, piece)
                raise
            piece = unpacker.unconsumed_tail or unpacker.unused_data
    yield unpacker.flush()
    if not unpacker.eof:
        raise zlib.error


def _salvaged(unpacker: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    """Yield what can be decompressed of a piece before its first damaged byte."""
    with contextlib.suppress(zlib.error):
        for place in range(len(piece)):
            yield unpacker.decompress(piece[place : place + 1])


def content_type(response: requests.Response) -> str:
    """Return the type of a response as its header says, or "" if there is none."""
    return str(response.headers.get("Content-Type", ""))

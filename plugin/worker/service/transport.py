"""HTTP connections with time limits for whole requests, and uploads that count the bytes sent.

This module contains all code that changes how the libraries requests, urllib3 and http.client
behave.
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
"""The progress of an upload is reported at most once in this many seconds, and at the end."""
_KEEPALIVE = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    # Send the first probe, a packet without data, after 30 idle seconds, before a router on the way
    # forgets the connection. (On macOS, this option has the second of these names.)
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 30),
    ("TCP_KEEPALIVE", socket.IPPROTO_TCP, 30),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 30),
    # Give up only after 20 unanswered probes, that is, after 10 minutes. Otherwise a network that
    # is down for a few minutes would end the connection before the timeout for the answer does.
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 20),
)
"""The (name, level, value) of each socket option for TCP keep-alive, which keeps a connection open
while the service works. Names that a platform lacks are skipped."""


_CHUNK = re.compile(rb"[0-9A-Fa-f]+[ \t]*([;\r\n]|$)")
"""A pattern for the beginning of a chunk, which is the length of the chunk. HTTP sends a body in
chunks if the length of the body is not known at first."""
_GZIP = b"\x1f\x8b"
"""The first two bytes of a body that is compressed with gzip."""
_LAYERS = 3
"""A body is decompressed at most this many times. Some proxies compress a body that is already
compressed."""
_MEMBERS = 2000
"""At most this many gzip members (pieces that are compressed separately) of a body are read. The
limit for the length of the decompressed body doesn't stop an endless series of empty members."""
_UNPACKED = 2**20
"""When a body is decompressed, at most this many bytes are yielded at a time."""


class TooLong(Exception):
    """The body of a response has more bytes than the caller accepts."""


class Bearer(AuthBase):
    """Adds the API key to the headers of a request.

    Pass an instance as the `auth` of the request. Without `auth`, the library requests would look
    for a password in the user's .netrc file and send that.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Anonymous(AuthBase):
    """Adds neither the API key nor a password to a request.

    Pass an instance as the `auth` of the request. Without `auth`, the library requests would look
    for a password in the user's .netrc file and send that.
    """

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Session(requests.Session):
    """A session that follows no redirects and can limit the total time of a request.

    The timeout of a socket doesn't limit the total time, because it starts again whenever a byte
    arrives, and the libraries wait until many bytes have arrived.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer: threading.Timer | None = None
        self.is_over = False
        # Ask the service to use no compression other than gzip.
        self.headers["Accept-Encoding"] = "gzip"
        self.mount("https://", Adapter(self))
        self.mount("http://", Adapter(self))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None, so that the library requests treats a redirect like any other response.

        Otherwise requests would read the whole body of the redirect, even if the body never ends.
        """
        return None

    def limit(self, seconds: float) -> None:
        """Shut down all connections of the session after `seconds`, or never if `seconds` is 0.

        A new limit replaces the former one.
        """
        if self._timer:
            self._timer.cancel()
        if seconds:
            self._timer = threading.Timer(seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Add `connected` to the sockets that are shut down when the time limit is reached."""
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
        """Return the decompressed body of a response.

        If the caller passes `chunks`, the bytes are added to `chunks` as they arrive, so the caller
        has them even if the connection breaks. Raises TooLong if the decompressed body has more
        than `limit` bytes, whatever length the header gives. Raises requests.RequestException if
        the connection breaks, or if the body is not complete within `seconds`.
        """
        self.limit(seconds)
        chunks = bytearray() if chunks is None else chunks
        for piece in _pieces(response):
            chunks += piece
            if len(chunks) > limit:
                raise TooLong
        if self.is_over:
            # The connection was shut down because of the time limit. If the header doesn't give the
            # length of the body, the body seems complete, but it possibly isn't.
            raise requests.ReadTimeout
        return bytes(chunks)


class Adapter(HTTPAdapter):
    """Makes the session `session` use the connection classes of this module."""

    def __init__(self, session: Session, **options: Any) -> None:
        self._session = session
        super().__init__(**options)

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        kind = _SecureConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = functools.partial(kind, self._session)
        return pool


class _Response(http.client.HTTPResponse):
    """A response that skips all interim responses (status 1xx, except 101) before the real one.

    http.client skips only those with status 100. This class also reads a body that is sent in one
    piece although the header says that it is sent in chunks.
    """

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            # Remove the headers, because `begin` reads the next response only if there are none.
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        found = self.fp.peek(16) if self.chunked and self.fp else b""
        if found and not _CHUNK.match(found):
            # A proxy has joined the chunks, but not removed the header that announces them. So read
            # the body until the connection is closed.
            del self.headers["Transfer-Encoding"]
            self.chunked, self.will_close = False, True


class _Connection(HTTPConnection):
    """A connection with TCP keep-alive. It tells the session its sockets.

    So the session can shut the sockets down when the time limit is reached.
    """

    response_class = _Response

    def __init__(self, session: Session, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._session = session

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        for name, level, value in _KEEPALIVE:
            # If the system refuses an option, go on without this option.
            with contextlib.suppress(OSError):
                if hasattr(socket, name):
                    connected.setsockopt(level, getattr(socket, name), value)
        self._session.watch(connected)
        return connected

    def connect(self) -> None:
        super().connect()
        # With TLS, `sock` is another object than the socket that `_new_conn` returned, so tell the
        # session this object, too. With TLS inside TLS, which an https proxy causes, the object is
        # not a socket, but has an attribute `socket`.
        connected: Any = self.sock
        self._session.watch(getattr(connected, "socket", connected))


class _SecureConnection(_Connection, HTTPSConnection):
    """A connection like _Connection, but encrypted with TLS."""


class Body:
    """The body of a request, which counts how many of its bytes have been read for sending.

    Bytes that have not been read have certainly not been sent. The reason is the order of the
    steps: a proxy opens the tunnel, TLS is established, and the headers are sent to the service.
    Only then is the first piece of the body read. Each further piece is read after the previous
    piece was passed to the socket.

    Because a Body has `__iter__`, `__len__` and `read`, the library requests treats it as a stream
    of known length.

    `on_sent` is called at intervals and at the end, with the number of bytes read so far and the
    number of all bytes. `on_piece` is called before each piece is returned, with True for the last
    piece. To end the request, `on_piece` can raise an exception.
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
        """Whether the first piece has possibly been sent."""
        return self._given > 0

    @property
    def is_whole(self) -> bool:
        """Whether the last piece has possibly been sent.

        As long as this is False, no service can have accepted the request.
        """
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
        # Call the method `shutdown` of plain sockets even for a TLS socket, because a TLS socket's
        # own `shutdown` must not be called while another thread reads from the socket.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield the decompressed pieces of the body as they arrive. Raises requests.RequestException.

    The method `iter_content` of the library requests is not used, because it loses data when the
    connection breaks: it collects bytes until a piece is full, and drops bytes that it can't
    decompress.
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
    """Yield the pieces of a body, decompressed if the body is compressed. Raises zlib.error.

    A body in the gzip format is recognised by the first two bytes, whatever the header says. A body
    in the zlib format can begin like a text, so it is recognised only if `is_deflated` is True,
    which means that the header says `deflate`.
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
                    # Ignore the bytes after the compressed data.
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
    """Yield the bytes that can be decompressed from `piece` before the first damaged byte in it."""
    with contextlib.suppress(zlib.error):
        for place in range(len(piece)):
            yield unpacker.decompress(piece[place : place + 1])


def content_type(response: requests.Response) -> str:
    """Return the header Content-Type of a response, or "" if the response has no such header."""
    return str(response.headers.get("Content-Type", ""))

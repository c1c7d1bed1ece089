"""HTTP connections to the service: their time limits, and what has left through them.

Everything that changes how requests, urllib3 and http.client behave stands here.
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
from urllib3.connection import HTTPConnection, HTTPSConnection

_REPORT_SECONDS = 0.2
"""Between two reports of an upload."""
_KEEPALIVE = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    # The first probe comes before a router forgets a silent connection; macOS names it differently.
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 30),
    ("TCP_KEEPALIVE", socket.IPPROTO_TCP, 30),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 30),
    # A network that is away for minutes must not end the connection earlier than silence would.
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 20),
)
"""Name, level and value of each option; a platform lacks some of the names."""


_CHUNK = re.compile(rb"[0-9A-Fa-f]+[ \t]*([;\r\n]|$)")
"""What a chunk begins with: its length."""
_GZIP = b"\x1f\x8b"
"""What a packed body begins with."""
_LAYERS = 3
"""How often a body may be packed: proxies do it once more."""
_MEMBERS = 2000
"""Packed pieces that follow each other; each may be empty."""
_UNPACKED = 2**20
"""Most bytes that are unpacked at a time."""


class TooLong(Exception):
    """More bytes than any answer has."""


class Session(requests.Session):
    """A session that follows no redirect, and whose time runs out however busy it is kept.

    Timeouts of a socket begin anew with every byte, and a library reads many bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer: threading.Timer | None = None
        self.is_over = False
        # The only way of packing that is understood here.
        self.headers["Accept-Encoding"] = "gzip"
        self.mount("https://", Adapter(self))
        self.mount("http://", Adapter(self))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None: to look at a redirect is enough to read a body without end."""
        return None

    def limit(self, seconds: float) -> None:
        """Break off all that is under way after `seconds`; 0 removes the limit."""
        if self._timer:
            self._timer.cancel()
        if seconds:
            self._timer = threading.Timer(seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Let the limit apply to this socket, too."""
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
        """Read the body: at most `limit` bytes, whatever its header says, within `seconds`.

        `chunks` gets what has arrived, also if the connection breaks. Raises TooLong and
        requests.RequestException.
        """
        self.limit(seconds)
        chunks = bytearray() if chunks is None else chunks
        for piece in _pieces(response):
            chunks += piece
            if len(chunks) > limit:
                raise TooLong
        if self.is_over:
            # A body without a length seems to end there.
            raise requests.ReadTimeout
        return bytes(chunks)


class Adapter(HTTPAdapter):
    """Makes the connections of a session."""

    def __init__(self, session: Session, **options: Any) -> None:
        self._session = session
        super().__init__(**options)

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        kind = _SecureConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = functools.partial(kind, self._session)
        return pool


class _Response(http.client.HTTPResponse):
    """An answer, read behind any number of interim ones: http.client skips status 100 alone."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            # Without headers it reads the next status line.
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        found = self.fp.peek(16) if self.chunked and self.fp else b""
        if found and not _CHUNK.match(found):
            # A proxy took the chunks away and left the header: it ends where the connection does.
            del self.headers["Transfer-Encoding"]
            self.chunked, self.will_close = False, True


class _Connection(HTTPConnection):
    """A connection that is kept alive, and whose sockets the session may shut."""

    response_class = _Response

    def __init__(self, session: Session, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._session = session

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        for name, level, value in _KEEPALIVE:
            # An edit is worth more than an option that a system refuses.
            with contextlib.suppress(OSError):
                if hasattr(socket, name):
                    connected.setsockopt(level, getattr(socket, name), value)
        self._session.watch(connected)
        return connected

    def connect(self) -> None:
        super().connect()
        # TLS makes a new socket object of the old one, and TLS inside TLS holds one.
        connected: Any = self.sock
        self._session.watch(getattr(connected, "socket", connected))


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class Body:
    """A form on its way up, which knows how much of itself it has given away.

    It is asked for its first piece when the head has been sent to the service, that is after a
    proxy has opened the tunnel and TLS is established; for each further piece when the one before
    was handed to the socket. So what was not asked for has not left. For requests it is a stream of
    known length: that takes `__iter__`, `__len__` and `read`.
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
        """Whether any of it may have left."""
        return self._given > 0

    @property
    def is_whole(self) -> bool:
        """Whether its last piece may have left; without that no service can accept it."""
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
        # Not by the method of a TLS socket, which some other thread is reading from.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Give the body as it arrives, unpacked. Raises requests.RequestException.

    `iter_content` waits until a piece is full, and drops what it can't unpack: both lose what there
    was when something breaks.
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
    """Unpack a body if it is packed, whatever its header says of that. Raises zlib.error.

    `is_deflated`: its header names a way of packing that can't be told from a text by two bytes.
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
                    # What follows is to be ignored.
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
    """Unpack what can be had of a piece before it is damaged."""
    with contextlib.suppress(zlib.error):
        for place in range(len(piece)):
            yield unpacker.decompress(piece[place : place + 1])

"""A service that says what it is told to, byte by byte, be it HTTP or not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

Reply = bytes | Callable[[socket.socket], None]
"""What goes back for a request: bytes, or a step that sends them; the connection ends after it."""


@dataclass(frozen=True)
class Got:
    """A request that came whole."""

    method: str
    path: str
    head: bytes
    body: bytes


class RawServer:
    """Answers each request with what `answer` returns for it; None hangs up at once."""

    def __init__(self, answer: Callable[[Got], Reply | None], host: str = "127.0.0.1") -> None:
        self.answer = answer
        self.got: list[Got] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self.base_url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"
        self.closed = threading.Event()

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def posts(self) -> int:
        return sum(got.method == "POST" for got in self.got)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            if (got := _request(connection)) is None:
                return
            self.got.append(got)
            reply = self.answer(got)
            if callable(reply):
                reply(connection)
            elif reply is not None:
                connection.sendall(reply)
            # All of it arrives: a close with bytes unread would reset the connection.
            connection.shutdown(socket.SHUT_WR)


def _request(connection: socket.socket) -> Got | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := connection.recv(1 << 18)):
            return None
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    body = bytearray(rest)
    length = next(
        (
            int(h.split(b":")[1])
            for h in head.split(b"\r\n")
            if h.lower().startswith(b"content-len")
        ),
        0,
    )
    while len(body) < length:
        if not (piece := connection.recv(1 << 18)):
            return None
        body += piece
    method, path, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
    return Got(method, path, head, bytes(body))


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer, with its length."""
    lines = [f"HTTP/1.1 {status} X", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def dripping(head: bytes, piece: bytes = b"x", every: float = 0.05, most: float = 20) -> Reply:
    """Send `head`, then `piece` again and again, slowly, for `most` seconds."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        end = time.monotonic() + most
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(every)

    return send


def endless(head: bytes, piece: bytes = b"x" * 65536) -> Reply:
    """Send `head`, then `piece` for as long as anybody takes it."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in _forever():
            connection.sendall(piece)

    return send


def _forever() -> Iterator[None]:
    while True:
        yield

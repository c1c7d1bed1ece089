"""A service that answers with given bytes, which need not be valid HTTP, and a proxy."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", bound="_Listening")

Reply = bytes | Callable[[socket.socket], None]
"""The answer to a request: bytes, or a function that sends them. Then the connection is closed."""


@dataclass(frozen=True)
class Got:
    """A request that was received completely."""

    method: str
    path: str
    head: bytes
    body: bytes


class _Listening:
    """A context manager that serves each connection to `listener` in a thread of its own."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def __enter__(self: T) -> T:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class RawServer(_Listening):
    """A service that answers each request with what `answer` returns for it.

    If `answer` returns None, the service hangs up. With a `context`, it uses TLS.
    """

    def __init__(
        self,
        answer: Callable[[Got], Reply | None],
        host: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self._context = context
        self.got: list[Got] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__(socket.create_server((host, 0), family=family))
        self.port = self._listener.getsockname()[1]
        scheme = "https" if context else "http"
        self.base_url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/v1"
        self.closed = threading.Event()

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        super().__exit__()

    @property
    def posts(self) -> int:
        return sum(got.method == "POST" for got in self.got)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.enter_context(connection)
            connection.settimeout(30)
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
                stack.enter_context(connection)
            if (got := _request(connection)) is None:
                return
            self.got.append(got)
            reply = self.answer(got)
            if callable(reply):
                reply(connection)
            elif reply is not None:
                connection.sendall(reply)
            # Shut down before closing, so that all of the answer arrives: a close with unread bytes
            # would reset the connection.
            connection.shutdown(socket.SHUT_WR)


class Tunnel(_Listening):
    """A proxy that opens tunnels for CONNECT, always to `port` on this machine.

    `most` has a number of bytes for each tunnel, in order. A tunnel is closed when so many bytes
    were sent through it to the server. All further tunnels have no limit.
    """

    def __init__(self, port: int, *most: float) -> None:
        self._target = port
        self._most = list(most)
        self.opened = 0
        self.is_silent = False
        """Whether it expects no CONNECT and forwards all bytes, as if it were the service."""
        super().__init__(socket.create_server(("127.0.0.1", 0)))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while not self.is_silent and not connection.recv(65536).endswith(b"\r\n\r\n"):
                pass
            self.opened += 1
            most = self._most.pop(0) if self._most else math.inf
            with socket.create_connection(("127.0.0.1", self._target)) as target:
                if not self.is_silent:
                    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_carry, args=(target, connection), daemon=True)
                back.start()
                _carry(connection, target, most)
                if most == math.inf:
                    back.join()


def _carry(source: socket.socket, target: socket.socket, most: float = math.inf) -> None:
    """Forward bytes from `source` to `target`, until the end or until `most` were forwarded."""
    with contextlib.suppress(OSError):
        while most > 0 and (piece := source.recv(16384)):
            target.sendall(piece)
            most -= len(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


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
    """Return a complete HTTP answer with the right Content-Length."""
    lines = [f"HTTP/1.1 {status} X", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def dripping(head: bytes, piece: bytes = b"x", every: float = 0.05, most: float = 20) -> Reply:
    """Return an answer that sends `head`, and then `piece` again and again for `most` seconds.

    There are `every` seconds between the pieces.
    """

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        end = time.monotonic() + most
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(every)

    return send


def endless(head: bytes, piece: bytes = b"x" * 65536) -> Reply:
    """Return an answer that sends `head`, then `piece` until the client hangs up."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in _forever():
            connection.sendall(piece)

    return send


def _forever() -> Iterator[None]:
    while True:
        yield

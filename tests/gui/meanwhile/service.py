"""The service for these edits, which answers at once with a picture of one colour."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import PIL.Image
from gui_window import PATIENCE

from plugin.region import RATIOS

ANSWERS = {"magenta": (255, 0, 255), "cyan": (0, 255, 255)}
"""The prompts, and the colours of the answers to them."""


class Answers:
    """A service that answers as soon as `go` is set, as it is at the beginning.

    An answer has the size that was asked for, and the colour of the prompt.
    """

    def __init__(self) -> None:
        self.posts: list[str] = []
        """The prompts of all POSTs."""
        self.go = threading.Event()
        self.go.set()
        self._pictures: dict[tuple[str, tuple[int, int]], bytes] = {}
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                prompt, ratio, tier = (_field(body, n) for n in ("prompt", "size", "resolution"))
                answer = service._answer(prompt, RATIOS[ratio][tier])
                service.posts.append(prompt)
                service.go.wait(2 * PATIENCE)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *values: object) -> None:
                pass

            def handle(self) -> None:
                # A killed worker has closed its connection.
                with contextlib.suppress(OSError):
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _answer(self, prompt: str, size: tuple[int, int]) -> bytes:
        if (prompt, size) not in self._pictures:
            file = io.BytesIO()
            PIL.Image.new("RGB", size, ANSWERS[prompt]).save(file, "PNG")
            encoded = base64.b64encode(file.getvalue()).decode("ascii")
            body = json.dumps({"created": 1, "data": [{"b64_json": encoded}]})
            self._pictures[prompt, size] = body.encode("ascii")
        return self._pictures[prompt, size]

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _field(body: bytes, name: str) -> str:
    found = re.search(rb'name="%s"\r\n(?:[^\r]+\r\n)*\r\n([^\r]*)\r\n' % name.encode(), body)
    assert found, name
    return found.group(1).decode()

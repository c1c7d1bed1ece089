"""A service for tests in the window, which answers when the test tells it to."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gui_window import PATIENCE, Window

from plugin import settings, storage


def use_service(window: Window, base_url: str) -> None:
    """Save the address of another service, and a key. The fixture `window` resets both."""
    settings.save(base_url=base_url)
    storage.write_private(window.home / "key", "test-key")


class SlowService:
    """A service that answers each edit with the same picture, once `answer` is set.

    `asked` is set when an edit arrives, and `posts` counts the edits. With `by_link`, the answer
    links to the picture: `fetched` is set when the picture is requested, and it is sent once
    `deliver` is set. If `status` is not 200, the answer is an empty JSON object. The service
    accepts no connections before `start`.
    """

    def __init__(self, picture: Path) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()
        self.fetched, self.deliver = threading.Event(), threading.Event()
        self.by_link = False
        self.status = 200
        self.posts = 0
        data = picture.read_bytes()
        encoded = base64.b64encode(data).decode("ascii")
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                service.posts += 1
                service.asked.set()
                service.answer.wait(2 * PATIENCE)
                entry = {"url": "/picture"} if service.by_link else {"b64_json": encoded}
                body = json.dumps({"created": 1, "data": [entry]}).encode("ascii")
                self._answer("application/json", body if service.status == 200 else b"{}")

            def do_GET(self) -> None:
                service.fetched.set()
                service.deliver.wait(2 * PATIENCE)
                self._answer("image/png", data)

            def _answer(self, content_type: str, body: bytes) -> None:
                self.send_response(service.status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *values: object) -> None:
                pass

            def handle(self) -> None:
                # A killed worker has closed its connection.
                with contextlib.suppress(OSError):
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> None:
        """Accept connections from now on."""
        self._server.server_activate()
        self._thread.start()

    def close(self) -> None:
        """Send all answers that are due, and stop."""
        self.answer.set()
        self.deliver.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

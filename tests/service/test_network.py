"""The ways to the service: whose certificates count, and that a disk is there before it is paid."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plugin import job, settings
from plugin.worker import service
from plugin.worker.failure import Failure
from plugin.worker.form import Form
from plugin.worker.sandbox import Sandbox
from plugin.worker.service import Service
from tests.service.workers import CHECKOUT, command

FORM = Form("/images/edits", "text/plain", b"edit")
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class _Named(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"task_id": "img_1", "data": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Byte by byte, without end."""
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
            while True:
                self.wfile.write(b" ")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that don't trust us hang up."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of nobody's for 127.0.0.1, with its key in the same file."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "certificate.pem"


@pytest.fixture
def secure(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a service with that certificate, which counts as far away."""
    for name in (*BUNDLES, "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "is_loopback", lambda host: False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with _Quiet(("127.0.0.1", 0), _Named) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.daemon_threads = True
        yield f"https://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_a_certificate_of_nobodys_is_not_trusted(secure: str) -> None:
    with pytest.raises(Failure, match="certificate could not be verified") as raised:
        Service(secure, "k").send(FORM)
    assert raised.value.kind == Failure.UNREACHABLE


@pytest.mark.parametrize("variable", BUNDLES)
def test_the_users_own_certificates_count(
    variable: str, secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    assert Service(secure, "k").send(FORM).task == "img_1"


def test_a_slow_answer_has_an_end_over_tls_too(
    secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(settings, "read_seconds", lambda: 1.0)
    monkeypatch.setattr(service, "_QUESTION_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(service.Stumbled, match="in time"):
        Service(secure, "k").task("img_1")
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("place", ["jobs", "home"])
def test_a_folder_that_can_not_be_made_is_told_before_anything_is_sent(
    place: str, sandbox: Sandbox, photo: Path, home: Path
) -> None:
    if place == "jobs":
        home.mkdir(mode=0o700)
    (home / "jobs" if place == "jobs" else home).write_text("")
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert str(home) in done.stderr and sandbox.posts == 0


FULL = [
    ("from the start", "No space left on device", 0, []),
    ("nearly", "nearly full", 0, [["failed", "setup"]]),
    ("for a while", "free some space", 1, [["received", ""]]),
    # Not even that can be noted.
    ("for good", "it could not be kept", 1, [["sent", ""]]),
]


@pytest.mark.parametrize(("when", "words", "posts", "states"), FULL, ids=[f[0] for f in FULL])
def test_a_full_disk_is_told(
    when: str, words: str, posts: int, states: list[list[str]], home: Path, photo: Path
) -> None:
    alone = ["unshare", "--mount"] + ["--map-root-user"] * (os.geteuid() != 0)
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.service.full_disk", when, home, photo],
        cwd=CHECKOUT, env={**os.environ, "DIMILINKS_API_KEY": "k"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert words in found["said"] and "Traceback" not in found["said"]
    assert (found["posts"], found["states"]) == (posts, states)
    assert found["code"] == (0 if when == "for a while" else 1)


def test_a_state_that_can_not_be_kept_is_told_and_nothing_is_sent(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = job.Job.save_state

    def read_only(self: job.Job, state: job.State) -> None:
        if state.name == job.SENT:
            raise OSError(30, os.strerror(30))
        kept(self, state)

    monkeypatch.setattr(job.Job, "save_state", read_only)
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "nothing was sent" in done.stderr
    assert "Read-only file system" in done.stderr and sandbox.posts == 0


def test_no_folder_for_temporary_files_is_needed(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    monkeypatch.setattr("tempfile.tempdir", None)
    assert command("edit", photo, "--prompt", "echo").returncode == 0

"""Connections and disks: certificates, proxies, interrupted transfers, and full disks.

Nothing is paid for twice, and no result that was paid for is lost.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plugin import history, job, settings, storage
from plugin.errors import Failure, Kind, NotAccepted
from plugin.worker import keeping
from plugin.worker.sandbox import Sandbox
from plugin.worker.service import api, network_errors, patience
from plugin.worker.service.api import Service
from plugin.worker.service.form import Form
from tests.service.raw_server import Got, RawServer, Reply, Tunnel, http
from tests.service.workers import CHECKOUT, command, prepared_job, until

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
        """Send a byte at a time, slowly, without end."""
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
            while True:
                self.wfile.write(b" ")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore errors, because clients that don't trust the certificate hang up."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate for 127.0.0.1, with the file key.pem next to it."""
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
    """Run a service with that certificate, which is not treated as loopback. Yield its address."""
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


@pytest.mark.slow
def test_a_certificate_of_nobodys_is_not_trusted(secure: str) -> None:
    with pytest.raises(Failure, match="certificate could not be verified") as raised:
        Service(secure, "k").send(FORM)
    assert raised.value.kind == Kind.UNREACHABLE


@pytest.mark.parametrize("variable", BUNDLES)
@pytest.mark.slow
def test_the_users_own_certificates_count(
    variable: str, secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    assert Service(secure, "k").send(FORM).task == "img_1"


@pytest.mark.slow
def test_a_slow_answer_has_an_end_over_tls_too(
    secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(settings, "read_seconds", lambda: 1.0)
    monkeypatch.setattr(api, "_QUESTION_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(network_errors.Stumbled, match="in time"):
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
    ("for a while", "Free some space", 1, [["received", ""]]),
    # The state can't be saved either, so it stays the same.
    ("for good", "Until then, the result is kept in", 1, [["sent", ""]]),
    ("everywhere", "it could not be saved", 1, [["sent", ""]]),
    ("read-only a while", "Make the folder writable", 1, [["received", ""]]),
    ("read-only", "Read-only file system). Solve this problem", 1, [["sent", ""]]),
]


@pytest.mark.parametrize(("when", "words", "posts", "states"), FULL, ids=[f[0] for f in FULL])
@pytest.mark.slow
def test_a_disk_that_can_not_be_written_to_is_told(
    when: str, words: str, posts: int, states: list[list[str]], home: Path, photo: Path
) -> None:
    alone = ["unshare", "--mount"] + ["--map-root-user"] * (os.geteuid() != 0)
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.service.full_disk", when, home, photo],
        cwd=CHECKOUT, env={**os.environ, "DIMILINKS_API_KEY": "k"}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert words in found["said"] and "Traceback" not in found["said"]
    assert (found["posts"], found["states"]) == (posts, states)
    assert found["code"] == (0 if when.endswith("a while") else 1)
    # When the disk is repaired, resuming the job moves the result into it.
    mended = when in ("for good", "read-only")
    assert found["resumed"] == ([["received", ""]] if mended else states)
    assert ("kept in" in found["said"]) == (mended or when.endswith("a while"))
    assert found["elsewhere"] == []


def test_a_state_that_can_not_be_kept_is_told_and_nothing_is_sent(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = job.Job.save_state

    def read_only(self: job.Job, state: job.State) -> None:
        if state.name == job.Status.SENT:
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


# --- interrupted uploads and their cost ---------------------------------------------------------

BIG = Form("/images/edits", "application/octet-stream", os.urandom(8_000_000))
"""An edit that is larger than the buffers of the system."""
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture
def context(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return a TLS context with a trusted certificate, for services not treated as loopback."""
    for name in (*BUNDLES, *PROXIES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    monkeypatch.setattr(settings, "is_loopback", lambda host: False)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return made


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


ENDS: dict[str, Reply | None] = {
    "closed": None,
    "reset": _reset,
    "half a line": b"HTTP/1.1",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
}


@pytest.mark.parametrize("route", settings.ROUTES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", ["tunnel", "direct"])
@pytest.mark.slow
def test_an_edit_that_went_up_whole_is_never_sent_again(
    way: str,
    end: str,
    route: str,
    context: ssl.SSLContext,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIMILINKS_ROUTE", route)
    with RawServer(lambda got: ENDS[end], context=context) as server, Tunnel(server.port) as proxy:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        if way == "tunnel":
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        done = command("edit", photo, "--prompt", "x")
        (only,) = history.all_jobs()
        again = command("resume", only.id)
        assert proxy.opened == (way == "tunnel") and server.posts == 1
    assert "may have been charged" in done.stderr and "may have been charged" in again.stderr
    assert "proxy" not in done.stderr
    (post,) = only.read_state().posts
    assert post.kind == Kind.OUTCOME_UNKNOWN and not post.may_be_sent_again


@pytest.mark.parametrize("end", [None, _reset, http(502), http(407)], ids=range(4))
def test_so_is_one_that_a_forwarding_proxy_took(
    end: Reply | None, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(lambda got: end) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Failure) as raised:
            Service("http://api.example/v1", "k").send(FORM)
    assert raised.value.kind == Kind.OUTCOME_UNKNOWN and proxy.posts == 1


@pytest.mark.parametrize("way", ["tunnel", "TLS", "plain"])
def test_an_upload_that_breaks_off_costs_nothing_and_is_sent_again(
    way: str, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = http(200, b'{"task_id": "img_1", "data": []}')
    with contextlib.ExitStack() as stack:
        safe = None if way == "plain" else context
        server = stack.enter_context(RawServer(lambda got: answer, context=safe))
        # The first connection is closed after a megabyte.
        breaking = stack.enter_context(Tunnel(server.port, 1_000_000))
        url = server.base_url
        if way == "tunnel":
            monkeypatch.setenv("HTTPS_PROXY", breaking.url)
        else:
            # The tunnel takes the place of the service.
            breaking.is_silent = True
            url = f"{url.partition(':')[0]}://{breaking.url.partition('//')[2]}/v1"
        asked = Service(url, "k")
        with pytest.raises(NotAccepted, match="complete edit, so nothing was charged") as raised:
            asked.send(BIG)
        assert raised.value.kind == Kind.UNREACHABLE and server.posts == 0
        assert asked.send(BIG).task == "img_1"
        assert breaking.opened == 2 and server.posts == 1


@pytest.mark.slow
def test_an_edit_is_made_after_an_upload_that_broke_off(
    context: ssl.SSLContext, photo_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = tmp_path / "noise.png"
    Image.frombytes("RGB", (1600, 1200), os.urandom(1600 * 1200 * 3)).save(noise)
    monkeypatch.setattr(patience, "CONNECTING", 20)
    encoded = base64.b64encode(noise.read_bytes()).decode()
    body = json.dumps({"data": [{"b64_json": encoded}]}).encode()
    with (
        RawServer(lambda got: http(200, body), context=context) as server,
        Tunnel(server.port, 500_000) as proxy,
    ):
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        done = command("edit", noise, "--prompt", "x", "--resolution", "2k")
        assert done.returncode == 0, done.stderr
        assert "can't be reached yet" in done.stderr and server.posts == 1


@pytest.mark.parametrize("reply", [http(407), http(503), None, b"HTTP/1.1 200"], ids=range(4))
def test_a_proxy_that_opens_no_tunnel_gets_nothing_of_the_edit(
    reply: Reply | None, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(lambda got: reply) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Failure, match="Nothing was sent") as raised:
            Service("https://api.example/v1", "k").send(FORM)
    assert raised.value.kind == Kind.UNREACHABLE
    assert [got.method for got in proxy.got] == ["CONNECT"]


STATUSES = {
    Kind.OUTCOME_UNKNOWN: [
        *(302, 303, 304, 305, 399, 406, 407, 408, 409, 412, 416, 418, 423, 424, 425, 444, 460),
        *(499, 500, 501, 502, 503, 504, 507, 520, 524, 529, 599, 600, 999),
    ],
    Kind.REFUSED: [
        *(301, 307, 308, 400, 401, 402, 403, 404, 405, 410, 411, 413, 414, 415, 422, 431)
    ],
    Kind.BUSY: [429],
}


@pytest.mark.parametrize("kind", STATUSES)
def test_only_a_status_that_surely_says_no_makes_an_edit_free(kind: str) -> None:
    found = {}
    for status in STATUSES[kind]:
        reply = http(status, b'{"error": {"message": "why", "code": 7}}', "Location: /elsewhere")
        with RawServer(lambda got, reply=reply: reply) as server:
            with pytest.raises(Failure) as raised:
                Service(server.base_url, "k").send(FORM)
            found[status] = raised.value.kind
            assert server.posts == 1
    assert found == dict.fromkeys(STATUSES[kind], kind)


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_a_picture_is_taken_from_every_status_of_success(status: int) -> None:
    reply = http(status, b'{"data": [{"b64_json": "aGFsbG8="}]}')
    with RawServer(lambda got: reply) as server:
        asked = Service(server.base_url, "k")
        assert asked.picture(asked.send(FORM)) == b"hallo"


@pytest.mark.parametrize("status", [401, 409, 413, 503])
def test_an_answer_before_the_upload_is_complete_costs_nothing(status: int) -> None:
    """The service reads the headers, refuses the edit, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(http(status, b'{"error": {"message": "no"}}'))

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(Failure) as raised:
            Service(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "k").send(BIG)
    assert raised.value.kind in (Kind.REFUSED, Kind.UNREACHABLE)


# --- interim answers and keepalive --------------------------------------------------------------

INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
)


@pytest.mark.parametrize("route", settings.ROUTES)
@pytest.mark.parametrize(
    "before", [*INTERIM, b"".join(INTERIM * 3)], ids=["100", "102", "103", "nine"]
)
@pytest.mark.slow
def test_interim_answers_lose_no_picture(
    before: bytes, route: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = {"data": [{"url": "/p/img/img_1/0"}]}

    def answer(got: Got) -> bytes:
        if got.method == "POST":
            told = {"task_id": "img_1", "data": []} if route == settings.ASYNC else link
        elif "/tasks/" in got.path:
            told = {"status": "succeeded", "result": link}
        else:
            return before + http(200, photo.read_bytes(), "Content-Type: image/png")
        return before + http(200, json.dumps(told).encode())

    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    monkeypatch.setenv("DIMILINKS_ROUTE", route)
    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1 and len(server.got) == (3 if route == settings.ASYNC else 2)


@pytest.mark.parametrize("way", ["tunnel", "TLS", "plain"])
def test_connections_stay_alive_while_nothing_is_said(
    way: str, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's list shows on which connections to the port keepalive is active."""
    seen: list[str] = []

    def timers() -> list[str]:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # The columns: number, local address, remote address, state (01: connected), queues, timer.
        return [row[5][:2] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]

    def answer(got: Got) -> bytes:
        # The timer is 01 while sent data is not acknowledged, and 02 for keepalive.
        until(lambda: "01" not in timers())
        seen.extend(timers())
        return http(200, b'{"task_id": "img_1", "data": [], "status": "queued"}')

    with contextlib.ExitStack() as stack:
        safe = None if way == "plain" else context
        server = stack.enter_context(RawServer(answer, context=safe))
        port = server.port
        if way == "tunnel":
            proxy = stack.enter_context(Tunnel(server.port))
            port = int(proxy.url.rpartition(":")[2])
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        asked = Service(server.base_url, "k")
        asked.send(FORM)
        asked.task("img_1")
    assert seen == ["02", "02"]


# --- unusable addresses and proxies --------------------------------------------------------------


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "SOCKS5"])
@pytest.mark.slow
def test_a_socks_proxy_is_told_with_a_remedy(
    variable: str, scheme: str, photo: Path, context: ssl.SSLContext, monkeypatch: Any
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://api.example/v1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"{scheme}://me:pr0xy-secret@127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv(variable, address)
        done = command("edit", photo, "--prompt", "x")
        asked = json.loads(command("service", "--test").stdout)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not asked["works"]
    for said in (done.stderr, asked["message"]):
        for words in ("SOCKS", "HTTPS_PROXY", "NO_PROXY", "Nothing could be sent"):
            assert words in said
        assert "may have been charged" not in said and "pr0xy-secret" not in said
    (only,) = history.all_jobs()
    assert only.read_state().posts[0].may_be_sent_again


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": {"message": "Invalid URL"}}'])
def test_an_address_without_v1_is_told_what_it_lacks(
    body: bytes, status: int, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(lambda got: http(status, body)) as server:
        address = server.base_url.removesuffix("/v1")
        monkeypatch.setenv("DIMILINKS_BASE_URL", address)
        done = command("edit", photo, "--prompt", "x")
        asked = json.loads(command("service", "--test").stdout)
    for said in (done.stderr, asked["message"]):
        assert f"Set it to {address}/v1 in Filters" in said and "may have been charged" not in said


# --- results that can't be written --------------------------------------------------------------


@pytest.mark.parametrize("variations", [1, 3])
@pytest.mark.slow
def test_a_result_whose_job_is_gone_is_kept_elsewhere_and_found_again(
    variations: int, photo: Path, home: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the service works, the job's folder is moved, and a file takes its place."""
    encoded = base64.b64encode(photo.read_bytes()).decode()
    aside = home / "aside"
    all_sent = threading.Barrier(variations)

    def answer(got: Got) -> bytes:
        if all_sent.wait(20) == 0:
            (folder,) = (home / "jobs").iterdir()
            folder.rename(aside)
            folder.write_text("")
        until(aside.exists)
        return http(200, json.dumps({"data": [{"b64_json": encoded}]}).encode())

    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        done = command("edit", photo, "--prompt", "x", "--variations", variations)
        (file,) = (home / "jobs").iterdir()
        kept = elsewhere / f"dimilinks-gimp-{os.geteuid()}" / file.name
        assert done.returncode == 1 and f"kept in {kept}" in done.stderr
        names = {f"result-{number}.png" for number in range(1, variations + 1)}
        assert {path.name for path in kept.iterdir()} == names
        for path in (kept.parent, kept, *kept.iterdir()):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
        file.unlink()
        aside.rename(file)
        assert command("resume", file.name).returncode == 0
        assert server.posts == variations and list(elsewhere.iterdir()) == []
    (only,) = history.all_jobs()
    for post in only.read_state().posts:
        assert (only.folder / post.result).read_bytes() == photo.read_bytes()


@pytest.mark.slow
def test_a_folder_that_can_not_be_searched_costs_no_result(
    photo: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even listing the folder fails, as on a network drive that is gone."""
    encoded = base64.b64encode(photo.read_bytes()).decode()
    gone = threading.Event()

    def answer(got: Got) -> bytes:
        gone.set()
        return http(200, json.dumps({"data": [{"b64_json": encoded}]}).encode())

    def searched(self: Path, pattern: str) -> Any:
        if gone.is_set() and "jobs" in self.parts:
            raise OSError(errno.ESTALE, "Stale file handle")
        return glob(self, pattern)

    def written(path: Path, content: Any) -> None:
        if gone.is_set() and "jobs" in path.parts:
            raise OSError(errno.ESTALE, "Stale file handle")
        write(path, content)

    glob, write = Path.glob, storage.write_private
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(answer) as server, monkeypatch.context() as broken:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        broken.setattr(Path, "glob", searched)
        broken.setattr(storage, "write_private", written)
        done = command("edit", photo, "--prompt", "x")
    (kept,) = elsewhere.rglob("result-1.png")
    assert done.returncode == 1 and str(kept) in done.stderr
    (only,) = history.all_jobs()
    assert command("resume", only.id).returncode == 0
    assert (only.folder / "result-1.png").read_bytes() == photo.read_bytes()


def test_every_place_is_looked_at_for_a_result(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both places have a folder for this job, each with another result."""
    places = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(keeping, "_parents", lambda: iter(places))
    for place, name in zip(places, ("result-2.png", "result-1.png")):
        folder = place / f"dimilinks-gimp-{os.geteuid()}" / "j"
        folder.mkdir(parents=True)
        folder.parent.chmod(0o700)
        (folder / name).write_bytes(photo.read_bytes())
    (tmp_path / "j").mkdir()
    keeper = keeping.Keeper(job.Job(tmp_path / "j"), lambda *_: None)
    assert keeper.result(1) == "result-1.png" and keeper.result(2) == "result-2.png"
    keeper.bring_home(1, "result-1.png")
    assert (tmp_path / "j" / "result-1.png").read_bytes() == photo.read_bytes()


def test_a_result_that_can_be_kept_nowhere_is_not_called_kept(
    photo: Path, home: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other place for results is taken by a link to a foreign folder."""
    outside = home.parent / "outside"
    outside.mkdir()
    own = elsewhere / f"dimilinks-gimp-{os.geteuid()}"
    own.symlink_to(outside)
    encoded = base64.b64encode(photo.read_bytes()).decode()

    def answer(got: Got) -> bytes:
        (folder,) = (home / "jobs").iterdir()
        folder.rename(home / "aside")
        folder.write_text("")
        return http(200, json.dumps({"data": [{"b64_json": encoded}]}).encode())

    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and list(outside.iterdir()) == []
    assert "could not be saved" in done.stderr and "is kept" not in done.stderr


def test_a_fault_of_ours_is_not_said_to_have_kept_anything(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Service, "picture", no_memory)
    sandbox.answers.append((200, {}, {"data": [{"b64_json": "aGFsbG8="}]}))
    done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "MemoryError" in done.stderr
    assert "may have been charged" in done.stderr and "kept" not in done.stderr


@pytest.mark.slow
def test_a_file_that_is_being_read_is_replaced_as_soon_as_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An immutable file can't be replaced, like an open file on Windows."""
    file = tmp_path / "state.json"
    file.write_text("before")
    if subprocess.run(["chattr", "+i", file], capture_output=True).returncode:
        pytest.skip("no file can be made immutable here")
    try:
        with pytest.raises(PermissionError):
            storage.write_private(file, "at once")
        monkeypatch.setattr(storage, "_IN_USE_SECONDS", 20)
        over = threading.Timer(0.5, subprocess.run, [["chattr", "-i", file]])
        over.start()
        storage.write_private(file, "after")
        over.join()
    finally:
        subprocess.run(["chattr", "-i", file], check=True)
    assert file.read_text() == "after" and list(tmp_path.glob(".state*")) == []


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.slow
def test_a_disk_that_can_not_lock_is_told_and_the_job_stays_usable(
    error: int, sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        # A network disk without its lock service fails like this. No disk of this machine does.
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", flock)
        done = command("edit", photo, "--prompt", "echo")
        (only,) = history.all_jobs()
        again = command("resume", only.id)
    for each in (done, again):
        assert each.returncode == 1 and os.strerror(error) in each.stderr
        assert "can't lock files" in each.stderr and "DIMILINKS_HOME" in each.stderr
    assert sandbox.posts == 0
    (post,) = only.read_state().posts
    # The plug-in reads the message from the state.
    assert "can't lock files" in post.message and post.may_be_sent_again
    assert command("resume", only.id).returncode == 0 and sandbox.posts == 1


@pytest.mark.slow
def test_the_job_says_where_its_result_is_if_it_can(
    sandbox: Sandbox, photo: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    in_the_way = prepared.folder / "result-1.png"
    in_the_way.mkdir()
    assert command("resume", prepared.id).returncode == 1
    (post,) = prepared.read_state().posts
    (kept,) = elsewhere.rglob("result-1.png")
    assert str(kept) in post.message and (post.state, post.kind) == (
        job.Status.RECEIVED,
        Kind.PENDING,
    )
    assert post.recoverable
    in_the_way.rmdir()
    assert command("resume", prepared.id).returncode == 0
    (post,) = prepared.read_state().posts
    assert (post.message, post.kind) == ("", "") and post.placed
    assert sandbox.posts == 1 and not kept.exists()

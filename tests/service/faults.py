"""Faults at every phase of an edit, over real sockets: what is billed, lost and reported.

    cases()              every phase with every fault that it can have, on both routes
    Trials(folder)       runs a worker with a fault, and resumes its job with a good service

The tests use some cases, `tests/bench/faults` uses all.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path

import skimage
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from plugin import settings
from plugin.errors import Kind
from plugin.job import Job, JobRequest, Post, Status
from plugin.region import Box, plan
from plugin.worker.pictures import png_files
from tests.service.raw_server import Tunnel

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "sk-planted-key"
SIGNATURE = "planted-signature"
LIMIT = 20.0
"""Seconds after which a worker with short pauses counts as hanging."""
WHILE = 1.0
"""Seconds for which a disk is full, if it is full for a while."""
NOTHING, SMALL = "0", "20000"
"""Most bytes of a file on a full disk, and on a disk that has space for the state only."""

PHASES = (
    *("connect", "TLS", "sending", "waiting", "headers", "status", "body"),
    *("asking", "download", "decode", "place"),
)
STATUSES = (400, 401, 402, 403, 404, 413, 429, 500, 502, 503, 504, 524)
WRITINGS = ("JSON", "HTML", "empty")
ODD_STATUSES = (302, 303, 307, 405, 408, 409, 422, 499)
USED_UP = "429 used up"
_AFTERWARDS = (302, 303, 408, 409, 499)
"""Statuses below 500 after which the edit may have been made.

They come from a service that has accepted the edit, or from a proxy that can't know.
"""
INTERIM = "interim answers"
BREAKS = ("reset", "closed", "half-closed", "stalled", "garbage")
ENDS = ("killed", "disk full", "disk nearly full", "disk full a while")
CERTIFICATES = ("expired", "self-signed", "wrong name")
UNUSABLE = (
    *("random bytes", "sign-in page", "nothing", "half a PNG", "huge PNG", "GIF", "broken base64"),
    "unknown encoding",
)
NO_ANSWERS = ("no JSON", "web page", "empty", "a list", "no picture and no task")

_HOST = "service.test"
_GROUPS = {
    "unreachable": ("refused", "no answer", "unknown name"),
    "broken off, stalled, or garbage": (*BREAKS, "trickled", *NO_ANSWERS),
    "certificate": CERTIFICATES,
    "unusable picture": UNUSABLE,
    "interim answers": (INTERIM,),
    "worker killed": ("killed",),
    "disk full": ("disk full", "disk nearly full", "disk full a while"),
}

_WITHOUT_A_WORD = {
    Status.PREPARED: "not sent",
    Status.SENT: Kind.OUTCOME_UNKNOWN,
    Status.ACCEPTED: Kind.PENDING,
    Status.RECEIVED: "arrived, not fitted",
}
"""What the plug-in reports, by state, if the worker was killed or could not save a message."""


@dataclass(frozen=True)
class Case:
    """A fault, and where it occurs."""

    route: str
    phase: str
    fault: str
    at: str = ""
    """The part of the phase's exchange: waiting, headers, early, body, status, or "" for none."""
    secure: bool = False
    tunnelled: bool = False
    """Whether the connection goes through a proxy, which closes it when the service does."""

    @property
    def group(self) -> str:
        """The kind of fault, which is a row of the table."""
        if self.fault[:3].isdigit():
            if self.phase != "status":
                return "any status"
            if self.fault == USED_UP:
                return "quota"
            status = int(self.fault[:3])
            if status in ODD_STATUSES:
                return "odd statuses"
            return "429" if status == 429 else "refusals" if status < 500 else "5xx"
        return next(group for group, faults in _GROUPS.items() if self.fault in faults)

    @property
    def unavoidable(self) -> bool:
        """Whether a loss can't be avoided: the disk stays too full to save even the task's name."""
        early = self.phase in ("sending", "waiting", "headers", "body")
        return early and self.fault == "disk full"

    def __str__(self) -> str:
        where = self.phase + (f" ({self.at})" if self.at else "")
        way = ", tunnel" if self.tunnelled else ", TLS" if self.secure else ""
        return f"{self.route}, {where}{way}: {self.fault}"


def cases() -> list[Case]:
    """Return all cases, in the order of the phases."""
    return sorted(set(_cases()), key=lambda c: (PHASES.index(c.phase), str(c)))


def _cases() -> Iterator[Case]:
    statuses = [f"{status} {writing}" for status in STATUSES for writing in WRITINGS]
    for route in settings.ROUTES:
        for fault in ("refused", "no answer", "unknown name", "reset", "killed", "disk full"):
            yield Case(route, "connect", fault)
        for fault in (*CERTIFICATES, "garbage", "closed", "reset", "stalled", "killed"):
            yield Case(route, "TLS", fault, secure=True)
        for fault in (*BREAKS, "killed", "disk full", "401 JSON", "413 HTML", "503 HTML"):
            yield Case(route, "sending", fault)
        for fault in ("reset", "closed", "stalled"):
            yield Case(route, "sending", fault, secure=True, tunnelled=True)
            yield Case(route, "TLS", fault, secure=True, tunnelled=True)
        yield Case(route, "waiting", INTERIM, "waiting")
        yield Case(route, "waiting", INTERIM, "waiting", secure=True, tunnelled=True)
        for phase in ("waiting", "headers", "body"):
            for fault in (*BREAKS, *ENDS):
                yield Case(route, phase, fault, phase)
            for fault in ("reset", "closed", "half-closed"):
                yield Case(route, phase, fault, phase, secure=True)
                yield Case(route, phase, fault, phase, secure=True, tunnelled=True)
        for fault in ("reset", "closed", "half-closed", "stalled"):
            yield Case(route, "body", fault, "early")
        for fault in ("trickled", *NO_ANSWERS):
            yield Case(route, "body", fault, "body")
        odd = [f"{status} {writing}" for status in ODD_STATUSES for writing in WRITINGS[:2]]
        for fault in (*statuses, *odd, USED_UP):
            yield Case(route, "status", fault, "status")
        for phase in ("asking",) * (route == settings.ASYNC) + ("download",):
            for at in ("waiting", "headers", "body"):
                for fault in (*BREAKS, *ENDS):
                    # Garbage in place of a picture is among the faults of the phase "decode".
                    if (phase, at, fault) != ("download", "body", "garbage"):
                        yield Case(route, phase, fault, at)
            yield Case(route, phase, "trickled", "body")
            yield Case(route, phase, INTERIM, "waiting")
            yield Case(route, phase, "refused")
            for fault in statuses:
                yield Case(route, phase, fault, "status")
        for fault in (*UNUSABLE, *ENDS):
            yield Case(route, "decode", fault)
        for fault in ENDS:
            yield Case(route, "place", fault)


@dataclass
class Outcome:
    """The outcome of a case."""

    case: Case
    seconds: float = 0
    """From the start of the worker to its end."""
    hung: bool = False
    billed: int = 0
    """The number of complete POSTs that the service did not refuse."""
    delivered: bool = False
    """Whether the service sent the task's name, so that the result need not be lost."""
    heard: str = ""
    """What the user is informed of: the state `received`, or the kind of the failure."""
    ended: str = ""
    """The state, or the kind of the failure, after the job was resumed with a good service."""
    wrong: list[str] = field(default_factory=list)
    """Descriptions of everything that should not have happened."""

    @property
    def lost(self) -> bool:
        return self.delivered and self.ended != Status.RECEIVED


class Trials:
    """Runs cases. It holds what they share: pictures, certificates, and a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with Image.open(Path(skimage.__file__).parent / "data" / "coffee.png") as coffee:
            small = coffee.convert("RGB").resize((300, 200))
        # An upload that is to be interrupted must be larger than the buffers of the system.
        big = Image.frombytes("RGB", (2016, 1344), os.urandom(2016 * 1344 * 3))
        self._edits = {False: _edit(folder / "small", small), True: _edit(folder / "big", big)}
        self.picture = (folder / "small" / "source.png").read_bytes()
        self.authority = folder / "authority.pem"
        self.certificates = _certificates(folder)

    def run(self, case: Case) -> Outcome:
        """Run a worker with the fault, resume its job with a good service, and check both."""
        folder = self.folder / secrets.token_hex(6)
        try:
            with (
                contextlib.closing(Service(case, self)) as service,
                Tunnel(service.port) as proxy,
            ):
                made = Job(folder / "home" / "jobs" / "20261122-133005-7f3a")
                shutil.copytree(self._edits[case.phase == "sending"], made.folder)
                environment = {"REQUESTS_CA_BUNDLE": str(self.authority)}
                if case.tunnelled:
                    environment["HTTPS_PROXY"] = proxy.url
                return _Trial(case, folder, made, service, environment).outcome()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Trial:
    def __init__(
        self,
        case: Case,
        folder: Path,
        made: Job,
        service: Service,
        environment: dict[str, str],
    ) -> None:
        self._case, self._folder, self._job, self._service = case, folder, made, service
        home = folder / "home"
        (home / "settings.json").write_text(json.dumps({"connect_seconds": 1}), "utf-8")
        self._environment = {
            **{n: v for n, v in os.environ.items() if n not in ("LANGUAGE", "LC_ALL")},
            "LANG": "C.UTF-8",
            "DIMILINKS_HOME": str(home),
            "DIMILINKS_API_KEY": KEY,
            "DIMILINKS_ROUTE": case.route,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            **environment,
        }

    def outcome(self) -> Outcome:
        told = Outcome(self._case)
        began = time.monotonic()
        with self._worker(_moment(self._case), "work", self._job.folder) as process:
            self._service.worker.set_result(process.pid)
            if (self._case.phase, self._case.fault) == ("connect", "killed"):
                time.sleep(0.8)
                process.kill()
            told.hung = not _ended(process)
        told.seconds = time.monotonic() - began
        first = self._job.read_state().posts[0]
        told.heard = Status.RECEIVED if first.placed else first.kind or _WITHOUT_A_WORD[first.state]
        billed, told.delivered = self._service.billed, self._service.delivered
        if self._case.fault == USED_UP and self._service.taken > 1:
            told.wrong.append(f"asked {self._service.taken} times while the quota is used up")
        self._service.heal()
        if not first.placed:
            with self._worker("never", "resume", self._job.id) as process:
                told.hung |= not _ended(process)
        last = self._job.read_state().posts[0]
        told.ended = last.kind if last.state == Status.FAILED else last.state
        told.billed = self._service.billed
        self._judge(told, first, last, bool(billed))
        return told

    def _worker(self, moment: str, *words: object) -> subprocess.Popen[bytes]:
        with (self._folder / "out").open("ab") as out, (self._folder / "err").open("ab") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.service.hasty", moment, *map(str, words)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env={**self._environment, "DIMILINKS_BASE_URL": self._service.base_url},
            )

    def _judge(self, told: Outcome, first: Post, last: Post, billed: bool) -> None:
        wrong = told.wrong
        if told.hung:
            wrong.append("hangs")
        if told.billed > 1:
            wrong.append(f"billed {told.billed} times")
        if told.lost and not self._case.unavoidable:
            wrong.append(f"lost though delivered: {told.ended}: {last.message}")
        if last.state == Status.RECEIVED and not last.placed:
            wrong.append("arrived and not placed")
        if self._case.fault in ("disk full a while", INTERIM) and told.heard != Status.RECEIVED:
            wrong.append(f"should have come to its end: {told.heard}")
        free = (Kind.SETUP, Kind.UNREACHABLE, Kind.REFUSED, Kind.BUSY)
        # An edit that was accepted is not free, whatever kind a failed query of its task has.
        freed = first.state == Status.PREPARED or (
            first.state == Status.FAILED and first.kind in free
        )
        if billed and freed:
            wrong.append(f"billed, and called {told.heard}: {first.message or last.message}")
        for post in (first, last):
            if (post.state == Status.FAILED or post.kind) and not post.message:
                wrong.append("no words")
            if post.message and not re.fullmatch("[A-Z“].*[.”]", post.message):
                wrong.append(f"no sentence: {post.message}")
        left = [f.read_bytes() for f in self._folder.rglob("*") if f.is_file()]
        for secret in (KEY, SIGNATURE):
            if any(secret.encode() in data for data in left):
                wrong.append(f"told a secret: {secret}")
        parts = [f.name for f in self._job.folder.glob(".*")]
        if parts and self._case.fault != "killed":
            wrong.append(f"left behind: {parts}")
        said = (self._folder / "err").read_text("utf-8")
        if "Traceback" in said:
            wrong.append(f"a traceback: {said.strip().splitlines()[-1]}")


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        return False
    return True


def _moment(case: Case) -> str:
    """Return the argument MOMENT of `hasty`, which makes the worker cause the fault itself."""
    faults = ("kill", NOTHING, SMALL, f"{NOTHING}:{WHILE}")
    fault = dict(zip(ENDS, faults)).get(case.fault)
    if fault and case.phase in ("decode", "place"):
        return f"{case.phase}:{fault}"
    return f"start:{fault}" if fault == NOTHING and case.phase == "connect" else "never"


def _edit(folder: Path, image: Image.Image) -> Path:
    """Create a job folder with an edit that was not sent."""
    folder.mkdir()
    png_files.write(image, folder / "source.png")
    whole = Box(0, 0, *image.size)
    planned = plan(whole, whole, "auto", "2k")
    request = JobRequest("echo", "gpt-image-2", planned, repair=False, keep_alpha=True)
    (folder / "request.json").write_text(json.dumps(asdict(request)), "utf-8")
    return folder


def _certificates(folder: Path) -> dict[str, Path]:
    """Create an authority that the workers trust, and certificates, valid and invalid ones."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    root_key, root_name = ec.generate_private_key(ec.SECP256R1()), _name("authority")

    def make(
        file: str, host: str, until: datetime.datetime, own: bool = False, root: bool = False
    ) -> Path:
        key = root_key if root else ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(host))
            .issuer_name(_name(host) if own else root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * day)
            .not_valid_after(until)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
            .add_extension(x509.BasicConstraints(root, None), True)
            .sign(key if own else root_key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = folder / f"{file}.pem"
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
        return path

    make("authority", "authority", now + day, root=True)
    return {
        "good": make("good", _HOST, now + day),
        "expired": make("expired", _HOST, now - day),
        "self-signed": make("self-signed", _HOST, now + day, own=True),
        "wrong name": make("wrong", "another.test", now + day),
    }


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Service:
    """A service on loopback with the fault of a case, until `heal` is called."""

    def __init__(self, case: Case, trials: Trials) -> None:
        self._case, self._trials = case, trials
        self.worker: Future[int] = Future()
        """The ID of the process that is to be killed, or to get a full disk."""
        self.taken = self.billed = 0
        """The number of complete POSTs, and of those among them that are billed."""
        self.delivered = False
        self._well = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.socket()
        # The service may have to listen on the same port again.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        # Otherwise the system would buffer megabytes before the service reads anything.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.port = self._socket.getsockname()[1]
        self._fillers: list[socket.socket] = []
        if case.phase == "connect" and case.fault in ("no answer", "killed"):
            self._socket.listen(0)
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", self.port))
                self._fillers.append(filler)
        elif (case.phase, case.fault) != ("connect", "refused"):
            self._begin()

    @property
    def base_url(self) -> str:
        if self._case.fault == "unknown name" and not self._well.is_set():
            return "https://service.invalid/v1"
        if self._case.secure:
            return f"https://{_HOST}:{self.port}/v1"
        return f"http://127.0.0.1:{self.port}/v1"

    def heal(self) -> None:
        """Behave as a good service from now on."""
        self._well.set()
        for filler in self._fillers:
            filler.close()
        if self._case.phase == "connect":
            self._begin()
        elif self._case.fault == "refused":
            self._socket = socket.create_server(("127.0.0.1", self.port))
            self._begin()

    def close(self) -> None:
        self._well.set()
        self._over.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _begin(self) -> None:
        self._socket.listen(16)
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # Clients that hang up or are killed are part of the tests.
        with contextlib.suppress(OSError, EOFError), connection:
            connection.settimeout(LIMIT)
            if self._strikes("connect", ""):
                _reset(connection)
                return
            if not self._case.secure:
                self._exchange(connection)
                return
            certificate = "good"
            if self._strikes("TLS", ""):
                if self._case.fault in CERTIFICATES:
                    certificate = self._case.fault
                elif not self._fail(connection):
                    return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._trials.certificates[certificate])
            with context.wrap_socket(connection, server_side=True) as safe:
                self._exchange(safe)

    def _exchange(self, connection: socket.socket) -> None:
        """Read a request and answer it, unless the fault occurs before."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        line = head.split(b"\r\n")[0].decode()
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        taken, wanted = len(body), int(length[1]) if length else 0
        if line.startswith("POST") and self._strikes("sending", ""):
            if self._case.fault[:3].isdigit():
                connection.sendall(self._refusal())
                while taken < wanted:
                    taken += len(_some(connection))
                return
            elif not self._fail(connection):
                return
        while taken < wanted:
            taken += len(_some(connection))
        if not line.startswith("POST"):
            self._answer(connection, line)
            return
        with self._lock:
            self.taken += 1
            self.billed += not self._refuses()
        self._answer(connection, line)

    def _refuses(self) -> bool:
        """Return whether the service refuses the edit that was sent."""
        fault = self._case.fault
        if not self._strikes("status", "status") or fault[:1] == "5":
            return False
        return int(fault[:3]) not in _AFTERWARDS

    def _answer(self, connection: socket.socket, line: str) -> None:
        case = self._case
        posted, asked = line.startswith("POST"), "/tasks/" in line
        phase = "asking" if asked else "download"
        if not posted and case.at == "" and self._strikes(phase, ""):
            # Hang up, and refuse all further connections until the service is healed.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            return
        body = self._body(posted, asked)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        head += f"Content-Type: {'application/json' if posted or asked else 'image/png'}\r\n\r\n"
        answer = head.encode() + body
        if posted and case.phase in ("waiting", "headers", "status", "body"):
            phase = case.phase
        if posted == (phase in ("waiting", "headers", "status", "body")):
            if self._strikes(phase, "status"):
                connection.sendall(self._refusal())
                return
            for at, share in (
                ("waiting", 0),
                ("headers", len(head) // 2),
                ("early", len(head) + 5),
                ("body", len(head) + len(body) * 2 // 3),
            ):
                if self._strikes(phase, at) and case.fault not in NO_ANSWERS:
                    self._begun(connection, answer, share)
                    if not self._fail(connection, answer[share:]):
                        return
                    connection.sendall(answer[share:])
                    self._told(body)
                    return
        self._told(body)
        connection.sendall(answer)

    def _begun(self, connection: socket.socket, answer: bytes, share: int) -> None:
        """Send the first `share` bytes of an answer, or fewer if it is to turn into garbage."""
        if self._case.fault == "garbage":
            share = min(share, answer.index(b"\r\n") + 2)
            if self._case.at == "body":
                share = answer.index(b"\r\n\r\n") + 4
        connection.sendall(answer[:share])
        if self._case.fault != "killed":
            # A worker that is killed now has not read any of it.
            self._told(answer[:share])

    def _told(self, data: bytes) -> None:
        self.delivered |= b'"task_id": "img_7"' in data

    def _body(self, posted: bool, asked: bool) -> bytes:
        case = self._case
        if posted and case.fault in NO_ANSWERS and not self._well.is_set():
            return {
                "no JSON": b'{"created": 1, "data": [',
                "web page": b"<html><title>Welcome</title></html>",
                "empty": b"",
                "a list": b"[1, 2]",
                "no picture and no task": b'{"created": 1, "data": []}',
            }[case.fault]
        link = f"/p/img/img_7/0?exp={int(time.time() + 3600)}000&sig={SIGNATURE}"
        if (posted or asked) and self._strikes("decode", ""):
            if case.fault == "broken base64":
                link = "data:image/png;base64,A"
            elif case.fault == "unknown encoding":
                link = "data:image/png;utf-7,AAAA"
        told: dict[str, object] = {"created": 1, "task_id": "img_7"}
        if posted and case.route == settings.ASYNC:
            return json.dumps({**told, "status": "queued", "data": [], "more": "…" * 99}).encode()
        if posted:
            return json.dumps({**told, "data": [{"url": link}], "more": "…" * 99}).encode()
        if asked:
            result = {"data": [{"url": link}]}
            return json.dumps({**told, "status": "succeeded", "result": result}).encode()
        data = self._trials.picture
        if not self._strikes("decode", ""):
            return data
        return {
            "random bytes": os.urandom(5000),
            "sign-in page": b"<html><title>Sign in to the hotel</title></html>",
            "nothing": b"",
            "half a PNG": data[: len(data) // 2],
            "huge PNG": data[:16] + struct.pack(">II", 60000, 60000) + data[24:],
            "GIF": b"GIF89a" + bytes(200),
        }.get(case.fault, data)

    def _refusal(self) -> bytes:
        status, writing = self._case.fault.split(maxsplit=1)
        message = f"No, {KEY}, see /p/img/img_7/0?exp=1&sig={SIGNATURE}"
        error = {"message": message, "type": "insufficient_quota"}
        kind, body = {
            "used up": ("application/json", json.dumps({"error": error})),
            "JSON": ("application/json", json.dumps({"error": {"message": message, "code": 7}})),
            "HTML": ("text/html", f"<html><title>{status} Gateway</title>{message}</html>"),
            "empty": ("text/plain", ""),
        }[writing]
        return (
            f"HTTP/1.1 {status} Because\r\nContent-Type: {kind}\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def _give_room(self, room: int) -> None:
        # Simulate a full disk: this needs no privileges, and affects only the worker.
        with contextlib.suppress(ProcessLookupError):
            limits = (room, resource.RLIM_INFINITY)
            resource.prlimit(self.worker.result(), resource.RLIMIT_FSIZE, limits)

    def _strikes(self, phase: str, at: str) -> bool:
        return (self._case.phase, self._case.at) == (phase, at) and not self._well.is_set()

    def _fail(self, connection: socket.socket, rest: bytes = b"") -> bool:
        """Cause the fault, and return whether the service continues to answer after it.

        `rest` is the part of the answer that was not sent yet.
        """
        fault = self._case.fault
        if fault == "reset":
            _reset(connection)
        elif fault == "half-closed":
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        elif fault == "stalled":
            self._over.wait(LIMIT)
        elif fault == "trickled":
            for byte in rest:
                connection.sendall(bytes([byte]))
                if self._over.wait(0.2):
                    break
        elif fault == INTERIM:
            for status in (100, 102, 103, 102):
                connection.sendall(f"HTTP/1.1 {status} Wait\r\nX-A: b\r\n\r\n".encode())
                self._over.wait(0.1)
            return True
        elif fault == "garbage":
            connection.sendall(b"\x00\xff\x15 banana: \xfe\r\n" * 40 + b"\r\n")
        elif fault == "killed":
            os.kill(self.worker.result(), signal.SIGKILL)
            self._over.wait(0.2)
        elif fault in ENDS:
            self._give_room(int(SMALL if fault == "disk nearly full" else NOTHING))
            if fault == "disk full a while":
                threading.Timer(WHILE, self._give_room, [resource.RLIM_INFINITY]).start()
            return True
        return False


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError
    return data


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table in Markdown, by phase and kind of fault."""
    lines = [
        "| phase | fault | cases | POSTs billed, at most | lost though delivered | slowest "
        "| what the user hears |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = dict.fromkeys((each.case.phase, each.case.group) for each in outcomes)
    for phase, group in sorted(rows, key=lambda row: PHASES.index(row[0])):
        of = [o for o in outcomes if (o.case.phase, o.case.group) == (phase, group)]
        heard = Counter(o.heard for o in of)
        lines.append(
            f"| {phase} | {group} | {len(of)} | {max(o.billed for o in of)} | "
            f"{sum(o.lost for o in of)} | {max(o.seconds for o in of):.1f} s | "
            f"{', '.join(f'{kind} {count}' for kind, count in heard.most_common())} |"
        )
    wrong = sum(bool(o.wrong) for o in outcomes)
    lost = sum(o.lost and o.case.unavoidable for o in outcomes)
    lines.append("")
    lines.append(
        f"{len(outcomes)} cases. In {wrong} of them something was billed twice, lost though "
        "delivered, wrongly called free, left without a sentence, or never ended. Not counted are "
        f"{lost} whose disk had no room for a single byte from the sending on, for longer than the "
        "worker waits."
    )
    return "\n".join(lines) + "\n"

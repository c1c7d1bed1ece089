"""Random, malformed answers to the worker's own code, over a real connection.

The tests use some hundred answers, `tests/bench/fuzz` uses many. FAMILIES has the kinds of answers:
each family varies one part, such as the bytes on the wire, the HTTP headers, the JSON of an answer
or of a task, or the picture.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import hypothesis
from hypothesis import strategies
from hypothesis.strategies import SearchStrategy
from PIL import Image, ImageCms

from plugin import job, settings, storage
from plugin.job import Job, JobRequest
from plugin.region import Box, plan
from plugin.worker.pictures import formats, png_files
from plugin.worker.run import Run
from plugin.worker.service import api, patience
from tests.service.raw_server import Got, RawServer

KEY = "sk-fuzzed-key"
READ_SECONDS = 2.0
MOST_SECONDS = 20.0
"""Limit for one edit: it may fetch a picture several times, each time within READ_SECONDS."""


@dataclass(frozen=True)
class Told:
    """The service's answers: to the POST, to each query of a task, and to each other GET.

    With None, the service hangs up.
    """

    family: str
    route: str
    post: bytes | None
    task: bytes | None
    picture: bytes | None


# --- pictures -----------------------------------------------------------------------------------


@functools.cache
def valid_pictures() -> tuple[bytes, ...]:
    """Return small, intact picture files of every kind."""
    plain = Image.radial_gradient("L").resize((48, 32))
    colours = Image.merge("RGB", (plain, plain.rotate(90), plain.rotate(180)))
    turned = Image.Exif()
    turned[0x0112] = 6
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear = colours.copy()
    clear.putalpha(plain)
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colours, "PNG", {"icc_profile": srgb, "exif": turned}),
        (clear, "PNG", {}),
        (colours.convert("P"), "PNG", {"transparency": 3}),
        (plain.convert("I;16"), "PNG", {}),
        (plain.convert("1"), "PNG", {}),
        (colours, "PNG", {"save_all": True, "append_images": [clear.convert("RGB")]}),
        (colours, "JPEG", {"exif": turned, "icc_profile": lab}),
        (colours.convert("CMYK"), "JPEG", {}),
        (plain, "JPEG", {"progressive": True}),
        (clear, "WEBP", {"exif": turned, "icc_profile": srgb}),
        (colours, "WEBP", {"lossless": True}),
        (colours, "WEBP", {"save_all": True, "append_images": [clear.convert("RGB")]}),
        (colours, "GIF", {}),
        (colours, "TIFF", {}),
    ]
    found = []
    for image, kind, options in made:
        out = io.BytesIO()
        image.save(out, kind, **options)
        found.append(out.getvalue())
    return tuple(found)


@strategies.composite
def mutated(draw: Callable[[SearchStrategy[Any]], Any]) -> bytes:
    """Draw a picture file in which some bytes are changed, removed, repeated, or cut off."""
    data = bytearray(draw(strategies.sampled_from(valid_pictures())))
    for _ in range(draw(strategies.integers(0, 4))):
        # The most important bytes are at the beginning.
        most = draw(strategies.sampled_from([40, 200, len(data)]))
        at = draw(strategies.integers(0, max(0, min(most, len(data)) - 1)))
        match draw(strategies.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(strategies.binary(min_size=1, max_size=1))
            case 1:
                data[at : at + 4] = draw(
                    strategies.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\xff\xff"])
                )
            case 2:
                del data[at : at + draw(strategies.integers(1, 64))]
            case 3:
                data[at:at] = data[at : at + 32]
            case _:
                del data[at:]
    return bytes(data)


PICTURES = strategies.one_of(mutated(), mutated(), strategies.binary(max_size=64))

# --- JSON ---------------------------------------------------------------------------------------

WORDS = strategies.one_of(
    strategies.text(max_size=12),
    strategies.sampled_from([
        "img_1", "..", "a/b", "succeeded", "failed", "queued", "in_progress", KEY, "a\u202eb\x1b[m",
        "?exp=1&sig=abc", "data:,", "data:image/png;base64,AAAA", "https://127.0.0.1:9/x", "/p/x",
        "file:///etc/passwd", "//[", "http://\ud800/",
    ]),
)  # fmt: skip
SCALARS = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.sampled_from([0, -1, 1, 50, 10**400, 1e308, float("nan"), float("inf")]),
    WORDS,
)
JSON = strategies.recursive(
    SCALARS,
    lambda inner: (
        strategies.lists(inner, max_size=3) | strategies.dictionaries(WORDS, inner, max_size=3)
    ),
    max_leaves=6,
)
ENCODED = PICTURES.map(lambda data: base64.b64encode(data).decode())
LINKS = strategies.one_of(
    strategies.just("/p/img/1/0?exp=1&sig=abcdef"),
    ENCODED.map(lambda text: f"data:image/png;base64,{text}"),
    JSON,
)
DATA = strategies.lists(
    strategies.fixed_dictionaries({}, optional={"url": LINKS, "b64_json": ENCODED | JSON}),
    max_size=2,
)
ANSWER = strategies.fixed_dictionaries(
    {}, optional={"task_id": WORDS, "data": DATA | JSON, "error": JSON, "status": WORDS}
)
ERROR = strategies.fixed_dictionaries(
    {}, optional={"message": JSON, "code": JSON, "type": JSON}
).map(lambda error: {"error": error})
TASK = strategies.fixed_dictionaries(
    {"status": strategies.sampled_from(["queued", "succeeded", "succeeded", "failed"]) | JSON},
    optional={
        "progress": SCALARS,
        "result": strategies.fixed_dictionaries({}, optional={"data": DATA | JSON}) | JSON,
        "error": JSON,
    },
)


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


NAMES = strategies.sampled_from([
    "data", "result", "output", "images", "image", "url", "image_url", "b64_json", "b64", "base64",
    "imageUrl", "content", "resultJson", "link", "id", "task_id", "taskId", "code", "msg",
    "message", "detail", "error", "errors", "success", "status", "input", "thumbnail", "sig", "loc",
])  # fmt: skip
SPELLED = strategies.one_of(
    ENCODED,
    ENCODED.map(lambda text: f"DATA:image/png;BASE64,{text}"),
    ENCODED.map(lambda text: f"data:;base64,{quote(text, safe='')}"),
    ENCODED.map(lambda text: quote(f"data:image/png;base64,{text}", safe="")),
    ENCODED.map(lambda text: text.replace("+", "-").replace("/", "_").rstrip("=")),
    ENCODED.map(lambda text: f"![a](data:image/png;base64,{text}) and /p/1?sig=abcdef"),
    strategies.sampled_from([
        "/p/1?exp=1&sig=abcdef", "\\/p\\/1?sig=abcdef", "//127.0.0.1/p/1?sig=abcdef",
        "http://127.0.0.1/p/1#sig=abcdef", "/p/图?a&amp;sig=abcdef", "![](/p/1?sig=a)",
        "data:,", "data%3A", "![](", "{",
    ]),
    WORDS,
)  # fmt: skip
OTHERWISE = strategies.recursive(
    SPELLED | SCALARS,
    lambda inner: strategies.one_of(
        strategies.lists(inner, max_size=3),
        strategies.dictionaries(NAMES, inner, max_size=4),
        inner.map(json.dumps),
    ),
    max_leaves=8,
)
ENCODINGS = strategies.sampled_from(["utf-8", "utf-16", "gbk", "shift_jis", "latin-1"])
OTHERWISE_BODIES = strategies.one_of(
    OTHERWISE.map(_text),
    strategies.builds(
        lambda value, encoding: json.dumps(value, ensure_ascii=False).encode(encoding, "replace"),
        OTHERWISE,
        ENCODINGS,
    ),
    strategies.lists(OTHERWISE, max_size=3).map(
        lambda values: b"".join(b"data: " + _text(value) + b"\n\n" for value in values)
    ),
    PICTURES,
)


BODIES = strategies.one_of(
    (ANSWER | ERROR | JSON).map(_text),
    strategies.sampled_from([b"", b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b"<html><title>"]),
    strategies.sampled_from([b'{"data": 1, "data": []}', b'{"task_id": "a", "task_id": 5}']),
    strategies.binary(max_size=64),
)

# --- the wire -----------------------------------------------------------------------------------

NO_HEADERS: SearchStrategy[Any] = strategies.just([])
STATUSES = strategies.sampled_from(
    [200, 200, 200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 402, 403, 404, 408, 410, 413,
     418, 429, 500, 502, 503, 504, 524, 599, 600, 999]
)  # fmt: skip
_LINE = strategies.binary(max_size=20).map(lambda data: data.translate(None, b"\r\n"))
HEADERS = strategies.lists(
    strategies.one_of(
        strategies.tuples(_LINE, _LINE),
        strategies.tuples(
            strategies.just(b"Location"),
            strategies.sampled_from([b"/p/2", b"//[", b"http://\xff", b"file:///x", b"", b"\x01"]),
        ),
        strategies.tuples(
            strategies.just(b"Content-Encoding"),
            strategies.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"?"]),
        ),
        strategies.tuples(
            strategies.just(b"Retry-After"), strategies.sampled_from([b"0", b"-1", b"1e9", b"x"])
        ),
        strategies.tuples(
            strategies.just(b"Content-Type"),
            strategies.sampled_from([b"application/json", b"text/html; charset=x", b"\xff"]),
        ),
        strategies.tuples(
            strategies.just(b"Set-Cookie"),
            strategies.sampled_from([b"a=b; Max-Age=x", b"=;;=", b'a="', b"a; expires=9"]),
        ),
    ),
    max_size=3,
)


def _with_length(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), b"Connection: close"]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _answers(
    bodies: SearchStrategy[bytes],
    statuses: SearchStrategy[int],
    headers: SearchStrategy[Any] = NO_HEADERS,
) -> SearchStrategy[bytes]:
    return strategies.builds(_with_length, statuses, headers, bodies)


@strategies.composite
def broken(draw: Callable[[SearchStrategy[Any]], Any]) -> bytes | None:
    """Draw an answer that is not valid HTTP, or None to hang up."""
    if draw(strategies.integers(0, 20)) == 0:
        return None
    body = draw(BODIES)
    lengths = [b"5, 7", b"-5", b"x", b"99999999999999999999", b"0", b"", b"1", b"%d" % len(body)]
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % draw(strategies.sampled_from(lengths)),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"
        % draw(strategies.sampled_from([b"5", b"-5", b"zz", b"ffffffffff", b"0", b"", b"1;a=b"])),
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        b"",
    ]
    whole = bytearray(draw(strategies.sampled_from(heads)) + body)
    for _ in range(draw(strategies.integers(0, 2))):
        at = draw(strategies.integers(0, len(whole)))
        whole[at : at + 1] = draw(strategies.binary(max_size=3))
    return bytes(whole)


def http_json(value: Any) -> bytes:
    """Return a successful HTTP answer with `value` as its JSON."""
    return _with_length(200, [], _text(value))


def refusal(message: str) -> bytes:
    """Return an HTTP answer that refuses the edit with `message`."""
    return _with_length(400, [], _text({"error": {"message": message}}))


OK = strategies.just(200)
GOOD_POST = _with_length(200, [], _text({"task_id": "img_1", "data": [{"url": "/p/1?sig=abc"}]}))
NAMED = _with_length(200, [], _text({"task_id": "img_1", "data": []}))
GOOD_TASK = _with_length(
    200, [], _text({"status": "succeeded", "result": {"data": [{"url": "/p/1?sig=abc"}]}})
)
GONE = _with_length(404, [], b"")


def _told(family: str, route: str, **parts: SearchStrategy[Any]) -> SearchStrategy[Told]:
    usual = {"post": GOOD_POST if route == settings.EDITS else NAMED, "task": GOOD_TASK}
    given = {name: strategies.just(value) for name, value in {**usual, "picture": GONE}.items()}
    return strategies.builds(
        Told, strategies.just(family), strategies.just(route), **{**given, **parts}
    )


FAMILIES: dict[str, SearchStrategy[Told]] = {
    "wire": strategies.one_of(
        *(_told("wire", route, post=broken()) for route in settings.ROUTES),
        _told("wire", settings.ASYNC, task=broken()),
        _told("wire", settings.EDITS, picture=broken()),
    ),
    "head": strategies.one_of(
        _told("head", settings.EDITS, post=_answers(BODIES, STATUSES, HEADERS)),
        _told("head", settings.ASYNC, task=_answers(BODIES, STATUSES, HEADERS)),
        _told("head", settings.EDITS, picture=_answers(PICTURES, STATUSES, HEADERS)),
    ),
    "answer": strategies.one_of(
        *(_told("answer", route, post=_answers(BODIES, OK)) for route in settings.ROUTES)
    ),
    "task": _told("task", settings.ASYNC, task=_answers(TASK.map(_text), OK)),
    "picture": _told("picture", settings.EDITS, picture=_answers(PICTURES, OK)),
    "spelling": strategies.one_of(
        *(
            _told("spelling", route, post=_answers(OTHERWISE_BODIES, OK))
            for route in settings.ROUTES
        ),
        _told("spelling", settings.ASYNC, task=_answers(OTHERWISE_BODIES, OK)),
    ),
}


# --- the edits ----------------------------------------------------------------------------------


class Fuzzed:
    """Sends edits to a service that gives prescribed answers. It is a context manager."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sent = 0
        """The number of edits that `fuzz` sent."""
        self._told: Told | None = None
        self._server = RawServer(self._answer)

    def __enter__(self) -> Fuzzed:
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        enter(self._server)
        enter(
            mock.patch.dict(
                os.environ,
                DIMILINKS_HOME=str(self.home),
                DIMILINKS_BASE_URL=self._server.base_url,
                DIMILINKS_API_KEY=KEY,
            )
        )
        enter(mock.patch.object(settings, "read_seconds", lambda: READ_SECONDS))
        enter(mock.patch.object(api, "_QUESTION_SECONDS", READ_SECONDS))
        enter(mock.patch.object(api, "_FETCH_SECONDS", READ_SECONDS))
        enter(mock.patch.object(api, "_QUESTION_TRIES", 0))
        enter(mock.patch.object(formats, "FOREIGN_PIXELS", 4_000_000))
        enter(mock.patch.object(storage, "sync_folder", lambda folder: None))
        enter(mock.patch.object(os, "fsync", lambda descriptor: None))
        for name, value in {
            "FETCHES": (0, 0), "POLLS": (0, 0.01, 0.01), "POLLING": 0.05, "CONNECTING": 0,
            "BUSY": -1, "LONGEST": 0, "HELD": 0, "UNKNOWN": 0, "STAGGER": 0,
        }.items():  # fmt: skip
            enter(mock.patch.object(patience, name, value))
        enter(warnings.catch_warnings())
        # Pillow's warnings about unusual pictures are meant for its developers.
        warnings.simplefilter("ignore")
        self._made = _job()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _answer(self, got: Got) -> bytes | None:
        assert self._told
        if got.method == "POST":
            return self._told.post
        return self._told.task if "/tasks/" in got.path else self._told.picture

    def broken(self, told: Told) -> str:
        """Send an edit that gets the answers `told`.

        Returns a description of what should not have happened, or "" if all was well.
        """
        self._told = told
        self._server.got.clear()
        folder = self._made.folder.with_name("under-test")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._made.folder, folder)
        edited = Job(folder)
        before = self._outside(folder)
        log = io.StringIO()
        began = time.monotonic()
        with mock.patch.dict(os.environ, DIMILINKS_ROUTE=told.route):
            try:
                with contextlib.redirect_stderr(log):
                    Run(edited, lambda progress: None).finish()
            except Exception as error:
                return f"{type(error).__name__} came out: {error}"
        seconds = time.monotonic() - began
        (post,) = edited.read_state().posts
        if seconds > MOST_SECONDS:
            return f"it took {seconds:.0f} s"
        if self._server.posts > 1:
            return f"{self._server.posts} POSTs"
        if self._outside(folder) != before:
            return "a file outside the job's folder"
        if log.getvalue():
            return f"unforeseen: {log.getvalue()}"
        if post.state in (job.Status.SENT, job.Status.PREPARED):
            return f"it ended as {post.state}"
        if not post.placed and not (post.message and post.message.isprintable()):
            return f"no sentence: {post.message!a}"
        for file in folder.iterdir():
            # Results are kept as they came, so they may contain anything.
            data = b"" if file.name.startswith("result-") else file.read_bytes()
            if b"sig=" in data or KEY.encode() in data:
                return f"a secret in the {file.stem}: {data.decode('latin-1')}"
        return self._broken_again(edited, post.placed)

    def _broken_again(self, edited: Job, placed: str) -> str:
        """Resume the edit, and check that it is not sent again if it may have been paid for.

        Returns a description of what should not have happened, or "" if all was well.
        """
        (post,) = edited.read_state().posts
        if placed or post.may_be_sent_again:
            return ""
        Run(edited, lambda progress: None).finish()
        return "sent again" if self._server.posts > 1 else ""

    def _outside(self, folder: Path) -> set[str]:
        return {str(p) for p in self.home.rglob("*") if folder not in (p, *p.parents)}


def _job() -> Job:
    source = Image.radial_gradient("L").resize((48, 32)).convert("RGB")
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (12, 8, 36, 24))
    whole = Box(0, 0, *source.size)
    planned = plan(Box(12, 8, 24, 16), whole)
    box = planned.content
    with job.prepare() as folder:
        png_files.write(source.crop((box.x, box.y, box.right, box.bottom)), folder / "source.png")
        png_files.write(mask.crop((box.x, box.y, box.right, box.bottom)), folder / "mask.png")
        asked = JobRequest("fuzz", "gpt-image-2", planned, keep_alpha=False)
        return job.publish(folder, asked)


def fuzz(fuzzed: Fuzzed, family: str, number: int) -> list[str]:
    """Send up to `number` edits with answers of a family, the same in each run.

    Returns descriptions of what should not have happened, each with the answers that led to it.
    """
    found: list[str] = []

    @hypothesis.settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(FAMILIES[family])
    def one(told: Told) -> None:
        fuzzed.sent += 1
        if said := fuzzed.broken(told):
            found.append(f"{said}\n  {told}")

    one()
    return found

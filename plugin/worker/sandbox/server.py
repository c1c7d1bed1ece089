"""The HTTP server of the sandbox, which makes edits and answers questions about tasks and prices.

Edits are requested in two ways. `POST /v1/images/edits` takes a form. `POST /v1/images/generations`
takes JSON with pictures as data URLs; if the request asks for it, the server replies at once with
the name of a *task*, and `GET /v1/tasks/{id}` then returns the state of this task.

The server is as strict as the real service. It refuses requests that are too large for the proxy in
front of the service, drops files that look like duplicates, and lets links expire. All data is kept
in memory.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import io
import json
import logging
import math
import re
import secrets
import socket
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartParser,
    parse_options_header,
)
from PIL import Image

from plugin.region import RATIOS
from plugin.worker.pictures import png_files
from plugin.worker.pictures.formats import Unreadable, read_foreign
from plugin.worker.sandbox import model
from plugin.worker.sandbox.misbehaviour import Misbehaviour, asked_for

MODEL = "gpt-image-2"
MOST_PICTURES = 9
MOST_PICTURE_BYTES = 20_000_000
MOST_REQUEST_BYTES = 32_000_000
MOST_PARTS = 64
KEPT_TASKS = 16
KEPT_RECORDS = 64
PRICES = {"1k": 0.08, "2k": 0.15, "4k": 0.30}

LinkForm = Literal["relative", "absolute", "data", "b64_json"]
Answer = tuple[int, Mapping[str, str], bytes | dict[str, Any]]

_IMAGE_FIELDS = ("image", "image[]", "images", "images[]")
_NUMBERED_FIELD = re.compile(r"image_([0-9]{1,4})")
_EXACT_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.IGNORECASE)
_DATA_URL = re.compile(r"data:(image/[a-z]+);base64,(.*)", re.DOTALL)
_RESULT_PATH = re.compile(r"/p/img/(img_[0-9a-f]+)/0")
_TASK_PATH = re.compile(r"/v1/tasks/([^/]+)")
_QUEUED = 0.2
"""The share of the thinking time during which the state of a task is "queued"."""
_PROXY_413 = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n</body>\r\n</html>\r\n"
)

_log = logging.getLogger(__name__)


class UploadedFile(NamedTuple):
    """A file that arrived in a request, with the name and content type that the client sent."""

    field: str
    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Edit:
    """A request for an edit that the server accepted.

    It consists of the text fields, the files in their order of arrival, and the headers, whose
    names are case-insensitive.
    """

    fields: dict[str, str]
    files: list[UploadedFile]
    headers: Message


@dataclass
class Task:
    """An accepted edit that is in progress or has ended.

    `key` is the API key of the client that sent the edit.
    """

    key: str
    began: float
    """The time at which the edit began, on the monotonic clock."""
    result: tuple[bytes, str] | None = None
    """The bytes and the media type of the edited picture, or None if there is no picture yet."""
    error: dict[str, str] | None = None
    """The code and the message of the error if the edit failed, otherwise None."""


@dataclass(frozen=True)
class Served:
    """A GET request that arrived.

    `path` includes the query. The names of the headers are case-insensitive.
    """

    path: str
    headers: Message


class Sandbox:
    """The sandbox, which serves on a free port of 127.0.0.1 inside a `with` block.

    The prepared replies (`answers`, `pages` and `task_answers`) can be changed at any time.

    `keys`: the API keys that are accepted; None accepts any key.
    `balance`: the number of edits that are paid for; None means that there is no limit.
    `thinking`: how many seconds the server waits before it makes an edit.
    `link_life`: for how many seconds a link to a result is valid.
    `link_form`: the form in which results are returned.
    `answers`: prepared replies (status, headers, body) to the next POST requests, whatever these
    contain. A body that is a dict is sent as JSON. None in place of a reply closes the connection.
    `prices`: the price of an edit at each tier.
    `pages`: prepared replies to GET requests, by path. They replace the usual replies.
    `task_answers`: prepared replies, like `answers`, to the next GET requests for tasks.
    `misbehaviour`: the changes that are made to each picture before it is sent. If a prompt names
    another misbehaviour, that one is used for its edit.
    """

    def __init__(
        self,
        *,
        keys: Collection[str] | None = None,
        balance: int | None = None,
        thinking: float = 0,
        link_life: float = 24 * 3600,
        link_form: LinkForm = "relative",
        answers: Iterable[Answer | None] = (),
        prices: Mapping[str, float] = PRICES,
        pages: Mapping[str, Answer | None] | None = None,
        task_answers: Iterable[Answer | None] = (),
        misbehaviour: Misbehaviour | None = None,
    ) -> None:
        self.keys = keys
        self.balance = balance
        self.thinking = thinking
        self.link_life = link_life
        self.link_form = link_form
        self.answers: deque[Answer | None] = deque(answers)
        self.prices = prices
        self.pages: dict[str, Answer | None] = dict(pages or {})
        self.task_answers: deque[Answer | None] = deque(task_answers)
        self.misbehaviour = misbehaviour
        self.posts = 0
        """The number of POST requests that arrived completely, accepted or refused."""
        self.edits: list[Edit] = []
        """The latest accepted edits, oldest first."""
        self.served: list[Served] = []
        """The latest GET requests, oldest first."""
        self._secret = secrets.token_bytes(32)
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._lock = threading.Lock()
        # Only one picture is edited at a time, because the model's arrays are large at 4k.
        self._model_lock = threading.Lock()
        self._closing = threading.Event()
        self._server: _Server | None = None

    @property
    def origin(self) -> str:
        """The server's address, `http://127.0.0.1:PORT`.

        Raises RuntimeError outside the `with` block.
        """
        if self._server is None:
            raise RuntimeError("the sandbox is not running")
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def base_url(self) -> str:
        """The address of the API, `http://127.0.0.1:PORT/v1`.

        Raises RuntimeError outside the `with` block.
        """
        return f"{self.origin}/v1"

    def __enter__(self) -> Sandbox:
        self._closing.clear()
        self._server = _Server(self)
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="sandbox", daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._server = None

    # --- The handler calls the methods below ----------------------------------------------------

    def next_answer(self) -> tuple[bool, Answer | None]:
        """Count a POST request, and take the next prepared reply.

        Return whether there is a prepared reply, and the reply. If there is a prepared reply, but
        it is None, the connection is to be closed.
        """
        with self._lock:
            self.posts += 1
            return (True, self.answers.popleft()) if self.answers else (False, None)

    def next_task_answer(self) -> tuple[bool, Answer | None]:
        """Take the next prepared reply to a GET request for a task.

        Return the same values as `next_answer`. The request is not counted.
        """
        with self._lock:
            return (True, self.task_answers.popleft()) if self.task_answers else (False, None)

    def record(self, served: Served) -> None:
        """Add a GET request to `served`, and drop the oldest request if there are too many."""
        with self._lock:
            self.served.append(served)
            del self.served[:-KEPT_RECORDS]

    def authorize(self, headers: Message) -> str:
        """Return the API key in the headers of a request.

        Raises Refusal if the key is missing or not accepted.
        """
        scheme, _, key = (headers.get("Authorization") or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise Refusal(401, "missing_api_key", "No API key: send Authorization: Bearer <key>.")
        if self.keys is not None and key not in self.keys:
            raise Refusal(401, "invalid_api_key", "The API key is not valid.")
        return key

    def pricing(self) -> dict[str, Any]:
        """Return the public list of prices, as a dict for JSON."""
        options = [
            {"resolution": tier, "model_price": price, "max_n": 1 if tier == "1k" else 4}
            for tier, price in self.prices.items()
        ]
        return {"success": True, "data": [{"model_name": MODEL, "resolution_options": options}]}

    def edit(self, key: str, body: bytes, headers: Message) -> dict[str, Any]:
        """Make the edit that the form in `body` requests, and return the reply as a dict for JSON.

        Raises Refusal if the request is not valid or the balance is used up.
        """
        fields, files = _form(headers.get("Content-Type", ""), body)
        return self._answered(*self._taken(key, Edit(fields, files, headers)))

    def generate(self, key: str, query: str, body: bytes, headers: Message) -> dict[str, Any]:
        """Make the edit that the JSON in `body` requests, and return the reply as a dict for JSON.

        If the query, the headers or the body ask not to wait, return the name of a task at once,
        and make the edit in another thread. Raises Refusal if the request is not valid or the
        balance is used up.
        """
        asked = _json_object(body)
        fields, files = _generation(asked)
        name, task, request = self._taken(key, Edit(fields, files, headers))
        if not (
            parse_qs(query).get("async", [""])[0].lower() == "true"
            or "respond-async" in (headers.get("Prefer") or "").lower()
            or asked.get("wait_for_result") is False
        ):
            return self._answered(name, task, request)
        threading.Thread(target=self._work_on, args=(task, request), name=name, daemon=True).start()
        return {"created": int(time.time()), "task_id": name, "status": "queued", "data": []}

    def _taken(self, key: str, edit: Edit) -> tuple[str, Task, _Request]:
        """Check and charge an edit, and return the task's name, the task and the model's input.

        Raises Refusal if the edit is not valid or the balance is used up.
        """
        request = _Request.read(edit.fields, edit.files)
        name, task = f"img_{secrets.token_hex(12)}", Task(key, time.monotonic())
        with self._lock:
            if self.balance is not None:
                if self.balance <= 0:
                    raise Refusal(402, "insufficient_balance", "The balance is used up.")
                self.balance -= 1
            self.edits.append(edit)
            del self.edits[:-KEPT_RECORDS]
            self._tasks[name] = task
            while len(self._tasks) > KEPT_TASKS:
                self._tasks.popitem(last=False)
        return name, task, request

    def _answered(self, name: str, task: Task, request: _Request) -> dict[str, Any]:
        """Make an accepted edit, and return the reply with its result as a dict for JSON."""
        result = self._make(task, request)
        return {"created": int(time.time()), "task_id": name, "data": self._data(name, result)}

    def _make(self, task: Task, request: _Request) -> tuple[bytes, str]:
        """Make an accepted edit, and return the bytes and the media type of the edited picture.

        If the edit fails, its charge is given back.
        """
        try:
            if self._closing.wait(self.thinking):
                raise ConnectionAbortedError("the sandbox was closed")
            with self._model_lock:
                task.result = request.result(self.misbehaviour)
            return task.result
        except BaseException:
            with self._lock:
                task.error = {"code": "internal_error", "message": "The edit could not be made."}
                if self.balance is not None:
                    self.balance += 1
            raise

    def _work_on(self, task: Task, request: _Request) -> None:
        """Make an accepted edit. A thread of its own runs this while the client polls the task."""
        try:
            self._make(task, request)
        except ConnectionAbortedError:
            pass
        except Exception:
            _log.exception("The sandbox failed to make an edit.")

    def task(self, key: str, name: str) -> dict[str, Any]:
        """Return the state of the task `name`, as a dict for JSON.

        If the edit has succeeded, the dict contains a new link to the result. Raises Refusal if
        there is no such task, or if its edit was sent with another API key.
        """
        with self._lock:
            task = self._tasks.get(name)
        if task is None or task.key != key:
            raise Refusal(404, "not_found", "There is no such task.")
        answer: dict[str, Any] = {"id": name, "task_id": name}
        if task.error is not None:
            return {**answer, "status": "failed", "error": task.error}
        if task.result is not None:
            result = {"created": int(time.time()), "data": self._data(name, task.result)}
            return {**answer, "status": "succeeded", "progress": 100, "result": result}
        passed = (time.monotonic() - task.began) / self.thinking if self.thinking > 0 else 1
        if passed < _QUEUED:
            return {**answer, "status": "queued"}
        return {**answer, "status": "in_progress", "progress": min(99, int(100 * passed))}

    def _data(self, name: str, result: tuple[bytes, str]) -> list[dict[str, str]]:
        """Return a list with one entry, which contains the result or a link to the result.

        A link is valid for `link_life` seconds from now on.
        """
        handed_over = self._handed_over(name, *result)
        return [{**handed_over, "file_id": f"file_{secrets.token_hex(12)}"}]

    def _handed_over(self, task: str, data: bytes, kind: str) -> dict[str, str]:
        if self.link_form == "b64_json":
            return {"b64_json": base64.b64encode(data).decode()}
        if self.link_form == "data":
            return {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}
        expiry = str(int((time.time() + self.link_life) * 1000))
        link = f"/p/img/{task}/0?exp={expiry}&sig={self._signature(f'/p/img/{task}/0', expiry)}"
        return {"url": self.origin + link if self.link_form == "absolute" else link}

    def result(self, target: str) -> tuple[bytes, str]:
        """Return the bytes and the media type of the picture to which a link leads.

        `target` is the path and the query of the link. Raises Refusal if there is no such picture,
        if the link's signature is wrong, or if the link has expired.
        """
        parts = urlsplit(target)
        match = _RESULT_PATH.fullmatch(parts.path)
        with self._lock:
            task = self._tasks.get(match[1]) if match else None
        if task is None or task.result is None:
            raise Refusal(404, "not_found", "There is nothing at this address.")
        query = parse_qs(parts.query)
        expiry, given = (query.get(name, [""])[0] for name in ("exp", "sig"))
        wanted = self._signature(parts.path, expiry)
        if not hmac.compare_digest(wanted.encode(), given.encode()):
            raise Refusal(403, "invalid_signature", "The link's signature does not fit.")
        if int(expiry) <= time.time() * 1000:
            raise Refusal(403, "link_expired", "The link has expired.")
        return task.result

    def _signature(self, path: str, expiry: str) -> str:
        message = f"{path}?exp={expiry}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


class Refusal(Exception):
    """An error that the server sends to the client: HTTP status, error code and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """The body of the reply, as a dict for JSON."""
        kind = {401: "authentication_error", 402: "insufficient_quota"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": str(self), "type": kind, "code": self.code}}


# --- Read requests ------------------------------------------------------------------------------


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], list[UploadedFile]]:
    """Return the text fields and the files of the multipart form in `body`.

    Raises Refusal if the form can't be read.
    """
    media_type, options = parse_options_header(content_type)
    if media_type != "multipart/form-data" or not options.get("boundary"):
        raise _bad("The request must be multipart/form-data.")
    fields: dict[str, str] = {}
    files: list[UploadedFile] = []
    parser = MultipartParser(
        io.BytesIO(body),
        options["boundary"],
        len(body),
        part_limit=MOST_PARTS,
        # These limits are as large as the largest request, so that no file is written to the disk.
        spool_limit=MOST_REQUEST_BYTES,
        memory_limit=MOST_REQUEST_BYTES,
    )
    try:
        for part in parser:
            if part.filename is not None or _place(part.name) is not None:
                name = part.filename or ""
                files.append(UploadedFile(part.name, name, part.content_type, part.raw))
            else:
                fields[part.name] = part.value
    except (MultipartError, UnicodeDecodeError, LookupError) as error:
        raise _bad(f"The form can't be read: {error}.") from error
    return fields, files


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises Refusal if `body` contains no JSON object."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad("The request must be JSON.") from error
    if not isinstance(asked, dict):
        raise _bad("The request must be a JSON object.")
    return asked


def _generation(asked: Mapping[str, Any]) -> tuple[dict[str, str], list[UploadedFile]]:
    """Return the text fields and the pictures of a generation, in the same form as `_form`.

    `asked` is the JSON object of the request. Raises Refusal if a value in it is not valid.
    """
    fields: dict[str, str] = {}
    for name in ("model", "prompt", "size", "resolution"):
        value = asked.get(name, "")
        if not isinstance(value, str):
            raise _bad(f"{name} must be a string.")
        fields[name] = value
    if asked.get("n", 1) != 1 or isinstance(asked.get("n"), bool):
        raise _bad("The sandbox makes one picture at a time: n must be 1.")
    if asked.get("output_format", "png") != "png":
        raise _bad("The sandbox makes PNG only.")
    links = asked.get("image_urls", [])
    if not isinstance(links, list):
        raise _bad("image_urls must be a list.")
    files = [
        _linked("image" if number == 1 else "image[]", f"image_urls-{number}", link)
        for number, link in enumerate(links, 1)
    ]
    if asked.get("mask_url") is not None:
        files.append(_linked("mask", "mask_url", asked["mask_url"]))
    return fields, files


def _linked(field: str, name: str, link: Any) -> UploadedFile:
    """Return the picture in the data URL `link`. Raises Refusal if `link` is no valid data URL."""
    match = _DATA_URL.fullmatch(link) if isinstance(link, str) else None
    if match is None:
        message = f"{name} can't be used: the sandbox takes data URLs with base64 only."
        raise Refusal(400, "invalid_reference_image", message)
    try:
        data = base64.b64decode(match[2], validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{name} can't be used: its base64 is not valid."
        raise Refusal(400, "invalid_reference_image", message) from error
    return UploadedFile(field, name, match[1], data)


def _place(field: str) -> tuple[int, int] | None:
    """Return the sort key of a form field with pictures, or None if no such field exists.

    The model sees the pictures in the order of these keys.
    """
    if field in _IMAGE_FIELDS:
        return min(_IMAGE_FIELDS.index(field), 1), 0
    if match := _NUMBERED_FIELD.fullmatch(field):
        return 2, int(match[1])
    return (3, 0) if field == "mask" else None


@dataclass(frozen=True)
class _Request:
    """The input of the model for a valid edit."""

    prompt: str
    pictures: list[Image.Image]
    mask: Image.Image | None
    size: tuple[int, int]
    first: UploadedFile
    """The file of the first picture, which is sent back if the prompt asks for no edit."""

    @staticmethod
    def read(fields: Mapping[str, str], files: Iterable[UploadedFile]) -> _Request:
        """Return the model's input for the fields and files of a request.

        Raises Refusal if a field or a file is not valid.
        """
        if (fields.get("model") or MODEL) != MODEL:
            raise Refusal(403, "model_not_allowed", f"Only the model {MODEL} is allowed.")
        prompt = fields.get("prompt", "").strip()
        if not prompt:
            raise _bad("The prompt is missing.")
        for file in files:
            if _place(file.field) is None:
                raise _bad(f"There is no file field {file.field!r}.")
        # Like the service, treat files with the same name and length as the same file.
        kept = {(file.name, len(file.data)): file for file in reversed(list(files))}
        ordered = sorted(
            (file for file in files if kept[file.name, len(file.data)] is file),
            key=lambda file: _place(file.field) or (0, 0),
        )
        masks = [file for file in ordered if file.field == "mask"]
        images = [file for file in ordered if file.field != "mask"]
        if not images:
            raise _bad("At least one image is needed.")
        if len(masks) > 1:
            raise _bad("Only one mask can be used.")
        if len(ordered) > MOST_PICTURES:
            raise _bad(f"At most {MOST_PICTURES} pictures can be used, the mask counted.")
        pictures = [_decoded(file) for file in images]
        return _Request(
            prompt,
            pictures,
            _decoded(masks[0]) if masks else None,
            answer_size(fields.get("size", ""), fields.get("resolution", ""), pictures[0].size),
            images[0],
        )

    def result(self, misbehaviour: Misbehaviour | None) -> tuple[bytes, str]:
        """Make the edit, and return the bytes and the media type of the edited picture.

        `misbehaviour` is used unless the prompt names another one.
        """
        misbehaviour = asked_for(self.prompt) or misbehaviour
        if misbehaviour is None and model.is_echo(self.prompt):
            return self.first.data, _media_type(self.first.data)
        if model.is_echo(self.prompt):
            made = model.at_size(self.pictures[0], self.size)
        else:
            made = model.edit(self.prompt, self.pictures, self.mask, self.size)
        if misbehaviour is not None:
            return misbehaviour.encoded(misbehaviour.apply(made))
        return png_files.encoded(made), "image/png"


def _decoded(file: UploadedFile) -> Image.Image:
    if len(file.data) > MOST_PICTURE_BYTES:
        raise Refusal(
            400,
            "invalid_reference_image",
            f"{file.name or file.field} has more than {MOST_PICTURE_BYTES // 1_000_000} MB.",
        )
    try:
        return read_foreign(file.data)
    except Unreadable as error:
        message = f"{file.name or file.field} can't be used: {error}."
        raise Refusal(400, "invalid_reference_image", message) from error


def _media_type(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as picture:
        return str(Image.MIME[picture.format or ""])


def answer_size(size: str, resolution: str, first: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) of the answer in pixels.

    `size` and `resolution` are fields of the request, and are empty if the client didn't send them.
    `first` is the (width, height) of the first picture. If `size` is empty or `auto`, the answer
    gets the available ratio that is nearest to the ratio of this picture. Raises Refusal if a field
    is not valid.
    """
    tier = resolution.strip().lower() or "1k"
    if tier not in RATIOS["1:1"]:
        raise _bad(f"resolution must be one of {', '.join(RATIOS['1:1'])}.")
    size = size.strip().lower()
    if size in ("", "auto"):
        shape = math.log(first[0] / first[1])

        def distance(ratio: str) -> float:
            across, down = ratio.split(":")
            return abs(math.log(int(across) / int(down)) - shape)

        size = min(RATIOS, key=distance)
    if size in RATIOS:
        return RATIOS[size][tier]
    match = _EXACT_SIZE.fullmatch(size)
    if match is None:
        raise _bad("size must be auto, a ratio of the table, or WxH.")
    width, height = int(match[1]), int(match[2])
    if (
        width % 16
        or height % 16
        or not 655_360 <= width * height <= 8_294_400
        or not 1 / 3 <= width / height <= 3
    ):
        raise _bad(
            "WxH must be multiples of 16, 655360 to 8294400 pixels in all, between 1:3 and 3:1."
        )
    return width, height


# --- Answer requests over HTTP ------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    """A server with a thread for each connection.

    The server keeps a set of all open connections, so that the sandbox can close them when it ends.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        """Shut down all connections, even if they still wait for a reply."""
        with self._connections_lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # The client has closed it.
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # If a client closes its connection, this is no error of the server, so it is not logged.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            _log.exception("The sandbox failed to answer.")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60
    # With this buffer, headers and body are sent together. Otherwise Nagle's algorithm would delay
    # the body.
    wbufsize = 64 * 1024

    def do_GET(self) -> None:
        """Reply to a GET request for a result, a task, the list of models, or the prices.

        If a reply is prepared for the path, send that reply instead.
        """
        sandbox = self.server.sandbox
        sandbox.record(Served(self.path, self.headers))
        path = urlsplit(self.path).path
        if path in sandbox.pages:
            self._reply_prepared(sandbox.pages[path])
            return
        if path == "/api/pricing":
            self._reply_json(HTTPStatus.OK, sandbox.pricing())
            return
        try:
            if path == "/v1/models":
                sandbox.authorize(self.headers)
                models = [{"id": MODEL, "object": "model", "created": 0, "owned_by": "sandbox"}]
                self._reply_json(HTTPStatus.OK, {"object": "list", "data": models})
                return
            if task := _TASK_PATH.fullmatch(path):
                prepared, answer = sandbox.next_task_answer()
                if prepared:
                    self._reply_prepared(answer)
                else:
                    found = sandbox.task(sandbox.authorize(self.headers), task[1])
                    self._reply_json(HTTPStatus.OK, found)
                return
            data, kind = sandbox.result(self.path)
        except Refusal as refusal:
            self._reply_json(refusal.status, refusal.body)
        else:
            self._reply(HTTPStatus.OK, {"Content-Type": kind, "Cache-Control": "private"}, data)

    def do_POST(self) -> None:
        """Reply to a POST request: send the next prepared reply; if there is none, make an edit."""
        body = self._body()
        if body is None:
            return
        sandbox = self.server.sandbox
        prepared, answer = sandbox.next_answer()
        if prepared:
            self._reply_prepared(answer)
            return
        try:
            parts = urlsplit(self.path)
            if parts.path not in ("/v1/images/edits", "/v1/images/generations"):
                raise Refusal(404, "not_found", "There is nothing at this address.")
            key = sandbox.authorize(self.headers)
            if parts.path == "/v1/images/edits":
                made = sandbox.edit(key, body, self.headers)
            else:
                made = sandbox.generate(key, parts.query, body, self.headers)
        except Refusal as refusal:
            self._reply_json(refusal.status, refusal.body)
        except ConnectionAbortedError:
            self.close_connection = True
        except Exception:
            _log.exception("The sandbox failed to make an edit.")
            failure = Refusal(500, "internal_error", "The sandbox failed; its log says why.")
            self._reply_json(failure.status, failure.body)
        else:
            self._reply_json(HTTPStatus.OK, made)

    def handle_expect_100(self) -> bool:
        """Reply to a client that wants to know whether it should send the body of its request.

        Ask for the body, or refuse the request if the body is too large.
        """
        if (self._length() or 0) > MOST_REQUEST_BYTES:
            self._refuse_as_proxy()
            return False
        self.send_response_only(HTTPStatus.CONTINUE)
        self.end_headers()
        self.wfile.flush()
        return True

    def _length(self) -> int | None:
        length = self.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None

    def _body(self) -> bytes | None:
        """Return the body of the request, or None if the request was refused before it was read."""
        length = self._length()
        if length is None:
            self.close_connection = True
            self._reply_json(411, _bad("A request needs a Content-Length.").body)
            return None
        if length > MOST_REQUEST_BYTES:
            self._refuse_as_proxy()
            self._linger(length)
            return None
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client hung up in the middle of its request")
        return body

    def _refuse_as_proxy(self) -> None:
        self.close_connection = True
        self._reply(413, {"Content-Type": "text/html"}, _PROXY_413)

    def _linger(self, length: int) -> None:
        """Read and drop data that the client still sends, up to a limit.

        If the connection was closed at once instead, the client could lose the reply.
        """
        self.wfile.flush()
        left = min(length, 4 * MOST_REQUEST_BYTES)
        while left > 0 and (chunk := self.rfile.read1(min(left, 1 << 16))):
            left -= len(chunk)

    def _reply_prepared(self, answer: Answer | None) -> None:
        if answer is None:
            self.close_connection = True
            return
        status, headers, body = answer
        if isinstance(body, bytes):
            self._reply(status, headers, body)
        else:
            self._reply_json(status, body, headers)

    def _reply_json(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        self._reply(status, {"Content-Type": "application/json", **(headers or {})}, data)

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error that the HTTP server itself found, in the error format of the service."""
        self.close_connection = True
        self._reply_json(code, _bad(message or HTTPStatus(code).phrase).body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, because standard error belongs to the process that runs the sandbox."""

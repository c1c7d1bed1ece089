"""Find pictures, tasks and prices in the answers of the service.

Services use many formats for the same information. So this module does not expect a fixed format,
but searches the whole answer. Each string that is an encoded picture, or possibly a link to one, is
a candidate. Whether a candidate really is a picture is decided later, by its bytes. A task is the
service's own job, which can be asked for by its name. This module makes no requests.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from plugin.errors import Failure, Kind
from plugin.limits import TIERS
from plugin.translation import _
from plugin.worker.pictures import formats
from plugin.worker.service.answer_text import (
    DEEPEST,
    broken_off,
    events,
    holders,
    is_whole,
    json_in,
    parsed,
    text,
)
from plugin.worker.service.complaints import PASSING_WORDS, trouble, words

_MOST_VALUES = 20_000
"""At most this many JSON values of one answer are searched. Later values, and values that are
nested deeper than DEEPEST, are ignored."""
_MOST_LINKS = 8
_LONGEST_LINK = 8192
_MOST_PARTS = 16
"""At most this many parts of a multipart answer are read."""
# The patterns in this module are strings, because an edit needs few of them, and compiling them all
# when the module is imported would delay each edit.
_TASK = r"(?!\.+$)[!-~]{1,200}"

_INLINE = "data:;base64,"
"""A prefix that turns plain base64 into a `data:` link."""
_ANSWERS = {
    *("data", "result", "results", "output", "outputs", "response", "images", "image"),
    *("choices", "candidates", "generations", "artifacts", "predictions"),
}
"""Names under which services return results. Pictures under other names are often copies of what
was sent."""
_LINKS = {"url", "urls", "uri", "uris", "link", "links", "href", "src"}
_PICTURES = _ANSWERS | {*("img", "picture", "pictures", "photo", "file", "files", "content")}
_ENCODED = {"b64", "base64"}
_OTHERS = {
    *("input", "inputs", "request", "source", "sources", "original", "init", "mask", "masks"),
    *("reference", "references", "thumb", "thumbnail", "thumbnails", "preview", "previews"),
    *("placeholder", "callback", "webhook", "docs", "documentation", "help", "logo", "icon"),
    *("avatar", "error", "errors", "cancel", "status", "prompt", "partial"),
}
"""Words in the names of values that are not results: pictures that were sent, thumbnails, links to
web pages."""
_INLINE_IN_TEXT = r"(?i)data:image/[\w.+-]{1,20};base64,[\w+/%-]+=*"
_LINK_IN_TEXT = (
    r"(?i)!\[[^\]\n]{0,200}\]\(\s*(?!data:)([^)\s]{1,2000})"
    r"|<img\s[^>]{0,200}?src=[\"'](?!data:)([^\"'\s]{1,2000})"
    r"|(https?://[^\s\"'<>()]{1,500}?\.(?:png|jpe?g|webp)(?:\?[^\s\"'<>()]{0,2000})?)"
)
"""A pattern for links to pictures inside a text, as chat models write them: in Markdown, in HTML or
as a plain URL."""
_MOST_TEXT = 100_000
"""Links are searched for only in this many characters at the beginning of a text."""

_STATES = {"status", "state", "taskstatus", "taskstate", "jobstatus"}
_DONE = {"succeeded", "success", "succeed", "successful", "completed", "complete", "done"} | {
    *("finished", "finish", "ready", "ok")
}
_FAILED = {"failed", "failure", "fail", "error", "errored", "rejected", "blocked", "moderated"} | {
    *("cancelled", "canceled", "aborted")
}
_FAILED_TO_TELL = {"error", "fail", "failure"}
"""States that services also return if only the request that asks for the task failed, not the task
itself."""
_OVER = {"expired", "timeout", "timed_out", "deleted"}
"""States of a task that has ended. They leave open whether the service made a picture."""
_WAITING = {"queued", "pending", "in_progress", "processing", "running", "started", "starting"} | {
    *("submitted", "waiting", "created", "accepted", "generating", "in_queue", "not_start")
}


@dataclass(frozen=True)
class Answer:
    """What was found in an answer: the name of a task, and links that possibly lead to a picture.

    `task` is "" if the answer names no task. `links` are URLs, or `data:` links that contain the
    picture itself, the most promising link first. `body` contains the bytes of the answer.
    """

    task: str
    links: tuple[str, ...] = ()
    body: bytes = b""

    @property
    def complete(self) -> bool:
        """Whether the answer possibly contains a picture or a link to one."""
        return bool(self.links)


@dataclass(frozen=True)
class Task:
    """The progress of a task in percent, or None, and the task's answer once the task is done."""

    progress: int | None = None
    answer: Answer | None = None


def read(body: bytes, content_type: str = "") -> Answer:
    """Find pictures, links and the name of a task in `body`, the bytes of an answer.

    In a multipart body, which consists of several files, each part is searched on its own.
    """
    found = [_read_one(part) for part in _form_parts(body)]
    if found:
        task = next((answer.task for answer in found if answer.task), "")
        links = [link for answer in found for link in answer.links]
        return Answer(task, tuple(sorted(links, key=_is_inline, reverse=True)), body)
    return _read_one(body, content_type)


def _read_one(body: bytes, content_type: str = "") -> Answer:
    """Do the same as `read` for a body that is not multipart."""
    if formats.file_type(body):
        return Answer("", (_INLINE + base64.b64encode(body).decode("ascii"),), body)
    told = parsed(body, content_type)
    if told is not None:
        return read_parsed(told, body)
    told = broken_off(body, content_type)
    if told is not None:
        return Answer(_task_name(told, weak=False), tuple(_links(told)), body)
    whole = text(body, content_type).strip()
    is_link = len(whole.split()) == 1 and re.match(r"https?://|data:", whole, re.IGNORECASE)
    return Answer("", (whole,) if is_link else (), body)


def named_task(body: bytes, content_type: str = "") -> str:
    """Return the name of the task in an answer with any contents, such as an error.

    Only values named like "task ID" or "job ID" count. Return "" if there is no such value.
    """
    told = parsed(body, content_type)
    return _task_name(broken_off(body, content_type) if told is None else told, weak=False)


def _form_parts(body: bytes) -> list[bytes]:
    """Return the parts of a multipart body. Return [] if the first line is not multipart syntax."""
    first = re.match(rb'\s*--([^\s"]{1,70})\r?\n', body)
    if not first:
        return []
    parts = []
    for part in body.split(b"--" + first[1], _MOST_PARTS)[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank:
            head, blank, content = part.partition(b"\n\n")
        if not blank:
            continue
        content = content[:-1] if content.endswith(b"\n") else content
        content = content[:-1] if content.endswith(b"\r") else content
        if b"base64" in head.lower():
            with contextlib.suppress(ValueError):
                content = _from_base64(content)
        parts.append(content)
    return parts


def read_parsed(told: Any, body: bytes) -> Answer:
    """Do the same as `read` for `told`, the parsed JSON of `body`."""
    found, links = trouble(told), tuple(_links(told))
    if found and found.refused and not links:
        return Answer("", (), body)
    return Answer(_task_name(told, weak=not found and not links), links, body)


def _links(told: Any) -> list[str]:
    """Return links that possibly lead to a picture, the most promising links first.

    `told` is the parsed JSON of an answer. Links under one of the names in _ANSWERS come before
    other links. In each of these two groups, `data:` links come before URLs.
    """
    found: list[tuple[bool, bool, str]] = []
    left = _MOST_VALUES

    def walk(value: Any, words: set[str], elsewhere: bool, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            return
        if isinstance(value, dict):
            for name, inner in value.items():
                own = name_words(name)
                if not own & _OTHERS:
                    usual = name.lower() in _ANSWERS
                    walk(inner, own or words, elsewhere and not usual, depth + 1)
        elif isinstance(value, list):
            for inner in value:
                walk(inner, words, elsewhere, depth + 1)
        elif isinstance(value, str):
            value = value.strip()
            inside = json_in(value) if value[:1] in ("{", "[") else None
            if inside is not None:
                walk(inside, words, elsewhere, depth + 1)
            for link in _links_in(value, words):
                found.append((elsewhere, not _is_inline(link), link))

    walk(told, {"data"}, True, 0)
    found.sort(key=lambda each: each[:2])
    return list(dict.fromkeys(link for _elsewhere, _far, link in found))[:_MOST_LINKS]


def _links_in(value: str, words: set[str]) -> Iterator[str]:
    """Yield the encoded pictures, as `data:` links, and the links to pictures in a string.

    `words` are the words of the string's name in the JSON.
    """
    if _is_inline(value):
        yield value
    elif _begins_as_picture(value):
        yield _INLINE + value
    elif re.match(r"https?://", value, re.IGNORECASE) and words & (_LINKS | _PICTURES | _ENCODED):
        if len(value) <= _LONGEST_LINK:
            yield value
    elif value and words & _ENCODED:
        yield _INLINE + value
    elif value and (words & _LINKS or (words & _PICTURES and re.match(r"/[^/\s]|//\w", value))):
        yield value if len(value) <= _LONGEST_LINK else _INLINE + value
    else:
        yield from (match[0] for match in re.finditer(_INLINE_IN_TEXT, value))
        for match in re.finditer(_LINK_IN_TEXT, value[:_MOST_TEXT]):
            yield next(filter(None, match.groups()))


def _is_inline(link: str) -> bool:
    return bool(re.match(r"data(:|%3a)", link, re.IGNORECASE))


def _begins_as_picture(value: str) -> bool:
    """Return whether a string begins like base64 of a picture, judging by the first bytes."""
    head = re.match(r"[\w+/-]{40}", value, re.ASCII)
    return bool(head) and bool(formats.file_type(_from_base64(value[:40].encode("ascii"))))


def is_picture(value: str) -> bool:
    """Return whether a string is an encoded picture itself, judging by the first bytes.

    A URL that leads to a picture doesn't count.
    """
    head = value.strip()[:200]
    with contextlib.suppress(Failure):
        return _begins_as_picture(head) or bool(formats.file_type(decoded(head) or b""))
    return False


def decoded(link: str) -> bytes | None:
    """Return the decoded bytes of a `data:` link, or None for any other link.

    Raises Failure if the bytes can't be decoded.
    """
    if not _is_inline(link):
        return None
    if link[4] == "%":
        link = unquote_to_bytes(link).decode("latin-1")
    head, _comma, payload = link.partition(",")
    data = payload.strip().encode("ascii", "replace")
    try:
        found = _from_base64(data)
    except ValueError:
        found = b""
    if "base64" in head.lower():
        if found:
            return found
        raise Failure(Kind.ANSWER, _("The picture from the service is damaged."))
    for inside in (unquote_to_bytes(data), found):
        if formats.file_type(inside):
            return inside
    raise Failure(
        Kind.ANSWER, _("The picture from the service is in a form that Dimilinks doesn't know.")
    )


def mended(link: str) -> str:
    """Return a link without the quotes and escapes that were left over from JSON and HTML.

    Characters outside ASCII in the path of the link are percent-encoded.
    """
    link = link.strip(" \t\r\n\"'<>").replace("\\/", "/").replace("&amp;", "&")
    head, slash, rest = link.partition("//")
    host, more, path = rest.partition("/") if slash else ("", "", link)
    # Encode the path, because file names can be in any language. Leave the host unchanged, because
    # it is checked later.
    path = re.sub(r"[^\x00-\x7f]+", lambda match: quote(match[0], errors="replace"), path)
    return f"{head}//{host}{more}{path}" if slash else path


def _from_base64(data: bytes) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet.

    Line breaks, escapes and missing padding are accepted. Raises ValueError if `data` is not valid
    base64.
    """
    if b"%" in data:
        data = unquote_to_bytes(data)
    if b"\\" in data:
        data = re.sub(rb"\\[nrt]|\\", b"", data)
    if b" " in data and b"\n" not in data:
        # Some program on the way decoded the data as a web form, which turned each plus sign into a
        # space. Undo that.
        data = data.replace(b" ", b"+")
    data = data.translate(_TO_USUAL, b" \t\r\n\v\f=\"'")
    if len(data) % 4 == 1:
        # The data was cut off: the last character contains only a part of a byte, so drop it.
        data = data[:-1]
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError from error


_TO_USUAL = bytes.maketrans(b"-_", b"+/")


def _task_name(told: Any, weak: bool) -> str:
    """Return the name of the task in parsed JSON, or "" if there is none.

    With `weak`, a value with the plain name `id` also counts, if there is no task or job ID.
    """
    for wanted in ({"taskid", "jobid"}, {"id"} if weak else set()):
        for holder in holders(told):
            for name, value in holder.items():
                if "".join(_parts(name)) not in wanted:
                    continue
                value = str(value) if is_whole(value) else value
                if isinstance(value, str) and re.fullmatch(_TASK, value):
                    return value
    return ""


def _inner_first(told: Any) -> Iterator[dict[str, Any]]:
    """Yield the same objects as `holders`, but the innermost first.

    In a stream, the objects of the last event come first.
    """
    for event in events(told):
        yield from reversed(holders(event))


def state(told: Any) -> str:
    """Return the state of a task in lower case, without prefixes such as `task_`, or "".

    Known states are in _DONE, _FAILED, _OVER or _WAITING. If several nested objects contain a
    state, the innermost counts, because the state in an outer object is usually that of the request
    that asks for the task.
    """
    return _state_in(told)[0]


def _state_in(told: Any) -> tuple[str, dict[str, Any]]:
    """Return the same as `state`, and the JSON object that contains the state."""
    for holder in _inner_first(told):
        for name, value in holder.items():
            if "".join(_parts(name)) in _STATES and isinstance(value, str) and value:
                plain = re.sub(r"\W+", "_", value.strip().lower())
                return re.sub(r"^(task_?|job_?|status_?|state_?)+(?=.)", "", plain), holder
    return "", {}


def has_stumbled(told: Any, task: str) -> bool:
    """Return whether only the request that asks for `task` failed, and can be repeated.

    The task itself counts as failed if the failure is in an object that names the task, or in an
    inner object. In the outer object, services use the same words if only the request failed.
    """
    how = state(told)
    if how in _WAITING | _DONE | _OVER or (how in _FAILED and _is_own(told, task)):
        return False
    found = trouble(told)
    if found and found.passing:
        return not found.missing
    return how in _FAILED and bool(re.search(PASSING_WORDS, words(told)))


def _is_own(told: Any, task: str) -> bool:
    """Return whether the state is certainly that of `task`, not of the request that asks for it."""
    _how, holder = _state_in(told)
    named = task in (str(value) for value in holder.values())
    return holder is not told or named or any("fail" in _parts(name) for name in holder)


def is_done(told: Any, answer: Answer) -> bool:
    """Return whether a task is done.

    A task is done if its state says so, or if its answer contains links to pictures, no error and
    no other known state.
    """
    how = state(told)
    if how in _FAILED | _OVER | _WAITING:
        return False
    return how in _DONE or (answer.complete and trouble(told) is None)


def has_failed(told: Any, task: str) -> bool:
    """Return whether a task has failed, so that the service made no picture."""
    how = state(told)
    return how in _FAILED and (how not in _FAILED_TO_TELL or _is_own(told, task))


def is_no_answer(told: Any) -> bool:
    """Return whether the state leaves open whether the task failed or only the request for it."""
    return state(told) in _FAILED_TO_TELL


def is_over(told: Any) -> bool:
    """Return whether a task has ended, but it is unknown whether the service made a picture."""
    return state(told) in _OVER


def is_waiting(told: Any) -> bool:
    """Return whether a task is waiting or in progress."""
    return state(told) in _WAITING


def progress(told: Any) -> int | None:
    """Return the progress of a task in percent, or None if the answer doesn't contain it."""
    for holder in _inner_first(told):
        value = holder.get("progress")
        if isinstance(value, str) and re.fullmatch(r"\d{1,3}(\.\d+)? ?%?", value):
            value = float(value.rstrip("% "))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
            return int(value)
    return None


def _parts(name: str) -> list[str]:
    """Return the words of a name in snake case, camel case or similar, in lower case."""
    found = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name[:100])
    return [part.lower() for part in found]


def name_words(name: str) -> set[str]:
    """Return the set of words of a name in lower case, without numbers."""
    return {part for part in _parts(name) if not part.isdigit()}


def prices(told: Any, model: str) -> dict[str, float]:
    """Return the price of `model` for each tier that `told` gives a price for: {"1k": 0.08, …}."""
    found: dict[str, float] = {}
    for entry in _entries(told, "data"):
        if entry.get("model_name") != model:
            continue
        for option in _entries(entry, "resolution_options"):
            tier, price = option.get("resolution"), option.get("model_price")
            if tier not in TIERS or isinstance(price, bool) or not isinstance(price, (int, float)):
                continue
            with contextlib.suppress(OverflowError):
                if math.isfinite(price) and price >= 0:
                    found[tier] = float(price)
    return found


def _entries(holder: Any, name: str) -> list[dict[str, Any]]:
    listed = holder.get(name) if isinstance(holder, dict) else None
    return [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []

"""Read the answers of the service: pictures, tasks, errors, prices and messages.

Services use many formats for the same things. So this module does not expect a fixed format, but
searches the whole answer: each string that is a picture, or may be a link to one, is a candidate.
Only the bytes of a candidate decide later whether it is a picture. This module makes no requests.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from plugin.limits import TIERS
from plugin.words import _
from plugin.worker import picture
from plugin.worker.failure import Failure

_DEEPEST = 16
_MOST_VALUES = 20_000
"""The most values of one answer that are searched. Later ones, and those nested deeper than
_DEEPEST, are ignored."""
_MOST_LINKS = 8
_LONGEST_LINK = 8192
_MOST_PARTS = 16
"""The most parts of a multipart answer that are read."""
# Patterns are text: an edit needs few of them, and compiling all on import would delay each edit.
_TASK = r"(?!\.+$)[!-~]{1,200}"

_INLINE = "data:;base64,"
"""A prefix that turns plain base64 into a `data:` link."""
_ANSWERS = {
    *("data", "result", "results", "output", "outputs", "response", "images", "image"),
    *("choices", "candidates", "generations", "artifacts", "predictions"),
}
"""Names under which services return results. Pictures elsewhere may be copies of the request."""
_LINKS = {"url", "urls", "uri", "uris", "link", "links", "href", "src"}
_PICTURES = _ANSWERS | {*("img", "picture", "pictures", "photo", "file", "files", "content")}
_ENCODED = {"b64", "base64"}
_OTHERS = {
    *("input", "inputs", "request", "source", "sources", "original", "init", "mask", "masks"),
    *("reference", "references", "thumb", "thumbnail", "thumbnails", "preview", "previews"),
    *("placeholder", "callback", "webhook", "docs", "documentation", "help", "logo", "icon"),
    *("avatar", "error", "errors", "cancel", "status", "prompt", "partial"),
}
"""Words in names of values that are no results: what was sent, thumbnails, other addresses."""
_INLINE_IN_TEXT = r"(?i)data:image/[\w.+-]{1,20};base64,[\w+/%-]+=*"
_LINK_IN_TEXT = (
    r"(?i)!\[[^\]\n]{0,200}\]\(\s*(?!data:)([^)\s]{1,2000})"
    r"|<img\s[^>]{0,200}?src=[\"'](?!data:)([^\"'\s]{1,2000})"
    r"|(https?://[^\s\"'<>()]{1,500}?\.(?:png|jpe?g|webp)(?:\?[^\s\"'<>()]{0,2000})?)"
)
"""Links to pictures inside a text, in Markdown, HTML or plain, as chat models return them."""
_MOST_TEXT = 100_000
"""How many characters of a text are searched for links."""

_GOOD = {"", "0", "200", "201", "202", "ok", "success", "none"}
"""Codes that mean success."""
_REFUSED = (
    r"(?s)(400|401|402|403|405|413|415|422|429|451)"
    r"|.*(moderation|content_policy|content_filter|policy_violation|safety|sensitive|prohibited"
    r"|invalid_(request|api_key|key|token|reference|image|mask|param|prompt|size|model|argument"
    r"|input|value)|bad_request|validation_error|unprocessable|missing_|unsupported|too_large"
    r"|insufficient|quota|arrears|payment_required|billing_hard_limit|billing_not_active"
    r"|unauthori[sz]ed|authentication|permission|forbidden|not_allowed|access_denied"
    r"|model_not_found|rate_limit|too_many_requests).*"
)
"""Codes that mean that nothing was made. Messages for people are not used to decide that, because
they may be about anything, and an edit that is wrongly repeated is paid for twice."""
_MISSING = r"(?s)404|410|.*(not_?found|not_?exist|no_such|unknown_task).*"
_PASSING = (
    r"(?s)(408|429|5\d\d)|.*(rate_limit|too_many|busy|overload|timeout|timed_out|unavailable"
    r"|internal|upstream|server_error).*"
)
"""Codes of temporary errors, which say nothing about the task itself."""
_PASSING_WORDS = (
    r"(?i)rate.?limit|too many|busy|overload|time(d )?.?out|unavailable|try again|later"
    r"|频繁|繁忙|稍后|超时"
)
"""The same in messages for people, for errors without a code."""

_HOLDERS = ("data", "task", "result", "output", "response")
"""Names of inner objects in which some services put what others put at the top."""
_STATES = {"status", "state", "taskstatus", "taskstate", "jobstatus"}
_DONE = {"succeeded", "success", "succeed", "successful", "completed", "complete", "done"} | {
    *("finished", "finish", "ready", "ok")
}
_FAILED = {"failed", "failure", "fail", "error", "errored", "rejected", "blocked", "moderated"} | {
    *("cancelled", "canceled", "aborted")
}
_FAILED_TO_TELL = {"error", "fail", "failure"}
"""States that services also return if the request for the task failed, not the task."""
_OVER = {"expired", "timeout", "timed_out", "deleted"}
"""States of a task that ended, which don't say whether anything was made."""
_WAITING = {"queued", "pending", "in_progress", "processing", "running", "started", "starting"} | {
    *("submitted", "waiting", "created", "accepted", "generating", "in_queue", "not_start")
}


@dataclass(frozen=True)
class Answer:
    """What was found in an answer: the name of the task, and where its picture may be.

    `task` is "" if there is no name. `links` are URLs, or `data:` links that contain the picture,
    the best one first. `body` is what they were read from.
    """

    task: str
    links: tuple[str, ...] = ()
    body: bytes = b""

    @property
    def complete(self) -> bool:
        """Whether the answer may contain a picture or a link to one."""
        return bool(self.links)


@dataclass(frozen=True)
class Task:
    """The progress of a task in percent, if known, and its answer once it is done."""

    progress: int | None = None
    answer: Answer | None = None


@dataclass(frozen=True)
class Trouble:
    """An error in the body of an answer, whatever its HTTP status."""

    code: str
    """The error code in lower case; "" if there is none."""
    words: str
    """The message for people, not redacted."""
    invalid: bool = False
    """Whether the error lists what is invalid in the request."""

    @property
    def refused(self) -> bool:
        """Whether it is certain that nothing was made, so that the edit may be sent again."""
        return self.invalid or bool(re.fullmatch(_REFUSED, self.code))

    @property
    def missing(self) -> bool:
        """Whether the error says that there is no such task."""
        return bool(re.fullmatch(_MISSING, self.code))

    @property
    def passing(self) -> bool:
        """Whether the error is temporary, so that another try may succeed."""
        return bool(re.fullmatch(_PASSING, self.code))


# --- pictures and tasks -------------------------------------------------------------------------


def read(body: bytes, content_type: str = "") -> Answer:
    """Return the pictures or links and the name of the task, as far as `body` contains them.

    In a multipart body, each part is read on its own.
    """
    found = [_read_one(part) for part in _form_parts(body)]
    if found:
        task = next((answer.task for answer in found if answer.task), "")
        links = [link for answer in found for link in answer.links]
        return Answer(task, tuple(sorted(links, key=_is_inline, reverse=True)), body)
    return _read_one(body, content_type)


def _read_one(body: bytes, content_type: str = "") -> Answer:
    """Do the same as `read` for a body that is not multipart."""
    if picture.kind(body):
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
    """Return the task that an answer names with a task or job ID, whatever else it contains.

    Return "" if it names none.
    """
    told = parsed(body, content_type)
    return _task_name(broken_off(body, content_type) if told is None else told, weak=False)


def _form_parts(body: bytes) -> list[bytes]:
    """Return the parts of a multipart body, recognised by its first line; [] for any other body."""
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
    """Return where pictures may be, the best candidates first.

    Those in the usual places come first, and in each group pictures inside the answer come before
    links.
    """
    found: list[tuple[bool, bool, str]] = []
    left = _MOST_VALUES

    def walk(value: Any, words: set[str], elsewhere: bool, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
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
            inside = _json(value) if value[:1] in ("{", "[") else None
            if inside is not None:
                walk(inside, words, elsewhere, depth + 1)
            for link in _links_in(value, words):
                found.append((elsewhere, not _is_inline(link), link))

    walk(told, {"data"}, True, 0)
    found.sort(key=lambda each: each[:2])
    return list(dict.fromkeys(link for _elsewhere, _far, link in found))[:_MOST_LINKS]


def _links_in(value: str, words: set[str]) -> Iterator[str]:
    """Yield the pictures and links in a string; `words` are the words of its name in the JSON."""
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
    """Return whether a string is base64 whose first bytes are those of a picture."""
    head = re.match(r"[\w+/-]{40}", value, re.ASCII)
    return bool(head) and bool(picture.kind(_from_base64(value[:40].encode("ascii"))))


def is_picture(value: str) -> bool:
    """Return whether a string is a picture itself, not a URL of one, judging by its first bytes."""
    head = value.strip()[:200]
    with contextlib.suppress(Failure):
        return _begins_as_picture(head) or bool(picture.kind(decoded(head) or b""))
    return False


def decoded(link: str) -> bytes | None:
    """Return the bytes in a `data:` link; None if it is another link.

    Raises Failure if they can't be decoded.
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
        raise Failure(
            Failure.ANSWER, _("The service's picture arrived damaged (its base64 is not valid).")
        )
    for inside in (unquote_to_bytes(data), found):
        if picture.kind(inside):
            return inside
    raise Failure(Failure.ANSWER, _("The service's picture is encoded in an unknown way."))


def mended(link: str) -> str:
    """Return a link without quotes and escapes left over from JSON and HTML.

    Characters in its path that are not ASCII are percent-encoded.
    """
    link = link.strip(" \t\r\n\"'<>").replace("\\/", "/").replace("&amp;", "&")
    head, slash, rest = link.partition("//")
    host, more, path = rest.partition("/") if slash else ("", "", link)
    # File names may be in any language. The host is left as it is, because it is checked later.
    path = re.sub(r"[^\x00-\x7f]+", lambda match: quote(match[0], errors="replace"), path)
    return f"{head}//{host}{more}{path}" if slash else path


def _from_base64(data: bytes) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet.

    It may be wrapped, escaped, or lack its padding. Raises ValueError if it is not valid.
    """
    if b"%" in data:
        data = unquote_to_bytes(data)
    if b"\\" in data:
        data = re.sub(rb"\\[nrt]|\\", b"", data)
    if b" " in data and b"\n" not in data:
        # It was decoded like a form on its way, which turns each plus sign into a space.
        data = data.replace(b" ", b"+")
    data = data.translate(_TO_USUAL, b" \t\r\n\v\f=\"'")
    if len(data) % 4 == 1:
        # The last character is only a part of a byte: the data was cut off.
        data = data[:-1]
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError from error


_TO_USUAL = bytes.maketrans(b"-_", b"+/")


def _task_name(told: Any, weak: bool) -> str:
    """Return the name of the task, or "". With `weak`, a value named just `id` counts as well."""
    for wanted in ({"taskid", "jobid"}, {"id"} if weak else set()):
        for holder in _holders(told):
            for name, value in holder.items():
                if "".join(_parts(name)) not in wanted:
                    continue
                value = str(value) if _is_whole(value) else value
                if isinstance(value, str) and re.fullmatch(_TASK, value):
                    return value
    return ""


def _holders(told: Any) -> list[dict[str, Any]]:
    """Return the objects that may describe the whole answer, the outermost first."""
    if isinstance(told, list):
        return [holder for event in _events(told) for holder in _holders(event)]
    if not isinstance(told, dict):
        return []
    inner = [told.get(name) for name in _HOLDERS]
    inner += [value[0] for value in inner if isinstance(value, list) and value]
    return [told, *(value for value in inner if isinstance(value, dict))]


def _inner_first(told: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of `_holders` innermost first, and those of the last event first."""
    for event in _events(told):
        yield from reversed(_holders(event))


def _events(told: Any) -> list[Any]:
    """Return the events of a stream, the last one first, or `told` alone if it is no stream."""
    if not isinstance(told, list):
        return [told]
    return [event for event in told[:_MOST_LINKS] if isinstance(event, dict)]


def state(told: Any) -> str:
    """Return the state of a task: one in _DONE, _FAILED, _OVER or _WAITING, or an unknown one.

    It is in lower case, without prefixes such as `task_`, and "" if there is none. If objects are
    nested, the state in an inner one counts: that in the outer one is usually about the request.
    """
    return _state_in(told)[0]


def _state_in(told: Any) -> tuple[str, dict[str, Any]]:
    """Return the state, and the object that contains it."""
    for holder in _inner_first(told):
        for name, value in holder.items():
            if "".join(_parts(name)) in _STATES and isinstance(value, str) and value:
                plain = re.sub(r"\W+", "_", value.strip().lower())
                return re.sub(r"^(task_?|job_?|status_?|state_?)+(?=.)", "", plain), holder
    return "", {}


def has_stumbled(told: Any, task: str) -> bool:
    """Return whether the request for the task failed, not the task, and may be repeated.

    A failure is that of the task itself if it is in an object that names the task, or in an inner
    object. In the outer object, services use the same words for the outcome of the request.
    """
    how = state(told)
    if how in _WAITING | _DONE | _OVER or (how in _FAILED and _is_own(told, task)):
        return False
    found = trouble(told)
    if found and found.passing:
        return not found.missing
    return how in _FAILED and bool(re.search(_PASSING_WORDS, words(told)))


def _is_own(told: Any, task: str) -> bool:
    """Return whether the state is certainly that of the task, not that of the request for it."""
    _how, holder = _state_in(told)
    named = task in (str(value) for value in holder.values())
    return holder is not told or named or any("fail" in _parts(name) for name in holder)


def is_done(told: Any, answer: Answer) -> bool:
    """Return whether a task is done.

    It is if its state says so, or if there are pictures, no error, and no other known state.
    """
    how = state(told)
    if how in _FAILED | _OVER | _WAITING:
        return False
    return how in _DONE or (answer.complete and trouble(told) is None)


def has_failed(told: Any, task: str) -> bool:
    """Return whether a task ended and nothing was made."""
    how = state(told)
    return how in _FAILED and (how not in _FAILED_TO_TELL or _is_own(told, task))


def is_no_answer(told: Any) -> bool:
    """Return whether the state is one that services also return if the request itself failed."""
    return state(told) in _FAILED_TO_TELL


def is_over(told: Any) -> bool:
    """Return whether a task ended in a way that leaves open whether anything was made."""
    return state(told) in _OVER


def is_waiting(told: Any) -> bool:
    """Return whether a task is waiting or in progress."""
    return state(told) in _WAITING


def progress(told: Any) -> int | None:
    """Return the progress of a task in percent; None if it is not given."""
    for holder in _inner_first(told):
        value = holder.get("progress")
        if isinstance(value, str) and re.fullmatch(r"\d{1,3}(\.\d+)? ?%?", value):
            value = float(value.rstrip("% "))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
            return int(value)
    return None


# --- errors and words ---------------------------------------------------------------------------


def trouble(told: Any) -> Trouble | None:
    """Return the error in an answer; None if there is none."""
    for holder in _holders(told):
        told_so = [holder.get(name) for name in ("error", "errors", "err")]
        said_no = any(holder.get(name) is False for name in ("success", "ok"))
        detail = holder.get("detail")
        code = error_code(holder)
        if any(told_so) or said_no or code not in _GOOD or (detail and not holder.get("data")):
            listed = isinstance(detail, list) and any(
                isinstance(each, dict) and "loc" in each for each in detail
            )
            return Trouble(code, words(holder), listed)
    return None


def error_code(told: Any) -> str:
    """Return the most specific error code in lower case; "" if there is none."""
    return next(error_names(told), "")


def error_names(told: Any) -> Iterator[str]:
    """Yield the codes and types of an error in lower case, the most specific first."""
    if not isinstance(told, dict):
        return
    error = told.get("error")
    holders = [(error, ("code", "type", "status")), (told, ("code", "error_code", "errcode"))]
    for holder, names in holders:
        for name in names:
            value = holder.get(name) if isinstance(holder, dict) else None
            if value and (isinstance(value, str) or _is_whole(value)):
                yield re.sub(r"[\s-]+", "_", str(value)[:200].strip()).lower()
    if _is_whole(told.get("status")) and told["status"] >= 400:
        yield str(told["status"])[:200]
    if isinstance(error, str) and re.fullmatch(r"[a-z0-9_.-]{1,60}", error):
        yield error.replace("-", "_")


_SPOKEN = (
    *("error_description", "message", "msg", "detail", "details", "reason", "error_message"),
    *("error_msg", "errmsg", "fail_reason", "failure_reason", "failMsg", "failReason"),
    *("description", "title", "error", "errors", "err"),
)
"""Names of error messages for people, the most useful first."""


def words(told: Any, depth: int = 0) -> str:
    """Return the message for people in parsed JSON, not redacted; "" if there is none."""
    if isinstance(told, str):
        return told
    if depth > 5:
        return ""
    if isinstance(told, list):
        return "; ".join(filter(None, (words(each, depth + 1) for each in told[:3])))
    if not isinstance(told, dict):
        return ""
    if isinstance(place := told.get("loc"), list) and isinstance(message := told.get("msg"), str):
        return f"{'.'.join(str(part) for part in place[:6])}: {message}"
    # An error object contains more than a short message beside it.
    first = [name for name in ("error", "errors") if isinstance(told.get(name), (dict, list))]
    for name in (*first, *_SPOKEN, *_HOLDERS):
        value = told.get(name)
        if name in _HOLDERS and not isinstance(value, dict):
            continue
        if found := words(value, depth + 1):
            return found
    if depth:
        # The names are those of fields, each with a list of its errors.
        lists = [(name, value) for name, value in told.items() if isinstance(value, list)]
        return "; ".join(f"{name}: {words(value, depth + 1)}" for name, value in lists[:3])
    return ""


def said(body: bytes, content_type: str = "") -> str:
    """Return the message for people in an answer, not redacted.

    It is taken from JSON, from the title of a web page, or from plain text.
    """
    told = parsed(body, content_type)
    if told is not None:
        return words(told)
    whole = text(body[:4000], content_type)
    if whole.lstrip()[:1] in ("{", "["):
        # This is JSON that was cut off.
        return ""
    title = re.search(r"<title[^>]*>(.*?)</title>", whole, re.IGNORECASE | re.DOTALL)
    if title:
        # Only error pages need this module, which is slow to import.
        import html

        return html.unescape(title[1])
    return "" if "<" in whole else whole


def parsed(body: bytes, content_type: str = "") -> Any:
    """Return the parsed JSON of an answer; None if it is not JSON.

    For a stream of events, return a list of them, the last one first.
    """
    told = _json(body)
    if told is not None:
        return told
    whole = text(body, content_type)
    told = _json(whole)
    if told is not None or "{" not in whole:
        return told
    lines = (line.strip().removeprefix("data:").strip() for line in whole.splitlines())
    events = [_json(line) for line in lines if line.startswith("{")]
    return [event for event in reversed(events) if event is not None] or None


def broken_off(body: bytes, content_type: str = "") -> Any:
    """Return the complete values of JSON that was cut off; None if it is not JSON."""
    whole = text(body, content_type).strip()
    if whole[:1] not in ("{", "["):
        return None
    closing: list[str] = []
    good, left, place, is_name = 0, "", 0, False
    while token := _TOKEN.search(whole, place):
        first, begin, place = token[0][0], token.start(), token.end()
        if first == '"':
            place = _string_end(whole, begin)
            if not place:
                break
        if first in "{[":
            closing.append("}" if first == "{" else "]")
            is_name = first == "{"
        elif first == ",":
            is_name = closing[-1:] == ["}"]
        elif first == ":":
            is_name = False
            continue
        elif first in "}]" and closing:
            closing.pop()
        elif first != '"' or is_name:
            # A number may have been cut off, and a name without its value is not complete.
            continue
        good, left = begin if first == "," else place, "".join(reversed(closing))
        if not closing or len(closing) > _DEEPEST:
            break
    return _json(whole[:good] + left) if good else None


_TOKEN = re.compile(r'["{}\[\],:]|[^\s"{}\[\],:]+')


def _string_end(whole: str, begin: int) -> int:
    """Return the index after the string whose opening quote is at `begin`; 0 if it has no end."""
    end = begin
    while end := whole.find('"', end + 1) + 1:
        end -= 1
        escapes = end - 1
        while whole[escapes] == "\\":
            escapes -= 1
        if (end - escapes) % 2:
            return end + 1
    return 0


def _json(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def text(body: bytes, content_type: str = "") -> str:
    """Decode a text, which may be cut off.

    The encoding is the one that the headers or the text itself declares, or else a guess.
    """
    declared = re.search(r"charset=[\"']?([\w-]+)", content_type, re.IGNORECASE)
    written = re.search(rb"charset=[\"']?([\w-]+)", body[:2000], re.IGNORECASE)
    names = [declared[1]] if declared else []
    names += [written[1].decode("ascii")] if written else []
    # UTF-16 and UTF-32 are recognised by a byte order mark or by zeros between the letters.
    wide = json.detect_encoding(body[:4])
    begins = (_decoded(body[:200], wide) or "").lstrip()[:1]
    if wide in ("utf-16", "utf-32") or (wide != "utf-8" and begins in ("{", "[", "<")):
        names = [wide, *names]
    for name in (*names, "utf-8-sig"):
        # Browsers use these larger encodings for the declared names.
        name = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}.get(name.lower(), name)
        if (whole := _decoded(body, name)) is not None:
            return whole
    japanese = _decoded(body, "cp932")
    if japanese and re.search("[ぁ-ヿ]", japanese) and not re.search("[｡-ﾟ]", japanese):
        return japanese
    # Chinese characters are pairs of high bytes. Single high bytes are accented letters.
    pairs = len(re.findall(rb"[\xa1-\xf7][\xa1-\xfe]", body))
    others = len(re.findall(rb"[\x80-\xff]", body)) - 2 * pairs
    chinese = _decoded(body, "gb18030") if pairs > others else None
    return body.decode("cp1252", "replace") if chinese is None else chinese


def _decoded(body: bytes, encoding: str) -> str | None:
    """Return the text without an incomplete last character; None if it isn't in this encoding."""
    try:
        # Python has other codecs: some are not for text, and some would take hours for a page.
        if not re.fullmatch(_CHARSET, codecs.lookup(encoding).name):
            return None
        return codecs.getincrementaldecoder(encoding)().decode(body)
    except (LookupError, TypeError, ValueError):
        return None


_CHARSET = (
    r"utf-(8|16|32)(-sig|-[bl]e)?|gb.*|hz|big5.*|euc_\w+|(shift|iso2022)_\w+|cp\d+|iso8859-\d+"
    r"|koi8-\w|mac-\w+|johab|tis-620|ascii|latin.*|kz1048|ptcp154"
)
"""Matches Python's names of the encodings that are used for text."""


# --- prices -------------------------------------------------------------------------------------


def prices(told: Any, model: str) -> dict[str, float]:
    """Return the prices of `model` by tier, as far as `told` contains them: {"1k": 0.08, …}."""
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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _parts(name: str) -> list[str]:
    """Return the words of a name in snake case, camel case or similar, in lower case."""
    found = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name[:100])
    return [part.lower() for part in found]


def name_words(name: str) -> set[str]:
    """Return the set of `_parts` of a name, without those that are numbers."""
    return {part for part in _parts(name) if not part.isdigit()}

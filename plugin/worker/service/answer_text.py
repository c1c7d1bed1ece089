"""Decode an answer from bytes to text and from text to JSON, even if the answer was cut off."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

_MOST_EVENTS = 8
DEEPEST = 16
"""JSON values that are nested more deeply than this are ignored."""
_TOKEN = re.compile(r'["{}\[\],:]|[^\s"{}\[\],:]+')
_CHARSET = (
    r"utf-(8|16|32)(-sig|-[bl]e)?|gb.*|hz|big5.*|euc_\w+|(shift|iso2022)_\w+|cp\d+|iso8859-\d+"
    r"|koi8-\w|mac-\w+|johab|tis-620|ascii|latin.*|kz1048|ptcp154"
)
"""A pattern that matches Python's names of the character encodings used for web pages and text."""
HOLDERS = ("data", "task", "result", "output", "response")
"""Names of inner JSON objects. Some services put into them what others put at the top level."""


def parsed(body: bytes, content_type: str = "") -> Any:
    """Return the parsed JSON of an answer, or None if the answer is not JSON.

    If the answer is a stream of events (lines of JSON), return a list of the events, the last event
    first.
    """
    told = json_in(body)
    if told is not None:
        return told
    whole = text(body, content_type)
    told = json_in(whole)
    if told is not None or "{" not in whole:
        return told
    lines = (line.strip().removeprefix("data:").strip() for line in whole.splitlines())
    events = [json_in(line) for line in lines if line.startswith("{")]
    return [event for event in reversed(events) if event is not None] or None


def broken_off(body: bytes, content_type: str = "") -> Any:
    """Return the values that are complete in JSON that was cut off, or None if there are none."""
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
            # Don't cut here: a number was possibly cut off, and a name needs its value after it.
            continue
        good, left = begin if first == "," else place, "".join(reversed(closing))
        if not closing or len(closing) > DEEPEST:
            break
    return json_in(whole[:good] + left) if good else None


def _string_end(whole: str, begin: int) -> int:
    """Return the index after the closing quote of the string whose opening quote is at `begin`.

    Return 0 if the string has no closing quote.
    """
    end = begin
    while end := whole.find('"', end + 1) + 1:
        end -= 1
        escapes = end - 1
        while whole[escapes] == "\\":
            escapes -= 1
        if (end - escapes) % 2:
            return end + 1
    return 0


def json_in(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def text(body: bytes, content_type: str = "") -> str:
    """Decode the bytes of a text. An incomplete character at the end is ignored.

    The encoding is the one that the text itself or its `content_type` declares. Otherwise it is
    guessed from the bytes.
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
        # Browsers decode texts that declare these encodings with larger ones that contain them.
        name = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}.get(name.lower(), name)
        if (whole := _decoded(body, name)) is not None:
            return whole
    japanese = _decoded(body, "cp932")
    if japanese and re.search("[ぁ-ヿ]", japanese) and not re.search("[｡-ﾟ]", japanese):
        return japanese
    # In Chinese texts, each character is a pair of bytes from 0x80 on. In Western texts, single
    # bytes from 0x80 on are accented letters.
    pairs = len(re.findall(rb"[\xa1-\xf7][\xa1-\xfe]", body))
    others = len(re.findall(rb"[\x80-\xff]", body)) - 2 * pairs
    chinese = _decoded(body, "gb18030") if pairs > others else None
    return body.decode("cp1252", "replace") if chinese is None else chinese


def _decoded(body: bytes, encoding: str) -> str | None:
    """Decode `body` without an incomplete last character. Return None if `encoding` doesn't fit."""
    try:
        # Refuse Python's other codecs: some don't produce text, and some would take hours.
        if not re.fullmatch(_CHARSET, codecs.lookup(encoding).name):
            return None
        return codecs.getincrementaldecoder(encoding)().decode(body)
    except (LookupError, TypeError, ValueError):
        return None


def holders(told: Any) -> list[dict[str, Any]]:
    """Return the JSON objects that possibly describe the whole answer, the outermost first.

    They are the top object and the objects in it that have a name in HOLDERS.
    """
    if isinstance(told, list):
        return [holder for event in events(told) for holder in holders(event)]
    if not isinstance(told, dict):
        return []
    inner = [told.get(name) for name in HOLDERS]
    inner += [value[0] for value in inner if isinstance(value, list) and value]
    return [told, *(value for value in inner if isinstance(value, dict))]


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def events(told: Any) -> list[Any]:
    """Return the events of a stream, the last event first. Return [told] if `told` is no stream."""
    if not isinstance(told, list):
        return [told]
    return [event for event in told[:_MOST_EVENTS] if isinstance(event, dict)]

"""What must not be told or kept of an answer: the key, and what signs links."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import Any
from urllib.parse import quote

from plugin.worker import answers

_LEAST_KEY = 8
"""Characters of a key that is looked for in names and codes; a shorter one is there by chance."""

# Each has a bound where it starts anew at every character: answers may be made to be slow to read.
_SIGNATURE = re.compile(r"sig[\w-]{0,40}(=|%3d|\\u003d)[^\s\"'<>]*", re.IGNORECASE)
_QUERY = re.compile(r"[?#](?=[^\s\"'<>]{0,300}(?:=|\\u003d))[^\s\"'<>]*")
_LINK = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"//[^\s\"'<>/@]{1,300}@")
_NAMED = re.compile(r'"([^"\\]{1,100})"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)')
"""A name and its text, in JSON that has lost its end."""
_SECRET = {"sig", "signature", "token", "secret", "authorization", "password", "credential", "key"}


class Secrets:
    """What must not be told or kept of an answer: the key in any spelling, and signed links."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._spelled = _spellings(key)

    def named(self, task: str) -> str:
        """A task's name, which is kept and shown; "" if it holds the key or a signature."""
        quoted = len(self._key) >= _LEAST_KEY and self._spelled.search(task)
        return "" if quoted or _SIGNATURE.search(task) else task

    def tamed(self, message: Any) -> str:
        """Words of the service, fit for a window: one line, short; "" if they are none."""
        if not isinstance(message, str):
            return ""
        message = message[:20_000]
        message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        return self._hidden(message).rstrip(".")[:300]

    def kept(self, body: bytes, content_type: str = "") -> tuple[str, bytes]:
        """What of a body may be written to the disk, and the suffix for it.

        Pictures that it holds are left as they are: they are what was paid for.
        """
        told = answers.parsed(body, content_type)
        if told is not None:
            return ".json", json.dumps(self._clean(told, 0), ensure_ascii=True).encode("ascii")
        text = answers.text(body, content_type).strip("\0")
        if "\0" not in text:
            text = _NAMED.sub(_without_value, text)
            return ".bin", self._hidden(text).encode("utf-8", "replace")
        # What else looks like a secret there is so by chance, and may be a picture's.
        text = _NAMED.sub(_without_value, body.decode("latin-1"))
        for secret in (_LINK, _SIGNATURE, self._spelled):
            text = secret.sub(lambda found: self._hidden(found[0]), text)
        return ".bin", text.encode("latin-1", "replace")

    def _hidden(self, words: str) -> str:
        """Without the key, which gateways quote, and what signs links."""
        for secret, instead in (
            (self._spelled, "…"),
            (_CREDENTIALS, "//…@"),
            (_QUERY, "?…"),
            (_SIGNATURE, "…"),
        ):
            words = secret.sub(instead, words)
        return words

    def _clean(self, told: Any, depth: int) -> Any:
        if depth > 200:
            return None
        if isinstance(told, list):
            return [self._clean(each, depth + 1) for each in told]
        if isinstance(told, dict):
            return {
                self._hidden(name): "…"
                if answers.name_words(name) & _SECRET and isinstance(value, str)
                else self._clean(value, depth + 1)
                for name, value in told.items()
            }
        if not isinstance(told, str):
            return told
        if told.strip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError, RecursionError):
                return json.dumps(self._clean(json.loads(told), depth + 1))
        return told if answers.is_picture(told) else self._hidden(told)


def _without_value(named: re.Match[str]) -> str:
    """What `_NAMED` found, without its text if that is secret by its name."""
    is_secret = answers.name_words(named[1]) & _SECRET
    return named[0][: named.start(2) - named.start()] + "…" if is_secret else named[0]


def _spellings(key: str) -> re.Pattern[str]:
    """What the key looks like when it is quoted: plain, percent-encoded, in hex, inside base64."""
    if len(key) < _LEAST_KEY:
        return re.compile(re.escape(key) if key else r"(?!)")
    data = key.encode()
    found = {key, quote(key), quote(key, safe=""), data.hex()}
    for lead in range(3):
        # What stands before it decides how its bits fall; the ends share theirs with neighbours.
        encoded = base64.b64encode(bytes(lead) + data).decode("ascii")
        inner = encoded[-(-8 * lead // 6) : 8 * (lead + len(data)) // 6]
        found |= {inner, inner.replace("+", "-").replace("/", "_")} if len(inner) > 9 else set()
    longest_first = sorted(found, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

"""Remove secrets from answers before they are shown or saved: the API key and signed links."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import Any
from urllib.parse import quote

from plugin.worker import answers

_LEAST_KEY = 8
"""The length in characters from which a key is searched for in task names and in encoded form. A
shorter string may occur there by chance."""

# Where a pattern can begin at every character, its repetitions are bounded. Otherwise a crafted
# answer could make the search very slow.
_SIGNATURE = re.compile(r"sig[\w-]{0,40}(=|%3d|\\u003d)[^\s\"'<>]*", re.IGNORECASE)
_QUERY = re.compile(r"[?#](?=[^\s\"'<>]{0,300}(?:=|\\u003d))[^\s\"'<>]*")
_LINK = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"//[^\s\"'<>/@]{1,300}@")
_NAMED = re.compile(r'"([^"\\]{1,100})"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)')
"""A name and its string value, in JSON that may have been cut off."""
_SECRET = {"sig", "signature", "token", "secret", "authorization", "password", "credential", "key"}


class Secrets:
    """Removes the key, in its usual encodings, and the signatures of links from answers."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._spelled = _spellings(key)

    def named(self, task: str) -> str:
        """Return the task's name, or "" if it contains the key or a signature.

        The name is saved and shown, so it must not contain a secret.
        """
        quoted = len(self._key) >= _LEAST_KEY and self._spelled.search(task)
        return "" if quoted or _SIGNATURE.search(task) else task

    def tamed(self, message: Any) -> str:
        """Return a message of the service for display: one short line, without secrets.

        Return "" if `message` is not a string.
        """
        if not isinstance(message, str):
            return ""
        message = message[:20_000]
        message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        return self._hidden(message).rstrip(".")[:300]

    def kept(self, body: bytes, content_type: str = "") -> tuple[str, bytes]:
        """Return a file suffix and the body without its secrets, to be written to the disk.

        Pictures inside the body are not changed, because they are what the user paid for.
        """
        told = answers.parsed(body, content_type)
        if told is not None:
            return ".json", json.dumps(self._clean(told, 0), ensure_ascii=True).encode("ascii")
        text = answers.text(body, content_type).strip("\0")
        if "\0" not in text:
            text = _NAMED.sub(_without_value, text)
            return ".bin", self._hidden(text).encode("utf-8", "replace")
        # The body is binary. Anything else in it that looks like a secret does so by chance and
        # may be part of a picture.
        text = _NAMED.sub(_without_value, body.decode("latin-1"))
        for secret in (_LINK, _SIGNATURE, self._spelled):
            text = secret.sub(lambda found: self._hidden(found[0]), text)
        return ".bin", text.encode("latin-1", "replace")

    def _hidden(self, words: str) -> str:
        """Return `words` without the key, which gateways quote, and without signatures of links."""
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
    """Return a match of `_NAMED`, without its value if its name is that of a secret."""
    is_secret = answers.name_words(named[1]) & _SECRET
    return named[0][: named.start(2) - named.start()] + "…" if is_secret else named[0]


def _spellings(key: str) -> re.Pattern[str]:
    """Return a pattern for the key: plain, percent-encoded, in hexadecimal, or inside base64.

    A short key is only searched for in its plain form.
    """
    if len(key) < _LEAST_KEY:
        return re.compile(re.escape(key) if key else r"(?!)")
    data = key.encode()
    found = {key, quote(key), quote(key, safe=""), data.hex()}
    for lead in range(3):
        # The number of bytes before the key decides how its bits are grouped into characters of
        # base64. The first and last character may share bits with the neighbouring bytes, so they
        # are left out.
        encoded = base64.b64encode(bytes(lead) + data).decode("ascii")
        inner = encoded[-(-8 * lead // 6) : 8 * (lead + len(data)) // 6]
        found |= {inner, inner.replace("+", "-").replace("/", "_")} if len(inner) > 9 else set()
    longest_first = sorted(found, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

"""Remove secrets (the API key, signatures in links) from answers that are shown or saved."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import Any
from urllib.parse import quote

from plugin.worker.service import answer_text, answers

_LEAST_KEY = 8
"""A key with fewer characters is not searched for in task names and in encoded form, because it
would be found there by chance."""

# A pattern that can begin at any character has limits for its repetitions, because otherwise a
# crafted answer could make the search very slow.
_SIGNATURE = re.compile(r"sig[\w-]{0,40}(=|%3d|\\u003d)[^\s\"'<>]*", re.IGNORECASE)
_QUERY = re.compile(r"[?#](?=[^\s\"'<>]{0,300}(?:=|\\u003d))[^\s\"'<>]*")
_LINK = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"//[^\s\"'<>/@]{1,300}@")
_NAMED = re.compile(r'"([^"\\]{1,100})"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)')
"""A pattern for a name and its string value in JSON, even if the JSON was cut off."""
_SECRET = {"sig", "signature", "token", "secret", "authorization", "password", "credential", "key"}


class Secrets:
    """Removes the API key, plain or encoded, and the signatures in links from answers."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._spelled = _spellings(key)

    def named(self, task: str) -> str:
        """Return the name of a task, or "" if the name contains the key or a signature.

        A name with a secret can't be used, because names of tasks are saved and shown.
        """
        quoted = len(self._key) >= _LEAST_KEY and self._spelled.search(task)
        return "" if quoted or _SIGNATURE.search(task) else task

    def tamed(self, message: Any) -> str:
        """Return a message of the service as one short line without secrets, to be shown.

        Return "" if `message` is not a string.
        """
        if not isinstance(message, str):
            return ""
        message = message[:20_000]
        message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        return self._hidden(message).rstrip(".")[:300]

    def kept(self, body: bytes, content_type: str = "") -> tuple[str, bytes]:
        """Return a file suffix and the body of an answer without secrets, to be saved in a file.

        Pictures in the body stay unchanged, because the user paid for them.
        """
        told = answer_text.parsed(body, content_type)
        if told is not None:
            return ".json", json.dumps(self._clean(told, 0), ensure_ascii=True).encode("ascii")
        text = answer_text.text(body, content_type).strip("\0")
        if "\0" not in text:
            text = _NAMED.sub(_without_value, text)
            return ".bin", self._hidden(text).encode("utf-8", "replace")
        # The body is binary, so remove only what is certainly a secret: the key, signatures, values
        # with a secret name, and the credentials and queries in links. The rest of a link stays.
        # Other bytes that look like a secret are possibly part of a picture.
        text = _NAMED.sub(_without_value, body.decode("latin-1"))
        for secret in (_LINK, _SIGNATURE, self._spelled):
            text = secret.sub(lambda found: self._hidden(found[0]), text)
        return ".bin", text.encode("latin-1", "replace")

    def _hidden(self, words: str) -> str:
        """Return a text without the key, passwords in URLs, queries of URLs and signatures."""
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
    """Return the text that `_NAMED` matched. If the name is that of a secret, omit the value."""
    is_secret = answers.name_words(named[1]) & _SECRET
    return named[0][: named.start(2) - named.start()] + "…" if is_secret else named[0]


def _spellings(key: str) -> re.Pattern[str]:
    """Return a pattern that finds the key plain, percent-encoded, in hexadecimal or inside base64.

    For a key shorter than _LEAST_KEY, the pattern finds the plain form only.
    """
    if len(key) < _LEAST_KEY:
        return re.compile(re.escape(key) if key else r"(?!)")
    data = key.encode()
    found = {key, quote(key), quote(key, safe=""), data.hex()}
    for lead in range(3):
        # base64 turns three bytes into four characters, so the key has three possible encodings,
        # depending on the number of bytes before it. Leave out characters at both ends that also
        # contain bits of neighbouring bytes.
        encoded = base64.b64encode(bytes(lead) + data).decode("ascii")
        inner = encoded[-(-8 * lead // 6) : 8 * (lead + len(data)) // 6]
        found |= {inner, inner.replace("+", "-").replace("/", "_")} if len(inner) > 9 else set()
    longest_first = sorted(found, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

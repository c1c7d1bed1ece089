"""Talking to the service over HTTP: one edit sent, its answer read, its picture fetched.

The key goes to the configured host alone. A POST is never sent again from here, and its
redirects are not followed; what came back wrong ends in a Failure that says what it means for
the user's money.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from plugin import __version__, settings
from plugin.worker import picture
from plugin.worker.failure import Failure
from plugin.worker.upload import Upload

CONNECT_SECONDS = 10.0
READ_SECONDS = 600.0
"""Long enough for the slowest edits seen (some 280 s) behind the most patient proxies."""
_ANSWER_BYTES = 4 * picture.FOREIGN_BYTES // 3 + 1_000_000
"""An answer may carry its picture inside, a third larger in base64."""
_REDIRECTS = 3


class _Bearer(AuthBase):
    """The key as a header; given as `auth` it keeps a .netrc file from replacing it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class _Anonymous(AuthBase):
    """No credentials at all, whatever a .netrc file offers."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


@dataclass(frozen=True)
class Answer:
    """What the service said: its name for the task, and where the picture is (link or bytes)."""

    task: str
    link: str
    data: bytes


class Service:
    """The service at `base_url` (with /v1), for one key."""

    def __init__(self, base_url: str, key: str) -> None:
        self._base_url = base_url
        self._host = urlsplit(base_url).netloc
        self._key = key

    def edit(self, prompt: str, model: str, size: str, resolution: str, upload: Upload) -> Answer:
        """Send one edit and wait for its answer.

        Raises Failure; its kind is OUTCOME_UNKNOWN whenever the edit may have been made.
        """
        fields = {"prompt": prompt, "model": model, "size": size, "resolution": resolution}
        files = [(name, (file, data, "image/png")) for name, file, data in upload.files]
        with self._session() as session:
            try:
                response = session.post(
                    f"{self._base_url}/images/edits",
                    data=fields,
                    files=files,
                    auth=_Bearer(self._key),
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    body = _read(response, _ANSWER_BYTES)
            except _TooLong as error:
                raise _unknown("its answer had no end") from error
            except requests.RequestException as error:
                raise self._lost(error) from error
        if response.status_code != 200:
            raise self._refusal(response, body)
        return self._answer(body)

    def fetch(self, link: str) -> bytes:
        """Return the bytes behind a link of an answer. Raises Failure of the kind ANSWER.

        The key is not sent along: a link carries its own signature.
        """
        if link.startswith("data:"):
            return _from_data_url(link)
        url = urljoin(self._base_url, link)
        with self._session() as session:
            for _ in range(_REDIRECTS + 1):
                self._check_link(url)
                try:
                    response = session.get(
                        url,
                        auth=_Anonymous(),
                        timeout=(CONNECT_SECONDS, CONNECT_SECONDS * 6),
                        allow_redirects=False,
                        stream=True,
                    )
                    with response:
                        if response.is_redirect:
                            url = urljoin(url, response.headers["Location"])
                            continue
                        body = _read(response, picture.FOREIGN_BYTES)
                except _TooLong as error:
                    raise Failure(
                        Failure.ANSWER, "The service's picture is larger than any real one."
                    ) from error
                except requests.RequestException as error:
                    raise Failure(
                        Failure.ANSWER,
                        "The edit was made, but its picture could not be fetched "
                        f"({_cause(error)}).",
                    ) from error
                if response.status_code != 200:
                    raise Failure(
                        Failure.ANSWER,
                        "The edit was made, but its picture could not be fetched: the service "
                        f"answered {response.status_code}{_said(response, body)}.",
                    )
                return body
        raise Failure(Failure.ANSWER, "The link to the picture leads from one place to the next.")

    @contextlib.contextmanager
    def _session(self) -> Iterator[requests.Session]:
        with requests.Session() as session:
            session.headers["User-Agent"] = f"dimilinks-gimp/{__version__}"
            if settings.is_loopback(urlsplit(self._base_url).hostname or ""):
                # A proxy can't reach this machine's own loopback.
                session.trust_env = False
            yield session

    def _lost(self, error: requests.RequestException) -> Failure:
        """Tell a connection that never was from one that broke: only the first cost nothing."""
        if _never_connected(error):
            return Failure(
                Failure.UNREACHABLE,
                f"The service at {self._host} can't be reached ({_cause(error)}). Nothing was "
                "sent: check the network and the service's address, then try again.",
            )
        return _unknown(_cause(error))

    def _refusal(self, response: requests.Response, body: bytes) -> Failure:
        status = response.status_code
        said = _said(response, body)
        code = _error_code(body)
        if status == 401:
            text = (
                f"The service doesn't accept the API key{said}. Check DIMILINKS_API_KEY or the "
                "file “key” in the data folder."
            )
        elif status == 402 or code == "insufficient_user_quota":
            text = f"The balance at the service is used up{said}. Top it up, then try again."
        elif status == 403 and code == "model_not_allowed":
            text = f"This API key may not use the model{said}."
        elif status == 413:
            text = "The upload was too large for the service: choose a smaller resolution."
        elif status == 429:
            return Failure(
                Failure.BUSY, f"The service is busy{said}. Wait a minute, then try again."
            )
        elif 300 <= status < 400:
            place = urlsplit(response.headers.get("Location", "")).netloc
            text = (
                f"The service has moved{f' to {place}' if place else ''}: set its new address "
                "(DIMILINKS_BASE_URL), then try again."
            )
        elif 400 <= status < 500 and status != 408:
            text = f"The service refused the edit ({status}){said}."
        else:
            return _unknown(f"it answered {status}{said}")
        return Failure(Failure.REFUSED, text)

    def _answer(self, body: bytes) -> Answer:
        unusable = "The service answered without a picture; the edit may have been billed."
        try:
            answer = json.loads(body)
            entry = answer["data"][0]
            task = str(answer.get("task_id") or "")[:200]
            encoded = entry.get("b64_json")
            link = entry.get("url")
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Failure(Failure.ANSWER, unusable) from error
        if isinstance(encoded, str) and encoded:
            return Answer(task, "", _from_base64(encoded))
        if isinstance(link, str) and link:
            return Answer(task, link, b"")
        raise Failure(Failure.ANSWER, unusable)

    def _check_link(self, url: str) -> None:
        """Let only the service's own host pass, or public https. Raises Failure."""
        parts = urlsplit(url)
        own = urlsplit(self._base_url)
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            return
        if parts.scheme == "https" and parts.hostname and _is_public(parts.hostname):
            return
        raise Failure(
            Failure.ANSWER,
            "The service's link to the picture leads to a place where no picture of it can be "
            f"({parts.scheme}://{parts.hostname or ''}); it was not followed.",
        )


class _TooLong(Exception):
    pass


def _read(response: requests.Response, limit: int) -> bytes:
    """Read the body, no further than `limit` bytes whatever its header says. Raises _TooLong."""
    chunks = bytearray()
    for chunk in response.iter_content(65536):
        chunks += chunk
        if len(chunks) > limit:
            raise _TooLong
    return bytes(chunks)


def _unknown(clause: str) -> Failure:
    return Failure(
        Failure.OUTCOME_UNKNOWN,
        f"The edit was sent, but the service gave no usable answer ({clause}). It may have been "
        "made and billed, so it is not sent again by itself: look at your account, then decide.",
    )


def _never_connected(error: requests.RequestException) -> bool:
    """Whether it ended before a byte of the edit left: no address, no connection, no trust."""
    if isinstance(error, (requests.ConnectTimeout, requests.exceptions.ProxyError)):
        return True
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    # Other TLS errors can come in the middle of an answer: only this one is surely early.
    return isinstance(reason, urllib3.exceptions.NewConnectionError) or (
        "CERTIFICATE_VERIFY_FAILED" in str(reason)
    )


def _cause(error: BaseException) -> str:
    """What went wrong, short and without the URL, which may carry a signature."""
    if isinstance(error, requests.ConnectTimeout):
        return "no answer to the connection"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate could not be verified"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy did not let it through"
    text = str(error)
    for sign, words in (
        ("NameResolution", "its name is not known"),
        ("refused", "the connection was refused"),
        ("reset", "the connection was reset"),
        ("IncompleteRead", "the answer broke off"),
        ("RemoteDisconnected", "the connection was closed without an answer"),
    ):
        if sign in text:
            return words
    return "the connection broke"


def _error(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _error_code(body: bytes) -> str:
    return str(_error(body).get("code") or "")


def _said(response: requests.Response, body: bytes) -> str:
    """The service's own words as a clause, fit for a window: one line, short, printable."""
    message = _error(body).get("message")
    if not isinstance(message, str) and "json" not in response.headers.get("Content-Type", ""):
        text = body[:4000].decode("utf-8", "replace")
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        message = title[1] if title else "" if "<" in text else text
    if not isinstance(message, str):
        return ""
    message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    message = re.sub(r"sig=[^&\s]+", "sig=…", message).rstrip(".")
    if not message:
        return ""
    return f": “{message[:300]}”"


def _from_data_url(link: str) -> bytes:
    head, _, encoded = link.partition(",")
    if not head.endswith(";base64"):
        raise Failure(Failure.ANSWER, "The service's picture is encoded in an unknown way.")
    return _from_base64(encoded)


def _from_base64(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Failure(
            Failure.ANSWER, "The service's picture arrived damaged (its base64 is not valid)."
        ) from error


def _is_public(host: str) -> bool:
    """Whether every address that `host` stands for is on the public network."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(f[4][0]).partition("%")[0]).is_global for f in found)

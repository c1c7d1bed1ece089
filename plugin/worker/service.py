"""The client for the service: send an edit over HTTP, read the answer, fetch its picture.

There are also requests that cost nothing: the state of a task, the check of the key, and the
prices.

The key is sent to the configured host only. This module never repeats a POST and doesn't follow
its redirects. If an edit fails, the Failure says whether the user may have to pay for it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from plugin import __version__, settings
from plugin.words import _
from plugin.worker import answers, patience, picture
from plugin.worker.answers import Answer, Task
from plugin.worker.failure import Failure, NotAccepted, TaskEnded, TaskUnknown
from plugin.worker.form import Form
from plugin.worker.redaction import Secrets
from plugin.worker.transport import Adapter, Body, Session, TooLong

_CONNECTS = 4
"""The time limit for connecting, as a multiple of the connect timeout. The addresses of a host, a
proxy and the TLS handshake take their time one after the other."""
_QUESTION_SECONDS = 20.0
"""The timeout of requests that cost nothing and for which the user may be waiting."""
_QUESTION_BYTES = 4_000_000
_QUESTION_TRIES = urllib3.Retry(
    2,
    connect=1,
    read=1,
    redirect=0,
    status_forcelist=(502, 503, 504),
    backoff_factor=0.3,
    raise_on_status=False,
    respect_retry_after_header=False,
)
"""Used for GET requests only."""
_FETCH_SECONDS = 60.0
"""The socket timeout while a picture is downloaded."""
_ANSWER_BYTES = 4 * picture.FOREIGN_BYTES // 3 + 1_000_000
"""The most bytes of an answer. It may contain its picture in base64, which is a third larger."""
_HEAD_BYTES = 1_000_000
"""How many bytes are kept of an answer that has more than _ANSWER_BYTES."""
_REDIRECTS = 3
"""The most redirects that are followed from a link to a picture."""
_FRESH_LINKS = 2
"""How often the service is asked for a new link to the picture of a task."""
_MOST_LINKS = 3
"""The most links of one answer that are fetched. Pictures inside the answer don't count."""
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")
_FAKE = ipaddress.ip_network("198.18.0.0/15")
"""The network in which local proxies place every public name. Such proxies are common among users
behind a firewall."""


class _Bearer(AuthBase):
    """Sends the key in a header.

    As the `auth` of a request, it also keeps requests from using a .netrc file instead.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class _Anonymous(AuthBase):
    """Sends no credentials, not even those of a .netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


_NOT_MADE = frozenset((
    *(400, 411, 414, 415, 422, 431),  # The request is malformed or asks for something unsupported.
    *(401, 402, 403),  # The sender has no permission or has to pay first.
    *(404, 405, 410),  # There is no endpoint for edits at this address.
    *(301, 307, 308),  # The endpoint has moved: the request must be repeated there.
    413,  # The request is too large.
    429,  # There were too many requests.
))  # fmt: skip
"""Status codes with which a service rejects an edit before it does any work, so it costs nothing.

Any other status may come after the edit was made or begun: 302 and 303 redirect to the result of a
POST, 409 is about an edit in progress, and proxies answer 408, 499 and 5xx while the service still
works.
"""

_USED_UP = re.compile(
    "insufficient|exhausted_?balance|quota_?exceeded|exceeded_(current_)?quota|token_quota|"
    "billing|arrear|overdue|out_of_credit|payment_required",
    re.IGNORECASE,
)
"""Matches error codes and types that mean that the user has to pay, and that waiting won't help."""

_NEVER_SENT = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    UnicodeError,
)
"""Errors that requests raises for invalid addresses and proxies before it connects.

Some of them may also be caused by an answer. The number of bytes sent distinguishes the two cases.
"""

_UNWRAPPED = (OSError, TypeError, ValueError, urllib3.exceptions.HTTPError)
"""Errors that requests doesn't wrap, such as those of missing certificates and unusual proxies."""


class Service:
    """A client of the service at `base_url` (with /v1) that uses one key."""

    def __init__(self, base_url: str, key: str) -> None:
        self._base_url = base_url
        self._host = urlsplit(base_url).netloc
        self._key = key
        self._secrets = Secrets(key)
        self._connect_seconds = settings.connect_seconds()
        self._read_seconds = settings.read_seconds()

    def send(
        self,
        form: Form,
        on_sent: Callable[[int, int], None] = lambda sent, total: None,
        on_piece: Callable[[bool], None] = lambda last: None,
    ) -> Answer:
        """Send one edit and wait for its answer, which may only contain the name of a task.

        `on_sent` is called a few times a second with the number of bytes sent and of all bytes.
        The two are equal once, at the end. `on_piece` is called before each piece is sent, with
        whether it is the last one. If it raises an exception, the request ends without this piece,
        so it is certainly incomplete.

        Raises NotAccepted if the edit was not accepted and another try may succeed, and another
        Failure in all other cases. The kind is OUTCOME_UNKNOWN whenever the edit may have been
        made.
        """
        body = bytearray()
        with self._session() as session:

            def leaves(last: bool) -> None:
                on_piece(last)
                # The service answers only after the last piece. Until then there is no limit for
                # the total time: a slow upload may take as long as it makes progress.
                session.limit(self._read_seconds if last else 0)

            upload = Body(form.body, on_sent, leaves)
            response, lost = None, None
            session.limit(_CONNECTS * self._connect_seconds)
            try:
                response = session.post(
                    f"{self._base_url}{form.path}",
                    data=upload,
                    headers={"Content-Type": form.content_type},
                    auth=_Bearer(self._key),
                    timeout=(self._connect_seconds, self._read_seconds),
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    session.read(response, _ANSWER_BYTES, self._read_seconds, body)
            except (TooLong, requests.RequestException, *_UNWRAPPED) as error:
                lost = self._lost(_in_time(session, error), upload)
                if response is None or not upload.is_whole:
                    raise lost from error
                if isinstance(error, TooLong):
                    # The name of a task is near the beginning.
                    del body[_HEAD_BYTES:]
        status, kind = response.status_code, _content_type(response)
        if 200 <= status < 300:
            try:
                answer = answers.read(bytes(body), kind)
            except Exception as error:
                # Whatever is wrong with the answer, the edit may have been paid for.
                told = str(lost or _unknown(_("its answer broke the rules of HTTP")))
                raise Failure(Failure.OUTCOME_UNKNOWN, told, bytes(body)) from error
            answer = replace(answer, task=self._secrets.named(answer.task))
            if lost and not (answer.task or answer.complete):
                raise Failure(lost.kind, str(lost), bytes(body))
            return answer
        if not upload.is_whole or (status in _NOT_MADE and not lost):
            raise self._refusal(response, bytes(body))
        if named := self._secrets.named(answers.named_task(bytes(body), kind)):
            # A proxy may have timed out. The result can be requested by the name of the task.
            return Answer(named)
        raise lost or _unknown(_answered(status, self._said(response, bytes(body))))

    def task(self, name: str) -> Task:
        """Ask the service once for the state of a task.

        Raises Stumbled if the request may be repeated, TaskEnded if the task has no result and
        will never have one (TaskUnknown if the service says that there is no such task), and
        Failure if the user must do something first.
        """
        url = f"{self._base_url}/tasks/{quote(name, safe='')}"
        response, body = self._ask(url, _Bearer(self._key), _ANSWER_BYTES, self._read_seconds)
        status = response.status_code
        if status in (200, 201, 202):
            told = self._told(name, answers.parsed(body, _content_type(response)), body)
            if told:
                return told
            # The answer has a good status, but says that there is no such task.
            status = 404
        said = self._said(response, body)
        if status in (404, 410):
            raise (TaskUnknown if status == 404 else TaskEnded)(
                Failure.ANSWER,
                _quoting(
                    _(
                        "The service doesn't know the edit any more, so its result can't be "
                        "fetched. If it was sent with another key, enter that one, then resume it."
                    ),
                    said,
                ),
            )
        if status in (401, 402, 403) or 300 <= status < 400:
            raise Failure(
                Failure.PENDING,
                _(
                    "{sentence} The service took the edit before: once this is mended, resume it, "
                    "and its result is fetched at no cost."
                ).format(sentence=self._refusal(response, body, asking=True)),
            )
        wait = patience.asked_for(response.headers.get("Retry-After"))
        raise Stumbled(_answered(status, said), wait)

    def _told(self, name: str, told: Any, body: bytes) -> Task | None:
        """Return the state of a task; None if the answer says that there is no such task.

        `told` is the parsed JSON of `body`. Raises Stumbled if the request may be repeated,
        TaskEnded if the task ended without a result, and Failure if the answer is an error that is
        not about the task itself.
        """
        answer = replace(answers.read_parsed(told, body), task=name)
        if answers.is_done(told, answer):
            return Task(100, answer)
        said = self._tamed(answers.words(told))
        if answers.has_stumbled(told, name):
            raise Stumbled(_answered(200, said))
        if answers.has_failed(told, name):
            raise TaskEnded(
                Failure.REFUSED, _quoting(_("The service could not make the edit."), said)
            )
        if answers.is_over(told):
            raise TaskEnded(
                Failure.ANSWER,
                _quoting(
                    _(
                        "The service ended the edit without a result. It may have been billed: "
                        "look at your account."
                    ),
                    said,
                ),
            )
        trouble = None if answers.is_waiting(told) else answers.trouble(told)
        if trouble and trouble.missing:
            return None
        if trouble or answers.is_no_answer(told):
            raise Failure(
                Failure.PENDING,
                _quoting(
                    _(
                        "The service took the edit, but answers with an error when it is asked for "
                        "the result. Resume the edit later: it is asked again, at no cost."
                    ),
                    said,
                ),
            )
        if not answers.state(told):
            raise Stumbled(_("the service gave no usable answer"))
        return Task(answers.progress(told))

    def picture(self, answer: Answer) -> bytes:
        """Return the bytes of the answer's picture.

        If no picture is found, return the first thing that was found, without its secrets, because
        it is saved.

        If a link can't be fetched because of the network or the service, it is tried again. If it
        is no longer valid, the service is asked for the task, which has a new link. Both cost
        nothing. The key is not sent with a link, which has its own signature.

        Raises Failure: of the kind REFUSED or OUTCOME_UNKNOWN if the answer is an error, of the
        kind SETUP if the proxy of this machine can't be used, else of the kind ANSWER.
        """
        for fresh in range(_FRESH_LINKS + 1):
            try:
                data = self._picture(answer)
                return data if picture.kind(data) else self._secrets.kept(data)[1]
            except _Stale as stale:
                failure = _not_fetched(str(stale))
            if not answer.task or fresh == _FRESH_LINKS:
                break
            # A service may name a task and yet not answer requests for tasks.
            with contextlib.suppress(Stumbled, Failure):
                answer = self.task(answer.task).answer or answer
        raise failure

    def _picture(self, answer: Answer, is_inner: bool = False) -> bytes:
        """Return the bytes of the first picture that a link of the answer leads to.

        If no link leads to a picture, judging by its bytes, return the first bytes that were found.
        A link may also lead to another answer, an inner one, with links in it. These are followed,
        but no further ones. Raises Failure, or _Stale if a new link may help.
        """
        other = b""
        trouble: Failure | _Stale | None = None
        followed = 0
        for link in answer.links:
            try:
                data = answers.decoded(link)
                if data is None:
                    followed += 1
                    if followed > _MOST_LINKS:
                        break
                    # The first link is most likely the result. The others get a single try.
                    is_first = followed == 1 and not is_inner
                    data = self._followed(link, patience.FETCHES if is_first else (0,))
            except (Failure, _Stale) as error:
                trouble = trouble or error
                continue
            if not picture.kind(data) and not is_inner:
                with contextlib.suppress(Failure, _Stale):
                    data = self._picture(answers.read(data), is_inner=True)
            if picture.kind(data):
                return data
            other = other or data
        if other:
            return other
        raise self._without_a_picture(answer, trouble)

    def _followed(self, link: str, pauses: Sequence[float]) -> bytes:
        """Return what a link leads to, and try again after each of `pauses` (seconds) if necessary.

        Raises Failure, or _Stale if the link has expired.
        """
        try:
            url = urljoin(self._base_url, answers.mended(link))
        except ValueError as error:
            raise _bad_link("") from error
        for pause in pauses:
            try:
                return self._fetch(url)
            except Stumbled as stumble:
                cause = str(stumble)
                time.sleep(pause)
        if _is_expired(url):
            raise _Stale(cause)
        raise _not_fetched(cause)

    def _without_a_picture(
        self, answer: Answer, failure: Failure | _Stale | None
    ) -> Failure | _Stale:
        """Return the exception to raise for an answer without a picture.

        `failure` says why a link could not be used, if there was one. Only an error code proves
        that nothing was made. After anything else, the edit may have been made and is not sent
        again.
        """
        # If the answer names a task, asking for the task will show what became of the edit.
        trouble = None if answer.task else answers.trouble(answers.parsed(answer.body))
        said = self._tamed(answers.said(answer.body))
        if trouble and trouble.refused:
            return Failure(Failure.REFUSED, _quoting(_("The service refused the edit."), said))
        if trouble:
            return _unknown(_answered(200, said))
        return failure or Failure(
            Failure.ANSWER,
            _quoting(
                _(
                    "The service answered without a picture. The edit may have been billed: look "
                    "at your account, then decide."
                ),
                said,
            ),
        )

    def kept(self, body: bytes) -> tuple[str, bytes]:
        """Return a file suffix and the body without its secrets, to be written to the disk."""
        return self._secrets.kept(body)

    def check(self) -> None:
        """Check that the service is reachable and accepts the key.

        This requests the list of models, which needs the key and costs nothing. Raises Failure with
        the reason why an edit would fail.
        """
        try:
            response, body = self._ask(
                f"{self._base_url}/models",
                _Bearer(self._key),
                _QUESTION_BYTES,
                _QUESTION_SECONDS,
            )
        except Stumbled as stumble:
            raise Failure(
                Failure.UNREACHABLE,
                _(
                    "The service at {host} can't be reached ({why}): check the network and the "
                    "service's address."
                ).format(host=self._host, why=stumble),
            ) from stumble
        status = response.status_code
        if status == 200 and answers.parsed(body) is not None:
            return
        if status in (401, 402, 403, 429) or 300 <= status < 400:
            raise self._refusal(response, body)
        if status in (200, 404, 405):
            raise Failure(Failure.SETUP, self._wrong_address(status))
        raise Failure(
            Failure.BUSY,
            _quoting(
                _("The service at {host} is out of order ({status}). Try again later.").format(
                    host=self._host, status=status
                ),
                self._said(response, body),
            ),
        )

    def prices(self, model: str) -> dict[str, float]:
        """Return the price of one picture at each tier, as far as the service publishes prices."""
        parts = urlsplit(self._base_url)
        try:
            response, body = self._ask(
                f"{parts.scheme}://{parts.netloc}/api/pricing",
                _Anonymous(),
                _QUESTION_BYTES,
                _QUESTION_SECONDS,
            )
        except Stumbled:
            return {}
        return answers.prices(answers.parsed(body), model) if response.status_code == 200 else {}

    def _ask(
        self,
        url: str,
        auth: AuthBase,
        limit: int,
        seconds: float,
    ) -> tuple[requests.Response, bytes]:
        """Send a GET request, and return the response and its body.

        The body may have at most `limit` bytes and take at most `seconds`. Raises Stumbled if the
        request failed, and Failure if a setting of this machine must be changed first.
        """
        with self._session() as session:
            session.mount(url, Adapter(session, max_retries=_QUESTION_TRIES))
            session.limit(3 * seconds)
            try:
                response = session.get(
                    url,
                    auth=auth,
                    timeout=(self._connect_seconds, _QUESTION_SECONDS),
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    return response, session.read(response, limit, seconds)
            except (TooLong, requests.RequestException, *_UNWRAPPED) as error:
                raise _stumbled(session, error) from error

    def _fetch(self, url: str) -> bytes:
        with self._session() as session:
            for _hop in range(_REDIRECTS + 1):
                url = self._checked_link(url)
                session.limit(self._read_seconds)
                try:
                    response = session.get(
                        url,
                        auth=_Anonymous(),
                        timeout=(self._connect_seconds, _FETCH_SECONDS),
                        allow_redirects=False,
                        stream=True,
                    )
                    with response:
                        if response.is_redirect:
                            url = urljoin(url, response.headers["Location"])
                            continue
                        body = session.read(response, picture.FOREIGN_BYTES, self._read_seconds)
                except TooLong as error:
                    raise Failure(
                        Failure.ANSWER, _("The service's picture is larger than any real one.")
                    ) from error
                except requests.RequestException as error:
                    raise _stumbled(session, error) from error
                except ValueError as error:
                    raise _bad_link("") from error
                except _UNWRAPPED as error:
                    raise _stumbled(session, error) from error
                status = response.status_code
                if status == 200:
                    return body
                clause = _answered(status, self._said(response, body))
                if status == 429 or status >= 500:
                    raise Stumbled(clause)
                if status in (403, 404, 410) or _is_expired(url):
                    raise _Stale(clause)
                raise _not_fetched(clause)
        raise Failure(
            Failure.ANSWER, _("The link to the picture leads from one place to the next.")
        )

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        with Session() as session:
            session.headers["User-Agent"] = f"dimilinks-gimp/{__version__}"
            if settings.is_loopback(urlsplit(self._base_url).hostname or ""):
                # A proxy can't reach the loopback address of this machine.
                session.trust_env = False
            elif bundle := os.environ.get("SSL_CERT_FILE"):
                # REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, requests' own variables, take precedence.
                session.verify = bundle
            try:
                yield session
            finally:
                session.limit(0)

    def _lost(self, error: Exception, upload: Body) -> Failure:
        """Return the Failure for an edit without an answer.

        The service can have accepted the edit only if its last piece was sent.
        """
        if upload.is_whole:
            return _unknown(_cause(_through_proxy(error)))
        if upload.is_begun:
            return NotAccepted(
                Failure.UNREACHABLE,
                _(
                    "The upload to {host} broke off ({why}). What arrived there is no complete "
                    "edit, so nothing was made or billed: check the network, then try again."
                ).format(host=self._host, why=_cause(error)),
            )
        if _is_odd(error):
            return _setup(error)
        sentence = _(
            "The service at {host} can't be reached ({why}). Nothing was sent: check the "
            "network and the service's address, then try again."
        ).format(host=self._host, why=_cause(error))
        # A proxy that refuses and an invalid certificate are unlikely to change in a moment.
        lasting = isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.SSLError))
        return (Failure if lasting else NotAccepted)(Failure.UNREACHABLE, sentence)

    def _refusal(self, response: requests.Response, body: bytes, asking: bool = False) -> Failure:
        """Return the Failure for an answer that rejects a request.

        With `asking`, the request was about an edit that had been accepted before.
        """
        status = response.status_code
        said = self._said(response, body)
        told = answers.parsed(body, _content_type(response))
        code = answers.error_code(told)
        if status == 401:
            text = _("The service doesn't accept the API key. {remedy}").format(remedy=_remedy())
        elif status == 402 or _USED_UP.search(" ".join(answers.error_names(told))):
            text = _("The balance at the service is used up. Top it up, then try again.")
        elif status == 403 and code == "model_not_allowed":
            text = _(
                "This API key may not use the model. Allow it at the service, or enter another "
                "key, then try again."
            )
        elif status == 413:
            text = _("The upload was too large for the service: choose a smaller resolution.")
            said = ""
        elif status == 429:
            wait = patience.asked_for(response.headers.get("Retry-After"))
            text = (
                patience.not_before(wait)
                if wait > patience.LONGEST
                else _("The service is busy. Wait a minute, then try again.")
            )
            return NotAccepted(Failure.BUSY, _quoting(text, said), wait)
        elif 300 <= status < 400:
            place = self._place(response.headers.get("Location", ""))
            text = (
                _(
                    "The service has moved to {place}: set its new address in Filters ▸ Dimilinks "
                    "▸ Settings… (or DIMILINKS_BASE_URL), then try again."
                ).format(place=place)
                if place
                else _(
                    "The service has moved: set its new address in Filters ▸ Dimilinks ▸ "
                    "Settings… (or DIMILINKS_BASE_URL), then try again."
                )
            )
            said = ""
        elif asking:
            text = _("The service tells this API key nothing of the edit ({status}).").format(
                status=status
            )
        elif status in (404, 405) and not (code and urlsplit(self._base_url).path):
            text = self._wrong_address(status)
        else:
            text = _(
                "The service refused the edit ({status}), and nothing was made: change what it "
                "names, then try again."
            ).format(status=status)
        return Failure(Failure.REFUSED, _quoting(text, said))

    def _wrong_address(self, status: int) -> str:
        """Return the sentence for an address where something answers that is not the service."""
        if not urlsplit(self._base_url).path:
            return _(
                "Something answers at {host}, but not this service ({status}): its address usually "
                "ends with /v1. Set it to {address}/v1 in Filters ▸ Dimilinks ▸ Settings… (or "
                "DIMILINKS_BASE_URL), then try again."
            ).format(host=self._host, status=status, address=self._base_url)
        return _(
            "Something answers at {host}, but not this service ({status}): check the "
            "address, which usually ends with /v1."
        ).format(host=self._host, status=status)

    def _checked_link(self, url: str) -> str:
        """Return the link in the form in which it may be fetched.

        A link may lead to the service itself, or to a public host over https. If the service is
        used over https, an http link to its host is changed to https.

        The link is parsed by the same function that the connection uses. If two parsers understood
        a link differently, it could circumvent these checks.

        Raises Failure if the link must not be fetched.
        """
        try:
            parts, own = urllib3.util.parse_url(url), urllib3.util.parse_url(self._base_url)
        except ValueError as error:
            raise _bad_link("") from error
        place = self._tamed(f"{parts.scheme}://{parts.host or ''}")
        if parts.auth or not url.isascii() or not url.isprintable() or "\\" in url:
            raise _bad_link(place)
        if (parts.scheme, own.scheme, parts.host) == ("http", "https", own.host) and (
            parts.port in (None, 80, own.port)
        ):
            # A service behind a proxy often doesn't know its own public address.
            return str(parts._replace(scheme="https", port=own.port))
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            return url
        if parts.scheme != "https" or not _HOST.fullmatch(parts.host or ""):
            raise _bad_link(place)
        if not _is_public(parts.host or ""):
            raise _bad_link(place)
        return url

    def _place(self, url: str) -> str:
        """Return the host of a URL from the service for display; "" if it has none."""
        try:
            return self._tamed(urlsplit(url).netloc.rpartition("@")[2])
        except ValueError:
            return ""

    def _said(self, response: requests.Response, body: bytes) -> str:
        """Return the message in an answer for display: one short line, without secrets."""
        return self._tamed(answers.said(body, _content_type(response)))

    def _tamed(self, message: Any) -> str:
        """Return a message of the service for display; "" if it is not a string."""
        return self._secrets.tamed(message)


class Stumbled(Exception):
    """A request that costs nothing failed and may be repeated.

    The message is a clause that says why. `wait` is how many seconds the service asked to wait, 0
    if it did not say.
    """

    def __init__(self, clause: str, wait: float = 0) -> None:
        super().__init__(clause)
        self.wait = wait


class _Stale(Exception):
    """A link is not valid, or no longer valid. The message is a clause that says why."""


def _remedy() -> str:
    """Return a sentence that says where to change the key that was refused."""
    if os.environ.get("DIMILINKS_API_KEY"):
        return _("Check DIMILINKS_API_KEY, which is set in the environment.")
    return _(
        "Enter it anew in Filters ▸ Dimilinks ▸ Settings…, or by “python -m plugin key store”."
    )


def _content_type(response: requests.Response) -> str:
    return str(response.headers.get("Content-Type", ""))


def _is_expired(link: str) -> bool:
    """Return whether the expiry time in a link (`exp`, in milliseconds since 1970) has passed."""
    expiry = parse_qs(urlsplit(link).query).get("exp", [""])[0]
    return bool(re.fullmatch("[0-9]{1,16}", expiry)) and int(expiry) <= time.time() * 1000


def _bad_link(place: str) -> Failure:
    return Failure(
        Failure.ANSWER,
        _(
            "The service's link to the picture leads to a place where no picture of it can be "
            "({place}); it was not followed. Tell the service: it can give the picture again."
        ).format(place=place)
        if place
        else _(
            "The service's link to the picture leads to a place where no picture of it can be; "
            "it was not followed. Tell the service: it can give the picture again."
        ),
    )


def _not_fetched(clause: str) -> Failure:
    return Failure(
        Failure.ANSWER,
        _("The edit was made, but its picture could not be fetched: {why}.").format(why=clause),
    )


def _answered(status: int, said: str) -> str:
    """Return the clause for an answer that can't be used, with the service's message if any."""
    if said:
        return _("the service answered {status}: “{words}”").format(status=status, words=said)
    return _("the service answered {status}").format(status=status)


def _quoting(sentence: str, said: str) -> str:
    """Return `sentence`, followed by the service's message if there is one."""
    if not said:
        return sentence
    return _("{sentence} The service says: “{words}”.").format(sentence=sentence, words=said)


def _setup(error: BaseException) -> Failure:
    if isinstance(error, requests.exceptions.InvalidSchema):
        text = _(
            "Nothing could be sent: the proxy of this machine is a SOCKS proxy, which can't be "
            "used here. Set HTTPS_PROXY to an HTTP proxy (most programs with a SOCKS proxy have "
            "one, too), or list the service's host in NO_PROXY to go without one, then try again."
        )
    else:
        text = _(
            "Nothing could be sent: {why}. Check the service's address and the proxy and "
            "certificate settings of this machine, then try again."
        ).format(why=_obstacle(error))
    return Failure(Failure.SETUP, text)


def _obstacle(error: BaseException) -> str:
    """Return the clause that says why nothing can be sent.

    It doesn't quote `error`, which may contain the address of a proxy and its password.
    """
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return _("its certificates file is missing")
    return _("there can be no such address or proxy")


def _stumbled(session: Session, error: Exception) -> Stumbled | Failure:
    """Return the exception for a GET request that failed with `error`.

    It is Stumbled if the request may be repeated, and Failure if a setting of this machine must be
    changed first.
    """
    if isinstance(error, requests.exceptions.InvalidSchema):
        return _setup(error)
    if _is_odd(error) and not isinstance(error, TooLong):
        return Stumbled(_obstacle(error))
    return Stumbled(_cause(_in_time(session, error)))


def _in_time(session: Session, error: Exception) -> Exception:
    """Return ReadTimeout if the time limit of the session has ended, and `error` otherwise.

    The end of the time limit shuts the connection down, which may cause any error.
    """
    return requests.ReadTimeout() if session.is_over else error


def _is_odd(error: BaseException) -> bool:
    """Return whether the client itself, not the network, rejected an address, proxy or answer."""
    return isinstance(error, _NEVER_SENT) or not isinstance(error, requests.RequestException)


def _unknown(clause: str) -> Failure:
    return Failure(
        Failure.OUTCOME_UNKNOWN,
        _(
            "The edit was sent, but the service gave no usable answer ({why}). It may have been "
            "made and billed, so it is not sent again by itself: look at your account, then "
            "decide."
        ).format(why=clause),
    )


def _through_proxy(error: Exception) -> Exception:
    """Return the connection error inside an error of the proxy, or `error` itself.

    The proxy is not the cause here, because it had let the edit through.
    """
    behind = getattr(error.args[0] if error.args else None, "reason", None)
    original = getattr(behind, "original_error", None)
    return requests.ConnectionError(original) if original else error


def _cause(error: BaseException) -> str:
    """Return a short clause for `error`, without the URL, which may contain a signature."""
    if isinstance(error, TooLong):
        return _("its answer had no end")
    if _is_odd(error):
        return _("its answer broke the rules of HTTP")
    if isinstance(error, requests.ConnectTimeout):
        return _("no answer to the connection")
    if isinstance(error, requests.Timeout):
        return _("no answer in time")
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return _("its certificate could not be verified")
        return _("the encrypted connection failed")
    if isinstance(error, requests.exceptions.ProxyError):
        return _("the proxy did not let it through")
    text = repr(error)
    for sign, words in (
        ("NameResolution", _("its name is not known")),
        ("refused", _("the connection was refused")),
        ("reset", _("the connection was reset")),
        ("IncompleteRead", _("the answer broke off")),
        ("RemoteDisconnected", _("the connection was closed without an answer")),
    ):
        if sign in text:
            return words
    return _("the connection broke")


def _is_public(host: str) -> bool:
    """Return whether no address of `host` is on this machine or in a private network."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        # The name can't be resolved here, which is usual if a proxy resolves it.
        return True
    addresses = [ipaddress.ip_address(str(f[4][0]).partition("%")[0]) for f in found]
    return all(
        (address.is_global and not address.is_multicast) or address in _FAKE
        for address in addresses
    )

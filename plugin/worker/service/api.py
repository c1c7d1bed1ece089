"""The client for the service: send an edit over HTTP, read the answer, fetch its picture.

There are also requests that cost nothing: the state of a task, the check of the key, and the
prices.

The key is sent to the configured host only. This module never repeats a POST and doesn't follow
its redirects. If an edit fails, the Failure says whether the user may have to pay for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from plugin import __version__, settings
from plugin.errors import Failure, Kind, NotAccepted, TaskEnded, TaskUnknown
from plugin.translation import _
from plugin.worker import picture
from plugin.worker.service import (
    answer_text,
    answers,
    complaints,
    links,
    network_errors,
    patience,
    refusals,
)
from plugin.worker.service.answers import Answer, Task
from plugin.worker.service.form import Form
from plugin.worker.service.network_errors import Stumbled
from plugin.worker.service.redaction import Secrets
from plugin.worker.service.transport import (
    Adapter,
    Anonymous,
    Bearer,
    Body,
    Session,
    TooLong,
    content_type,
)

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
                    auth=Bearer(self._key),
                    timeout=(self._connect_seconds, self._read_seconds),
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    session.read(response, _ANSWER_BYTES, self._read_seconds, body)
            except (TooLong, requests.RequestException, *network_errors.UNWRAPPED) as error:
                lost = self._lost(network_errors.in_time(session, error), upload)
                if response is None or not upload.is_whole:
                    raise lost from error
                if isinstance(error, TooLong):
                    # The name of a task is near the beginning.
                    del body[_HEAD_BYTES:]
        status, kind = response.status_code, content_type(response)
        if 200 <= status < 300:
            try:
                answer = answers.read(bytes(body), kind)
            except Exception as error:
                # Whatever is wrong with the answer, the edit may have been paid for.
                told = str(lost or _unknown(_("its answer was not valid HTTP")))
                raise Failure(Kind.OUTCOME_UNKNOWN, told, bytes(body)) from error
            answer = replace(answer, task=self._secrets.named(answer.task))
            if lost and not (answer.task or answer.complete):
                raise Failure(lost.kind, str(lost), bytes(body))
            return answer
        if not upload.is_whole or (status in refusals.NOT_MADE and not lost):
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
        response, body = self._ask(url, Bearer(self._key), _ANSWER_BYTES, self._read_seconds)
        status = response.status_code
        if status in (200, 201, 202):
            told = self._task_in(name, answer_text.parsed(body, content_type(response)), body)
            if told:
                return told
            # The answer has a good status, but says that there is no such task.
            status = 404
        said = self._said(response, body)
        if status in (404, 410):
            raise (TaskUnknown if status == 404 else TaskEnded)(
                Kind.ANSWER,
                refusals.quoting(
                    _(
                        "The service doesn't know the edit any more, so its result can't be "
                        "fetched. You may have been charged. If the edit was sent with "
                        "another key, enter that key, then choose Try Again."
                    ),
                    said,
                ),
            )
        if status in (401, 402, 403) or 300 <= status < 400:
            raise Failure(
                Kind.PENDING,
                _(
                    "{sentence} The service has already accepted the edit. When the problem "
                    "is solved, choose Try Again to fetch the result, at no cost."
                ).format(sentence=self._refusal(response, body, asking=True)),
            )
        wait = patience.asked_for(response.headers.get("Retry-After"))
        raise Stumbled(_answered(status, said), wait)

    def _task_in(self, name: str, told: Any, body: bytes) -> Task | None:
        """Return the state of a task; None if the answer says that there is no such task.

        `told` is the parsed JSON of `body`. Raises Stumbled if the request may be repeated,
        TaskEnded if the task ended without a result, and Failure if the answer is an error that is
        not about the task itself.
        """
        answer = replace(answers.read_parsed(told, body), task=name)
        if answers.is_done(told, answer):
            return Task(100, answer)
        said = self._tamed(complaints.words(told))
        if answers.has_stumbled(told, name):
            raise Stumbled(_answered(200, said))
        if answers.has_failed(told, name):
            raise TaskEnded(
                Kind.REFUSED,
                refusals.quoting(
                    _("The service could not make the edit. Try again, or change the prompt."), said
                ),
            )
        if answers.is_over(told):
            raise TaskEnded(
                Kind.ANSWER,
                refusals.quoting(
                    _(
                        "The service ended the edit without a result. You may have been "
                        "charged, so the edit is not sent again. Check your account with the "
                        "service before you start a new edit."
                    ),
                    said,
                ),
            )
        trouble = None if answers.is_waiting(told) else complaints.trouble(told)
        if trouble and trouble.missing:
            return None
        if trouble or answers.is_no_answer(told):
            raise Failure(
                Kind.PENDING,
                refusals.quoting(
                    _(
                        "The service accepted the edit, but reports an error when Dimilinks "
                        "asks for the result. Choose Try Again later, at no cost."
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
                return data if picture.file_type(data) else self._secrets.kept(data)[1]
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
            if not picture.file_type(data) and not is_inner:
                with contextlib.suppress(Failure, _Stale):
                    data = self._picture(answers.read(data), is_inner=True)
            if picture.file_type(data):
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
            raise links.bad_link("") from error
        for pause in pauses:
            try:
                return self._fetch(url)
            except Stumbled as stumble:
                cause = str(stumble)
                time.sleep(pause)
        if links.is_expired(url):
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
        trouble = None if answer.task else complaints.trouble(answer_text.parsed(answer.body))
        said = self._tamed(complaints.said(answer.body))
        if trouble and trouble.refused:
            return Failure(
                Kind.REFUSED,
                refusals.quoting(
                    _(
                        "The service refused the edit, so nothing was charged. Change the prompt "
                        "or the picture, then try again."
                    ),
                    said,
                ),
            )
        if trouble:
            return _unknown(_answered(200, said))
        return failure or Failure(
            Kind.ANSWER,
            refusals.quoting(
                _(
                    "The service answered without a picture. You may have been charged, so "
                    "the edit is not sent again. Check your account with the service before "
                    "you start a new edit."
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
                Bearer(self._key),
                _QUESTION_BYTES,
                _QUESTION_SECONDS,
            )
        except Stumbled as stumble:
            raise Failure(
                Kind.UNREACHABLE,
                _(
                    "The service at {host} can't be reached ({why}). Check the network and "
                    "the service address."
                ).format(host=self._host, why=stumble),
            ) from stumble
        status = response.status_code
        if status == 200 and answer_text.parsed(body) is not None:
            return
        if status in (401, 402, 403, 429) or 300 <= status < 400:
            raise self._refusal(response, body)
        if status in (200, 404, 405):
            raise Failure(Kind.SETUP, refusals.wrong_address(self._base_url, status))
        raise Failure(
            Kind.BUSY,
            refusals.quoting(
                _("The service at {host} is not working ({status}). Try again later.").format(
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
                Anonymous(),
                _QUESTION_BYTES,
                _QUESTION_SECONDS,
            )
        except Stumbled:
            return {}
        return (
            answers.prices(answer_text.parsed(body), model) if response.status_code == 200 else {}
        )

    def _ask(
        self,
        url: str,
        auth: Anonymous | Bearer,
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
            except (TooLong, requests.RequestException, *network_errors.UNWRAPPED) as error:
                raise network_errors.stumbled(session, error) from error

    def _fetch(self, url: str) -> bytes:
        with self._session() as session:
            for _hop in range(_REDIRECTS + 1):
                url = links.checked(url, self._base_url, self._tamed)
                session.limit(self._read_seconds)
                try:
                    response = session.get(
                        url,
                        auth=Anonymous(),
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
                        Kind.ANSWER, _("The picture from the service is too large to be a result.")
                    ) from error
                except requests.RequestException as error:
                    raise network_errors.stumbled(session, error) from error
                except ValueError as error:
                    raise links.bad_link("") from error
                except network_errors.UNWRAPPED as error:
                    raise network_errors.stumbled(session, error) from error
                status = response.status_code
                if status == 200:
                    return body
                clause = _answered(status, self._said(response, body))
                if status == 429 or status >= 500:
                    raise Stumbled(clause)
                if status in (403, 404, 410) or links.is_expired(url):
                    raise _Stale(clause)
                raise _not_fetched(clause)
        raise Failure(
            Kind.ANSWER,
            _(
                "The result could not be fetched, because the service's link to it was "
                "redirected too many times."
            ),
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
            return _unknown(network_errors.cause(network_errors.through_proxy(error)))
        if upload.is_begun:
            return NotAccepted(
                Kind.UNREACHABLE,
                _(
                    "The upload to {host} broke off ({why}). The service did not get the "
                    "complete edit, so nothing was charged. Check the network, then try again."
                ).format(host=self._host, why=network_errors.cause(error)),
            )
        if network_errors.is_odd(error):
            return network_errors.setup(error)
        sentence = _(
            "The service at {host} can't be reached ({why}). Nothing was sent, so nothing was "
            "charged. Check the network and the service address, then try again."
        ).format(host=self._host, why=network_errors.cause(error))
        # A proxy that refuses and an invalid certificate are unlikely to change in a moment.
        lasting = isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.SSLError))
        return (Failure if lasting else NotAccepted)(Kind.UNREACHABLE, sentence)

    def _refusal(self, response: requests.Response, body: bytes, asking: bool = False) -> Failure:
        return refusals.refusal(response, body, self._base_url, self._tamed, asking)

    def _said(self, response: requests.Response, body: bytes) -> str:
        """Return the message in an answer for display: one short line, without secrets."""
        return self._tamed(complaints.said(body, content_type(response)))

    def _tamed(self, message: Any) -> str:
        """Return a message of the service for display; "" if it is not a string."""
        return self._secrets.tamed(message)


class _Stale(Exception):
    """A link is not valid, or no longer valid. The message is a clause that says why."""


def _not_fetched(clause: str) -> Failure:
    return Failure(
        Kind.ANSWER,
        _("The edit was made, but its result could not be fetched: {why}.").format(why=clause),
    )


def _answered(status: int, said: str) -> str:
    """Return the clause for an answer that can't be used, with the service's message if any."""
    if said:
        return _("the service answered {status}: “{words}”").format(status=status, words=said)
    return _("the service answered {status}").format(status=status)


def _unknown(clause: str) -> Failure:
    return Failure(
        Kind.OUTCOME_UNKNOWN,
        _(
            "The edit was sent, but the service gave no usable answer ({why}). You may have "
            "been charged, so the edit is not sent again. Check your account with the service "
            "before you start a new edit."
        ).format(why=clause),
    )

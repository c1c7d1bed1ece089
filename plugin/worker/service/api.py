"""The client for the service: send an edit over HTTP, read the answer, and fetch the picture.

Sending an edit is a POST request, which costs money. The other requests cost nothing. They ask for
the state of a task (the service's work on an edit), check the key, and ask for the prices.

The key is sent only to the host in the settings. This module never repeats a POST and never follows
a redirect of a POST, because the user could be charged twice. If an edit fails, the module raises a
Failure, whose kind and message say whether the user has possibly been charged.
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
from plugin.worker.pictures import formats
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
"""The total time limit for connecting, as a multiple of the connect timeout. Connecting can consist
of several steps, and each step has its own timeout: one for each address of the host, one for a
proxy, and one for the TLS handshake."""
_QUESTION_SECONDS = 20.0
"""The timeout, in seconds, of requests that cost nothing. The user is possibly waiting for them."""
_QUESTION_BYTES = 4_000_000
"""If the list of models or the price list has more bytes, the request for it fails."""
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
"""How `_ask`, which sends GET requests only, repeats a failed request. A POST is never repeated."""
_FETCH_SECONDS = 60.0
"""The download of a picture fails if no bytes arrive for this many seconds."""
_ANSWER_BYTES = 4 * formats.FOREIGN_BYTES // 3 + 1_000_000
"""An answer with more bytes is not read to its end. An answer can contain the picture in base64,
which makes the picture a third larger."""
_HEAD_BYTES = 1_000_000
"""How many bytes are kept from the beginning of an answer that has more than _ANSWER_BYTES."""
_REDIRECTS = 3
"""At most this many redirects are followed to get from one link to a picture."""
_FRESH_LINKS = 2
"""The service is asked for a new link to the picture of a task at most this many times."""
_MOST_LINKS = 3
"""At most this many links in one answer are fetched. Pictures that are contained in the answer
itself don't count."""


class Service:
    """A client that sends requests to the service at `base_url` with the API key `key`.

    `base_url` is the service address, which usually ends with /v1.
    """

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
        """Send one edit, wait for the answer, and return the answer.

        Some answers contain only the name of a task, and the result must then be asked for.

        `on_sent` is called a few times a second with two numbers: the bytes sent so far, and the
        bytes to send in total. The two numbers are equal only in the last call. `on_piece` is
        called before each piece of the body is sent, with True for the last piece. If `on_piece`
        raises an exception, this piece is not sent, so the request is certainly incomplete.

        Raises NotAccepted if the service did not accept the edit and another try could succeed.
        Raises another Failure in all other cases. Whenever the service has possibly made the edit,
        the kind is OUTCOME_UNKNOWN.
        """
        body = bytearray()
        with self._session() as session:

            def leaves(last: bool) -> None:
                on_piece(last)
                # The service answers only after the last piece, so limit the time from then on.
                # Before that, don't limit the total time, so that a slow upload can continue as
                # long as bytes are sent.
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
                    # Keep only the beginning of the answer, where the name of a task usually is.
                    del body[_HEAD_BYTES:]
        status, kind = response.status_code, content_type(response)
        if 200 <= status < 300:
            try:
                answer = answers.read(bytes(body), kind)
            except Exception as error:
                # Whatever is wrong with the answer, the service has possibly charged for the edit.
                told = str(lost or refusals.unknown(_("its answer could not be read")))
                raise Failure(Kind.OUTCOME_UNKNOWN, told, bytes(body)) from error
            answer = replace(answer, task=self._secrets.named(answer.task))
            if lost and not (answer.task or answer.complete):
                raise Failure(lost.kind, str(lost), bytes(body))
            return answer
        if not upload.is_whole or (status in refusals.NOT_MADE and not lost):
            raise self._refusal(response, bytes(body))
        if named := self._secrets.named(answers.named_task(bytes(body), kind)):
            # The status means an error, for example because a proxy timed out. But the answer
            # names a task, so the result can be asked for.
            return Answer(named)
        raise lost or refusals.unknown(refusals.answered(status, self._said(response, bytes(body))))

    def task(self, name: str) -> Task:
        """Ask the service once for the state of a task.

        Raises Stumbled if the request failed and can be repeated. Raises TaskEnded if the task has
        no result and will never have one, and the subclass TaskUnknown if the service says that
        there is no such task. Raises any other Failure if the user has to solve a problem first,
        such as an invalid key, or has to wait.
        """
        url = f"{self._base_url}/tasks/{quote(name, safe='')}"
        response, body = self._ask(url, Bearer(self._key), _ANSWER_BYTES, self._read_seconds)
        status = response.status_code
        if status in (200, 201, 202):
            told = self._task_in(name, answer_text.parsed(body, content_type(response)), body)
            if told:
                return told
            # The HTTP status means success, but the answer says that there is no such task.
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
        raise Stumbled(refusals.answered(status, said), wait)

    def _task_in(self, name: str, told: Any, body: bytes) -> Task | None:
        """Return the task `name`, or None if the answer says that there is no such task.

        `told` is the parsed JSON of `body`, the bytes of the answer. Raises Stumbled if the request
        failed and can be repeated, TaskEnded if the task ended without a result, and any other
        Failure if the answer reports an error that is not about the task itself.
        """
        answer = replace(answers.read_parsed(told, body), task=name)
        if answers.is_done(told, answer):
            return Task(100, answer)
        said = self._tamed(complaints.words(told))
        if answers.has_stumbled(told, name):
            raise Stumbled(refusals.answered(200, said))
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
        """Return the bytes of the picture that the answer contains or links to.

        If there is no picture, return the first other data that was found. Secrets are removed from
        this data, because the caller saves it.

        If a link can't be fetched because of the network or the service, it is tried again. If a
        link is no longer valid, the service is asked for the task again, because the new answer
        contains a new link. Neither costs anything. Links are fetched without the key, because each
        link contains its own signature.

        Raises Failure. The kind is REFUSED or OUTCOME_UNKNOWN if the answer is an error, SETUP if
        the proxy of this machine can't be used, and ANSWER in all other cases.
        """
        for fresh in range(_FRESH_LINKS + 1):
            try:
                data = self._picture(answer)
                return data if formats.file_type(data) else self._secrets.kept(data)[1]
            except _Stale as stale:
                failure = refusals.not_fetched(str(stale))
            if not answer.task or fresh == _FRESH_LINKS:
                break
            # Ignore a failed request and use the old links again, because some services name a task
            # but don't answer requests for tasks.
            with contextlib.suppress(Stumbled, Failure):
                answer = self.task(answer.task).answer or answer
        raise failure

    def _picture(self, answer: Answer, is_inner: bool = False) -> bytes:
        """Return the bytes of the first picture that a link in the answer contains or leads to.

        Whether bytes are a picture is decided by their beginning. If no link leads to a picture,
        return the first other bytes that were found.

        A link can also lead to a second answer. The links in that inner answer are fetched, too
        (with `is_inner`), but a third answer is not searched for links. Raises Failure, or _Stale
        if a new link could help.
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
                    # Fetch the first link in several attempts, because it most likely leads to the
                    # result. Fetch each other link in one attempt.
                    is_first = followed == 1 and not is_inner
                    data = self._followed(link, patience.FETCHES if is_first else (0,))
            except (Failure, _Stale) as error:
                trouble = trouble or error
                continue
            if not formats.file_type(data) and not is_inner:
                with contextlib.suppress(Failure, _Stale):
                    data = self._picture(answers.read(data), is_inner=True)
            if formats.file_type(data):
                return data
            other = other or data
        if other:
            return other
        raise self._without_a_picture(answer, trouble)

    def _followed(self, link: str, pauses: Sequence[float]) -> bytes:
        """Fetch a link, and return the bytes that it leads to.

        There is one attempt for each of `pauses`, the seconds to wait after that attempt fails.
        Raises Failure, or _Stale if the link is no longer valid.
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
        raise refusals.not_fetched(cause)

    def _without_a_picture(
        self, answer: Answer, failure: Failure | _Stale | None
    ) -> Failure | _Stale:
        """Return the exception to raise for an answer without a picture.

        `failure` says why a link could not be used, or is None if the answer has no links. Only an
        error code proves that the service made nothing. Otherwise the service has possibly made the
        edit, so the edit is not sent again.
        """
        # If the answer names a task, ignore an error in the answer, because asking for the task
        # will show what became of the edit.
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
            return refusals.unknown(refusals.answered(200, said))
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
        """Return a file suffix, and the body of an answer without secrets, to be saved to a file.

        Pictures in the body stay unchanged.
        """
        return self._secrets.kept(body)

    def check(self) -> None:
        """Check that the service is reachable and accepts the key.

        The check asks for the list of models, because that request needs the key and costs nothing.
        Raises Failure with the reason if the service can't be used.
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
        """Return the price of one picture made by `model`, for each tier with a published price.

        Return {} if the service can't be reached or publishes no prices.
        """
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
        """Send a GET request, and return the response and the bytes of the body.

        Raises Stumbled if the request fails, if the body has more than `limit` bytes, or if the
        body is not complete within `seconds`. Raises Failure if the user must first change a
        setting of this machine.
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
                        body = session.read(response, formats.FOREIGN_BYTES, self._read_seconds)
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
                clause = refusals.answered(status, self._said(response, body))
                if status == 429 or status >= 500:
                    raise Stumbled(clause)
                if status in (403, 404, 410) or links.is_expired(url):
                    raise _Stale(clause)
                raise refusals.not_fetched(clause)
        raise Failure(
            Kind.ANSWER,
            _(
                "The result could not be fetched, because the service's link only leads to further "
                "links. Ask the service to provide the picture again."
            ),
        )

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        with Session() as session:
            session.headers["User-Agent"] = f"dimilinks-gimp/{__version__}"
            if settings.is_loopback(urlsplit(self._base_url).hostname or ""):
                # Don't use a proxy, because a proxy can't reach the loopback address of this
                # machine.
                session.trust_env = False
            elif bundle := os.environ.get("SSL_CERT_FILE"):
                # If REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE is set, too, the library requests uses
                # that variable instead.
                session.verify = bundle
            try:
                yield session
            finally:
                session.limit(0)

    def _lost(self, error: Exception, upload: Body) -> Failure:
        """Return the Failure for an edit whose answer did not arrive completely due to `error`.

        If the last piece of `upload` was sent, the service has possibly accepted the edit.
        Otherwise the service certainly has not.
        """
        if upload.is_whole:
            return refusals.unknown(network_errors.cause(network_errors.through_proxy(error)))
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
        # If the proxy or the encrypted connection fails, don't send the edit again automatically,
        # because such a problem is unlikely to disappear within seconds.
        lasting = isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.SSLError))
        return (Failure if lasting else NotAccepted)(Kind.UNREACHABLE, sentence)

    def _refusal(self, response: requests.Response, body: bytes, asking: bool = False) -> Failure:
        return refusals.refusal(response, body, self._base_url, self._tamed, asking)

    def _said(self, response: requests.Response, body: bytes) -> str:
        """Return the service's message in an answer as one short line without secrets."""
        return self._tamed(complaints.said(body, content_type(response)))

    def _tamed(self, message: Any) -> str:
        """Return a message as one short line without secrets, or "" if it is not a string."""
        return self._secrets.tamed(message)


class _Stale(Exception):
    """A link to a picture is not valid, or no longer valid, but the service can give a new link.

    The message is a clause that says why the link could not be fetched.
    """

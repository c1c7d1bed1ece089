"""Talking to the service over HTTP: one edit sent, its answer read, its picture fetched.

Beside it what costs nothing: how far a task is, whether the key is accepted, and the prices.

The key goes to the configured host alone. A POST is never sent again from here, and its
redirects are not followed; what came back wrong ends in a Failure that says what it means for
the user's money.
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
"""Times the patience with one connection: a host's addresses, a proxy and TLS take turns."""
_QUESTION_SECONDS = 20.0
"""For what costs nothing, and is asked while somebody waits for it."""
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
"""GETs alone are repeated by these."""
_FETCH_SECONDS = 60.0
"""For each piece of a picture."""
_ANSWER_BYTES = 4 * picture.FOREIGN_BYTES // 3 + 1_000_000
"""An answer may carry its picture inside, a third larger in base64."""
_HEAD_BYTES = 1_000_000
"""Of an answer that has no end, so much is read and kept."""
_REDIRECTS = 3
_FRESH_LINKS = 2
"""How often a task is asked for a new link to its picture."""
_MOST_LINKS = 3
"""Of one answer, that are followed to elsewhere."""
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")
_FAKE = ipaddress.ip_network("198.18.0.0/15")
"""Where local proxies place every public name; common with users behind a firewall."""


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


_NOT_MADE = frozenset((
    *(400, 411, 414, 415, 422, 431),  # The request can't be read, or asks for what there isn't.
    *(401, 402, 403),  # Whoever sent it may not, or has to pay first.
    *(404, 405, 410),  # Nothing at this address takes edits.
    *(301, 307, 308),  # Something at another address does: the request must be repeated there.
    413,  # It is too large.
    429,  # There were too many before it.
))  # fmt: skip
"""Statuses that turn a whole edit away before any work is done for it, so that it costs nothing.

Any other may come afterwards: 302 and 303 lead to what a POST has made, 409 speaks of an edit that
is under way, proxies answer 408, 499 and 5xx while the service goes on.
"""

_USED_UP = re.compile(
    "insufficient|exhausted_?balance|quota_?exceeded|exceeded_(current_)?quota|token_quota|"
    "billing|arrear|overdue|out_of_credit|payment_required",
    re.IGNORECASE,
)
"""Found in the code or type of an error, it means that waiting doesn't help, but paying does."""

_NEVER_SENT = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    UnicodeError,
)
"""What the client itself refuses before it connects: addresses and proxies that can't be.

Some of them can also come from an answer: what was sent by then tells.
"""

_UNWRAPPED = (OSError, TypeError, ValueError, urllib3.exceptions.HTTPError)
"""What comes out of the client as it is: of certificates that aren't there, of odd proxies."""


class Service:
    """The service at `base_url` (with /v1), for one key."""

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
        """Send one edit and wait for its answer, which may be the name of a task alone.

        `on_sent` is told some times a second how many bytes of how many went up; both are equal
        once, at the end. `on_piece` is asked before each piece leaves, with whether it is the last
        one: what it raises ends the request, which is then surely incomplete. Raises Failure; its
        kind is OUTCOME_UNKNOWN whenever the edit may have been made, and it is NotAccepted where
        another try may do.
        """
        body = bytearray()
        with self._session() as session:

            def leaves(last: bool) -> None:
                on_piece(last)
                # Only now somebody listens; an upload may take as long as it goes on.
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
                    # What names a task comes first.
                    del body[_HEAD_BYTES:]
        status, kind = response.status_code, _content_type(response)
        if 200 <= status < 300:
            try:
                answer = answers.read(bytes(body), kind)
            except Exception as error:
                # Whatever is wrong with it, it may have been paid for.
                told = str(lost or _unknown(_("its answer broke the rules of HTTP")))
                raise Failure(Failure.OUTCOME_UNKNOWN, told, bytes(body)) from error
            answer = replace(answer, task=self._secrets.named(answer.task))
            if lost and not (answer.task or answer.complete):
                raise Failure(lost.kind, str(lost), bytes(body))
            return answer
        if not upload.is_whole or (status in _NOT_MADE and not lost):
            raise self._refusal(response, bytes(body))
        if named := self._secrets.named(answers.named_task(bytes(body), kind)):
            # Something on the way lost patience; by this name the picture can be asked for.
            return Answer(named)
        raise lost or _unknown(_answered(status, self._said(response, bytes(body))))

    def task(self, name: str) -> Task:
        """Ask once how far a task is.

        Raises Stumbled where it may be asked again, TaskEnded if it has no result and never will,
        and Failure if something must be done first.
        """
        url = f"{self._base_url}/tasks/{quote(name, safe='')}"
        response, body = self._ask(url, _Bearer(self._key), _ANSWER_BYTES, self._read_seconds)
        status = response.status_code
        if status in (200, 201, 202):
            told = self._told(name, answers.parsed(body, _content_type(response)), body)
            if told:
                return told
            # It is said in an answer that is well otherwise.
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
        """Read how far a task is; None if the answer says that there is no such task.

        Raises Stumbled if it may be asked again, TaskEnded if it ended without a result, and
        Failure if there is an error that is no word on the task.
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
        """Return the bytes of the answer's picture. Raises Failure of the kind ANSWER.

        What is no picture comes without its secrets, for it is kept.

        Behind a link, it is asked for again where the network or the service stumbles, and the task
        for a fresh link where that one is not good any more: that costs nothing. The key is not
        sent along: a link carries its own signature.
        """
        for fresh in range(_FRESH_LINKS + 1):
            try:
                data = self._picture(answer)
                return data if picture.kind(data) else self._secrets.kept(data)[1]
            except _Stale as stale:
                failure = _not_fetched(str(stale))
            if not answer.task or fresh == _FRESH_LINKS:
                break
            # Whoever made it may name a task, and yet tell nothing of tasks.
            with contextlib.suppress(Stumbled, Failure):
                answer = self.task(answer.task).answer or answer
        raise failure

    def _picture(self, answer: Answer, is_inner: bool = False) -> bytes:
        """Return the first thing in an answer that is a picture by its bytes, else the first.

        A link may lead to one more answer, an inner one, with a link in it. Raises Failure, and
        _Stale where a fresh link may do.
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
                    # What is said first is what is meant; the rest is worth a single try.
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
        """Fetch what a link leads to, again after each pause where something stumbles."""
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
        """Tell an answer that refuses from one that leaves open what became of the edit.

        `failure` is what was wrong with a picture that seemed to be there, if any did. Only a
        refusal in a code for programs says that nothing was made; after anything else the edit is
        not sent again.
        """
        # Of a task the next question tells what became of it.
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
        """What of an answer may be written to the disk, and the suffix for it: no secret."""
        return self._secrets.kept(body)

    def check(self) -> None:
        """Ask for the models: that needs the key and costs nothing.

        Raises Failure that says why an edit would fail; nothing was sent then.
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
        """Return what one picture costs at each tier, as far as the service tells."""
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
        """GET something of at most `limit` bytes within `seconds`. Raises Stumbled."""
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
                # A proxy can't reach this machine's own loopback.
                session.trust_env = False
            elif bundle := os.environ.get("SSL_CERT_FILE"):
                # The two variables of requests itself come before it.
                session.verify = bundle
            try:
                yield session
            finally:
                session.limit(0)

    def _lost(self, error: Exception, upload: Body) -> Failure:
        """Tell what an edit that has no answer costs: only its last piece makes it one."""
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
        # A proxy that says no and a certificate that is wrong will be so in a moment.
        lasting = isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.SSLError))
        return (Failure if lasting else NotAccepted)(Failure.UNREACHABLE, sentence)

    def _refusal(self, response: requests.Response, body: bytes, asking: bool = False) -> Failure:
        """Tell why an edit was not accepted, or why the service may not be asked for one."""
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
        """The sentence for something at the service's address that knows nothing of edits."""
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
        """Let only the service's own host pass, or public https. Raises Failure.

        Returns the address as it may be asked for: never in clear where the service is reached
        over https. It is taken apart as the connection will do it: two readings of one link are a
        way around every rule.
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
            # Behind a proxy services often don't know how they are reached.
            return str(parts._replace(scheme="https", port=own.port))
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            return url
        if parts.scheme != "https" or not _HOST.fullmatch(parts.host or ""):
            raise _bad_link(place)
        if not _is_public(parts.host or ""):
            raise _bad_link(place)
        return url

    def _place(self, url: str) -> str:
        """The host of an address that the service gives, fit for a window; "" if it has none."""
        try:
            return self._tamed(urlsplit(url).netloc.rpartition("@")[2])
        except ValueError:
            return ""

    def _said(self, response: requests.Response, body: bytes) -> str:
        """The service's own words in an answer, fit for a window: one line, short, no secrets."""
        return self._tamed(answers.said(body, _content_type(response)))

    def _tamed(self, message: Any) -> str:
        """Words of the service as they may be shown; "" if they are none."""
        return self._secrets.tamed(message)


class Stumbled(Exception):
    """What costs nothing could not be had this time; the message is a clause that says why.

    `wait` is how many seconds the service asked for, 0 if it did not say.
    """

    def __init__(self, clause: str, wait: float = 0) -> None:
        super().__init__(clause)
        self.wait = wait


class _Stale(Exception):
    """A link that isn't good, or isn't any more; the message is a clause that says why."""


def _remedy() -> str:
    """Where the key that was refused is changed."""
    if os.environ.get("DIMILINKS_API_KEY"):
        return _("Check DIMILINKS_API_KEY, which is set in the environment.")
    return _(
        "Enter it anew in Filters ▸ Dimilinks ▸ Settings…, or by “python -m plugin key store”."
    )


def _content_type(response: requests.Response) -> str:
    return str(response.headers.get("Content-Type", ""))


def _is_expired(link: str) -> bool:
    """Whether a link says of itself that its time is over."""
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
    """The clause for an answer that is none, with the service's own words if there are any."""
    if said:
        return _("the service answered {status}: “{words}”").format(status=status, words=said)
    return _("the service answered {status}").format(status=status)


def _quoting(sentence: str, said: str) -> str:
    """Add the service's own words, if there are any, to ours."""
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
    """What keeps anything from being sent, without the address of a proxy: it has a password."""
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return _("its certificates file is missing")
    return _("there can be no such address or proxy")


def _stumbled(session: Session, error: Exception) -> Stumbled | Failure:
    """Tell why a question was in vain: for now, or until this machine's settings are mended."""
    if isinstance(error, requests.exceptions.InvalidSchema):
        return _setup(error)
    if _is_odd(error) and not isinstance(error, TooLong):
        return Stumbled(_obstacle(error))
    return Stumbled(_cause(_in_time(session, error)))


def _in_time(session: Session, error: Exception) -> Exception:
    """Return what is behind an error: the end of our patience, or the error itself."""
    return requests.ReadTimeout() if session.is_over else error


def _is_odd(error: BaseException) -> bool:
    """Whether the client itself refuses something: an address, a proxy, or an answer."""
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
    """Return the error behind one of the proxy, which had let the edit through."""
    behind = getattr(error.args[0] if error.args else None, "reason", None)
    original = getattr(behind, "original_error", None)
    return requests.ConnectionError(original) if original else error


def _cause(error: BaseException) -> str:
    """What went wrong, short and without the URL, which may carry a signature."""
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
    """Whether no address that `host` stands for is on this machine or a private network."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        # Unknown here: where a proxy does the asking, that is usual.
        return True
    addresses = [ipaddress.ip_address(str(f[4][0]).partition("%")[0]) for f in found]
    return all(
        (address.is_global and not address.is_multicast) or address in _FAKE
        for address in addresses
    )

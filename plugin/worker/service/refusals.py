"""Build messages about requests that the service rejected, or whose outcome is unknown.

The messages say why, and what the user can do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import requests

from plugin import settings
from plugin.errors import Failure, Kind, NotAccepted, UserError
from plugin.translation import _
from plugin.worker.service import answer_text, complaints, patience
from plugin.worker.service.transport import content_type

NOT_MADE = frozenset((
    *(400, 411, 414, 415, 422, 431),  # The request is malformed or asks for something unsupported.
    *(401, 402, 403),  # The sender has no permission or has to pay first.
    *(404, 405, 410),  # There is no endpoint for edits at this address.
    *(301, 307, 308),  # The endpoint has moved: the request must be repeated there.
    413,  # The request is too large.
    429,  # There were too many requests.
))  # fmt: skip
"""HTTP status codes with which a service rejects an edit before it makes anything, so that the edit
costs nothing.

After any other status, the edit was possibly made or begun: 302 and 303 redirect to the result of
a POST, 409 is about an edit in progress, and proxies answer 408, 499 and 5xx while the service is
still making the edit.
"""

_USED_UP = re.compile(
    "insufficient|exhausted_?balance|quota_?exceeded|exceeded_(current_)?quota|token_quota|"
    "billing|arrear|overdue|out_of_credit|payment_required",
    re.IGNORECASE,
)
"""A pattern for error codes and types that mean that the user has to top up the balance first."""


def refusal(
    response: requests.Response,
    body: bytes,
    base_url: str,
    tamed: Callable[[str], str],
    asking: bool = False,
) -> Failure:
    """Return the Failure for an answer that rejects a request to the service at `base_url`.

    `tamed` is a function that returns a text from the service without secrets. `asking` says that
    the request asked for the result of an edit that the service had already accepted.
    """
    status = response.status_code
    said = tamed(complaints.said(body, content_type(response)))
    told = answer_text.parsed(body, content_type(response))
    code = complaints.error_code(told)
    if status == 401:
        text = _("The service doesn't accept the API key. {remedy}").format(remedy=_remedy())
    elif status == 402 or _USED_UP.search(" ".join(complaints.error_names(told))):
        text = _("Your balance at the service is used up. Top it up, then try again.")
    elif status == 403 and code == "model_not_allowed":
        text = _(
            "This API key is not allowed to use the model. Allow the model for this key at "
            "the service, or enter another key. Then try again."
        )
    elif status == 413:
        text = _(
            "The upload was too large for the service, so nothing was charged. Choose a "
            "smaller resolution, then try again."
        )
        said = ""
    elif status == 429:
        wait = patience.asked_for(response.headers.get("Retry-After"))
        text = (
            patience.not_before(wait)
            if wait > patience.LONGEST
            else _("The service is busy. Wait a minute, then try again.")
        )
        return NotAccepted(Kind.BUSY, quoting(text, said), wait)
    elif 300 <= status < 400:
        address = _moved_to(response, base_url)
        if asking:
            text = _(
                "The service has moved, so the result can't be fetched now. Try again later. If "
                "this doesn't help, ask the service for the result of this edit."
            )
        elif address and tamed(address) == address:
            text = _(
                "The service has moved. Enter {address} as the service address in Filters ▸ "
                "Dimilinks ▸ Settings… (or DIMILINKS_BASE_URL), then try again."
            ).format(address=address)
        else:
            text = _(
                "The service has moved. Ask the service for its new address, enter it in "
                "Filters ▸ Dimilinks ▸ Settings… (or DIMILINKS_BASE_URL), then try again."
            )
        said = ""
    elif asking:
        text = _(
            "The result can't be fetched: the service refuses this API key for it ({status}). If "
            "the edit was sent with another key, enter that key in Filters ▸ Dimilinks ▸ Settings…."
        ).format(status=status)
    elif status in (404, 405) and not (code and urlsplit(base_url).path):
        text = wrong_address(base_url, status)
    else:
        text = _(
            "The service refused this request ({status}), so nothing was charged. Change the "
            "prompt or the settings, then try again."
        ).format(status=status)
    return Failure(Kind.REFUSED, quoting(text, said))


def wrong_address(base_url: str, status: int) -> str:
    """Return the message for an address where a server answers that is not the service."""
    if not urlsplit(base_url).path:
        return _(
            "There is a server at {host}, but it does not offer this service ({status}). The "
            "address usually ends with /v1. Set it to {address}/v1 in Filters ▸ Dimilinks ▸ "
            "Settings… (or DIMILINKS_BASE_URL), then try again."
        ).format(host=urlsplit(base_url).netloc, status=status, address=base_url)
    return _(
        "There is a server at {host}, but it does not offer this service ({status}). Check the "
        "service address, which usually ends with /v1."
    ).format(host=urlsplit(base_url).netloc, status=status)


def _moved_to(response: requests.Response, base_url: str) -> str:
    """Return the service address to which a redirect of a request to `base_url` leads.

    Return "" if the redirect doesn't lead to the same endpoint at another address, or if this
    address can't be entered in the settings.
    """
    asked = response.url or ""
    endpoint = asked.removeprefix(base_url)
    try:
        target = urlsplit(urljoin(asked, response.headers.get("Location", "")))
        if endpoint == asked or not endpoint or not target.path.endswith(endpoint):
            return ""
        path = target.path.removesuffix(endpoint)
        address = settings.check_base_url(f"{target.scheme}://{target.netloc}{path}")
    except (ValueError, UserError):
        return ""
    return "" if address.lower() == base_url.lower() or ";" in path else address


def _remedy() -> str:
    """Return a sentence that says where the user can change the key that was refused."""
    if os.environ.get("DIMILINKS_API_KEY"):
        return _("Correct the API key in the environment variable DIMILINKS_API_KEY.")
    return _("Open Filters ▸ Dimilinks ▸ Settings… and enter the key again.")


def quoting(sentence: str, said: str) -> str:
    """Return `sentence`, followed by `said`, the service's message, if `said` is not empty."""
    if not said:
        return sentence
    return _("{sentence} The service says: “{words}”.").format(sentence=sentence, words=said)


def not_fetched(clause: str) -> Failure:
    """Return the Failure for an edit that was made, but whose picture could not be fetched.

    `clause` says why.
    """
    return Failure(
        Kind.ANSWER,
        _("The edit was made, but its result could not be fetched: {why}.").format(why=clause),
    )


def answered(status: int, said: str) -> str:
    """Return the clause that says with which HTTP status the service answered.

    If `said`, the service's message, is not empty, the clause also quotes it.
    """
    if said:
        return _("the service answered {status}: “{words}”").format(status=status, words=said)
    return _("the service answered {status}").format(status=status)


def unknown(clause: str) -> Failure:
    """Return the Failure for an edit that was sent, and to which no usable answer came.

    `clause` says what came instead.
    """
    return Failure(
        Kind.OUTCOME_UNKNOWN,
        _(
            "The edit was sent, but the service gave no usable answer ({why}). You may have "
            "been charged, so the edit is not sent again. Check your account with the service "
            "before you start a new edit."
        ).format(why=clause),
    )

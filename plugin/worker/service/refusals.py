"""Build messages that say why the service rejected a request, and what the user can do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import requests

from plugin.errors import Failure, Kind, NotAccepted
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
        place = tamed(_host(response.headers.get("Location", "")))
        text = (
            _(
                "The service has moved and now answers at {place}. Change the service address "
                "to this host in Filters ▸ Dimilinks ▸ Settings… (or DIMILINKS_BASE_URL), "
                "then try again."
            ).format(place=place)
            if place
            else _(
                "The service has moved. Ask the service for its new address, enter it in "
                "Filters ▸ Dimilinks ▸ Settings… (or DIMILINKS_BASE_URL), then try again."
            )
        )
        said = ""
    elif asking:
        text = _(
            "The service does not let this API key see the edit ({status}). If the edit was "
            "sent with another key, enter that key in Filters ▸ Dimilinks ▸ Settings…."
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
            "There is a server at {host}, but it is not this service ({status}). The address "
            "usually ends with /v1. Set it to {address}/v1 in Filters ▸ Dimilinks ▸ Settings… "
            "(or DIMILINKS_BASE_URL), then try again."
        ).format(host=urlsplit(base_url).netloc, status=status, address=base_url)
    return _(
        "There is a server at {host}, but it is not this service ({status}). Check the "
        "address, which usually ends with /v1."
    ).format(host=urlsplit(base_url).netloc, status=status)


def _host(url: str) -> str:
    """Return the host of a URL, or "" if the URL contains no host."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _remedy() -> str:
    """Return a sentence that says where the user can change the key that was refused."""
    if os.environ.get("DIMILINKS_API_KEY"):
        return _("Check the environment variable DIMILINKS_API_KEY.")
    return _("Open Filters ▸ Dimilinks ▸ Settings… and enter the key again.")


def quoting(sentence: str, said: str) -> str:
    """Return `sentence`, followed by `said`, the service's message, if `said` is not empty."""
    if not said:
        return sentence
    return _("{sentence} The service says: “{words}”.").format(sentence=sentence, words=said)

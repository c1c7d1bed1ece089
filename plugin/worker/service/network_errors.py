"""Say why a request failed, judging by the types of the exceptions that libraries raise."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator

import requests
import urllib3

from plugin.errors import Failure, Kind
from plugin.translation import _
from plugin.worker.service.transport import Session, TooLong

_NEVER_SENT = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    UnicodeError,
)
"""Exceptions that requests raises before it connects, if an address or a proxy is not valid.

An invalid answer can cause some of these exceptions, too. Callers tell the two cases apart by the
number of bytes that have been sent.
"""

UNWRAPPED = (OSError, TypeError, ValueError, urllib3.exceptions.HTTPError)
"""Exceptions that requests passes on without turning them into a RequestException, for example
because of a missing certificate file or an unusual proxy."""


class Stumbled(Exception):
    """A request that costs nothing has failed and can be repeated.

    The message is a clause that says why it failed. `wait` is the number of seconds that the
    service asked to wait, or 0 if the service did not ask for a pause.
    """

    def __init__(self, clause: str, wait: float = 0) -> None:
        super().__init__(clause)
        self.wait = wait


def setup(error: BaseException) -> Failure:
    if isinstance(error, requests.exceptions.InvalidSchema):
        text = _(
            "Nothing could be sent, because this computer uses a SOCKS proxy, which Dimilinks does "
            "not support. Most programs with a SOCKS proxy also offer an HTTP proxy: set "
            "HTTPS_PROXY to its address. Or, to use no proxy, add the host of the service to "
            "NO_PROXY. Then try again."
        )
    else:
        text = _(
            "Nothing could be sent: {why}. Check the service address and the proxy and "
            "certificate settings of this computer, then try again."
        ).format(why=_obstacle(error))
    return Failure(Kind.SETUP, text)


def _obstacle(error: BaseException) -> str:
    """Return the clause that says why nothing can be sent.

    The text of `error` is not quoted, because it can contain the address and password of a proxy.
    """
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return _("the certificate file is missing")
    return _("the address or the proxy is not valid")


def stumbled(session: Session, error: Exception) -> Stumbled | Failure:
    """Return the exception that the caller raises for a GET request that failed with `error`.

    The exception is a Failure if the user must first change a setting of this machine. Otherwise
    it is Stumbled, which means that the request can be repeated.
    """
    if isinstance(error, requests.exceptions.InvalidSchema):
        return setup(error)
    if is_odd(error) and not isinstance(error, TooLong):
        return Stumbled(_obstacle(error))
    return Stumbled(cause(in_time(session, error)))


def in_time(session: Session, error: Exception) -> Exception:
    """Return a ReadTimeout if the time limit of the session has been reached, otherwise `error`.

    When the time limit is reached, the session shuts its connections down. Libraries then raise
    various exceptions that don't mention the time limit.
    """
    return requests.ReadTimeout() if session.is_over else error


def is_odd(error: BaseException) -> bool:
    """Return whether the client's libraries rejected an address, a proxy or an answer as invalid.

    Return False if the network caused the error.
    """
    return isinstance(error, _NEVER_SENT) or not isinstance(error, requests.RequestException)


def through_proxy(error: Exception) -> Exception:
    """Return the connection error inside a ProxyError, or `error` itself if there is none inside.

    Call this for an edit that was sent completely. The proxy let the edit through, so it is not
    the cause of the error.
    """
    behind = getattr(error.args[0] if error.args else None, "reason", None)
    original = getattr(behind, "original_error", None)
    return requests.ConnectionError(original) if original else error


def cause(error: BaseException) -> str:
    """Return a short clause that says what `error` means.

    The clause doesn't contain the URL, because some URLs contain a secret signature.
    """
    if isinstance(error, TooLong):
        return _("its answer was too long")
    if is_odd(error):
        return _("its answer could not be read")
    if isinstance(error, requests.ConnectTimeout):
        return _("the connection timed out")
    if isinstance(error, requests.Timeout):
        return _("no answer in time")
    inner = [*_inside(error)]

    def holds(*types: type[BaseException]) -> bool:
        return any(isinstance(each, types) for each in inner)

    if isinstance(error, requests.exceptions.SSLError):
        if holds(ssl.SSLCertVerificationError):
            return _("its certificate could not be verified")
        return _("the encrypted connection failed")
    if isinstance(error, requests.exceptions.ProxyError):
        return _("the proxy could not be used")
    if holds(socket.gaierror, urllib3.exceptions.NameResolutionError):
        return _("the server's name was not found")
    if holds(ConnectionRefusedError):
        return _("the connection was refused")
    # Test this type first, because it is a subclass of ConnectionResetError.
    if holds(http.client.RemoteDisconnected):
        return _("the connection was closed without an answer")
    if holds(ConnectionResetError):
        return _("the other side broke off the connection")
    if holds(http.client.IncompleteRead, urllib3.exceptions.IncompleteRead):
        return _("the answer was cut off")
    return _("the connection was lost")


def _inside(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that requests and urllib3 have nested inside it."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]

"""Check the links in answers. Only links to the service itself or to public hosts are allowed."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import urllib3

from plugin.errors import Failure, Kind
from plugin.translation import _

_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")
_FAKE = ipaddress.ip_network("198.18.0.0/15")
"""A network whose addresses count as public, because some local proxies let every public host name
resolve to an address in it. Such proxies are common among users behind a national firewall."""


def checked(url: str, base_url: str, tamed: Callable[[str], str]) -> str:
    """Check a link, and return the URL to fetch. Raises Failure if the link must not be fetched.

    Allowed links lead to the service at `base_url`, or over https to a public host. If `base_url`
    begins with https, an http link to the service's host is changed to https.

    The link is parsed by the same function with which urllib3 connects. If two parsers understood
    a link differently, a crafted link could lead to a host that was not checked.

    `tamed` is a function that removes secrets from a text, for the message of the Failure.
    """
    try:
        parts, own = urllib3.util.parse_url(url), urllib3.util.parse_url(base_url)
    except ValueError as error:
        raise bad_link("") from error
    place = tamed(f"{parts.scheme}://{parts.host or ''}")
    if parts.auth or not url.isascii() or not url.isprintable() or "\\" in url:
        raise bad_link(place)
    if (parts.scheme, own.scheme, parts.host) == ("http", "https", own.host) and (
        parts.port in (None, 80, own.port)
    ):
        # A service behind a proxy often doesn't know that clients reach it over https.
        return str(parts._replace(scheme="https", port=own.port))
    if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
        return url
    if parts.scheme != "https" or not _HOST.fullmatch(parts.host or ""):
        raise bad_link(place)
    if not _is_public(parts.host or ""):
        raise bad_link(place)
    return url


def is_expired(link: str) -> bool:
    """Return whether a link has expired: whether the time in its query value `exp` has passed.

    `exp` is in milliseconds since 1970. A link without `exp` has not expired.
    """
    expiry = parse_qs(urlsplit(link).query).get("exp", [""])[0]
    return bool(re.fullmatch("[0-9]{1,16}", expiry)) and int(expiry) <= time.time() * 1000


def bad_link(place: str) -> Failure:
    return Failure(
        Kind.ANSWER,
        _(
            "The service's link to the result leads to a place that Dimilinks does not trust "
            "({place}), so it was not followed. Ask the service to provide the picture again."
        ).format(place=place)
        if place
        else _(
            "The service's link to the result is not valid, so it was not followed. Ask the "
            "service to provide the picture again."
        ),
    )


def _is_public(host: str) -> bool:
    """Return whether `host` is on the public internet, not on this machine or a private network.

    A name that can't be resolved also counts as public.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        # Often this machine can't resolve names, because a proxy does so.
        return True
    addresses = [ipaddress.ip_address(str(f[4][0]).partition("%")[0]) for f in found]
    return all(
        (address.is_global and not address.is_multicast) or address in _FAKE
        for address in addresses
    )

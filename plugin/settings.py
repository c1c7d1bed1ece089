"""The user's settings, the service's address, and the place of the API key.

Environment variables take precedence over the settings file, `settings.json` in the data folder.
The key is never in this file, which only records where the key is. Only the worker accesses the
system's keyring.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugin import lock, storage
from plugin.errors import Unusable, UserError
from plugin.limits import TIERS
from plugin.translation import _

DOCUMENTED_BASE_URLS = ("https://dimilinks.com/v1", "https://api-direct.dimilinks.com/v1")
"""The first is the default."""
SANDBOX = "sandbox"
EDITS, ASYNC = "edits", "async"
ROUTES = (EDITS, ASYNC)
"""The routes, which are the ways to send an edit.

The first one is the default: the service answers the request with the picture. With the other one,
the service names a task at once, and its result can be asked for even after the connection broke.
"""

ENVIRONMENT, KEYRING, FILE = "environment", "keyring", "file"
"""The places where the key can be."""

MASK_LINE = (
    "The last picture is a mask for the first one: edit only where it is white (transparent), and "
    "keep everything exactly as it is where it is black."
)
"""This is added to the prompt of an edit with a mask, if the user has chosen that."""
MOST_KEEP_DAYS = 3650
_KEEP_DAYS = 30
_CONNECT_SECONDS = 1, 10, 120
"""Lowest, default and highest value, in seconds."""
_READ_SECONDS = 30, 600, 3600
_PATIENCE = 10.0
"""Seconds to wait for another process that changes the settings."""


def _file() -> Path:
    return storage.home() / "settings.json"


def load() -> dict[str, Any]:
    """Return the saved settings, or {} if there is no settings file.

    Raises Unusable if the file can't be read. Defaults are not used in this case: they could send
    the key to an address that the user has not chosen, or remove edits that are to be kept.
    """
    path = _file()
    try:
        saved = json.loads(storage.read_private(path))
        if isinstance(saved, dict):
            return saved
        why = _("it is not a JSON object")
    except FileNotFoundError:
        if not path.is_symlink():
            return {}
        why = _("it is a broken link")
    except OSError as error:
        why = error.strerror or str(error)
    except json.JSONDecodeError as error:
        why = _("line {line} is not valid JSON").format(line=error.lineno)
    except (ValueError, RecursionError):
        why = _("it is not UTF-8 text, or nested too deeply")
    raise Unusable(
        _(
            "The settings file {path} can't be read ({why}). Nothing is sent or removed until "
            "this is fixed. Correct the file, or choose Start Over in Filters ▸ Dimilinks ▸ "
            "Settings…, which keeps the old file under another name."
        ).format(path=path, why=why)
    )


def comforts() -> dict[str, Any]:
    """Return the saved settings, or {} if they can't be read.

    Use this for values that may be lost without harm, such as the position of a window.
    """
    try:
        return load()
    except Unusable:
        return {}


def save(**changes: Any) -> None:
    """Add `changes` to the saved settings. Raises Unusable, OSError."""
    change(lambda saved: {**saved, **changes})


def change(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Call `changed` with the saved settings, and save what it returns.

    A lock keeps other processes from changing the settings in between. Settings that can't be read
    are not replaced. Raises Unusable, OSError.
    """
    with lock.held(storage.locks_folder() / "settings", _PATIENCE) as ours:
        if not ours:
            raise Unusable(_("Another program is changing the settings. Try again in a moment."))
        storage.write_private(_file(), json.dumps(changed(load()), indent=1))


def set_aside() -> Path:
    """Rename the settings file, so that the defaults apply, and return its new path.

    Only call this if the user asks for it. Raises OSError.
    """
    with lock.held(storage.locks_folder() / "settings", _PATIENCE):
        name = f"settings.json.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        aside, number = storage.home() / name, 1
        while os.path.lexists(aside):
            number += 1
            aside = storage.home() / f"{name}-{number}"
        _file().rename(aside)
        storage.sync_folder(aside.parent)
        return aside


def _text(name: str) -> str:
    """Return the setting `name`, a string, or "" if it is not set. Raises Unusable."""
    saved = load().get(name, "")
    if not isinstance(saved, str):
        raise _wrong(name)
    return saved


def _wrong(name: str) -> Unusable:
    # The message does not contain the value, which may be a key that was entered by mistake.
    return Unusable(
        _(
            "The setting “{name}” in {path} has an invalid value. Choose it again in Filters "
            "▸ Dimilinks ▸ Settings…, or correct the file."
        ).format(name=name, path=_file())
    )


def base_url() -> str:
    """Return the service's address, usually with /v1, or "sandbox".

    Raises UserError if the address or the settings can't be used. The
    key must not be sent unencrypted, nor to a service that the user has not chosen.
    """
    chosen = os.environ.get("DIMILINKS_BASE_URL") or _text("base_url")
    return check_base_url(chosen or DOCUMENTED_BASE_URLS[0])


_ENDPOINT = re.compile(r"/images/(edits|generations)$")
"""The path that follows the address in the examples of the service's documentation."""


def check_base_url(text: str) -> str:
    """Return an address that the user has entered as it is used, or "sandbox".

    Slashes at its end are removed, and so is the path of the endpoint for edits, which is often
    copied from an example. Raises UserError if it is not the address
    of a service.
    """
    url = _ENDPOINT.sub("", text.strip().rstrip("/")).rstrip("/")
    if url == SANDBOX:
        return SANDBOX
    if not url.isprintable() or " " in url or "\\" in url:
        raise UserError(
            _(
                "The service address contains spaces, backslashes or invisible characters. "
                "Type it again."
            )
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _no_address(url) from error
    if "@" in parts.netloc:
        # The password in such an address would be shown in every message.
        raise UserError(
            _(
                "The service address must not contain a name or password. Remove the part "
                "between // and @, and enter the API key separately, or set DIMILINKS_API_KEY."
            )
        )
    if "?" in url or "#" in url:
        # The query or fragment may contain a key, so it is not repeated in the message.
        raise UserError(
            _(
                "The service address must not contain “?” or “#”. Enter the part before it. "
                "The address usually ends with /v1."
            )
        )
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return url
    raise _no_address(url)


def _no_address(url: str) -> UserError:
    return UserError(
        _(
            "The service address “{url}” can't be used. It must begin with https:// (http:// "
            "is allowed for this computer only), or be the word “sandbox”."
        ).format(url=url)
    )


def service_is_set_by_environment() -> bool:
    """Return whether an environment variable overrides the setting of the service's address."""
    return bool(os.environ.get("DIMILINKS_BASE_URL"))


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine, without a DNS query."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def route() -> str:
    """Return the route by which edits are sent, one of ROUTES.

    Raises UserError if another one is set.
    """
    chosen = os.environ.get("DIMILINKS_ROUTE") or _text("route") or ROUTES[0]
    if chosen not in ROUTES:
        raise UserError(
            _(
                "“{route}” is not a known way of sending. Choose one in Filters ▸ Dimilinks ▸ "
                "Settings…, or set DIMILINKS_ROUTE to one of these: {routes}."
            ).format(route=chosen, routes=", ".join(ROUTES))
        )
    return chosen


def route_is_set_by_environment() -> bool:
    """Return whether an environment variable overrides the setting of the route."""
    return bool(os.environ.get("DIMILINKS_ROUTE"))


def connect_seconds() -> float:
    """Return the time limit for connecting to the service, in seconds."""
    return _seconds("connect_seconds", *_CONNECT_SECONDS)


def read_seconds() -> float:
    """Return the time limit for an answer, in seconds.

    Edits that took 280 seconds, and proxies with a limit of 600 seconds, have been observed.
    """
    return _seconds("read_seconds", *_READ_SECONDS)


def _seconds(name: str, least: float, default: float, most: float) -> float:
    chosen = comforts().get(name)
    if isinstance(chosen, bool) or not isinstance(chosen, (int, float)):
        return default
    return chosen if least <= chosen <= most else default


def ceiling() -> str:
    """Return the largest tier that an automatic resolution may choose, one of limits.TIERS.

    Raises Unusable if the setting is invalid. There is no default in this case, because the tier
    determines the price.
    """
    chosen = _text("ceiling") or TIERS[-1]
    if chosen not in TIERS:
        raise _wrong("ceiling")
    return chosen


def explains_mask() -> bool:
    """Return whether MASK_LINE is added to the prompt of an edit with a mask.

    Return False if the setting can't be read. Fitting a result that has arrived does not need it,
    and `check_service` prevents edits from being sent in this case.
    """
    return comforts().get("explain_mask") is True


def keep_days() -> int:
    """Return for how many days edits are kept on the disk. 0 means for ever.

    Raises Unusable if the settings can't be read or the value is invalid.
    """
    chosen = load().get("keep_days", _KEEP_DAYS)
    whole = isinstance(chosen, int) and not isinstance(chosen, bool)
    if not whole or not 0 <= chosen <= MOST_KEEP_DAYS:
        raise _wrong("keep_days")
    return int(chosen)


def key_file() -> Path:
    """Return the path of the file for a key that is neither in the environment nor in the keyring.

    The file need not exist. Raises Unusable.
    """
    return storage.home() / "key"


def key_place() -> str:
    """Return where the key is: "environment", "keyring", "file", or "" if there is none.

    "keyring" is taken from the settings. The keyring is not accessed, and may have lost the key
    meanwhile. Raises Unusable.
    """
    if os.environ.get("DIMILINKS_API_KEY", "").strip():
        return ENVIRONMENT
    noted = _text("key_in")
    if noted not in ("", KEYRING, FILE):
        raise _wrong("key_in")
    if noted == KEYRING:
        return KEYRING
    try:
        return FILE if key_file().stat().st_size else ""
    except FileNotFoundError:
        return ""
    except Unusable:
        raise
    except OSError as error:
        raise _unreadable_key(error) from error


def _unreadable_key(error: Exception) -> Unusable:
    why = error.strerror if isinstance(error, OSError) else error
    return Unusable(
        _(
            "The key file {path} can't be read: {why}. Open Filters ▸ Dimilinks ▸ Settings… "
            "and enter the key again."
        ).format(path=key_file(), why=why)
    )


def api_key() -> str:
    """Return the key from the environment, else from the file `key`, or "" if there is none.

    A key in the keyring is only available to the worker, through its module `key_store`. Raises
    UserError if the file can't be read or the text can't be a key.
    """
    key = os.environ.get("DIMILINKS_API_KEY", "").strip()
    if not key:
        try:
            key = storage.read_private(key_file())
        except FileNotFoundError:
            return ""
        except Unusable:
            raise
        except (OSError, ValueError) as error:
            raise _unreadable_key(error) from error
    return check_key(key)


_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}
_NO_KEY = re.compile(r"""["'`<>{}()$\\]""")
_VARIABLE = re.compile(r"(export\s+)?[A-Z][A-Z0-9]*_[A-Z0-9_]*=[^=]", re.ASCII)


def check_key(text: str) -> str:
    """Return the key in a text that was typed or copied, or "" if the text is empty.

    Quotes around the key, "Bearer" or "Authorization: Bearer" before it, and whitespace and
    invisible characters at both ends are removed. Raises UserError if
    the rest can't be a key. The message never contains the text.
    """
    key = _trimmed(text)
    for _each in range(2):
        # Twice, because the quotes may enclose the word Bearer, or follow it.
        if len(key) > 1 and _QUOTES.get(key[0]) == key[-1]:
            key = _trimmed(key[1:-1])
        key = _trimmed(re.sub(r"^(authorization:\s*)?bearer\s+", "", key, flags=re.IGNORECASE))
    if _VARIABLE.match(key):
        raise UserError(
            _(
                "This is a variable assignment, not just the API key. Copy only the part "
                "after the = sign."
            )
        )
    if "*" in key or "…" in key or "•" in key or "..." in key:
        raise UserError(
            _(
                "This is a masked API key, not the complete one. Copy the complete key, or "
                "create a new one at the service."
            )
        )
    if not key.isascii() or not key.isprintable() or " " in key or _NO_KEY.search(key):
        raise UserError(
            _(
                "The API key contains characters that no key has. Copy the key again, without "
                "any other text."
            )
        )
    return key


def _trimmed(text: str) -> str:
    """Return `text` without whitespace and invisible characters at both ends."""
    first, last = 0, len(text)
    while first < last and _is_unseen(text[first]):
        first += 1
    while last > first and _is_unseen(text[last - 1]):
        last -= 1
    return text[first:last]


def _is_unseen(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def check_service() -> None:
    """Check, before anything is exported, whether the settings allow an edit to be sent.

    Raises UserError if they don't.
    """
    # Settings that no environment variable overrides must be valid in any case.
    if not isinstance(load().get("explain_mask", False), bool):
        raise _wrong("explain_mask")
    ceiling()
    route()
    if base_url() == SANDBOX or key_place() == KEYRING:
        return
    if not api_key():
        raise UserError(
            _(
                "There is no API key. Enter it in Filters ▸ Dimilinks ▸ Settings…, set "
                "DIMILINKS_API_KEY, or save it in the file {path}. To try Dimilinks without a "
                "key, choose “sandbox” as the service address (in the settings, or with "
                "DIMILINKS_BASE_URL)."
            ).format(path=key_file())
        )

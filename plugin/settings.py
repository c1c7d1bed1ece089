"""Read and save the user's settings, among them the service address. Find the API key.

The settings are in the file `settings.json` in the data folder. The environment variables
DIMILINKS_BASE_URL, DIMILINKS_ROUTE and DIMILINKS_API_KEY take precedence over the settings file and
the stored key. The settings file never contains the key, but says where the key is stored. Only the
worker process accesses the system's keyring, which stores passwords.
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
"""The addresses that the service's documentation gives. The first one is the default."""
SANDBOX = "sandbox"
"""The word that the user enters instead of an address to use the sandbox, a stand-in service."""
EDITS, ASYNC = "edits", "async"
ROUTES = (EDITS, ASYNC)
"""The routes, which are the ways to send an edit.

With EDITS, the default, the service answers the request with the picture. With ASYNC, the service
answers at once with the name of a task. The worker then asks for the result of this task, which is
possible even after the connection broke.
"""

ENVIRONMENT, KEYRING, FILE = "environment", "keyring", "file"
"""The places where the key can be: the environment variable DIMILINKS_API_KEY, the system's
keyring, and the file `key` in the data folder."""

MASK_LINE = (
    "The last picture is a mask for the first one: edit only where it is white (transparent), and "
    "keep everything exactly as it is where it is black."
)
"""The text that the worker adds to the prompt of an edit with a mask, if the user has chosen so."""
MOST_KEEP_DAYS = 3650
"""The user can choose to keep edits on the disk for at most this many days."""
_KEEP_DAYS = 30
"""Edits are kept for this many days by default."""
_CONNECT_SECONDS = 1, 10, 120
"""The lowest, default and highest time limit for connecting to the service, in seconds."""
_READ_SECONDS = 30, 600, 3600
"""The lowest, default and highest time limit for an answer of the service, in seconds."""
_PATIENCE = 10.0
"""How many seconds to wait while another process is changing the settings."""


def _file() -> Path:
    return storage.home() / "settings.json"


def load() -> dict[str, Any]:
    """Return the saved settings, or {} if there is no settings file.

    Raises Unusable if the file can't be read. The defaults are not used instead: with them, the key
    could be sent to an address that the user has not chosen, or edits could be removed that the
    user wants to keep.
    """
    path = _file()
    try:
        saved = json.loads(storage.read_private(path))
        if isinstance(saved, dict):
            return saved
        why = _("it contains no settings")
    except FileNotFoundError:
        if not path.is_symlink():
            return {}
        why = _("it is a broken link")
    except OSError as error:
        why = error.strerror or str(error)
    except json.JSONDecodeError as error:
        why = _("line {line} contains a mistake").format(line=error.lineno)
    except (ValueError, RecursionError):
        why = _("it is damaged, or not saved as UTF-8 text")
    raise Unusable(
        _(
            "The settings file {path} can't be read ({why}). Nothing is sent or removed until "
            "this is fixed. Correct the file, or choose Start Over in Filters ▸ Dimilinks ▸ "
            "Settings…, which keeps the old file under another name."
        ).format(path=path, why=why)
    )


def comforts() -> dict[str, Any]:
    """Return the saved settings, or {} if they can't be read.

    Call this function only for settings that do no harm if they are missing, such as the position
    of a window.
    """
    try:
        return load()
    except Unusable:
        return {}


def save(**changes: Any) -> None:
    """Save the settings in `changes`, and keep all other settings.

    Raises Unusable and OSError in the same cases as `change`.
    """
    change(lambda saved: {**saved, **changes})


def change(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Call the function `changed` with the saved settings, and save the settings that it returns.

    A lock keeps other processes from changing the settings meanwhile. Raises Unusable, without
    changing the settings file, if the file can't be read or another process holds the lock too
    long. Raises OSError if the file can't be written.
    """
    with lock.held(storage.locks_folder() / "settings", _PATIENCE) as ours:
        if not ours:
            raise Unusable(_("Another program is changing the settings. Try again in a moment."))
        storage.write_private(_file(), json.dumps(changed(load()), indent=1))


def set_aside() -> Path:
    """Rename the settings file, and return the new path. From then on, the defaults apply.

    Call this function only if the user asks to start over. Raises OSError if the file can't be
    renamed.
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
    """Return the string that is saved as the setting `name`, or "" if the setting is missing.

    Raises Unusable if the saved value is not a string, or if the settings file can't be read.
    """
    saved = load().get(name, "")
    if not isinstance(saved, str):
        raise _wrong(name)
    return saved


def _wrong(name: str) -> Unusable:
    # Don't quote the value in the message, because the user has possibly entered the API key as the
    # value by mistake.
    return Unusable(
        _(
            "The setting “{name}” in {path} has an invalid value. Choose it again in Filters "
            "▸ Dimilinks ▸ Settings…, or correct the file."
        ).format(name=name, path=_file())
    )


def base_url() -> str:
    """Return the service address, which usually ends with /v1, or "sandbox".

    Raises UserError if the address is not valid or the settings can't be read. Otherwise the key
    could be sent without encryption, or to a service that the user has not chosen.
    """
    chosen = os.environ.get("DIMILINKS_BASE_URL") or _text("base_url")
    return check_base_url(chosen or DOCUMENTED_BASE_URLS[0])


_ENDPOINT = re.compile(r"/images/(edits|generations)$")
"""A pattern for the path of an endpoint, which follows the service address in the examples of the
service's documentation."""


def check_base_url(text: str) -> str:
    """Return the service address in `text`, which the user entered, or "sandbox".

    Slashes at the end are removed. The path of an endpoint at the end is removed as well, because
    users often copy it together with the address from an example. Raises UserError if `text` can't
    be a service address.
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
        # Reject an address with a password, because messages that quote the address would show the
        # password.
        raise UserError(
            _(
                "The service address must not contain a name or password. Remove the part "
                "between // and @, and enter the API key separately, or set DIMILINKS_API_KEY."
            )
        )
    if "?" in url or "#" in url:
        # Don't quote the address in the message, because the text after “?” or “#” possibly
        # contains a key.
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
    """Return whether `host` is "localhost" or a loopback address, that is, this machine itself.

    Other host names count as other machines, without a DNS query.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def route() -> str:
    """Return the route by which edits are sent, one of ROUTES.

    Raises UserError if the chosen route is none of these, or if the settings can't be read.
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
    """Return the time limit for an answer of the service, in seconds.

    The default of 600 seconds comes from experience: some edits took 280 seconds, and some proxies
    end a request after 600 seconds.
    """
    return _seconds("read_seconds", *_READ_SECONDS)


def _seconds(name: str, least: float, default: float, most: float) -> float:
    chosen = comforts().get(name)
    if isinstance(chosen, bool) or not isinstance(chosen, (int, float)):
        return default
    return chosen if least <= chosen <= most else default


def ceiling() -> str:
    """Return the largest tier that is used when the user leaves the resolution at "auto".

    The tier is one of limits.TIERS. If nothing is set, it is the largest one. Raises Unusable if
    the setting is invalid, because the tier sets the price, and a guess could cost too much.
    """
    chosen = _text("ceiling") or TIERS[-1]
    if chosen not in TIERS:
        raise _wrong("ceiling")
    return chosen


def explains_mask() -> bool:
    """Return whether MASK_LINE is added to the prompt of an edit with a mask.

    Return False if the setting can't be read. This does no harm: `check_service` prevents edits
    from being sent in this case, and results that have already arrived are fitted without the
    prompt.
    """
    return comforts().get("explain_mask") is True


def keep_days() -> int:
    """Return for how many days edits are kept on the disk, or 0 if they are kept for ever.

    Raises Unusable if the settings can't be read or the value is invalid.
    """
    chosen = load().get("keep_days", _KEEP_DAYS)
    whole = isinstance(chosen, int) and not isinstance(chosen, bool)
    if not whole or not 0 <= chosen <= MOST_KEEP_DAYS:
        raise _wrong("keep_days")
    return int(chosen)


def key_file() -> Path:
    """Return the path of the key file, whether or not the file exists.

    The file contains the key if the key is neither in the environment nor in the keyring. Raises
    Unusable if the data folder can't be used.
    """
    return storage.home() / "key"


def key_place() -> str:
    """Return where the key is: "environment", "keyring", "file", or "" if there is none.

    Return "keyring" if the settings say so. The keyring itself is not accessed, so it is possible
    that the key is no longer there. Raises Unusable if the settings or the key file can't be read.
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
    """Return the key from the environment or, if the environment has none, from the key file.

    Return "" if there is no key in either. The keyring is not read, because only the worker
    accesses the keyring (see `worker/key_store.py`). Raises UserError if the key file can't be
    read, or if `check_key` rejects the key.
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
    """Return the key in `text`, which the user typed or copied, or "" if `text` is empty.

    This removes quotes around the key, "Bearer" or "Authorization: Bearer" before the key, and
    whitespace and invisible characters at both ends. Raises UserError if the remaining text can't
    be a key. The message of this error never quotes `text`, which is possibly secret.
    """
    key = _trimmed(text)
    for _each in range(2):
        # Take both steps twice, because the word Bearer can be inside the quotes or before them.
        if len(key) > 1 and _QUOTES.get(key[0]) == key[-1]:
            key = _trimmed(key[1:-1])
        key = _trimmed(re.sub(r"^(authorization:\s*)?bearer\s+", "", key, flags=re.IGNORECASE))
    if _VARIABLE.match(key):
        raise UserError(
            _("This is more than just the API key. Copy only the part after the = sign.")
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
    """Check that an edit can be sent with the current settings. Raises UserError if it can't.

    The plug-in calls this function before it exports the pictures, and the worker before it sends
    them.
    """
    # These settings must be valid for every edit, whatever the service and the key are.
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

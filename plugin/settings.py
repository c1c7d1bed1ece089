"""The data folder, the user's settings, the service's address, and the place of the API key.

Environment variables take precedence over the settings file, `settings.json` in the data folder.
The key is never in this file, which only records where the key is. Only the worker accesses the
system's keyring.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import stat
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugin import lock
from plugin.limits import TIERS
from plugin.words import _

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
_IN_USE_SECONDS = 1.0 if os.name == "nt" else 0.0
"""Seconds to retry the replacement of a file, which a reader of the file prevents on Windows."""


_PATIENCE = 10.0
"""Seconds to wait for another process that changes the settings, or that replaces a file."""


class Unusable(OSError, ValueError):
    """The data folder, the settings file or one of the settings can't be used.

    The message is for the user. Callers that need the settings show it, as they do for every
    ValueError of this module. Callers that can do without the settings continue, as they do after
    any OSError.
    """


def home() -> Path:
    """Return the data folder, with the jobs and settings, which is created if necessary.

    Raises Unusable if it can't be created or, on POSIX, if it belongs to another user or is
    writable for everyone.
    """
    return private_folder(home_path())


def home_path() -> Path:
    """Return the path of the data folder, which need not exist. Raises Unusable."""
    told = os.environ.get("DIMILINKS_HOME")
    return chosen_home(told) if told else data_folder()


def chosen_home(told: str) -> Path:
    """Return the data folder for `told`, the value of DIMILINKS_HOME.

    Raises Unusable if the path is relative.
    """
    try:
        folder = Path(told).expanduser()
    except RuntimeError:
        # The path begins with ~user, and there is no such user.
        folder = Path(told)
    if not folder.is_absolute():
        # GIMP and the worker have different working directories.
        raise Unusable(
            _(
                "DIMILINKS_HOME is the relative path “{path}”, which is not supported: set it to "
                "an absolute path, or to one that begins with ~/."
            ).format(path=told)
        )
    return folder


def data_folder() -> Path:
    """Return the default path of the data folder on this platform, which need not exist.

    Raises Unusable if the user's home folder can't be determined.
    """
    if sys.platform == "win32":
        told, usual = os.environ.get("LOCALAPPDATA", ""), "AppData/Local"
    elif sys.platform == "darwin":
        told, usual = "", "Library/Application Support"
    else:
        told, usual = os.environ.get("XDG_DATA_HOME", ""), ".local/share"
    base = Path(told)
    if not base.is_absolute():
        # The XDG specification requires relative paths to be ignored.
        with contextlib.suppress(RuntimeError):
            base = Path.home() / usual
    if not base.is_absolute():
        raise Unusable(
            _(
                "Your home folder can't be determined: set HOME to it, or set DIMILINKS_HOME to a "
                "folder for edits and settings."
            )
        )
    return base / "dimilinks-gimp"


def private_folder(folder: Path) -> Path:
    """Return `folder`, which is created if necessary.

    Raises Unusable if it can't be created or, on POSIX, if it belongs to another user or is
    writable for everyone.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise Unusable(
            _("The folder {folder} for edits and settings can't be used: {why}.").format(
                folder=folder, why=error.strerror or error
            )
        ) from error
    if os.name == "posix" and (about.st_uid != os.geteuid() or about.st_mode & stat.S_IWOTH):
        raise Unusable(
            _(
                "The folder {folder} must belong to you, and nobody else may write to it. Change "
                "its owner or permissions, or set DIMILINKS_HOME to another folder."
            ).format(folder=folder)
        )
    return folder


def locks_folder() -> Path:
    """Return the folder of the locks between processes of Dimilinks. Raises Unusable."""
    return private_folder(home() / "locks")


def _file() -> Path:
    return home() / "settings.json"


def load() -> dict[str, Any]:
    """Return the saved settings, or {} if there is no settings file.

    Raises Unusable if the file can't be read. Defaults are not used in this case: they could send
    the key to an address that the user has not chosen, or remove edits that are to be kept.
    """
    path = _file()
    try:
        saved = json.loads(read_private(path))
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
            "The settings file {path} can't be read ({why}). Nothing is sent or removed until this "
            "is fixed: correct the file, or start over in Filters ▸ Dimilinks ▸ Settings…, which "
            "keeps the old file under another name."
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
    with lock.held(locks_folder() / "settings", _PATIENCE) as ours:
        if not ours:
            raise Unusable(_("Another program is changing the settings: try again in a moment."))
        write_private(_file(), json.dumps(changed(load()), indent=1))


def set_aside() -> Path:
    """Rename the settings file, so that the defaults apply, and return its new path.

    Only call this if the user asks for it. Raises OSError.
    """
    with lock.held(locks_folder() / "settings", _PATIENCE):
        name = f"settings.json.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        aside, number = home() / name, 1
        while os.path.lexists(aside):
            number += 1
            aside = home() / f"{name}-{number}"
        _file().rename(aside)
        sync_folder(aside.parent)
        return aside


def read_private(path: Path) -> str:
    """Return the text of a file that another process may be replacing at this moment.

    A byte order mark, which some editors add, is skipped. Raises OSError, UnicodeDecodeError.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return path.read_text("utf-8-sig")
        except PermissionError:
            # Windows reports this error while the file is being replaced.
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def write_private(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file atomically, with the permissions 0600. Raises OSError.

    After a failure the file is as it was before. On success its contents have been flushed to the
    disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        # A process that died may have left this file. It may have other permissions, or be a
        # symbolic link to another place.
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except OSError:
        # On a full disk, the incomplete file would take up space that a smaller file could use.
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`. Windows refuses this while another process reads `path`."""
    end = time.monotonic() + _IN_USE_SECONDS
    while True:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def sync_folder(folder: Path) -> None:
    """Flush the names of the files in a folder to the disk, on POSIX only. Raises OSError."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
            "The setting “{name}” in {path} has an invalid value: choose it again in "
            "Filters ▸ Dimilinks ▸ Settings…, or correct the file."
        ).format(name=name, path=_file())
    )


def base_url() -> str:
    """Return the service's address, usually with /v1, or "sandbox".

    Raises ValueError with a message for the user if the address or the settings can't be used. The
    key must not be sent unencrypted, nor to a service that the user has not chosen.
    """
    chosen = os.environ.get("DIMILINKS_BASE_URL") or _text("base_url")
    return check_base_url(chosen or DOCUMENTED_BASE_URLS[0])


_ENDPOINT = re.compile(r"/images/(edits|generations)$")
"""The path that follows the address in the examples of the service's documentation."""


def check_base_url(text: str) -> str:
    """Return an address that the user has entered as it is used, or "sandbox".

    Slashes at its end are removed, and so is the path of the endpoint for edits, which is often
    copied from an example. Raises ValueError with a message for the user if it is not the address
    of a service.
    """
    url = _ENDPOINT.sub("", text.strip().rstrip("/")).rstrip("/")
    if url == SANDBOX:
        return SANDBOX
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(
            _(
                "The service's address contains spaces, backslashes or invisible characters: type "
                "it again."
            )
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _no_address(url) from error
    if "@" in parts.netloc:
        # The password in such an address would be shown in every message.
        raise ValueError(
            _(
                "The service's address must not hold a name or password: take out what stands "
                "before the @, and set DIMILINKS_API_KEY."
            )
        )
    if "?" in url or "#" in url:
        # The query or fragment may contain a key, so it is not repeated in the message.
        raise ValueError(
            _("The service's address must not contain “?” or “#”. Usually it ends with /v1.")
        )
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return url
    raise _no_address(url)


def _no_address(url: str) -> ValueError:
    return ValueError(
        _(
            "The service's address “{url}” won't do: it must begin with https:// "
            "(plain http only for this very machine), or be the word sandbox."
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

    Raises ValueError with a message for the user if another one is set.
    """
    chosen = os.environ.get("DIMILINKS_ROUTE") or _text("route") or ROUTES[0]
    if chosen not in ROUTES:
        raise ValueError(
            _(
                "The route “{route}” is not known here: set DIMILINKS_ROUTE to one of these: "
                "{routes}."
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
    return home() / "key"


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
        _("The key's file {path} can't be read: {why}.").format(path=key_file(), why=why)
    )


def api_key() -> str:
    """Return the key from the environment, else from the file `key`, or "" if there is none.

    A key in the keyring is only available to the worker, through its module `key_store`. Raises
    ValueError with a message for the user if the file can't be read or the text can't be a key.
    """
    key = os.environ.get("DIMILINKS_API_KEY", "").strip()
    if not key:
        try:
            key = read_private(key_file())
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
    invisible characters at both ends are removed. Raises ValueError with a message for the user if
    the rest can't be a key. The message never contains the text.
    """
    key = _trimmed(text)
    for _each in range(2):
        # Twice, because the quotes may enclose the word Bearer, or follow it.
        if len(key) > 1 and _QUOTES.get(key[0]) == key[-1]:
            key = _trimmed(key[1:-1])
        key = _trimmed(re.sub(r"^(authorization:\s*)?bearer\s+", "", key, flags=re.IGNORECASE))
    if _VARIABLE.match(key):
        raise ValueError(
            _(
                "This is a variable assignment, not the API key alone: copy only what follows the "
                "= sign."
            )
        )
    if "*" in key or "…" in key or "•" in key or "..." in key:
        raise ValueError(
            _(
                "This is a masked API key, not the whole one: copy the whole key, or create a new "
                "one at the service."
            )
        )
    if not key.isascii() or not key.isprintable() or " " in key or _NO_KEY.search(key):
        raise ValueError(
            _("The API key has characters that no key has: copy it again, alone on its line.")
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

    Raises ValueError with a message for the user if they don't.
    """
    # Settings that no environment variable overrides must be valid in any case.
    if not isinstance(load().get("explain_mask", False), bool):
        raise _wrong("explain_mask")
    ceiling()
    route()
    if base_url() == SANDBOX or key_place() == KEYRING:
        return
    if not api_key():
        raise ValueError(
            _(
                "There is no API key. Enter it in Filters ▸ Dimilinks ▸ Settings…, set "
                "DIMILINKS_API_KEY, or put it into the file {path}. To try without one, choose "
                "the service “sandbox” (in the settings, or by DIMILINKS_BASE_URL)."
            ).format(path=key_file())
        )

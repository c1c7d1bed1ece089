"""Where things lie and what the user chose: the home folder, the service's address, the key.

Environment variables win over the settings file. The key is never among the settings, only a note
that the system's keyring has it: the keyring itself is asked by the worker alone.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugin.limits import TIERS
from plugin.words import _

DOCUMENTED_BASE_URLS = ("https://dimilinks.com/v1", "https://api-direct.dimilinks.com/v1")
"""The first is the default."""
SANDBOX = "sandbox"
EDITS, ASYNC = "edits", "async"
ROUTES = (EDITS, ASYNC)
"""How edits are sent. The first is the default: its answer comes in one go, with the picture. With
the other a task is named at once, which can be asked for after any break."""

ENVIRONMENT, KEYRING, FILE = "environment", "keyring", "file"
"""Where the key can be."""

MASK_LINE = (
    "The last picture is a mask for the first one: edit only where it is white (transparent), and "
    "keep everything exactly as it is where it is black."
)
"""What is added to the prompt of an edit with a mask, if the user wants it explained."""
MOST_KEEP_DAYS = 3650
_CONNECT_SECONDS = 1, 10, 120
"""Least, default, most."""
_READ_SECONDS = 30, 600, 3600
_IN_USE_SECONDS = 1.0 if os.name == "nt" else 0.0
"""Seconds for which a reader may keep a file from being replaced."""


def home() -> Path:
    """Return the folder of jobs and settings, made if need be and private to the user.

    Raises OSError where it can't be made, or where others could read or plant what lies in it.
    """
    return private_folder(Path(os.environ.get("DIMILINKS_HOME") or _data_folder()))


def private_folder(folder: Path) -> Path:
    """Return `folder`, made if need be and the user's own. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix":
        about = folder.stat()
        if about.st_uid != os.geteuid() or about.st_mode & stat.S_IWOTH:
            raise PermissionError(
                errno.EPERM,
                _("It must be a folder of your own that nobody else may write to"),
                str(folder),
            )
    return folder


def _data_folder() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "dimilinks-gimp"


def load() -> dict[str, Any]:
    """Return the saved settings; an unreadable file counts as none, for they are comforts only."""
    try:
        saved = json.loads((home() / "settings.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return saved if isinstance(saved, dict) else {}


def save(**changes: Any) -> None:
    """Add `changes` to the saved settings. Raises OSError."""
    write_private(home() / "settings.json", json.dumps({**load(), **changes}, indent=1))


def write_private(path: Path, content: str | bytes | memoryview) -> None:
    """Write so that the file is whole or untouched, on the disk when this returns, 0600.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        # Left by a process that died: with modes, or leading to places, of its own.
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except OSError:
        # On a full disk a part of it would take the room of what is smaller.
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename, also over a file that somebody is reading, which Windows refuses meanwhile."""
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
    """Flush a folder's names to the disk, where the platform can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def base_url() -> str:
    """Return the service's address with /v1, or "sandbox".

    Raises ValueError with a sentence for the user: the key must not travel in the clear.
    """
    chosen = os.environ.get("DIMILINKS_BASE_URL") or load().get("base_url")
    return check_base_url(str(chosen or DOCUMENTED_BASE_URLS[0]))


def check_base_url(text: str) -> str:
    """Return a typed address as it is used: with /v1, or "sandbox".

    Raises ValueError with a sentence for the user.
    """
    url = text.strip().rstrip("/")
    if url == SANDBOX:
        return SANDBOX
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _no_address(url) from error
    if "@" in parts.netloc:
        # Such an address would show its password in every message.
        raise ValueError(
            _(
                "The service's address must not hold a name or password: take out what stands "
                "before the @, and set DIMILINKS_API_KEY."
            )
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
    """Whether a variable decides on the service's address, so that the setting has no effect."""
    return bool(os.environ.get("DIMILINKS_BASE_URL"))


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def route() -> str:
    """Return the way edits are sent. Raises ValueError with a sentence for the user."""
    chosen = os.environ.get("DIMILINKS_ROUTE") or load().get("route") or ROUTES[0]
    if chosen not in ROUTES:
        raise ValueError(
            _(
                "The route “{route}” is not known here: set DIMILINKS_ROUTE to one of these: "
                "{routes}."
            ).format(route=chosen, routes=", ".join(ROUTES))
        )
    return str(chosen)


def route_is_set_by_environment() -> bool:
    """Whether a variable decides on the route, so that the setting has no effect."""
    return bool(os.environ.get("DIMILINKS_ROUTE"))


def connect_seconds() -> float:
    """Return how long a connection to the service may take to come about."""
    return _seconds("connect_seconds", *_CONNECT_SECONDS)


def read_seconds() -> float:
    """Return how long an answer may take. Edits of up to 280 s were seen, and proxies of 600 s."""
    return _seconds("read_seconds", *_READ_SECONDS)


def _seconds(name: str, least: float, default: float, most: float) -> float:
    chosen = load().get(name)
    if isinstance(chosen, bool) or not isinstance(chosen, (int, float)):
        return default
    return chosen if least <= chosen <= most else default


def ceiling() -> str:
    """Return the largest tier that an automatic resolution may take, one of limits.TIERS."""
    chosen = load().get("ceiling")
    return str(chosen) if chosen in TIERS else TIERS[-1]


def explains_mask() -> bool:
    """Whether MASK_LINE goes with the prompt of an edit with a mask."""
    return load().get("explain_mask") is True


def keep_days() -> int:
    """Return for how many days edits are kept on the disk; 0 for ever."""
    chosen = load().get("keep_days")
    if isinstance(chosen, bool) or not isinstance(chosen, int):
        return 30
    return chosen if 0 <= chosen <= MOST_KEEP_DAYS else 30


def key_file() -> Path:
    """Return where the key lies if neither the environment nor the keyring has it. Raises OSError.

    It need not be there.
    """
    return home() / "key"


def key_place() -> str:
    """Return where the key is: "environment", "keyring", "file", or "" for nowhere.

    The keyring isn't asked: it may have lost the key meanwhile. Raises OSError.
    """
    if os.environ.get("DIMILINKS_API_KEY", "").strip():
        return ENVIRONMENT
    if load().get("key_in") == KEYRING:
        return KEYRING
    try:
        return FILE if key_file().stat().st_size else ""
    except FileNotFoundError:
        return ""


def api_key() -> str:
    """Return the key: from the environment, else from the private file `key`; "" for none.

    What the keyring has, key_store in the worker knows. Raises ValueError with a sentence for the
    user if it can't be a key.
    """
    key = os.environ.get("DIMILINKS_API_KEY", "").strip()
    if not key:
        try:
            key = key_file().read_text("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise ValueError(
                _("The key's file {path} can't be read: {why}.").format(path=key_file(), why=error)
            ) from error
    return check_key(key)


def check_key(key: str) -> str:
    """Return `key` if it can be one. Raises ValueError with a sentence for the user."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            _("The API key has characters that no key has: copy it again, alone on its line.")
        )
    return key


def check_service() -> None:
    """Find out before anything is exported whether an edit could be sent at all.

    Raises ValueError with a sentence for the user.
    """
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

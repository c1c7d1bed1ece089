"""Where things lie and what the user chose: the home folder, the service's address, the key.

Environment variables win over the settings file. The key is never among the settings, only a note
that the system's keyring has it: the keyring itself is asked by the worker alone.
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
_KEEP_DAYS = 30
_CONNECT_SECONDS = 1, 10, 120
"""Least, default, most."""
_READ_SECONDS = 30, 600, 3600
_IN_USE_SECONDS = 1.0 if os.name == "nt" else 0.0
"""Seconds for which a reader may keep a file from being replaced."""


_PATIENCE = 10.0
"""Seconds to wait for another process that changes the settings, and for Windows to let us read."""


class Unusable(OSError, ValueError):
    """The home folder, the settings or one of them can't be used; the message is for the user.

    Whoever needs them tells the message, as with any ValueError here; whoever can do without them
    goes on, as after any OSError.
    """


def home() -> Path:
    """Return the folder of jobs and settings, made if need be and private to the user.

    Raises Unusable where it can't be made, or where others could read or plant what lies in it.
    """
    return private_folder(home_path())


def home_path() -> Path:
    """Return where the folder of jobs and settings is, made or not. Raises Unusable."""
    told = os.environ.get("DIMILINKS_HOME")
    return chosen_home(told) if told else data_folder()


def chosen_home(told: str) -> Path:
    """Return the folder that DIMILINKS_HOME names with `told`. Raises Unusable."""
    try:
        folder = Path(told).expanduser()
    except RuntimeError:
        # There is no such user.
        folder = Path(told)
    if not folder.is_absolute():
        # GIMP and the worker run in different folders.
        raise Unusable(
            _(
                "DIMILINKS_HOME is the relative path “{path}”, which is not supported: set it to "
                "an absolute path, or to one that begins with ~/."
            ).format(path=told)
        )
    return folder


def data_folder() -> Path:
    """Return the platform's per-user folder for our data, made or not. Raises Unusable."""
    if sys.platform == "win32":
        told, usual = os.environ.get("LOCALAPPDATA", ""), "AppData/Local"
    elif sys.platform == "darwin":
        told, usual = "", "Library/Application Support"
    else:
        told, usual = os.environ.get("XDG_DATA_HOME", ""), ".local/share"
    base = Path(told)
    if not base.is_absolute():
        # The XDG specification has relative values ignored.
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
    """Return `folder`, made if need be and the user's own. Raises Unusable."""
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
    """Return the folder of the locks between our processes. Raises Unusable."""
    return private_folder(home() / "locks")


def _file() -> Path:
    return home() / "settings.json"


def load() -> dict[str, Any]:
    """Return the saved settings, {} as long as there are none.

    Raises Unusable where they can't be read. Defaults don't do then: they would send the key to
    another address than the user has set, or remove what is to be kept.
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
    """Return the saved settings, {} where they can't be read.

    For what does no harm by being forgotten: where a window was, what was typed.
    """
    try:
        return load()
    except Unusable:
        return {}


def save(**changes: Any) -> None:
    """Add `changes` to the saved settings. Raises Unusable, OSError."""
    change(lambda saved: {**saved, **changes})


def change(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Save what `changed` makes of the saved settings, with no other process in between.

    Settings that can't be read are not replaced. Raises Unusable, OSError.
    """
    with lock.held(locks_folder() / "settings", _PATIENCE) as ours:
        if not ours:
            raise Unusable(_("Another program is changing the settings: try again in a moment."))
        write_private(_file(), json.dumps(changed(load()), indent=1))


def set_aside() -> Path:
    """Give the settings file another name, which is returned, so that the defaults count.

    That is for the user to decide. Raises OSError.
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

    Editors may have put a byte order mark before it. Raises OSError, UnicodeDecodeError.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return path.read_text("utf-8-sig")
        except PermissionError:
            # Windows says so for as long as the file is being replaced.
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


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


def _text(name: str) -> str:
    """Return a saved text, "" if there is none. Raises Unusable."""
    saved = load().get(name, "")
    if not isinstance(saved, str):
        raise _wrong(name)
    return saved


def _wrong(name: str) -> Unusable:
    # Without the value: a key may have got there by mistake.
    return Unusable(
        _(
            "The setting “{name}” in {path} has an invalid value: choose it again in "
            "Filters ▸ Dimilinks ▸ Settings…, or correct the file."
        ).format(name=name, path=_file())
    )


def base_url() -> str:
    """Return the service's address with /v1, or "sandbox".

    Raises ValueError with a sentence for the user: the key must not travel in the clear, nor to a
    service that the user has not chosen.
    """
    chosen = os.environ.get("DIMILINKS_BASE_URL") or _text("base_url")
    return check_base_url(chosen or DOCUMENTED_BASE_URLS[0])


_ENDPOINT = re.compile(r"/images/(edits|generations)$")
"""What the documentation's examples have after the address."""


def check_base_url(text: str) -> str:
    """Return a typed address as it is used: with /v1, or "sandbox".

    The route of an edit, which comes along when an example is copied, is left out. Raises
    ValueError with a sentence for the user.
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
        # Such an address would show its password in every message.
        raise ValueError(
            _(
                "The service's address must not hold a name or password: take out what stands "
                "before the @, and set DIMILINKS_API_KEY."
            )
        )
    if "?" in url or "#" in url:
        # What stands there may be a key, too.
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
    """Whether a variable decides on the route, so that the setting has no effect."""
    return bool(os.environ.get("DIMILINKS_ROUTE"))


def connect_seconds() -> float:
    """Return how long a connection to the service may take to come about."""
    return _seconds("connect_seconds", *_CONNECT_SECONDS)


def read_seconds() -> float:
    """Return how long an answer may take. Edits of up to 280 s were seen, and proxies of 600 s."""
    return _seconds("read_seconds", *_READ_SECONDS)


def _seconds(name: str, least: float, default: float, most: float) -> float:
    chosen = comforts().get(name)
    if isinstance(chosen, bool) or not isinstance(chosen, (int, float)):
        return default
    return chosen if least <= chosen <= most else default


def ceiling() -> str:
    """Return the largest tier that an automatic resolution may take, one of limits.TIERS.

    Raises Unusable: it decides on the price.
    """
    chosen = _text("ceiling") or TIERS[-1]
    if chosen not in TIERS:
        raise _wrong("ceiling")
    return chosen


def explains_mask() -> bool:
    """Whether MASK_LINE goes with the prompt of an edit with a mask.

    False where that can't be read: results that are there are fitted without it, and
    check_service lets nothing be sent.
    """
    return comforts().get("explain_mask") is True


def keep_days() -> int:
    """Return for how many days edits are kept on the disk; 0 for ever. Raises Unusable."""
    chosen = load().get("keep_days", _KEEP_DAYS)
    whole = isinstance(chosen, int) and not isinstance(chosen, bool)
    if not whole or not 0 <= chosen <= MOST_KEEP_DAYS:
        raise _wrong("keep_days")
    return int(chosen)


def key_file() -> Path:
    """Return where the key lies if neither the environment nor the keyring has it.

    It need not be there. Raises Unusable.
    """
    return home() / "key"


def key_place() -> str:
    """Return where the key is: "environment", "keyring", "file", or "" for nowhere.

    The keyring isn't asked: it may have lost the key meanwhile. Raises Unusable.
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
    """Return the key: from the environment, else from the private file `key`; "" for none.

    What the keyring has, key_store in the worker knows. Raises ValueError with a sentence for the
    user if it can't be a key.
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
    """Return the key in what was typed or copied, "" if there is nothing.

    Quotes around it and the word Bearer before it are left out, and so is what can't be seen.
    Raises ValueError with a sentence for the user, which never holds what was typed.
    """
    key = _trimmed(text)
    for _each in range(2):
        # Either may stand outside.
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
    """Leave out space and what can't be seen at both ends."""
    first, last = 0, len(text)
    while first < last and _is_unseen(text[first]):
        first += 1
    while last > first and _is_unseen(text[last - 1]):
        last -= 1
    return text[first:last]


def _is_unseen(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def check_service() -> None:
    """Find out before anything is exported whether an edit could be sent at all.

    Raises ValueError with a sentence for the user.
    """
    # Whatever the environment decides, the other settings count as well.
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

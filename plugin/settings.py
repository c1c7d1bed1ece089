"""Where things lie and what the user chose: the home folder, the service's address, the key.

Environment variables win over the settings file. The key is never among the settings.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugin.words import _

DOCUMENTED_BASE_URL = "https://dimilinks.com/v1"
SANDBOX = "sandbox"
ROUTES = ("edits",)


def home() -> Path:
    """Return the folder of jobs and settings, made if need be and private to the user.

    Raises OSError where it can't be made.
    """
    folder = Path(os.environ.get("DIMILINKS_HOME") or _data_folder())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def save(**changes: Any) -> None:
    """Add `changes` to the saved settings. Raises OSError."""
    write_private(home() / "settings.json", json.dumps({**load(), **changes}, indent=1))


def write_private(path: Path, content: str | bytes) -> None:
    """Write so that the file is whole or untouched, on the disk when this returns, 0600.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


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
    chosen = os.environ.get("DIMILINKS_BASE_URL") or load().get("base_url") or DOCUMENTED_BASE_URL
    url = str(chosen).strip().rstrip("/")
    if url == SANDBOX:
        return SANDBOX
    parts = urlsplit(url)
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
    raise ValueError(
        _(
            "The service's address “{url}” won't do: it must begin with https:// "
            "(plain http only for this very machine), or be the word sandbox."
        ).format(url=url)
    )


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


def api_key() -> str:
    """Return the key: from the environment, else from the private file `key`; "" for none.

    Raises ValueError with a sentence for the user if it can't be a key.
    """
    key = os.environ.get("DIMILINKS_API_KEY", "").strip()
    if not key:
        try:
            key = (home() / "key").read_text("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise ValueError(
                _("The key's file {path} can't be read: {why}.").format(
                    path=home() / "key", why=error
                )
            ) from error
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
    if base_url() != SANDBOX and not api_key():
        raise ValueError(
            _(
                "There is no API key. Set DIMILINKS_API_KEY, or put the key into the file "
                "{path}. To try without one, set DIMILINKS_BASE_URL to sandbox."
            ).format(path=home() / "key")
        )


def key_place() -> str:
    return "file" if api_key() else ""

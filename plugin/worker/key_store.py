"""Read, store and remove the API key.

The key is read from the environment, the system's keyring, or a private file, in this order of
precedence. It is stored in the keyring if possible, otherwise in the file.

A keyring may open a dialogue for its password that the user does not see. Every access to it
therefore has a time limit. Messages never contain what a keyring reports, because some keyrings
quote the secret.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from plugin import settings
from plugin.words import _

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE, USER = "dimilinks-gimp", "api-key"
"""The names under which the key is stored in the keyring."""
SECONDS = 30.0
"""Time limit for each access to the keyring: long enough to type the password that unlocks it."""

T = TypeVar("T")


class _NoAnswer(Exception):
    """The keyring is locked, raised an error, or took too long."""


def read() -> str:
    """Return the key, or "" if there is none.

    Raises OSError, and ValueError with a message for the user if the key can't be read.
    """
    place = settings.key_place()
    if place == settings.KEYRING:
        try:
            key = _in_time(_from_keyring)
        except _NoAnswer as error:
            raise ValueError(
                _(
                    "The system's keyring, which has the API key, is locked or does not answer: "
                    "unlock it, then try again."
                )
            ) from error
        if key:
            return settings.check_key(key)
    key = settings.api_key()
    if not key and place == settings.KEYRING:
        raise ValueError(
            _(
                "The API key is gone from the system's keyring: enter it anew in "
                "Filters ▸ Dimilinks ▸ Settings…."
            )
        )
    return key


def store(key: str) -> str:
    """Store `key` in the keyring if it works, otherwise in the private file.

    Remove a former key from the other of these two places, if possible, and return the place as
    `settings.key_place` names it. Raises OSError, and ValueError with a message for the user if
    `key` is not a key or the settings can't be read.
    """
    key = settings.check_key(key)
    if not key:
        raise ValueError(_("There is no key in that: copy it again, alone on its line."))
    # This fails if the settings can't be read. The key's place could not be saved then, so the key
    # must not be stored.
    former = settings.load().get("key_in")
    try:
        kept = _in_time(lambda: _into_keyring(key))
    except _NoAnswer:
        kept = False
    if kept:
        settings.save(key_in=settings.KEYRING)
        settings.key_file().unlink(missing_ok=True)
        return settings.KEYRING
    settings.write_private(settings.key_file(), f"{key}\n")
    settings.save(key_in=settings.FILE)
    if former == settings.KEYRING:
        _try_to_clear()
    return settings.FILE


def forget() -> None:
    """Remove the key from the keyring and from the file. The environment can't be changed here.

    Raises OSError, and ValueError with a message for the user if the key is still in the keyring.
    """
    settings.key_file().unlink(missing_ok=True)
    if not _try_to_clear() and settings.comforts().get("key_in") == settings.KEYRING:
        raise ValueError(
            _(
                "The system's keyring is locked or does not answer, so it still has the API key: "
                "unlock it, then try again."
            )
        )
    settings.save(key_in="")


def _try_to_clear() -> bool:
    try:
        _in_time(_clear_keyring)
    except _NoAnswer:
        return False
    return True


def _in_time(step: Callable[[], T]) -> T:
    """Return what `step` returns. Raises _NoAnswer if it raises an error or takes too long.

    A `step` that takes too long continues in a daemon thread, which ends with the process.
    """
    answers: list[T] = []

    def answer() -> None:
        try:
            answers.append(step())
        except Exception:
            # Backends raise all kinds of exceptions. The missing answer stands for all of them.
            return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not answers:
        raise _NoAnswer
    return answers[0]


def _backend() -> KeyringBackend | None:
    """Return the system's keyring, or None if there is none that is suitable for secrets."""
    # Imported here, because it searches the machine for keyrings and most commands need no key.
    import keyring

    found = keyring.get_keyring()
    # In this library, backends with a priority below 1 store nothing, or store it unencrypted.
    return found if found.priority >= 1 else None


def _from_keyring() -> str:
    backend = _backend()
    return (backend.get_password(SERVICE, USER) or "").strip() if backend else ""


def _into_keyring(key: str) -> bool:
    backend = _backend()
    if backend is None:
        return False
    backend.set_password(SERVICE, USER, key)
    return backend.get_password(SERVICE, USER) == key


def _clear_keyring() -> None:
    backend = _backend()
    if backend is not None and backend.get_password(SERVICE, USER) is not None:
        backend.delete_password(SERVICE, USER)

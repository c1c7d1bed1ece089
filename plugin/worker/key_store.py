"""Read, store and remove the API key.

The key is read from an environment variable, from the system's keyring (its store for passwords)
or from a private file, in this order of precedence. A new key is stored in the keyring if possible,
otherwise in the file.

Every access to the keyring has a time limit, because a keyring sometimes waits for its password in
a dialogue that the user does not see. Messages for the user never contain the error text of a
keyring, because some keyrings quote the key in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from plugin import settings, storage
from plugin.errors import UserError
from plugin.translation import _

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE, USER = "dimilinks-gimp", "api-key"
"""The service name and the user name under which the key is stored in the keyring."""
SECONDS = 30.0
"""Time limit for each access to the keyring. It leaves time to type the keyring's password."""

T = TypeVar("T")


class _NoAnswer(Exception):
    """The keyring is locked, raised an error, or exceeded the time limit."""


def read() -> str:
    """Return the key, or "" if no key was stored.

    Raises UserError if the stored key is gone, invalid or can't be read, and OSError.
    """
    place = settings.key_place()
    if place == settings.KEYRING:
        try:
            key = _in_time(_from_keyring)
        except _NoAnswer as error:
            raise UserError(
                _(
                    "The API key is in the system's keyring, which is locked or does not "
                    "answer. Unlock the keyring, then try again."
                )
            ) from error
        if key:
            return settings.check_key(key)
    key = settings.api_key()
    if not key and place == settings.KEYRING:
        raise UserError(
            _(
                "The API key is gone from the system's keyring. Open Filters ▸ Dimilinks ▸ "
                "Settings… and enter the key again."
            )
        )
    return key


def store(key: str) -> str:
    """Store `key` in the keyring if the keyring works, otherwise in the private file.

    Return the place: settings.KEYRING or settings.FILE. Remove a former key from the other place,
    if possible. Raises UserError if `key` is not a key or if the settings can't be read, and
    OSError.
    """
    key = settings.check_key(key)
    if not key:
        raise UserError(
            _("No API key was entered. Copy the API key again, without any other text.")
        )
    # Load the settings before the key is stored. If they can't be read, the place of the key
    # could not be saved in them, so the error must come before the key is stored.
    former = settings.load().get("key_in")
    try:
        kept = _in_time(lambda: _into_keyring(key))
    except _NoAnswer:
        kept = False
    if kept:
        settings.save(key_in=settings.KEYRING)
        settings.key_file().unlink(missing_ok=True)
        return settings.KEYRING
    storage.write_private(settings.key_file(), f"{key}\n")
    settings.save(key_in=settings.FILE)
    if former == settings.KEYRING:
        _try_to_clear()
    return settings.FILE


def forget() -> None:
    """Remove the key from the keyring and from the file. A key in the environment stays.

    Raises UserError if the key is in the keyring and could not be removed, and OSError.
    """
    settings.key_file().unlink(missing_ok=True)
    if not _try_to_clear() and settings.comforts().get("key_in") == settings.KEYRING:
        raise UserError(
            _(
                "The system's keyring is locked or does not answer, so the API key could not "
                "be removed from it. Unlock the keyring, then try again."
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
    """Call `step` and return its value. Raises _NoAnswer if `step` fails or exceeds SECONDS.

    `step` runs in a daemon thread. If it exceeds the time limit, it continues there until the
    process ends.
    """
    answers: list[T] = []

    def answer() -> None:
        try:
            answers.append(step())
        except Exception:
            # Keyrings raise all kinds of exceptions. After any of them, `answers` stays empty.
            return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not answers:
        raise _NoAnswer
    return answers[0]


def _backend() -> KeyringBackend | None:
    """Return the system's keyring, or None if the system has none that keeps secrets safely."""
    # Import the library only here: the import searches the machine for keyrings, which takes time,
    # and most commands need no key.
    import keyring

    found = keyring.get_keyring()
    # A keyring with a priority below 1 stores nothing, or stores secrets without encryption.
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

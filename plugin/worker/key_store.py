"""The key's places: the environment, else the system's keyring, else a private file.

The keyring comes first for storing. It may wait for a password that nobody sees: whatever is asked
of it has a time limit. No message from here holds anything of what a keyring said: some quote the
secret.
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
"""The names under which the keyring has it."""
SECONDS = 30.0
"""For each question to the keyring: long enough to type the password that unlocks it."""

T = TypeVar("T")


class _NoAnswer(Exception):
    """The keyring is locked, gave up, or took too long."""


def read() -> str:
    """Return the key. Raises ValueError with a sentence for the user, OSError."""
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
    """Keep `key` in the keyring if there is one that works, else in the private file.

    Returns the place, as settings.key_place names it. What another place had is removed. Raises
    ValueError with a sentence for the user, OSError.
    """
    key = settings.check_key(key)
    if not key:
        raise ValueError(_("There is no key in that: copy it again, alone on its line."))
    # Nothing is kept where that can't be noted.
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
    """Remove the key from the keyring and the file; the environment is not ours to change.

    Raises ValueError with a sentence for the user if the keyring keeps it, OSError.
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
    """Return what `step` returns. Raises _NoAnswer for any error of it, and if it takes too long.

    It then goes on in a thread of its own, which does not outlive the process.
    """
    answers: list[T] = []

    def answer() -> None:
        try:
            answers.append(step())
        except Exception:
            # Backends raise what they like; an answer that is missing says it.
            return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not answers:
        raise _NoAnswer
    return answers[0]


def _backend() -> KeyringBackend | None:
    """The system's keyring; None where there is none, or none that is fit for secrets."""
    # Loaded here: it looks around on the machine, and most commands need no key.
    import keyring

    found = keyring.get_keyring()
    # Below 1 are, by the library's rule, stand-ins that keep nothing or keep it in the clear.
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

"""Keyrings for the tests, in place of the system's: one that works, and some that do not."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from keyring.backend import KeyringBackend


class Memory(KeyringBackend):
    """Works."""

    priority = 5

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[f"{service} {username}"] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[f"{service} {username}"]


class InFile(Memory):
    """Works from one process to the next: it lies in the file FAKE_KEYRING."""

    def __init__(self) -> None:
        super().__init__()
        self._path = Path(os.environ["FAKE_KEYRING"])
        if self._path.exists():
            self.held = json.loads(self._path.read_text())

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password)
        self._path.write_text(json.dumps(self.held))


class Plain(Memory):
    """One of those that keep secrets in the clear."""

    priority = 0.5


class Forgetful(Memory):
    """Takes a key and does not give it back."""

    def get_password(self, service: str, username: str) -> str | None:
        return None


class Locked(Memory):
    """Waits for a password that nobody types."""

    def get_password(self, service: str, username: str) -> str | None:
        threading.Event().wait()
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        threading.Event().wait()


class Broken(Memory):
    """Says in its errors what it was given."""

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError(f"no bus for {self.held}")

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password)
        raise RuntimeError(f"could not keep {password}")

"""Keyrings that replace the system's in tests: some that work, and some that don't."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from keyring.backend import KeyringBackend


class Memory(KeyringBackend):
    """Works, and keeps its passwords in memory."""

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
    """Works across processes: it keeps its passwords in the file that FAKE_KEYRING names."""

    def __init__(self) -> None:
        super().__init__()
        self._path = Path(os.environ["FAKE_KEYRING"])
        if self._path.exists():
            self.held = json.loads(self._path.read_text())

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password)
        self._path.write_text(json.dumps(self.held))


class Plain(Memory):
    """Has the low priority of the keyrings that store secrets unencrypted."""

    priority = 0.5


class Forgetful(Memory):
    """Accepts a key, but never returns it."""

    def get_password(self, service: str, username: str) -> str | None:
        return None


class Locked(Memory):
    """Waits forever, like a keyring that asks for a password which nobody types."""

    def get_password(self, service: str, username: str) -> str | None:
        threading.Event().wait()
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        threading.Event().wait()


class Broken(Memory):
    """Fails, with the secrets in its error messages."""

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError(f"no bus for {self.held}")

    def set_password(self, service: str, username: str, password: str) -> None:
        super().set_password(service, username, password)
        raise RuntimeError(f"could not keep {password}")

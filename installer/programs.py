"""Start other programs with suitable environment variables.

The installer takes the variables of all programs from here. The exception is programs that run with
a private GIMP: host.py chooses their variables one by one.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

KEY = "DIMILINKS_API_KEY"
_KEYRING = "PYTHON_KEYRING_BACKEND"


def environ(key: bool = False) -> dict[str, str]:
    """Return the environment variables for an interpreter or another tool of the installer.

    The user's PYTHON* variables are left out, because they can prevent an interpreter from starting
    or make it load foreign packages. Only the choice of a keyring is kept. The API key is included
    only with `key`, for the worker.
    """
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if (key or name != KEY) and (name == _KEYRING or not name.startswith("PYTHON"))
        },
        # Paths and messages may contain characters that the locale's encoding lacks.
        "PYTHONUTF8": "1",
    }


def environ_of_gimp() -> dict[str, str]:
    """Return the environment variables for the user's own GIMP: all except the API key."""
    return {name: value for name, value in os.environ.items() if name != KEY}


def run(
    command: list[str], env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program without input, wait for its end, and capture its output.

    `env` is `environ()` by default, and `options` are those of subprocess.run. Raises OSError, and
    subprocess.TimeoutExpired if a timeout is given.
    """
    return subprocess.run(
        command,
        env=environ() if env is None else env,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        **{"capture_output": True, **options},
    )
